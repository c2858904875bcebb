package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sneck/lock"
)

// sizes are the lengths of the table's maps: what would grow with history.
func sizes(t *Table) (cells, clients, waiters int) {
	for i := range t.shards {
		cells += t.shards[i].cells.Size()
	}
	return cells, t.clients.Size(), t.waiting.Size()
}

// sweepAlways sweeps the table again and again, instead of once a second, until
// stop is called.
func sweepAlways(tb *Table) (stop func()) {
	tb.sweeper.stop()
	done := make(chan struct{})
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				tb.sweep()
				runtime.Gosched()
			}
		}
	})
	return func() { close(done); sweeping.Wait() }
}

// Invariant 7, while sweeps run all the time: every lock that a client was
// granted is found by ReleaseClient, exactly once, and nothing of another's.
func TestConcurrentReleaseClientFindsAll(t *testing.T) {
	tb := newTable(nil)
	stop := sweepAlways(tb)
	const clients, files = 6, 12
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(c)))
			name := fmt.Sprintf("client%d", c)
			o := own(name, "o", lock.POSIX)
			for range 300 {
				mine := map[lock.FileKey]bool{}
				for range rng.IntN(40) {
					f := lock.FileKey(fmt.Sprintf("f%d", rng.IntN(files)))
					if rng.IntN(3) == 0 {
						if err := tb.Unlock(f, o, lock.WholeFile()); err != nil {
							t.Error(err)
						}
						delete(mine, f)
						continue
					}
					if _, err := tb.TryLock(lock.Request{File: f, Owner: o, Range: span(0, 9), Mode: lock.Shared}, nil); err != nil {
						t.Error(err)
					}
					mine[f] = true
				}
				if n, err := tb.ReleaseClient(name); n != len(mine) || err != nil {
					t.Errorf("%s: released %d locks, %v; held %d", name, n, err, len(mine))
					return
				}
				for h := range tb.Locks(lock.Filter{Client: name}) {
					t.Errorf("%s still holds %v", name, h)
				}
			}
		})
	}
	wg.Wait()
	stop()
	for range 3 {
		tb.sweep()
	}
	if cells, clients, waiters := sizes(tb); cells+clients+waiters != 0 {
		t.Fatalf("%d cells, %d clients, %d waiters are left", cells, clients, waiters)
	}
	checkAll(t, tb)
}

// Invariant 8: memory grows with what is held, not with what was.
func TestNothingRemains(t *testing.T) {
	for _, j := range []Journal{nil, new(memJournal)} {
		t.Run(fmt.Sprintf("log=%v", j != nil), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb := newTable(j)
				for i := range 5000 {
					f := lock.FileKey(fmt.Sprint("file", i))
					o := own(fmt.Sprint("client", i%700), fmt.Sprint(i), lock.Semantics(1+i%3))
					if _, err := tb.TryLock(lock.Request{File: f, Owner: o, Range: span(0, 9), Mode: lock.Exclusive}, nil); err != nil {
						t.Fatal(err)
					}
					if err := tb.Unlock(f, o, span(0, 9)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * sweepEvery) // of the bubble's clock
				synctest.Wait()
				if cells, clients, waiters := sizes(tb); cells+clients+waiters != 0 {
					t.Fatalf("%d cells, %d clients, %d waiters are left", cells, clients, waiters)
				}
				if tb.sweeper.armed.Load() {
					t.Fatal("the sweeper goes on although nothing is left")
				}
				tb.Fail(lock.ErrClosed)
			})
		})
	}
}

// A cell that is made anew for a file goes on with higher versions, or replay
// would refuse its records.
func TestVersionsGrowAcrossCells(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	tb.sweeper.stop()
	o := own("c", "o", lock.POSIX)
	for range 5 {
		hold(t, tb, o, span(0, 9))
		if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			tb.sweep()
		}
		if cells, _, _ := sizes(tb); cells != 0 {
			t.Fatal("the cell is still there")
		}
	}
	hold(t, tb, o, span(5, 6))
	if got, want := dump(j.replayed(t)), dump(tb); got != want {
		t.Fatalf("the log says\n%s\nthe table\n%s", got, want)
	}
}

// All that can happen to a table happens at once; then the counters agree with
// the cells, nobody is left in line, and the log says what the table says.
func TestConcurrentEverything(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(g)))
			for i := range 400 {
				f := lock.FileKey(fmt.Sprintf("f%d", rng.IntN(3)))
				o := own(fmt.Sprintf("c%d", rng.IntN(3)), fmt.Sprint(rng.IntN(3)), lock.Semantics(1+rng.IntN(3)))
				a := rng.Uint64N(20)
				r := lock.Request{File: f, Owner: o, Range: span(a, a+rng.Uint64N(6)), Mode: lock.Mode(1 + rng.IntN(2))}
				switch n := rng.IntN(20); {
				case n < 6:
					if _, err := tb.TryLock(r, nil); err != nil && !errors.Is(err, lock.ErrConflict) {
						t.Error(err)
					}
				case n < 12:
					if err := tb.Unlock(f, o, r.Range); err != nil && !errors.Is(err, lock.ErrNotFound) {
						t.Error(err)
					}
				case n < 15:
					ctx, cancel := context.WithCancel(t.Context())
					go cancel()
					_, err := tb.Lock(ctx, r, n == 14 && o.Semantics != lock.SMB, nil)
					if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, lock.ErrReleased) &&
						!errors.Is(err, lock.ErrNotFound) && !errors.Is(err, lock.ErrDeadlock) {
						t.Error(err)
					}
				case n == 15:
					tb.ReleaseOwner(f, o)
				case n == 16:
					tb.ReleaseClient(o.Client)
				case n == 17 && i%50 == 0:
					tb.ReleaseFile(f)
				case n == 18:
					id, err := tb.Enqueue(r, nil, func(lock.Held, error) {})
					if err != nil {
						t.Error(err)
					} else if rng.IntN(2) == 0 {
						tb.Cancel(id)
					}
				default:
					tb.Test(r)
					tb.CheckIO(f, o, r.Range, true)
				}
			}
		})
	}
	wg.Wait()
	checkAll(t, tb)
	for c := range 3 {
		tb.ReleaseClient(fmt.Sprintf("c%d", c))
	}
	if st := tb.Stats(); st.Locks+st.Waiters+st.Files+st.Clients != 0 {
		t.Fatalf("%+v\n%s", st, dump(tb))
	}
	if got := dump(j.replayed(t)); got != "" {
		t.Fatalf("the log says\n%s", got)
	}
}

// Invariant 4: of Cancel and a grant exactly one happens, and the waiter is
// told of that one.
func TestConcurrentCancelAgainstGrant(t *testing.T) {
	tb := newTable(nil)
	h, w := own("a", "holder", lock.POSIX), own("b", "waiter", lock.POSIX)
	r := lock.Request{File: "f", Owner: w, Range: lock.WholeFile(), Mode: lock.Exclusive}
	granted := 0
	for range 2000 {
		hold(t, tb, h, lock.WholeFile())
		told := make(chan error, 2)
		id, err := tb.Enqueue(r, nil, func(_ lock.Held, err error) { told <- err })
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var cancelled bool
		wg.Go(func() { cancelled = tb.Cancel(id) })
		wg.Go(func() { tb.Unlock("f", h, lock.WholeFile()) })
		wg.Wait()
		err = <-told
		if cancelled != errors.Is(err, lock.ErrCanceled) || !cancelled && err != nil {
			t.Fatalf("Cancel says %v, the waiter was told %v", cancelled, err)
		}
		if has := tb.HasOwner("f", w); has == cancelled {
			t.Fatalf("cancelled %v, and holds a lock: %v", cancelled, has)
		}
		if !cancelled {
			granted++
		}
		tb.ReleaseOwner("f", w)
		if len(told) > 0 {
			t.Fatal("told twice")
		}
	}
	t.Logf("%d of 2000 were granted", granted)
}

// 1,000 waiters drained are 1,000 wake-ups, one for each unlock, and in the
// order in which they came.
func TestThousandWaitersDrained(t *testing.T) {
	tb := newTable(nil)
	h := own("a", "holder", lock.POSIX)
	hold(t, tb, h, lock.WholeFile())
	type told struct {
		i   int
		err error
	}
	woken := make(chan told, 1000)
	for i := range 1000 {
		o := own("b", fmt.Sprint(i), lock.POSIX)
		if _, err := tb.Enqueue(lock.Request{File: "f", Owner: o, Range: lock.WholeFile(), Mode: lock.Exclusive},
			nil, func(_ lock.Held, err error) { woken <- told{i, err} }); err != nil {
			t.Fatal(err)
		}
	}
	if err := tb.Unlock("f", h, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		got := <-woken
		if got.i != i || got.err != nil {
			t.Fatalf("wake-up %d was of waiter %d, %v", i, got.i, got.err)
		}
		if n := tb.Stats().Waiters; n != 999-i {
			t.Fatalf("after %d wake-ups %d wait", i+1, n)
		}
		if err := tb.Unlock("f", own("b", fmt.Sprint(i), lock.POSIX), lock.WholeFile()); err != nil {
			t.Fatal(err)
		}
	}
	if len(woken) > 0 || tb.Stats().Locks != 0 {
		t.Fatal("somebody was woken who did not wait")
	}
}
