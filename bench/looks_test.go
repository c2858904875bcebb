package bench

import (
	"sync"
	"testing"

	"sneck"
	"sneck/lock"
)

// Workload 6: Test and CheckIO on a file that holds N locks: alone, from all
// CPUs, and while a writer locks and unlocks on the same file.
func BenchmarkW06Test(b *testing.B) {
	looks(b, func(m *sneck.Manager, r *lock.Request) bool {
		_, found := m.Test(*r)
		return found
	})
}

func BenchmarkW06CheckIO(b *testing.B) {
	looks(b, func(m *sneck.Manager, r *lock.Request) bool {
		_, denied := m.CheckIO(r.File, r.Owner, r.Range, true)
		return denied
	})
}

func looks(b *testing.B, look func(*sneck.Manager, *lock.Request) bool) {
	for _, n := range []int{1, 100, 10_000} {
		m := open(b, sneck.Options{})
		disjoint(b, m, n)
		// SMB, whose I/O sees all locks; the range hits the one in the middle.
		at := uint64(n/2)*10 + 3
		r := lock.Request{File: "file", Owner: lock.Owner{Client: "client", ID: "me", Semantics: lock.SMB}, Range: span(b, at, at+4), Mode: lock.Exclusive}
		serial := func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !look(m, &r) {
					b.Fatal("nothing in the way")
				}
			}
		}
		b.Run("alone/"+size(n), serial)
		b.Run("parallel/"+size(n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				mine := r
				for pb.Next() {
					if !look(m, &mine) {
						b.Error("nothing in the way")
						return
					}
				}
			})
		})
		b.Run("besideWriter/"+size(n), func(b *testing.B) {
			stop := make(chan struct{})
			var writer sync.WaitGroup
			writer.Go(func() {
				w := lock.Request{File: "file", Owner: owner("writer"), Range: span(b, at+3, at+3), Mode: lock.Exclusive}
				for {
					select {
					case <-stop:
						return
					default:
						pair(b, m, &w)
					}
				}
			})
			serial(b)
			close(stop)
			writer.Wait()
		})
	}
}
