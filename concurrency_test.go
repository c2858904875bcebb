package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sneck"
	"sneck/lock"
)

// These tests run in bubbles: the goroutines run at the same time, as always,
// but a deadline passes only when all of them stand in line, so that they end
// however they get in each other's way and no deadline is ever too short.

const (
	crowdFiles = 3
	crowdBytes = 16
)

func crowdFile(i int) lock.FileKey { return lock.FileKey(fmt.Sprint("file ", i)) }

// occupancy is who is on each byte, kept by those who lock: -1 for a writer,
// else the number of readers. They come after their lock is granted and leave
// before they let go, so what meets here was granted at the same time.
type occupancy [crowdFiles][crowdBytes]atomic.Int32

func (oc *occupancy) enter(t *testing.T, f int, r lock.Range, mode lock.Mode) {
	t.Helper()
	for i := r.First(); i <= r.Last(); i++ {
		b := &oc[f][i]
		if mode == x {
			if !b.CompareAndSwap(0, -1) {
				t.Errorf("a writer meets %d on byte %d", b.Load(), i)
			}
		} else if n := b.Add(1); n <= 0 {
			t.Errorf("a reader meets a writer on byte %d", i)
		}
	}
}

func (oc *occupancy) leave(t *testing.T, f int, r lock.Range, mode lock.Mode) {
	t.Helper()
	for i := r.First(); i <= r.Last(); i++ {
		b := &oc[f][i]
		if mode == x {
			if !b.CompareAndSwap(-1, 0) {
				t.Errorf("a writer leaves byte %d and meets %d", i, b.Load())
			}
		} else if n := b.Add(-1); n < 0 {
			t.Errorf("a reader leaves byte %d to a writer", i)
		}
	}
}

// grip is what a worker has locked with one call.
type grip struct {
	f    int
	r    lock.Range
	mode lock.Mode
}

// No two owners ever hold conflicting modes on a byte: sixteen of them lock,
// wait, convert and let go on a few bytes of a few files, and watch who is
// there beside them.
func TestConcurrentExclusion(t *testing.T) {
	r := newRand(t)
	seed := r.Uint64()
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		var oc occupancy
		var wg sync.WaitGroup
		var waited, upgraded, refused, deadlocks, timeouts atomic.Int32
		for w := range 16 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(w)))
				o := owner(allSemantics[w%3], fmt.Sprint(w))
				var mine []grip
				drop := func(i int) {
					g := mine[i]
					mine = slices.Delete(mine, i, i+1)
					oc.leave(t, g.f, g.r, g.mode)
					if err := m.Unlock(bg, crowdFile(g.f), o, g.r); err != nil {
						t.Error(err)
					}
				}
				for range 600 {
					if t.Failed() {
						return
					}
					f := r.IntN(crowdFiles)
					first := uint64(r.IntN(crowdBytes))
					rng := span(first, min(first+uint64(r.IntN(6)), crowdBytes-1))
					req := lock.Request{File: crowdFile(f), Owner: o, Range: rng, Mode: []lock.Mode{s, x}[r.IntN(2)]}
					ctx, cancel := context.WithTimeout(bg, time.Duration(1+r.IntN(1000))*time.Millisecond)
					switch k := r.IntN(10); {
					case k < 6: // lock what it does not hold
						if slices.ContainsFunc(mine, func(g grip) bool { return g.f == f && g.r.Overlaps(rng) }) {
							break
						}
						var err error
						if k < 3 {
							_, err = m.TryLock(bg, req)
						} else {
							waited.Add(1)
							_, err = m.Lock(ctx, req)
						}
						switch {
						case err == nil:
							oc.enter(t, f, rng, req.Mode)
							mine = append(mine, grip{f, rng, req.Mode})
						case k < 3 && errors.Is(err, lock.ErrConflict):
						case k >= 3 && errors.Is(err, context.DeadlineExceeded):
							timeouts.Add(1)
						case k >= 3 && o.Semantics == lock.POSIX && errors.Is(err, lock.ErrDeadlock):
							mustBeDeadlock(t, err, o)
							deadlocks.Add(1)
						default:
							t.Error(err)
						}
					case k == 6 && len(mine) > 0 && o.Semantics != lock.SMB: // convert
						i := r.IntN(len(mine))
						g := &mine[i]
						req.File, req.Range = crowdFile(g.f), g.r
						if g.mode == x {
							oc.leave(t, g.f, g.r, x)
							oc.enter(t, g.f, g.r, s)
							req.Mode = s
							if _, err := m.TryLock(bg, req); err != nil {
								t.Errorf("downgrade: %v", err)
							}
							g.mode = s
							break
						}
						_, err := m.Upgrade(ctx, req.File, o, g.r)
						switch {
						case err == nil:
							// It kept the shared lock until it had the other:
							// no writer was there in between.
							oc.leave(t, g.f, g.r, s)
							oc.enter(t, g.f, g.r, x)
							g.mode = x
							upgraded.Add(1)
						case errors.Is(err, lock.ErrDeadlock):
							if !ofTwoUpgraders(err, o) {
								mustBeDeadlock(t, err, o)
							}
							refused.Add(1)
						case errors.Is(err, context.DeadlineExceeded):
							refused.Add(1)
						default:
							t.Error(err)
						}
					case k < 9:
						if len(mine) > 0 {
							drop(r.IntN(len(mine)))
						}
					default:
						n := 0
						mine = slices.DeleteFunc(mine, func(g grip) bool {
							if g.f != f {
								return false
							}
							oc.leave(t, g.f, g.r, g.mode)
							n++
							return true
						})
						if got, err := m.ReleaseOwner(bg, crowdFile(f), o); err != nil || got > n || (got == 0) != (n == 0) {
							t.Errorf("released %d of %d, %v", got, n, err)
						}
					}
					cancel()
				}
				for len(mine) > 0 {
					drop(0)
				}
			})
		}
		wg.Wait()
		t.Logf("%d waits, %d upgrades, %d more refused, %d deadlocks, %d deadlines passed", waited.Load(), upgraded.Load(), refused.Load(), deadlocks.Load(), timeouts.Load())
		mustEmpty(t, m)
	})
}

// ofTwoUpgraders reports whether err refuses the second one who wants to upgrade the
// same bytes, which is no matter of deadlock detection: it may be an OFD owner.
func ofTwoUpgraders(err error, o lock.Owner) bool {
	var d *lock.DeadlockError
	return errors.As(err, &d) && len(d.Cycle) == 2 && d.Cycle[0].Same(o) && !d.Cycle[1].Same(o) && d.Cycle[1].Semantics != lock.SMB
}

// crowd has many goroutines, several for each owner, do everything to a few
// files: whatever it is, no file ever has conflicting locks or an id twice,
// every call returns and every done is called once. What is held in the end it
// leaves.
func crowd(t *testing.T, m *sneck.Manager, seed uint64, ops int) {
	var wg sync.WaitGroup
	var enqueued, done, deadlocks atomic.Int32
	owners := slices.Clone(modelOwners)
	clients := []string{"c", "d"}
	for w := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			expect := func(what string, err error, allowed ...error) {
				if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
					t.Errorf("%s: %v", what, err)
				}
			}
			// deadlock takes a wait that would have been for itself: there is nothing
			// more to expect of it.
			deadlock := func(err error, o lock.Owner) error {
				if o.Semantics == lock.POSIX && errors.Is(err, lock.ErrDeadlock) {
					mustBeDeadlock(t, err, o)
					deadlocks.Add(1)
					return nil
				}
				return err
			}
			ended := []error{context.DeadlineExceeded, lock.ErrCanceled, lock.ErrReleased}
			var last lock.ID
			for range ops {
				if t.Failed() {
					return
				}
				o, f := owners[r.IntN(len(owners))], crowdFile(r.IntN(crowdFiles))
				any := func() lock.Request {
					first := uint64(r.IntN(crowdBytes))
					rng := span(first, min(first+uint64(r.IntN(6)), crowdBytes-1))
					if o.Semantics == lock.SMB && r.IntN(5) == 0 {
						rng = at(first)
					}
					return lock.Request{File: f, Owner: o, Range: rng, Mode: []lock.Mode{s, x}[r.IntN(2)]}
				}
				req := any()
				ctx, cancel := context.WithTimeout(bg, time.Duration(1+r.IntN(100))*time.Millisecond)
				switch k := r.IntN(40); {
				case k < 8:
					_, err := m.TryLock(bg, req)
					expect("TryLock", err, lock.ErrConflict)
				case k < 10:
					_, err := m.TryLockAll(bg, []lock.Request{req, any(), any()})
					expect("TryLockAll", err, lock.ErrConflict)
				case k < 15:
					_, err := m.Lock(ctx, req)
					expect("Lock", deadlock(err, o), ended...)
				case k < 16: // without a deadline: somebody will let it in or release it
					_, err := m.Lock(bg, req)
					expect("Lock", deadlock(err, o), lock.ErrCanceled, lock.ErrReleased)
				case k < 20:
					enqueued.Add(1)
					var err error
					last, err = m.Enqueue(req, func(h lock.Held, err error) {
						done.Add(1)
						expect("done", deadlock(err, o), lock.ErrCanceled, lock.ErrReleased)
						if err == nil && (h.ID == 0 || !h.Owner.Same(o) || h.File != f || h.Mode != req.Mode || !req.Range.IsEmpty() && !h.Range.Contains(req.Range)) {
							t.Errorf("asked for %+v, got %+v", req, h)
						}
					})
					expect("Enqueue", err)
				case k < 22:
					m.Cancel(last)
				case k < 30:
					expect("Unlock", m.Unlock(bg, f, o, req.Range), lock.ErrNotFound)
				case k < 33:
					_, err := m.Upgrade(ctx, f, o, req.Range)
					if ofTwoUpgraders(err, o) {
						err = nil
					}
					expect("Upgrade", deadlock(err, o), append(ended, lock.ErrNotFound, lock.ErrInvalid, lock.ErrRange)...)
				case k < 34:
					_, err := m.ReleaseOwner(bg, f, o)
					expect("ReleaseOwner", err)
				case k < 35 && r.IntN(3) == 0:
					_, err := m.ReleaseClient(bg, clients[r.IntN(len(clients))])
					expect("ReleaseClient", err)
				case k < 36 && r.IntN(3) == 0:
					_, err := m.ReleaseFile(bg, f)
					expect("ReleaseFile", err)
				case k < 37:
					if h, found := m.Test(req); found && (h.Owner.Same(o) || !h.Mode.Conflicts(req.Mode) || !h.Range.Overlaps(req.Range)) {
						t.Errorf("Test of %+v: %+v", req, h)
					}
				default:
					compatible(t, table(m, lock.Filter{File: f}))
				}
				cancel()
			}
		})
	}
	quit := make(chan struct{})
	go func() { // lets go of something whenever nobody gets any further
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				if _, err := m.ReleaseClient(bg, clients[i%2]); err != nil {
					t.Error(err)
				}
			case <-quit:
				return
			}
		}
	}()
	wg.Wait()
	close(quit)
	synctest.Wait()
	t.Logf("%d deadlocks", deadlocks.Load())
	mustNotDeadlock(t, m)
	// Those who are left in line came by Enqueue.
	for w := range m.Waiters(lock.Filter{}) {
		if len(w.Blockers) == 0 {
			t.Errorf("%+v waits for nobody", w)
		}
	}
	for w := range m.Waiters(lock.Filter{}) {
		m.Cancel(w.ID)
	}
	for i := range crowdFiles {
		compatible(t, table(m, lock.Filter{File: crowdFile(i)}))
	}
	synctest.Wait()
	mustIdle(t, m)
	if enqueued.Load() != done.Load() {
		t.Errorf("%d were enqueued, done was called %d times", enqueued.Load(), done.Load())
	}
	if st := m.Stats(); st.Locks != len(table(m, lock.Filter{})) {
		t.Errorf("%+v with %d locks", st, len(table(m, lock.Filter{})))
	}
}

// releaseAll lets go of everything that a crowd has left: nothing remains.
func releaseAll(t *testing.T, m *sneck.Manager) {
	t.Helper()
	want := m.Stats().Locks
	n := 0
	for _, c := range []string{"c", "d"} {
		got, err := m.ReleaseClient(bg, c)
		if err != nil {
			t.Error(err)
		}
		n += got
	}
	if n != want {
		t.Errorf("released %d locks of %d", n, want)
	}
	mustEmpty(t, m)
}

func TestConcurrentEverything(t *testing.T) {
	seed := newRand(t).Uint64()
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		crowd(t, m, seed, 1000)
		releaseAll(t, m)
	})
}

// Processes of two threads each lock in no order and wait as long as it takes:
// since who would wait for himself is told, and gives way, there is always
// somebody who gets further. Else the deadline, which nobody should see, would
// pass.
func TestConcurrentProgress(t *testing.T) {
	seed := newRand(t).Uint64()
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		ctx, cancel := context.WithTimeout(bg, time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		var granted, deadlocks atomic.Int32
		for w := range 12 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(w)))
				o := posix(fmt.Sprint(w / 2))
				unlock := func(f int, r lock.Range) {
					if err := m.Unlock(bg, crowdFile(f), o, r); err != nil {
						t.Error(err)
					}
				}
				for range 400 {
					if t.Failed() {
						break
					}
					f, first := r.IntN(crowdFiles), uint64(r.IntN(crowdBytes))
					rng := span(first, min(first+uint64(r.IntN(6)), crowdBytes-1))
					if r.IntN(3) == 0 {
						unlock(f, rng)
						continue
					}
					_, err := m.Lock(ctx, lock.Request{File: crowdFile(f), Owner: o, Range: rng, Mode: []lock.Mode{s, s, x}[r.IntN(3)]})
					switch {
					case err == nil:
						granted.Add(1)
					case errors.Is(err, lock.ErrDeadlock):
						mustBeDeadlock(t, err, o)
						deadlocks.Add(1)
						unlock(f, lock.WholeFile())
					default:
						t.Errorf("nobody got any further: %v", err)
						mustNotDeadlock(t, m)
					}
				}
				for f := range crowdFiles {
					unlock(f, lock.WholeFile())
				}
			})
		}
		wg.Wait()
		t.Logf("%d granted, %d deadlocks", granted.Load(), deadlocks.Load())
		mustEmpty(t, m)
	})
}

// Everything with a log: what is held in the end is what is there after a
// restart, and what is released then stays so.
func TestConcurrentRestart(t *testing.T) {
	seed := newRand(t).Uint64()
	dir := t.TempDir()
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			m := open(t, dir)
			mustReclaimAll(t, m)
			old := table(m, lock.Filter{})
			crowd(t, m, seed, 60)
			for _, c := range []string{"c", "d"} { // of both, so that there is something to find again
				for i := range crowdFiles {
					r := lock.Request{File: crowdFile(i), Owner: lock.Owner{Client: c, ID: "new", Semantics: lock.POSIX}, Range: span(100, 109), Mode: s}
					if _, err := m.TryLock(bg, r); err != nil {
						t.Error(err)
					}
				}
			}
			want := table(m, lock.Filter{})
			mustClose(t, m)
			m = reopened(t, dir, m.Epoch(), marked(want, true))
			t.Logf("%d locks before, %d after", len(old), len(want))
			mustClose(t, m)
		})
	}
	m := open(t, dir)
	releaseAll(t, m)
	mustClose(t, m)
	mustEmpty(t, reopened(t, dir, m.Epoch(), nil))
}
