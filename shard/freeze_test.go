package shard

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"sneck/lock"
)

// freezer stops the first goroutine that comes to a step.
type freezer struct {
	step  Step
	took  atomic.Bool
	there chan struct{}
	thaw  chan struct{}
}

func freezeAt(t *Table, s Step) *freezer {
	f := &freezer{step: s, there: make(chan struct{}), thaw: make(chan struct{})}
	t.step = func(s Step) {
		if s == f.step && f.took.CompareAndSwap(false, true) {
			close(f.there)
			<-f.thaw
		}
	}
	return f
}

// Invariant 5: whoever stops at whatever step of whatever call holds up nobody
// else on the same file. The others do everything that can be done to a file,
// and finish, while it is stopped; then it goes on and finishes too.
func TestFreezeAtEveryStep(t *testing.T) {
	victim := own("frozen", "v", lock.POSIX)
	calls := map[string]func(*Table){
		"lock": func(tb *Table) {
			tb.TryLock(lock.Request{File: "f", Owner: victim, Range: span(200, 299), Mode: lock.Exclusive}, nil)
		},
		"unlock": func(tb *Table) { tb.Unlock("f", victim, span(100, 109)) },
		"wait": func(tb *Table) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			tb.Lock(ctx, lock.Request{File: "f", Owner: victim, Range: span(50, 59), Mode: lock.Exclusive}, false, nil)
		},
		"release owner":      func(tb *Table) { tb.ReleaseOwner("f", victim) },
		"release client":     func(tb *Table) { tb.ReleaseClient("frozen") },
		"unlock that grants": func(tb *Table) { tb.Unlock("f", victim, span(150, 159)) },
	}
	for name, call := range calls {
		for step := StepFound; step <= StepDelivered; step++ {
			for _, durable := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/log=%v", name, step, durable), func(t *testing.T) {
					var j *memJournal
					tb := newTable(nil)
					if durable {
						j = new(memJournal)
						tb = newTable(j)
					}
					hold(t, tb, own("other", "h", lock.POSIX), span(50, 59))
					hold(t, tb, victim, span(100, 159))
					waiter := make(chan error, 1)
					if _, err := tb.Enqueue(lock.Request{File: "f", Owner: own("other", "w", lock.POSIX), Range: span(150, 150), Mode: lock.Shared},
						nil, func(_ lock.Held, err error) { waiter <- err }); err != nil {
						t.Fatal(err)
					}

					f := freezeAt(tb, step)
					done := make(chan struct{})
					go func() { call(tb); close(done) }()
					select {
					case <-f.there:
					case <-done: // the call does not come there
						return
					}
					others(t, tb)
					close(f.thaw)
					<-done
					tb.ReleaseOwner("f", victim)
					if err := <-waiter; err != nil {
						t.Fatal(err)
					}
					checkAll(t, tb)
					if durable {
						if got, want := dump(j.replayed(t)), dump(tb); got != want {
							t.Fatalf("the log says\n%s\nthe table\n%s", got, want)
						}
					}
				})
			}
		}
	}
}

func hold(t *testing.T, tb *Table, o lock.Owner, r lock.Range) {
	t.Helper()
	if _, err := tb.TryLock(lock.Request{File: "f", Owner: o, Range: r, Mode: lock.Exclusive}, nil); err != nil {
		t.Fatal(err)
	}
}

// others locks, waits, hands over, cancels, unlocks and looks, all on "f".
func others(t *testing.T, tb *Table) {
	t.Helper()
	a, b := own("other", "a", lock.POSIX), own("other", "b", lock.OFD)
	for i := range uint64(20) {
		r := span(1000+i, 1000+i)
		hold(t, tb, a, r)
		got := make(chan error, 1)
		if _, err := tb.Enqueue(lock.Request{File: "f", Owner: b, Range: r, Mode: lock.Shared}, nil, func(_ lock.Held, err error) { got <- err }); err != nil {
			t.Fatal(err)
		}
		if _, hit := tb.Test(lock.Request{File: "f", Owner: b, Range: r, Mode: lock.Shared}); !hit {
			t.Fatal("Test does not see a lock that was granted")
		}
		if err := tb.Unlock("f", a, r); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		id, err := tb.Enqueue(lock.Request{File: "f", Owner: a, Range: r, Mode: lock.Exclusive}, nil, func(lock.Held, error) {})
		if err != nil {
			t.Fatal(err)
		}
		if !tb.Cancel(id) {
			t.Fatal("a waiter could not be cancelled")
		}
	}
	if n, err := tb.ReleaseOwner("f", b); err != nil || n != 1 {
		t.Fatalf("released %d, %v", n, err)
	}
}

// A goroutine that marks a cell dead and stops before it has removed it holds
// up nobody either: the next one removes it.
func TestFreezeWithDeadCell(t *testing.T) {
	tb := newTable(nil)
	tb.sweeper.stop() // this test sweeps itself
	o := own("c", "o", lock.POSIX)
	hold(t, tb, o, span(0, 9))
	if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	tb.sweep()
	f := freezeAt(tb, StepDead)
	done := make(chan struct{})
	go func() { tb.sweep(); close(done) }()
	<-f.there
	hold(t, tb, o, span(0, 9))
	others(t, tb)
	close(f.thaw)
	<-done
	if tb.Stats().Locks != 1 {
		t.Fatalf("the sweep took a live cell away:\n%s", dump(tb))
	}
	if n, err := tb.ReleaseClient("c"); n != 1 || err != nil {
		t.Fatalf("released %d, %v", n, err)
	}
}
