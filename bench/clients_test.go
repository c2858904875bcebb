package bench

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

var unlimited = sneck.Limits{LocksPerFile: -1, LocksPerClient: -1, LocksTotal: -1, WaitersPerFile: -1, WaitersTotal: -1}

// holdMany has n owners of a client each hold a byte of one of so many files.
func holdMany(b *testing.B, m *sneck.Manager, client string, n, files int) {
	b.Helper()
	for i := range n {
		hold(b, m, lock.Request{
			File:  lock.FileKey(fmt.Sprintf("%s's file %d", client, i%files)),
			Owner: lock.Owner{Client: client, ID: fmt.Sprint("owner ", i%64), Semantics: lock.POSIX},
			Range: bytes(b, uint64(2*i), uint64(2*i)), Mode: lock.Exclusive,
		})
	}
}

// ReleaseClient of a client with 10,000 locks on as many files, alone and while a
// million locks of others are held. ns/lock is what counts; one operation is a
// release, after the locks were taken again with the clock stopped.
func BenchmarkW08ReleaseClient(b *testing.B) {
	const locks = 10_000
	for _, others := range []int{0, 1_000_000} {
		b.Run(fmt.Sprint("others=", others), func(b *testing.B) {
			if others > 0 && testing.Short() {
				b.Skip("a million locks")
			}
			m := open(b, sneck.Options{Limits: unlimited})
			if others > 0 {
				holdMany(b, m, "somebody", others, others)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				holdMany(b, m, "client", locks, locks)
				b.StartTimer()
				if n, err := m.ReleaseClient(bg, "client"); n != locks || err != nil {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/locks, "ns/lock")
		})
	}
}

// The search that a waiter makes whose owner is waited for along a chain of n
// owners that does not close: each holds a file and waits for the next one's. One
// operation is a wait that begins and is cancelled; ns/hop takes off what that
// costs without a chain.
func BenchmarkW09DeadlockSearch(b *testing.B) {
	alone := 0.0
	for _, n := range []int{1, 10, 1000, 10_000} {
		b.Run(fmt.Sprint("chain=", n), func(b *testing.B) {
			m := open(b, sneck.Options{Limits: unlimited})
			who := func(i int) lock.Owner { return owner(lock.POSIX, i) }
			at := func(i int) lock.Request {
				return lock.Request{File: lock.FileKey(fmt.Sprint("file ", i)), Owner: who(i), Range: bytes(b, 0, 9), Mode: lock.Exclusive}
			}
			done := func(lock.Held, error) {}
			for i := range n {
				hold(b, m, at(i))
			}
			for i := range n - 1 { // from the start, so that each search is short
				r := at(i + 1)
				r.Owner = who(i)
				if _, err := m.Enqueue(r, done); err != nil {
					b.Fatal(err)
				}
			}
			last := at(0)
			last.Owner = me(lock.POSIX)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				id, err := m.Enqueue(last, done)
				if err != nil {
					b.Fatal(err)
				}
				if !m.Cancel(id) {
					b.Fatal("it does not wait")
				}
			}
			perOp := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if n == 1 {
				alone = perOp
				return
			}
			b.ReportMetric((perOp-alone)/float64(n-1), "ns/hop")
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// Heap per held lock, of a million locks on a million files and on 10,000; what is
// left when they are released; and what ten million pairs of lock and unlock after
// that add. One operation is all of it.
func BenchmarkW10HeapPerLock(b *testing.B) {
	if testing.Short() {
		b.Skip("a million locks")
	}
	const locks = 1_000_000
	for _, files := range []int{locks, 10_000} {
		b.Run(fmt.Sprint("files=", files), func(b *testing.B) {
			for range b.N {
				// The names are the caller's, and are made before.
				names := make([]lock.FileKey, files)
				for i := range names {
					names[i] = lock.FileKey(fmt.Sprint("a file handle of some length ", i))
				}
				owners := make([]lock.Owner, 1000)
				for i := range owners {
					owners[i] = owner(lock.POSIX, i)
				}
				before := heap()
				m := open(b, sneck.Options{Limits: unlimited})
				for i := range locks {
					hold(b, m, lock.Request{File: names[i%files], Owner: owners[i%len(owners)], Range: bytes(b, uint64(2*(i/files)), uint64(2*(i/files))), Mode: lock.Exclusive})
				}
				held := heap()
				b.ReportMetric(float64(held-before)/locks, "B/lock")
				for _, name := range names {
					if _, err := m.ReleaseFile(bg, name); err != nil {
						b.Fatal(err)
					}
				}
				time.Sleep(4 * time.Second) // emptied cells go after a while
				b.ReportMetric(float64(int64(heap())-int64(before))/locks, "B/lock-released")
				from := int64(heap())
				r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 0, 9), Mode: lock.Exclusive}
				for range 10_000_000 {
					pair(b, m, &r)
				}
				b.ReportMetric(float64(int64(heap())-from), "B-after-10M-pairs")
				runtime.KeepAlive(names)
			}
		})
	}
}

// 1,000 waiters for one range, drained: each is granted when the one before it
// unlocks. One operation is a grant, from the unlock that leads to it until its
// caller has it; wake-ups/op is how often anybody was woken for it.
func BenchmarkW14Drain(b *testing.B) {
	const waiters = 1000
	b.ReportAllocs()
	m := open(b, sneck.Options{Limits: unlimited})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 0, 9), Mode: lock.Exclusive}
	granted := make(chan int, waiters)
	wakeups := 0
	b.ResetTimer()
	for n := 0; n < b.N; n += waiters {
		b.StopTimer()
		hold(b, m, r)
		owners := make([]lock.Owner, waiters)
		for i := range waiters {
			owners[i] = owner(lock.POSIX, i)
			q := r
			q.Owner = owners[i]
			if _, err := m.Enqueue(q, func(_ lock.Held, err error) {
				if err != nil {
					b.Error(err)
				}
				granted <- i
			}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := m.Unlock(bg, r.File, r.Owner, r.Range); err != nil {
			b.Fatal(err)
		}
		for range waiters {
			i := <-granted
			wakeups++
			if err := m.Unlock(bg, r.File, owners[i], r.Range); err != nil {
				b.Fatal(err)
			}
		}
	}
	if n := (b.N + waiters - 1) / waiters * waiters; wakeups != n {
		b.Fatalf("%d wake-ups for %d waiters", wakeups, n)
	}
	b.ReportMetric(1, "wake-ups/op")
}
