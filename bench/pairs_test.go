package bench

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sneck"
	"sneck/lock"
)

// Workload 1: one file, one owner, nobody else.
func BenchmarkW01PairUncontended(b *testing.B) {
	m := open(b, sneck.Options{})
	r := lock.Request{File: "file", Owner: owner("me"), Range: lock.WholeFile(), Mode: lock.Exclusive}
	b.ReportAllocs()
	for b.Loop() {
		pair(b, m, &r)
	}
}

// Workload 2: random ones of 100,000 files, from all CPUs.
func BenchmarkW02PairOnManyFiles(b *testing.B) {
	const files = 100_000
	m := open(b, sneck.Options{})
	keys := make([]lock.FileKey, files)
	for i := range keys {
		keys[i] = lock.FileKey(fmt.Sprintf("export/%016x", i))
	}
	for _, k := range keys { // all were locked once, as in a server that has run for a while
		pair(b, m, &lock.Request{File: k, Owner: owner("warm"), Range: lock.WholeFile(), Mode: lock.Exclusive})
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
		r := lock.Request{Owner: owner(fmt.Sprint("worker", rng.Uint64())), Range: lock.WholeFile(), Mode: lock.Shared}
		for pb.Next() {
			r.File = keys[rng.IntN(files)]
			pair(b, m, &r)
		}
	})
}

var sizes = []int{1, 100, 1000, 10_000, 100_000}

// Workload 3: on a file that holds N disjoint locks of other owners, in the
// middle of them.
func BenchmarkW03PairAmongDisjoint(b *testing.B) {
	for _, n := range sizes {
		b.Run(size(n), func(b *testing.B) {
			m := open(b, sneck.Options{})
			disjoint(b, m, n)
			at := uint64(n/2)*10 + 6
			r := lock.Request{File: "file", Owner: owner("me"), Range: span(b, at, at+1), Mode: lock.Exclusive}
			b.ReportAllocs()
			for b.Loop() {
				pair(b, m, &r)
			}
		})
	}
}

// Workload 4: one more reader on a file that N readers have locked whole, of
// the whole file and of a few bytes.
func BenchmarkW04PairAmongReaders(b *testing.B) {
	for _, what := range []struct {
		name string
		rng  lock.Range
	}{{"whole", lock.WholeFile()}, {"small", span(b, 500, 509)}} {
		for _, n := range sizes[:4] {
			b.Run(what.name+"/"+size(n), func(b *testing.B) {
				m := open(b, sneck.Options{})
				readers(b, m, n)
				r := lock.Request{File: "file", Owner: owner("me"), Range: what.rng, Mode: lock.Shared}
				b.ReportAllocs()
				for b.Loop() {
					pair(b, m, &r)
				}
			})
		}
	}
}

// Workload 7: unlock the middle of a range of 5 bytes among N others, and lock
// it again, which makes the range whole. It compares with workload 3: there a
// pair inserts and removes one range, here it splits one and merges two.
func BenchmarkW07SplitAndMergeMiddle(b *testing.B) {
	for _, n := range []int{1, 100_000} {
		b.Run(size(n), func(b *testing.B) {
			m := open(b, sneck.Options{})
			disjoint(b, m, n)
			at := uint64(n/2) * 10
			r := lock.Request{File: "file", Owner: owner(fmt.Sprint("owner", n/2)), Range: span(b, at+2, at+2), Mode: lock.Exclusive}
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Unlock(ctx, r.File, r.Owner, r.Range); err != nil {
					b.Fatal(err)
				}
				if _, err := m.TryLock(ctx, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Workload 11, as far as it goes today: one caller, each change synced.
func BenchmarkW11PairDurable(b *testing.B) {
	m := open(b, sneck.Options{Dir: b.TempDir()})
	r := lock.Request{File: "file", Owner: owner("me"), Range: lock.WholeFile(), Mode: lock.Exclusive}
	b.ReportAllocs()
	for b.Loop() {
		pair(b, m, &r)
	}
}
