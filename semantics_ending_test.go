package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sneck"
	"sneck/lock"
)

// ReleaseFile takes the line along with the locks: everybody is told
// ErrReleased, nobody is granted a lock of a file that is gone, and the name
// can be used again at once.
func TestWaitReleaseFile(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, posix("a"), x, span(0, 9))
		mustTry(t, m, smb("b"), s, span(20, 29))
		w1 := lockIn(bg, m, posix("w"), x, span(0, 9))
		w2 := lockIn(bg, m, smb("w"), s, span(0, 0))
		up := enqueue(t, m, posix("v"), x, lock.WholeFile())
		mustRelease(t, 2)(m.ReleaseFile(bg, file))
		for _, c := range []*call{w1, w2, &up.call} {
			c.fails(t, lock.ErrReleased)
		}
		mustEmpty(t, m)
		mustTry(t, m, posix("w"), x, lock.WholeFile())
		mustRelease(t, 0)(m.ReleaseFile(bg, "other file"))
	})
}

// Released waiters get ErrReleased, others stay: of another file, of another
// client, of another owner of the client.
func TestWaitReleasedWaiters(t *testing.T) {
	mine := lock.Owner{Client: "c", ID: "1", Semantics: lock.POSIX}
	sibling := lock.Owner{Client: "c", ID: "2", Semantics: lock.POSIX}
	twin := lock.Owner{Client: "c", ID: "1", Semantics: lock.OFD}
	stranger := lock.Owner{Client: "d", ID: "1", Semantics: lock.POSIX}
	for name, tc := range map[string]struct {
		release func(m *sneck.Manager) (int, error)
		gone    []int
	}{
		"owner":  {func(m *sneck.Manager) (int, error) { return m.ReleaseOwner(bg, file, mine) }, []int{0}},
		"client": {func(m *sneck.Manager) (int, error) { return m.ReleaseClient(bg, "c") }, []int{0, 1, 2, 4}},
		"file":   {func(m *sneck.Manager) (int, error) { return m.ReleaseFile(bg, file) }, []int{0, 1, 2, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				holder := lock.Owner{Client: "h", ID: "h", Semantics: lock.SMB}
				for _, f := range []lock.FileKey{file, "other"} {
					if _, err := m.TryLock(bg, lock.Request{File: f, Owner: holder, Range: lock.WholeFile(), Mode: s}); err != nil {
						t.Fatal(err)
					}
				}
				var calls []*call
				for _, r := range []lock.Request{
					ask(mine, x, span(0, 0)), ask(sibling, x, span(1, 1)), ask(twin, x, span(2, 2)), ask(stranger, x, span(3, 3)),
					{File: "other", Owner: mine, Mode: x, Range: span(0, 0)},
				} {
					calls = append(calls, start(func() (lock.Held, error) { return m.Lock(bg, r) }))
				}
				if _, err := tc.release(m); err != nil {
					t.Fatal(err)
				}
				for i, c := range calls {
					if slices.Contains(tc.gone, i) {
						c.fails(t, lock.ErrReleased)
						mustBe(t, c.err, lock.ErrReleased)
					} else {
						c.waits(t)
					}
				}
			})
		})
	}
}

// Enqueue's done is called exactly once: at once, by a grant, by Cancel, by a
// release, by Close, and not at all when Enqueue itself fails. The waiter's id
// becomes the lock's.
func TestWaitEnqueueDoneOnce(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		o := smb("a")
		free := enqueue(t, m, o, x, span(0, 9))
		if h := free.holds(t); h.ID != free.id {
			t.Errorf("%+v has another id than %d", h, free.id)
		}
		granted := enqueue(t, m, posix("b"), x, span(0, 9))
		canceled := enqueue(t, m, posix("c"), x, span(0, 9))
		released := enqueue(t, m, posix("d"), x, span(0, 9))
		closed := enqueue(t, m, posix("e"), x, span(0, 9))
		for _, q := range []*queue{granted, canceled, released, closed} {
			q.waits(t)
		}
		mustUnlock(t, m, o, span(0, 9))
		if h := granted.holds(t); h.ID != granted.id {
			t.Errorf("%+v has another id than %d", h, granted.id)
		}
		if !m.Cancel(canceled.id) || m.Cancel(canceled.id) || m.Cancel(granted.id) || m.Cancel(free.id) || m.Cancel(0) || m.Cancel(1<<63) {
			t.Error("Cancel is true once for a waiter, and never for anything else")
		}
		canceled.fails(t, lock.ErrCanceled)
		mustRelease(t, 0)(m.ReleaseClient(bg, posix("d").Client))
		released.fails(t, lock.ErrReleased)
		mustClose(t, m)
		closed.fails(t, lock.ErrClosed)
		for _, q := range []*queue{free, granted, canceled, released, closed} {
			mustEqual(t, "calls of done", q.calls.Load(), int32(1))
		}
		id, err := m.Enqueue(ask(o, x, span(0, 9)), func(lock.Held, error) { t.Error("done was called") })
		mustBe(t, err, lock.ErrClosed)
		mustEqual(t, "the id", id, lock.ID(0))
	})
	m := memory(t)
	for _, r := range []lock.Request{{}, {File: file}, ask(posix("a"), 0, span(0, 9))} {
		if _, err := m.Enqueue(r, func(lock.Held, error) { t.Error("done was called") }); !errors.Is(err, lock.ErrInvalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	_, err := m.Enqueue(ask(posix("a"), x, span(0, 9)), nil)
	mustBe(t, err, lock.ErrInvalid)
	mustEmpty(t, m)
}

// done may call the Manager.
func TestWaitEnqueueDoneMayCall(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		var order []string
		add := func(name string, then func()) func(lock.Held, error) {
			return func(h lock.Held, err error) {
				if err != nil {
					t.Error(err)
				}
				order = append(order, name)
				if then != nil {
					then()
				}
				if err := m.Unlock(bg, file, h.Owner, h.Range); err != nil {
					t.Error(err)
				}
			}
		}
		into := func(name string, then func()) func() {
			return func() {
				if _, err := m.Enqueue(ask(posix(name), x, span(0, 9)), add(name, then)); err != nil {
					t.Error(err)
				}
			}
		}
		into("1", into("2", into("3", nil)))()
		synctest.Wait()
		mustEqual(t, "order", order, []string{"1", "2", "3"})
		mustEmpty(t, m)
	})
}

// A call whose context ends while it stands in line returns its error, wrapped,
// and leaves nothing behind; once granted the context has no say.
func TestWaitContext(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		mustTry(t, m, a, x, span(0, 9))
		for _, sem := range allSemantics {
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			c := lockIn(ctx, m, owner(sem, "w"), x, span(0, 9))
			c.waits(t)
			<-ctx.Done()
			c.fails(t, context.DeadlineExceeded)
			mustBe(t, c.err, context.DeadlineExceeded)
			if errors.Unwrap(c.err) == nil {
				t.Error("it is not wrapped: it does not say what was waited for")
			}
			cancel()
			mustIdle(t, m)
			mustHold(t, m, fact{file, a, span(0, 9), x})
		}
		ended, cancel := context.WithCancel(bg)
		cancel()
		lockIn(ended, m, b, x, span(5, 5)).fails(t, context.Canceled)
		mustIdle(t, m)
		lockIn(ended, m, b, x, span(10, 10)).holds(t) // did not have to stand in line
		mustUnlock(t, m, a, span(0, 9))
		mustHold(t, m, fact{file, b, span(10, 10), x})

		ctx, cancel := context.WithCancel(bg)
		mustTry(t, m, a, x, span(0, 9))
		c := lockIn(ctx, m, b, x, span(5, 5))
		mustUnlock(t, m, a, span(0, 9))
		h := c.holds(t)
		cancel()
		synctest.Wait()
		mustHold(t, m, factOf(h), fact{file, b, span(10, 10), x})
	})
}

// Cancel against grant: exactly one happens, whether the wait is ended by
// Cancel, by its context or by the release of its owner.
func TestWaitCancelAgainstGrant(t *testing.T) {
	const rounds = 800
	a, w := posix("a"), posix("w")
	type result struct {
		h   lock.Held
		err error
	}
	// race runs both at the same moment.
	race := func(f, g func()) {
		var ready, wg sync.WaitGroup
		ready.Add(2)
		for _, fn := range []func(){f, g} {
			wg.Go(func() {
				ready.Done()
				ready.Wait()
				fn()
			})
		}
		wg.Wait()
	}
	check := func(t *testing.T, m *sneck.Manager, res result, ended error) (granted bool) {
		t.Helper()
		mustIdle(t, m)
		if granted = res.err == nil; granted {
			mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{res.h})
			mustUnlock(t, m, w, span(0, 9))
		} else {
			mustBe(t, res.err, ended)
		}
		mustEmpty(t, m)
		return granted
	}
	report := func(t *testing.T, grants int) { t.Logf("%d of %d were granted", grants, rounds) }

	t.Run("Cancel", func(t *testing.T) {
		m := memory(t)
		grants := 0
		for range rounds {
			mustTry(t, m, a, x, span(0, 9))
			done := make(chan result, 2)
			id, err := m.Enqueue(ask(w, x, span(0, 9)), func(h lock.Held, err error) { done <- result{h, err} })
			if err != nil {
				t.Fatal(err)
			}
			var canceled bool
			race(func() { canceled = m.Cancel(id) }, func() { mustUnlock(t, m, a, span(0, 9)) })
			res := <-done
			if granted := check(t, m, res, lock.ErrCanceled); granted == canceled {
				t.Fatalf("Cancel says %v and the waiter got %+v", canceled, res)
			} else if granted {
				grants++
			}
			if len(done) > 0 {
				t.Fatal("done was called twice")
			}
		}
		report(t, grants)
	})
	t.Run("context", func(t *testing.T) {
		m := memory(t)
		grants := 0
		for range rounds {
			mustTry(t, m, a, x, span(0, 9))
			ctx, cancel := context.WithCancel(bg)
			var wg sync.WaitGroup
			var res result
			wg.Go(func() { res.h, res.err = m.Lock(ctx, ask(w, x, span(0, 9))) })
			race(cancel, func() { mustUnlock(t, m, a, span(0, 9)) })
			wg.Wait()
			if check(t, m, res, context.Canceled) {
				grants++
			}
		}
		report(t, grants)
	})
	t.Run("ReleaseOwner", func(t *testing.T) {
		m := memory(t)
		grants := 0
		for range rounds {
			mustTry(t, m, a, x, span(0, 9))
			done := make(chan result, 2)
			if _, err := m.Enqueue(ask(w, x, span(0, 9)), func(h lock.Held, err error) { done <- result{h, err} }); err != nil {
				t.Fatal(err)
			}
			var n int
			race(func() { n, _ = m.ReleaseOwner(bg, file, w) }, func() { mustUnlock(t, m, a, span(0, 9)) })
			res := <-done
			mustEmpty(t, m)
			if (n == 1) != (res.err == nil) {
				t.Fatalf("%d locks were released and the waiter got %+v", n, res)
			}
			if n == 1 {
				grants++
			} else {
				mustBe(t, res.err, lock.ErrReleased)
			}
		}
		report(t, grants)
	})
	t.Run("two Cancels", func(t *testing.T) {
		m := memory(t)
		mustTry(t, m, a, x, span(0, 9))
		for range rounds / 4 {
			done := make(chan result, 2)
			id, err := m.Enqueue(ask(w, x, span(0, 9)), func(h lock.Held, err error) { done <- result{h, err} })
			if err != nil {
				t.Fatal(err)
			}
			var c1, c2 bool
			race(func() { c1 = m.Cancel(id) }, func() { c2 = m.Cancel(id) })
			if res := <-done; c1 == c2 || len(done) > 0 || !errors.Is(res.err, lock.ErrCanceled) {
				t.Fatalf("%v, %v, %+v", c1, c2, res)
			}
		}
	})
}

// Between a denial and standing in line nothing is lost: a lock that is freed
// at the very moment at which another one asks for it is granted.
func TestWaitNoLostWakeUp(t *testing.T) {
	m := memory(t)
	for i := range 2000 {
		a, w := owner(allSemantics[i%3], "a"), owner(allSemantics[i/3%3], "w")
		mustTry(t, m, a, x, span(0, 9))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.Lock(bg, ask(w, x, span(0, 9))); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { mustUnlock(t, m, a, span(0, 9)) })
		wg.Wait() // would never end
		mustUnlock(t, m, w, span(0, 9))
	}
	mustEmpty(t, m)
}

// 1000 waiters drained are 1000 wake-ups, in ticket order, each of whom the
// one before let in.
func TestWaitDrain(t *testing.T) {
	const n = 1000
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		mustTry(t, m, a, x, span(0, 9))
		var order []int // each done runs before the next one is granted
		for i := range n {
			o := owner(allSemantics[i%3], fmt.Sprint(i))
			if _, err := m.Enqueue(ask(o, x, span(0, 9)), func(h lock.Held, err error) {
				if err != nil {
					t.Error(err)
				}
				order = append(order, i)
				if err := m.Unlock(bg, file, o, h.Range); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.Stats().Waiters; got != n {
			t.Errorf("%d in line, want %d", got, n)
		}
		mustUnlock(t, m, a, span(0, 9))
		synctest.Wait()
		if len(order) != n || !slices.IsSorted(order) {
			t.Errorf("%d wake-ups, in order: %v", len(order), slices.IsSorted(order))
		}
		mustEmpty(t, m)
	})
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, posix("a"), x, span(0, 9))
		var woken atomic.Int32
		for i := range n {
			go func() {
				if _, err := m.Lock(bg, ask(owner(allSemantics[i%3], fmt.Sprint(i)), s, span(0, 9))); err != nil {
					t.Error(err)
				}
				woken.Add(1)
			}()
		}
		synctest.Wait()
		if woken.Load() != 0 || m.Stats().Waiters != n {
			t.Fatalf("%d were woken before, %d wait", woken.Load(), m.Stats().Waiters)
		}
		mustUnlock(t, m, posix("a"), span(0, 9)) // one step grants them all
		if st := m.Stats(); st.Locks != n || st.Waiters != 0 {
			t.Errorf("%+v", st)
		}
		synctest.Wait()
		if woken.Load() != n {
			t.Errorf("%d wake-ups, want %d", woken.Load(), n)
		}
	})
}

// Close ends all waits with ErrClosed and refuses what comes later, with a log
// and without; what is held can still be looked at. Only the first Close does
// anything.
func TestWaitClose(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "log": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := open(t, dir)
				a := posix("a")
				h := mustTry(t, m, a, x, span(0, 9))
				mustTry(t, m, a, x, span(20, 29))
				w := lockIn(bg, m, posix("w"), s, span(0, 9))
				v := enqueue(t, m, posix("v"), s, span(0, 9))
				mustClose(t, m)
				w.fails(t, lock.ErrClosed)
				v.fails(t, lock.ErrClosed)
				mustIdle(t, m)
				before := table(m, lock.Filter{})
				for name, f := range map[string]func() error{
					"TryLock":       func() error { _, err := m.TryLock(bg, ask(a, s, span(50, 59))); return err },
					"TryLockAll":    func() error { _, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(50, 59))}); return err },
					"Lock":          func() error { _, err := m.Lock(bg, ask(a, s, span(50, 59))); return err },
					"Upgrade":       func() error { _, err := m.Upgrade(bg, file, a, span(0, 9)); return err },
					"Unlock":        func() error { return m.Unlock(bg, file, a, span(0, 9)) },
					"ReleaseOwner":  func() error { _, err := m.ReleaseOwner(bg, file, a); return err },
					"ReleaseClient": func() error { _, err := m.ReleaseClient(bg, a.Client); return err },
					"ReleaseClient of nobody": func() error {
						_, err := m.ReleaseClient(bg, "nobody")
						return err
					},
					"ReleaseFile": func() error { _, err := m.ReleaseFile(bg, file); return err },
				} {
					if err := f(); !errors.Is(err, lock.ErrClosed) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if st := m.Stats(); st.Locks != 2 || st.Waiters != 0 {
					t.Errorf("%+v", st)
				}
				mustEqual(t, "the table", table(m, lock.Filter{}), before)
				if hit, found := m.Test(ask(posix("b"), s, span(0, 0))); !found || hit != h {
					t.Errorf("%v, %+v", found, hit)
				}
				mustClose(t, m)
			})
		})
	}
}

// Whoever gets in line while the manager is closed is told so too.
func TestWaitCloseAgainstLock(t *testing.T) {
	for i := range 1000 {
		m := mustOpen(t, "")
		mustTry(t, m, posix("a"), x, span(0, 9))
		var ready, wg sync.WaitGroup
		ready.Add(3)
		for j := range 2 {
			wg.Go(func() {
				ready.Done()
				ready.Wait()
				_, err := m.Lock(bg, ask(owner(allSemantics[i%3], fmt.Sprint("w", j)), s, span(0, 9)))
				if !errors.Is(err, lock.ErrClosed) {
					t.Error(err)
				}
			})
		}
		ready.Done()
		ready.Wait()
		mustClose(t, m)
		wg.Wait() // would never end
	}
}
