package sneck_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"sneck"
	"sneck/lock"
)

// TryLock never fails merely because someone waits.
func TestWaitTryLockIgnoresTheLine(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, posix("a"), s, span(0, 9))
		w := lockIn(bg, m, posix("w"), x, span(0, 99))
		mustTry(t, m, posix("b"), s, span(0, 9))
		mustTry(t, m, smb("c"), x, span(50, 59))
		if _, err := m.TryLockAll(bg, []lock.Request{ask(ofd("d"), s, span(0, 0)), ask(ofd("d"), x, span(60, 60))}); err != nil {
			t.Errorf("TryLockAll: %v", err)
		}
		w.waits(t)
	})
}

// Test ignores queues and own locks, and returns a copy of a real holder.
func TestWaitTestIgnoresTheLine(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		h := mustTry(t, m, a, s, span(0, 9))
		lockIn(bg, m, posix("w"), x, span(0, 99)).waits(t)
		for _, sem := range allSemantics {
			b := owner(sem, "b")
			if hit, found := m.Test(ask(b, s, span(0, 99))); found {
				t.Errorf("shared: %+v", hit)
			}
			if hit, found := m.Test(ask(b, x, span(10, 99))); found {
				t.Errorf("where only somebody waits: %+v", hit)
			}
			if hit, found := m.Test(ask(b, x, span(9, 99))); !found || hit != h {
				t.Errorf("%v, %+v", found, hit)
			}
		}
		if hit, found := m.Test(ask(a, x, span(0, 99))); found {
			t.Errorf("own: %+v", hit)
		}
		if hit, found := m.Test(ask(smb("s"), x, span(0, 0))); !found || hit != h {
			t.Errorf("%v, %+v", found, hit)
		}
		mustTry(t, m, smb("s"), s, span(200, 209))
		if hit, found := m.Test(ask(smb("s"), x, span(200, 209))); found {
			t.Errorf("own SMB lock: %+v", hit)
		}
	})
}

// What Test, CheckIO, a denial and Locks return does not alias the table: it
// stays as it was whatever happens to the lock.
func TestWaitResultsAreCopies(t *testing.T) {
	m := memory(t)
	a := smb("a")
	h := mustTry(t, m, a, x, span(0, 9))
	hit, _ := m.Test(ask(posix("b"), s, span(0, 0)))
	io, _ := m.CheckIO(file, posix("b"), span(0, 0), false)
	denied := mustDeny(t, m, posix("b"), s, span(0, 0))
	listed := table(m, lock.Filter{})[0]
	mustUnlock(t, m, a, span(0, 9))
	mustTry(t, m, a, s, span(5, 9))
	for _, got := range []lock.Held{hit, io, denied, listed} {
		mustEqual(t, "the copy", got, h)
	}
}

// A denial carries the conflicting holder, taken from the same state as the
// decision, and changes nothing.
func TestWaitDenialSaysWho(t *testing.T) {
	m := memory(t)
	ho := posix("a")
	ho.Share, ho.PID = "share", 42
	h := mustTry(t, m, ho, x, span(5, 9))
	mustTry(t, m, ofd("later"), x, span(10, 19))
	r := ask(smb("b"), s, span(0, 99))
	_, err := m.TryLock(bg, r)
	var conflict *lock.ConflictError
	if !errors.As(err, &conflict) || conflict.Request != r || conflict.Holder != h || conflict.ShareHolder != nil {
		t.Errorf("%+v", err)
	}
	mustBe(t, err, lock.ErrConflict)
}

// While owners take turns on different bytes, every denial, Test and CheckIO
// names one of them with what it really held there.
func TestWaitDenialIsConsistent(t *testing.T) {
	m := memory(t)
	turns := []fact{{file, posix("a"), span(0, 9), x}, {file, smb("b"), span(5, 14), x}, {file, ofd("c"), span(3, 20), s}}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop.Store(true)
		for i := range 5000 {
			f := turns[i%3]
			if _, err := m.Lock(bg, ask(f.Owner, f.Mode, f.Range)); err != nil {
				t.Error(err)
				return
			}
			if err := m.Unlock(bg, file, f.Owner, f.Range); err != nil {
				t.Error(err)
				return
			}
		}
	})
	want := ask(smb("z"), x, span(7, 8))
	real := func(h lock.Held) {
		if !slices.Contains(turns, factOf(h)) || h.ID == 0 || h.Epoch != m.Epoch() || h.Since.IsZero() {
			t.Errorf("nobody ever held %+v", h)
		}
	}
	for !stop.Load() && !t.Failed() {
		h, err := m.TryLock(bg, want)
		var conflict *lock.ConflictError
		switch {
		case err == nil:
			if err := m.Unlock(bg, file, want.Owner, h.Range); err != nil {
				t.Error(err)
			}
		case errors.As(err, &conflict):
			real(conflict.Holder)
		default:
			t.Error(err)
		}
		if h, found := m.Test(want); found {
			real(h)
		}
		if h, found := m.CheckIO(file, want.Owner, want.Range, true); found {
			real(h)
		}
	}
	wg.Wait()
	mustEmpty(t, m)
}

// Waiters says for each whom it waits for now: holders and earlier waiters.
func TestWaitBlockers(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b, v, w, u := posix("a"), smb("b"), posix("v"), ofd("w"), smb("u")
		mustTry(t, m, a, s, span(0, 4))
		mustTry(t, m, b, s, span(5, 9))
		mustTry(t, m, b, s, span(5, 9))
		lockIn(bg, m, v, x, span(0, 9))
		lockIn(bg, m, w, x, span(5, 9))
		lockIn(bg, m, u, s, span(0, 0))
		ws := slices.Collect(m.Waiters(lock.Filter{File: file}))
		if len(ws) != 3 {
			t.Fatalf("%+v", ws)
		}
		mustEqual(t, "v waits for", ws[0].Blockers, []lock.Owner{a, b})
		mustEqual(t, "w waits for", ws[1].Blockers, []lock.Owner{b, v})
		mustEqual(t, "u waits for", ws[2].Blockers, []lock.Owner{v})
		mustEqual(t, "v's request", ws[0].Request, ask(v, x, span(0, 9)))
		seen := make(map[lock.ID]bool)
		for _, q := range ws {
			if q.ID == 0 || seen[q.ID] || q.Since.IsZero() {
				t.Errorf("%+v", q)
			}
			seen[q.ID] = true
		}
		if ws := slices.Collect(m.Waiters(lock.Filter{Client: w.Client})); len(ws) != 1 || ws[0].Request.Owner != w {
			t.Errorf("%+v", ws)
		}
		if ws := slices.Collect(m.Waiters(lock.Filter{Owner: &a})); len(ws) != 0 {
			t.Errorf("%+v", ws)
		}
	})
}
