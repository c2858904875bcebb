package bench

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"sneck"
	"sneck/lock"
)

// inodes are n file keys.
func inodes(n int) []lock.FileKey {
	keys := make([]lock.FileKey, n)
	for i := range keys {
		keys[i] = lock.FileKey(fmt.Sprintf("device 1, inode %d", i))
	}
	return keys
}

// wide lets a server have more than the million locks of W15 and W16, which are
// all that it may have by default; what the limits cost still counts.
var wide = sneck.Limits{LocksTotal: 2_000_000}

// people are the owners of W15 and W16: 10 processes of each of 1,000 clients.
func people() []lock.Owner {
	os := make([]lock.Owner, 10_000)
	for i := range os {
		os[i] = lock.Owner{Client: fmt.Sprint("client ", i%1000), ID: fmt.Sprint("owner ", i), Semantics: lock.POSIX}
	}
	return os
}

// spread calls f for 0..n-1 from several goroutines: enough of them for a log
// that syncs. The same one gets all i that are congruent to each other.
func spread(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	const goroutines = 250 // divides the numbers of files
	errs := make(chan error, goroutines)
	for g := range goroutines {
		go func() {
			for i := g; i < n; i += goroutines {
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	var failed error
	for range goroutines {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	if failed != nil {
		b.Fatal(failed)
	}
}

// filled makes n locks be held on these files, whose number divides n.
func filled(b *testing.B, m *sneck.Manager, n int, keys []lock.FileKey) {
	b.Helper()
	os := people()
	spread(b, n, func(i int) error {
		f, slot := i%len(keys), i/len(keys)
		r := lock.Request{File: keys[f], Owner: os[(31*f+97*slot)%len(os)], Range: heldBytes(b, slot), Mode: lock.Exclusive}
		_, err := m.TryLock(bg, r)
		return err
	})
}

func large(b *testing.B, n int) {
	if n >= 1e6 && testing.Short() {
		b.Skip("it takes long")
	}
}

// The operation is one Open of a log of N records without a checkpoint: pairs on
// 10,000 files.
func BenchmarkW15Replay(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(count(n), func(b *testing.B) {
			large(b, n)
			reopen(b, float64(n), "records/s", func(m *sneck.Manager) error {
				keys, os := inodes(10_000), people()
				spread(b, n/2, func(i int) error {
					f := i % len(keys)
					r := lock.Request{File: keys[f], Owner: os[(31*f+97*(i/len(keys)))%len(os)], Range: heldBytes(b, i%1000), Mode: lock.Exclusive}
					return once(m, &r)
				})
				return nil
			})
		})
	}
}

// The operation is one Open of a log that has N held locks in a checkpoint.
func BenchmarkW15Reopen(b *testing.B) {
	for _, c := range []struct{ locks, files int }{
		{10_000, 10_000},
		{1_000_000, 1_000_000},
		{1_000_000, 10_000},
	} {
		b.Run(fmt.Sprintf("%s/files=%d", count(c.locks), c.files), func(b *testing.B) {
			large(b, c.locks)
			reopen(b, float64(c.locks), "locks/s", func(m *sneck.Manager) error {
				filled(b, m, c.locks, inodes(c.files))
				return m.Checkpoint(bg)
			})
		})
	}
}

// reopen opens a log again and again that prepare has filled. Closing it, and
// collecting the table of the time before, is not counted.
func reopen(b *testing.B, n float64, unit string, prepare func(*sneck.Manager) error) {
	o := sneck.Options{Dir: filepath.Join(b.TempDir(), "log"), Durability: sneck.Interval, CheckpointAfter: -1, Limits: wide}
	start := func() *sneck.Manager {
		m, err := sneck.Open(o)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	stop := func(m *sneck.Manager) {
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
	}
	m := start()
	if err := prepare(m); err != nil {
		b.Fatal(err)
	}
	stop(m)
	b.ReportAllocs()
	for b.Loop() {
		m := start()
		b.StopTimer()
		if got := m.Stats().Log.Replayed; float64(got) < n && m.Stats().Locks < int(n) {
			b.Fatalf("%d records of %v replayed", got, n)
		}
		stop(m)
		b.StartTimer()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), unit)
}
