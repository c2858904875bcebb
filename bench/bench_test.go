package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

const (
	file  = lock.FileKey("the file that most workloads are about")
	files = 100_000 // of W02
	picks = 1 << 12 // places that a workload visits in turn, a power of two
)

var bg = context.Background()

func open(b *testing.B, o sneck.Options) *sneck.Manager {
	b.Helper()
	m, err := sneck.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	return m
}

// roomy lets a file have any number of locks, as the workloads on one file need it.
// The other limits are those of a server, so that what they cost counts.
var roomy = sneck.Options{Limits: sneck.Limits{LocksPerFile: -1}}

func owner(s lock.Semantics, i int) lock.Owner {
	return lock.Owner{Client: fmt.Sprint("client ", i%64), ID: fmt.Sprint("owner ", i), Semantics: s}
}

// me is an owner that holds nothing when a workload starts.
func me(s lock.Semantics) lock.Owner {
	return lock.Owner{Client: "me", ID: "me", Semantics: s}
}

func bytes(b *testing.B, first, last uint64) lock.Range {
	b.Helper()
	r, err := lock.Bytes(first, last)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func hold(b *testing.B, m *sneck.Manager, r lock.Request) {
	b.Helper()
	if _, err := m.TryLock(bg, r); err != nil {
		b.Fatal(err)
	}
}

// count is n as the names of benchmarks have it: 100, 1k, 100k.
func count(n int) string {
	if n >= 1000 && n%1000 == 0 {
		return fmt.Sprintf("N=%dk", n/1000)
	}
	return fmt.Sprintf("N=%d", n)
}

// The file of W03, W06 and W07 is divided into slots of 40 bytes: the first 30
// of each are held, the last 10 are free.
const slot = 40

func heldBytes(b *testing.B, i int) lock.Range { return bytes(b, slot*uint64(i), slot*uint64(i)+29) }
func midBytes(b *testing.B, i int) lock.Range {
	return bytes(b, slot*uint64(i)+10, slot*uint64(i)+19)
}
func freeBytes(b *testing.B, i int) lock.Range {
	return bytes(b, slot*uint64(i)+30, slot*uint64(i)+39)
}

// slots are distinct slots of n in random order, at most as many as picks. The
// workloads that visit them go around: picks is enough to leave no part of a
// tree out, and few enough to stay in a cache next to it.
func slots(n int) []int {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	return rng.Perm(n)[:min(n, picks)]
}

// places are the ranges that of gives for these slots, and as many as picks:
// each may come several times.
func places(b *testing.B, of func(*testing.B, int) lock.Range, in []int) []lock.Range {
	b.Helper()
	rs := make([]lock.Range, picks)
	for i := range rs {
		rs[i] = of(b, in[i%len(in)])
	}
	return rs
}

// fill makes n owners each hold one slot exclusively.
func fill(b *testing.B, m *sneck.Manager, s lock.Semantics, n int) {
	b.Helper()
	for i := range n {
		hold(b, m, lock.Request{File: file, Owner: owner(s, i), Range: heldBytes(b, i), Mode: lock.Exclusive})
	}
}

// pair locks and unlocks r.
func pair(b *testing.B, m *sneck.Manager, r *lock.Request) {
	if err := once(m, r); err != nil {
		b.Fatal(err)
	}
}

// once is pair on any goroutine.
func once(m *sneck.Manager, r *lock.Request) error {
	if _, err := m.Lock(bg, *r); err != nil {
		return err
	}
	return m.Unlock(bg, r.File, r.Owner, r.Range)
}

// timed is what each of n calls of f takes, in nanoseconds.
func timed(n int, f func(i int)) float64 {
	start := time.Now()
	for i := range n {
		f(i)
	}
	return float64(time.Since(start)) / float64(n)
}

// pairs is pair at each of rs in turn.
func pairs(b *testing.B, m *sneck.Manager, r lock.Request, rs []lock.Range) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Range = rs[i%picks]
		pair(b, m, &r)
	}
}

func BenchmarkW01LockUnlockUncontended(b *testing.B) {
	m := open(b, sneck.Options{})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	b.ReportAllocs()
	for b.Loop() {
		pair(b, m, &r)
	}
}

// The same with TryLock, which never stands in line.
func BenchmarkW01TryLockUnlockUncontended(b *testing.B) {
	m := open(b, sneck.Options{})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.TryLock(bg, r); err != nil {
			b.Fatal(err)
		}
		if err := m.Unlock(bg, r.File, r.Owner, r.Range); err != nil {
			b.Fatal(err)
		}
	}
}

// Every CPU has an owner and an order of its own; that two meet on a file is
// rare, and one waits for the other then. All files were locked before, as in a
// server that has run for a while.
func BenchmarkW02LockUnlockManyFiles(b *testing.B) {
	m := open(b, sneck.Options{})
	keys := make([]lock.FileKey, files)
	for i := range keys {
		keys[i] = lock.FileKey(fmt.Sprintf("device 1, inode %d", i))
	}
	cpus := runtime.GOMAXPROCS(0)
	orders := make([][]lock.FileKey, cpus)
	rng := rand.New(rand.NewPCG(2, 7))
	for c := range orders {
		for _, i := range rng.Perm(files) {
			orders[c] = append(orders[c], keys[i])
		}
	}
	r := lock.Request{Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	for _, r.File = range orders[0] {
		pair(b, m, &r)
	}
	b.ReportAllocs()
	var started atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c := int(started.Add(1)) - 1
		order, r := orders[c], r
		r.Owner = owner(lock.POSIX, c)
		for i := 0; pb.Next(); {
			r.File = order[i]
			if _, err := m.Lock(bg, r); err != nil {
				b.Error(err)
				return
			}
			if err := m.Unlock(bg, r.File, r.Owner, r.Range); err != nil {
				b.Error(err)
				return
			}
			if i++; i == files {
				i = 0
			}
		}
	})
}

var disjoint = []int{1, 100, 1_000, 10_000, 100_000}

// Others hold N ranges, each of an owner of its own; the pair is at the free
// bytes between them, at another place each time.
func BenchmarkW03LockUnlockAmongDisjoint(b *testing.B) {
	for _, n := range disjoint {
		b.Run(count(n), func(b *testing.B) {
			m := open(b, roomy)
			fill(b, m, lock.POSIX, n)
			r := lock.Request{File: file, Owner: me(lock.POSIX), Mode: lock.Exclusive}
			pairs(b, m, r, places(b, freeBytes, slots(n)))
		})
	}
}

// The same, but each lock is let go of only when 64 later ones have been taken:
// a change is not undone by the next one.
func BenchmarkW03LockUnlockAmongDisjointLater(b *testing.B) {
	const late = 64
	for _, n := range disjoint {
		if n < 2*late {
			continue
		}
		b.Run(count(n), func(b *testing.B) {
			m := open(b, roomy)
			fill(b, m, lock.POSIX, n)
			rs := places(b, freeBytes, slots(n)[:min(n, picks)/late*late])
			r := lock.Request{File: file, Owner: me(lock.POSIX), Mode: lock.Exclusive}
			for _, r.Range = range rs[picks-late:] {
				hold(b, m, r)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Range = rs[i%picks]
				if _, err := m.Lock(bg, r); err != nil {
					b.Fatal(err)
				}
				if err := m.Unlock(bg, file, r.Owner, rs[(i+picks-late)%picks]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// N owners read the whole file, and one more comes and goes.
func BenchmarkW04LockUnlockAmongReaders(b *testing.B) {
	for _, n := range []int{1, 100, 1_000, 10_000} {
		for _, c := range []struct {
			name string
			of   func(*testing.B, int) lock.Range
		}{
			{"whole", func(*testing.B, int) lock.Range { return lock.WholeFile() }},
			{"small", freeBytes},
		} {
			b.Run(count(n)+"/"+c.name, func(b *testing.B) {
				m := open(b, roomy)
				for i := range n {
					hold(b, m, lock.Request{File: file, Owner: owner(lock.POSIX, i), Range: lock.WholeFile(), Mode: lock.Shared})
				}
				r := lock.Request{File: file, Owner: me(lock.POSIX), Mode: lock.Shared}
				pairs(b, m, r, places(b, c.of, slots(n)))
			})
		}
	}
}

// look is one question of W06 at one place.
type look struct {
	name  string
	holds lock.Semantics // of those who hold
	ask   func(m *sneck.Manager, o lock.Owner, r lock.Range) bool
}

var (
	test = look{"Test", lock.POSIX, func(m *sneck.Manager, o lock.Owner, r lock.Range) bool {
		_, found := m.Test(lock.Request{File: file, Owner: o, Range: r, Mode: lock.Exclusive})
		return found
	}}
	// Only SMB locks deny I/O; that there are none is known without a search.
	checkIO = look{"CheckIO", lock.SMB, func(m *sneck.Manager, o lock.Owner, r lock.Range) bool {
		_, found := m.CheckIO(file, o, r, true)
		return found
	}}
)

// at are the two answers: nothing is in the way, or something is.
var at = []struct {
	name string
	of   func(*testing.B, int) lock.Range
	want bool
}{
	{"free", freeBytes, false},
	{"held", midBytes, true},
}

func BenchmarkW06Test(b *testing.B)             { lookParallel(b, test) }
func BenchmarkW06CheckIO(b *testing.B)          { lookParallel(b, checkIO) }
func BenchmarkW06TestNextToWriter(b *testing.B) { lookNextToWriter(b, test) }
func BenchmarkW06CheckIONextToWriter(b *testing.B) {
	lookNextToWriter(b, checkIO)
}

// The operation is one question; all CPUs ask.
func lookParallel(b *testing.B, l look) {
	for _, n := range []int{1, 100, 10_000} {
		m := open(b, roomy)
		fill(b, m, l.holds, n)
		for _, c := range at {
			b.Run(count(n)+"/"+c.name, func(b *testing.B) {
				rs, o := places(b, c.of, slots(n)), me(l.holds)
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						if l.ask(m, o, rs[i%picks]) != c.want {
							b.Errorf("%s at %s: want %v", l.name, rs[i%picks], c.want)
							return
						}
					}
				})
			})
		}
	}
}

// One CPU asks while another locks and unlocks on the same file as fast as it
// can. Allocations are the writer's. To be compared with the parallel form on
// one CPU.
func lookNextToWriter(b *testing.B, l look) {
	for _, n := range []int{1, 100, 10_000} {
		for _, c := range at {
			b.Run(count(n)+"/"+c.name, func(b *testing.B) {
				if runtime.GOMAXPROCS(0) < 2 {
					b.Skip("the writer needs a CPU to itself")
				}
				m := open(b, roomy)
				fill(b, m, l.holds, n)
				rs, o := places(b, c.of, slots(n)), me(l.holds)
				// Past all slots, so that no answer depends on it.
				w := lock.Request{File: file, Owner: owner(l.holds, n), Range: heldBytes(b, n+1), Mode: lock.Exclusive}
				var stop atomic.Bool
				writes, done := 0, make(chan error)
				go func() {
					for !stop.Load() {
						if _, err := m.TryLock(bg, w); err != nil {
							done <- err
							return
						}
						if err := m.Unlock(bg, file, w.Owner, w.Range); err != nil {
							done <- err
							return
						}
						writes++
					}
					close(done)
				}()
				for i := 0; b.Loop(); i++ {
					if l.ask(m, o, rs[i%picks]) != c.want {
						b.Fatalf("%s at %s: want %v", l.name, rs[i%picks], c.want)
					}
				}
				stop.Store(true)
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(writes)/b.Elapsed().Seconds(), "writer-pairs/s")
			})
		}
	}
}

// The operation is a pair again, so that it compares with W03: the middle of a
// held range is unlocked, which splits it, and locked again, which merges the
// three. One owner holds all ranges that are visited, others the rest.
//
// x-W03 is the time of a pair relative to that of W03's pair, and x-W03-later
// to W03's later pair, on the same table right afterwards.
func BenchmarkW07UnlockMiddle(b *testing.B) {
	const n, late = 100_000, 64
	m := open(b, roomy)
	visited := slots(n)
	r := lock.Request{File: file, Owner: me(lock.POSIX), Mode: lock.Exclusive}
	for _, i := range visited {
		r.Range = heldBytes(b, i)
		hold(b, m, r)
	}
	mine := make(map[int]bool, len(visited))
	for _, i := range visited {
		mine[i] = true
	}
	for i := range n {
		if !mine[i] {
			hold(b, m, lock.Request{File: file, Owner: owner(lock.POSIX, i), Range: heldBytes(b, i), Mode: lock.Exclusive})
		}
	}
	rs, free := places(b, midBytes, visited), places(b, freeBytes, visited)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Range = rs[i%picks]
		if err := m.Unlock(bg, file, r.Owner, r.Range); err != nil {
			b.Fatal(err)
		}
		if _, err := m.Lock(bg, r); err != nil {
			b.Fatal(err)
		}
	}
	perPair := float64(b.Elapsed()) / float64(b.N)

	r.Owner = owner(lock.POSIX, n)
	w03 := timed(b.N, func(i int) {
		r.Range = free[i%picks]
		pair(b, m, &r)
	})
	for _, r.Range = range free[picks-late:] {
		hold(b, m, r)
	}
	later := timed(b.N, func(i int) {
		r.Range = free[i%picks]
		if _, err := m.Lock(bg, r); err != nil {
			b.Fatal(err)
		}
		if err := m.Unlock(bg, file, r.Owner, free[(i+picks-late)%picks]); err != nil {
			b.Fatal(err)
		}
	})
	b.ReportMetric(perPair/w03, "x-W03")
	b.ReportMetric(perPair/later, "x-W03-later")
}
