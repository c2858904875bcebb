package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"sneck/lock"
)

func ask(f string, o lock.Owner, r lock.Range, m lock.Mode) lock.Request {
	return lock.Request{File: lock.FileKey(f), Owner: o, Range: r, Mode: m}
}

func take(t *testing.T, tb *Table, r lock.Request) lock.Held {
	t.Helper()
	h, err := tb.TryLock(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// enqueue puts r in line; what it is told comes through the channel.
func enqueue(t *testing.T, tb *Table, r lock.Request) <-chan error {
	t.Helper()
	told := make(chan error, 1)
	if _, err := tb.Enqueue(r, nil, func(_ lock.Held, err error) { told <- err }); err != nil {
		t.Fatal(err)
	}
	return told
}

// A file's cell comes and goes while others make it anew: its versions never
// repeat, or the log could not be replayed.
func TestConcurrentVersionsNeverRepeat(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	stop := sweepAlways(tb)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			o := own("c", fmt.Sprint(g), lock.POSIX)
			for range 3000 {
				if _, err := tb.TryLock(ask("f", o, span(uint64(g), uint64(g)), lock.Exclusive), nil); err != nil {
					t.Error(err)
				}
				if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	stop()
	if got := dump(j.replayed(t)); got != "" {
		t.Fatalf("the log says\n%s", got)
	}
}

// The version of a new cell is read where the map knows that there is none.
func TestVersionOfANewCell(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	tb.sweeper.stop()
	o := own("c", "o", lock.POSIX)
	take(t, tb, ask("f", o, span(0, 9), lock.Exclusive))
	if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tb.sweep()
	}
	if v := tb.cell(refOf("f")).state.Load().version; v != 2 {
		t.Fatalf("a new cell begins with version %d after version 2", v)
	}
}

// A call that makes a cell and changes nothing does not leave it there.
func TestRefusedCallsLeaveNoCells(t *testing.T) {
	tb := newTable(nil)
	tb.sweeper.stop()
	o, p := own("c", "o", lock.POSIX), own("c", "p", lock.POSIX)
	for i := range 100 {
		if _, err := tb.Lock(t.Context(), ask(fmt.Sprint("upgrade", i), o, span(0, 9), lock.Exclusive), true, nil); !errors.Is(err, lock.ErrNotFound) {
			t.Fatal(err)
		}
		f := fmt.Sprint("batch", i)
		if _, err := tb.TryLockAll([]lock.Request{ask(f, o, span(0, 9), lock.Exclusive), ask(f, p, span(0, 9), lock.Exclusive)}, nil); !errors.Is(err, lock.ErrConflict) {
			t.Fatal(err)
		}
	}
	for range 3 {
		tb.sweep()
	}
	if cells, clients, _ := sizes(tb); cells+clients != 0 {
		t.Fatalf("%d cells, %d clients are left", cells, clients)
	}
}

// Invariant 8, in bytes: a file that stays does not hold on to those that went,
// however often its clients come and go elsewhere.
func TestHeapStaysFlat(t *testing.T) {
	tb := newTable(nil)
	tb.sweeper.stop()
	a, b := own("A", "o", lock.POSIX), own("B", "o", lock.POSIX)
	r := rand.New(rand.NewPCG(1, 2))
	var held []lock.Request
	n := 0
	round := func() uint64 {
		for range 8000 {
			o := a
			if r.IntN(2) == 0 {
				o = b
			}
			q := ask(fmt.Sprint("f", n/20+r.IntN(50)), o, span(0, 9), lock.Shared)
			take(t, tb, q)
			if held = append(held, q); len(held) > 40 {
				i := r.IntN(len(held))
				if err := tb.Unlock(held[i].File, held[i].Owner, lock.WholeFile()); err != nil {
					t.Fatal(err)
				}
				held[i] = held[len(held)-1]
				held = held[:len(held)-1]
			}
			if n++; n%100 == 0 {
				tb.sweep()
			}
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round()
	take(t, tb, ask("pin", a, span(0, 9), lock.Shared))
	take(t, tb, ask("pin", b, span(0, 9), lock.Shared))
	if err := tb.Unlock("pin", b, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	before := round()
	for range 6 {
		round()
	}
	if after := round(); after > before+200<<10 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	runtime.KeepAlive(tb)
}

// Invariant 7: a lock that was there already is indexed too before its call
// returns, whoever got it.
func TestRelockIsIndexed(t *testing.T) {
	tb := newTable(nil)
	tb.sweeper.stop()
	o := own("c", "o", lock.POSIX)
	f := freezeAt(tb, StepSubmitted)
	done := make(chan struct{})
	go func() { hold(t, tb, o, span(0, 9)); close(done) }()
	<-f.there
	hold(t, tb, o, span(0, 9))
	if n, err := tb.ReleaseClient("c"); n != 1 || err != nil {
		t.Errorf("released %d, %v", n, err)
	}
	close(f.thaw)
	<-done
}

// Counters are read while changes were published and not counted yet.
func TestStatsAreNeverNegative(t *testing.T) {
	tb := newTable(nil)
	tb.sweeper.stop()
	o := own("c", "o", lock.POSIX)
	f := freezeAt(tb, StepPublished)
	done := make(chan struct{})
	go func() { hold(t, tb, o, span(0, 9)); close(done) }()
	<-f.there
	if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	if st := tb.Stats(); st.Locks != 0 || st.Files != 0 {
		t.Errorf("%+v", st)
	}
	close(f.thaw)
	<-done
	checkAll(t, tb)
}

// Nobody waits behind one who waits for him, be it through others in line:
//
//	held     oooooooooo             O, shared
//	in line  uuuuuuuuuuuuuuuuuuuu   U, exclusive: for O
//	                   vvvvvvvvvvvvvvvvvvvv   V, shared: behind U
//	new                          oooooooooo   O, exclusive: free
func TestNobodyWaitsForWhoWaitsForHim(t *testing.T) {
	tb := newTable(nil)
	o, u, v := own("c", "O", lock.POSIX), own("c", "U", lock.POSIX), own("c", "V", lock.POSIX)
	take(t, tb, ask("f", o, span(0, 9), lock.Shared))
	toldU := enqueue(t, tb, ask("f", u, span(0, 19), lock.Exclusive))
	toldV := enqueue(t, tb, ask("f", v, span(10, 29), lock.Shared))
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // if it has to wait, it fails
	if _, err := tb.Lock(ctx, ask("f", o, span(20, 29), lock.Exclusive), false, nil); err != nil {
		t.Fatal(err)
	}
	// Somebody else does have to stay behind V.
	if _, err := tb.Lock(ctx, ask("f", own("c", "W", lock.POSIX), span(15, 16), lock.Exclusive), false, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	checkAll(t, tb)
	if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	if err := <-toldU; err != nil {
		t.Fatal(err)
	}
	if err := tb.Unlock("f", u, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	if err := <-toldV; err != nil {
		t.Fatal(err)
	}
}

// An upgrade is of what its owner holds: it ends when that goes, and does not
// make a deadlock for others.
func TestUpgradeEndsWithWhatItIsOf(t *testing.T) {
	tb := newTable(nil)
	a, b, c := own("c", "A", lock.POSIX), own("c", "B", lock.POSIX), own("c", "C", lock.POSIX)
	for _, o := range []lock.Owner{a, b, c} {
		take(t, tb, ask("f", o, span(0, 9), lock.Shared))
	}
	upgrade := func(o lock.Owner) <-chan error {
		got, before := make(chan error, 1), tb.Stats().Waiters
		go func() {
			_, err := tb.Lock(t.Context(), ask("f", o, span(0, 9), lock.Exclusive), true, nil)
			got <- err
		}()
		for tb.Stats().Waiters == before && len(got) == 0 {
			runtime.Gosched()
		}
		return got
	}
	gotA := upgrade(a)
	if err := <-upgrade(b); !errors.Is(err, lock.ErrDeadlock) {
		t.Fatalf("the second upgrade of the same bytes: %v", err)
	}
	if err := tb.Unlock("f", a, span(3, 3)); err != nil {
		t.Fatal(err)
	}
	if err := <-gotA; !errors.Is(err, lock.ErrNotFound) {
		t.Fatalf("an upgrade of what is no longer held: %v", err)
	}
	gotB := upgrade(b)
	for _, o := range []lock.Owner{a, c} {
		if err := tb.Unlock("f", o, lock.WholeFile()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-gotB; err != nil {
		t.Fatal(err)
	}
	if st := tb.Stats(); st.Locks != 1 || st.Waiters != 0 {
		t.Fatalf("%+v\n%s", st, dump(tb))
	}
}

// A transition that takes long gets through although short ones go on all the
// time: an unlock that grants a thousand, and a release of many.
func TestConcurrentLongTransitions(t *testing.T) {
	tb := newTable(nil)
	h := own("h", "h", lock.POSIX)
	const n = 1000
	stop := make(chan struct{})
	var others sync.WaitGroup
	for g := range uint64(2) {
		others.Go(func() {
			o, r := own("x", fmt.Sprint(g), lock.POSIX), span(1<<40+g*100, 1<<40+g*100)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := tb.TryLock(ask("f", o, r, lock.Exclusive), nil); err != nil {
					t.Error(err)
				}
				if err := tb.Unlock("f", o, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	take(t, tb, ask("f", h, span(0, 99999), lock.Exclusive))
	var told []<-chan error
	for i := range uint64(n) {
		told = append(told, enqueue(t, tb, ask("f", own("w", fmt.Sprint(i), lock.POSIX), span(i*10, i*10+5), lock.Exclusive)))
	}
	if err := tb.Unlock("f", h, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	for _, c := range told {
		if err := <-c; err != nil {
			t.Fatal(err)
		}
	}
	if got, err := tb.ReleaseClient("w"); got != n || err != nil {
		t.Fatalf("released %d, %v", got, err)
	}
	close(stop)
	others.Wait()
	checkAll(t, tb)
}

// What asks the others to wait, and stops then, holds them up once.
func TestYieldEnds(t *testing.T) {
	tb := newTable(nil)
	o := own("c", "o", lock.POSIX)
	hold(t, tb, o, span(0, 9))
	cl := tb.find(refOf("f"))
	cl.slow.Store(1000)
	hold(t, tb, o, span(0, 19))
	if cl.slow.Load() != 0 {
		t.Error("the next one waits again")
	}
}

// The id that Enqueue returns is the lock's, and a batch tells of locks that
// are there.
func TestIDsAreOfWhatIsThere(t *testing.T) {
	tb := newTable(nil)
	o := own("c", "o", lock.POSIX)
	take(t, tb, ask("f", o, span(0, 9), lock.Shared))
	got := make(chan lock.Held, 1)
	id, err := tb.Enqueue(ask("f", o, span(2, 3), lock.Shared), nil, func(h lock.Held, _ error) { got <- h })
	if h := <-got; err != nil || h.ID != id {
		t.Errorf("Enqueue says %d, %v; the lock is %d", id, err, h.ID)
	}
	hs, err := tb.TryLockAll([]lock.Request{ask("f", o, span(20, 29), lock.Shared), ask("f", o, span(20, 29), lock.Exclusive), ask("f", o, span(30, 39), lock.Exclusive)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	there := map[lock.ID]lock.Held{}
	for h := range tb.Locks(lock.Filter{}) {
		there[h.ID] = h
	}
	for _, h := range hs {
		if there[h.ID] != h {
			t.Errorf("%+v is not in the table", h)
		}
	}
}

// A piece that is cut off has the epoch of its grant, not of the cut.
func TestPieceKeepsItsEpoch(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	o := own("c", "o", lock.POSIX)
	take(t, tb, ask("f", o, span(0, 99), lock.Exclusive))
	next := j.replayed(t)
	next.Begin(5, nil)
	if err := next.Unlock("f", o, span(40, 49)); err != nil {
		t.Fatal(err)
	}
	take(t, next, ask("f", o, span(200, 299), lock.Exclusive))
	for h := range next.Locks(lock.Filter{}) {
		if want := map[bool]uint64{true: 1, false: 5}[h.Range.First() < 200]; h.Epoch != want {
			t.Errorf("%+v: want epoch %d", h, want)
		}
	}
}
