package sneck_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"sneck"
	"sneck/lock"
)

// roomy is a Manager in memory that lets a file have any number of locks.
func roomy(t testing.TB) *sneck.Manager {
	t.Helper()
	m := begin(t, "", func(o *sneck.Options) { o.Limits.LocksPerFile = -1 })
	t.Cleanup(func() { mustClose(t, m) })
	return m
}

// hold makes m hold n ranges of 10 bytes, 10 bytes apart, of 16 owners.
func hold(t testing.TB, m *sneck.Manager, sem lock.Semantics, n int) {
	t.Helper()
	for i := range uint64(n) {
		o := owner(sem, fmt.Sprint("holder ", i%16))
		if _, err := m.TryLock(bg, lock.Request{File: file, Owner: o, Range: span(20*i, 20*i+9), Mode: []lock.Mode{s, x}[i%2]}); err != nil {
			t.Fatal(err)
		}
	}
}

// Test and CheckIO allocate nothing, whether they find something or not, among
// any number of held ranges.
func TestAllocations(t *testing.T) {
	for _, sem := range allSemantics {
		for _, n := range []int{0, 1, 100, 10_000} {
			m := roomy(t)
			hold(t, m, sem, n)
			last := uint64(20 * max(n-1, 0))
			for _, asker := range allSemantics {
				o := owner(asker, "asker")
				hit := lock.Request{File: file, Owner: o, Range: span(last, last), Mode: x}
				miss := hit
				miss.Range = span(last+10, last+19)
				for name, tc := range map[string]struct {
					f    func() bool
					want bool
				}{
					"Test, found":      {func() bool { _, found := m.Test(hit); return found }, n > 0},
					"Test, not found":  {func() bool { _, found := m.Test(miss); return found }, false},
					"write, found":     {func() bool { _, found := m.CheckIO(file, o, hit.Range, true); return found }, n > 0 && (sem == lock.SMB || asker == lock.SMB)},
					"write, not found": {func() bool { _, found := m.CheckIO(file, o, miss.Range, true); return found }, false},
					"read, not found":  {func() bool { _, found := m.CheckIO(file, o, miss.Range, false); return found }, false},
					"no such file":     {func() bool { _, found := m.CheckIO("none", o, miss.Range, false); return found }, false},
				} {
					if found := tc.f(); found != tc.want {
						t.Errorf("%d ranges of %s, %s by %s: %v", n, sem, name, asker, found)
					}
					if allocs := testing.AllocsPerRun(50, func() { tc.f() }); allocs != 0 {
						t.Errorf("%d ranges of %s, %s by %s: %v allocations", n, sem, name, asker, allocs)
					}
				}
			}
		}
	}
}

// Test and CheckIO are right while a writer changes the same file all the time:
// what is always held is always found, what is never held never, and what comes
// and goes is seen whole or not at all.
func TestLookingWhileWriting(t *testing.T) {
	for _, n := range []int{1, 100, 10_000} {
		m := roomy(t)
		hold(t, m, lock.SMB, n)
		steady := table(m, lock.Filter{})
		for _, h := range steady[:min(n, 2)] {
			if h.Owner.Semantics != lock.SMB {
				t.Fatalf("%+v", h)
			}
		}
		// In gaps between the ranges: moves from one to the next, and its
		// length with it.
		moving := smb("moving")
		step := func(i int) lock.Range { return span(uint64(10), uint64(10+i%10)) }
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				r := ask(moving, x, step(i))
				if _, err := m.TryLock(bg, r); err != nil {
					t.Error(err)
					return
				}
				if err := m.Unlock(bg, file, moving, r.Range); err != nil {
					t.Error(err)
					return
				}
			}
		})
		o := posix("asker")
		for i := range 3000 {
			h := steady[i%len(steady)]
			if got, found := m.Test(ask(o, x, h.Range)); !found || got != h {
				t.Errorf("%s: %v, %+v; want %+v", h.Range, found, got, h)
			}
			if got, found := m.CheckIO(file, o, h.Range, true); !found || got != h {
				t.Errorf("write of %s: %v, %+v; want %+v", h.Range, found, got, h)
			}
			far := span(uint64(20*n+10), eof)
			if got, found := m.Test(ask(o, x, far)); found {
				t.Errorf("%s: %+v", far, got)
			}
			if got, found := m.CheckIO(file, o, far, true); found {
				t.Errorf("write of %s: %+v", far, got)
			}
			if got, found := m.Test(ask(o, s, span(10, 19))); found && (got.Owner != moving || got.Mode != x || got.Range.First() != 10 || got.Range.Last() > 19 || got.ID == 0) {
				t.Errorf("nobody ever held %+v", got)
			}
			if got, found := m.CheckIO(file, o, span(10, 19), false); found && (got.Owner != moving || got.Range.First() != 10 || got.Range.Last() > 19) {
				t.Errorf("nobody ever held %+v", got)
			}
		}
		stop.Store(true)
		wg.Wait()
		mustEqual(t, "the table", table(m, lock.Filter{}), steady)
	}
}
