package sneck_test

import (
	"errors"
	"slices"
	"testing"

	"sneck"
	"sneck/lock"
)

// TryLockAll locks all or nothing: a refused batch leaves no trace, and keeps
// what was held before it.
func TestBatchAllOrNothing(t *testing.T) {
	for _, sem := range allSemantics {
		t.Run(sem.String(), func(t *testing.T) {
			m := memory(t)
			a, b := owner(sem, "a"), posix("b")
			mustTry(t, m, a, s, span(0, 9))
			h := mustTry(t, m, b, x, span(50, 59))
			before := table(m, lock.Filter{})
			batch := []lock.Request{ask(a, s, span(0, 9)), ask(a, s, span(5, 14)), ask(a, x, span(30, 39)), ask(a, s, span(59, 69)), ask(a, s, span(80, 89))}
			_, err := m.TryLockAll(bg, batch)
			var conflict *lock.ConflictError
			if !errors.As(err, &conflict) || conflict.Holder != h || conflict.Request != batch[3] {
				t.Errorf("%v", err)
			}
			mustEqual(t, "the table", table(m, lock.Filter{}), before)

			mustUnlock(t, m, b, span(50, 59))
			hs, err := m.TryLockAll(bg, batch)
			if err != nil || len(hs) != len(batch) {
				t.Fatalf("%+v, %v", hs, err)
			}
			for i, h := range hs {
				if h.Mode != batch[i].Mode || h.Owner != a || !slices.Contains(table(m, lock.Filter{}), h) {
					t.Errorf("request %d: %+v is not held", i, h)
				}
			}
			if sem == lock.SMB {
				if n := m.Stats().Locks; n != 6 {
					t.Errorf("%d locks, want 6", n)
				}
			} else {
				mustHold(t, m, fact{file, a, span(0, 14), s}, fact{file, a, span(30, 39), x}, fact{file, a, span(59, 69), s}, fact{file, a, span(80, 89), s})
				mustEqual(t, "the merged range", hs[0], hs[1])
			}
		})
	}
}

// A later request of a batch sees the earlier ones held.
func TestBatchSeesItself(t *testing.T) {
	m := memory(t)
	_, err := m.TryLockAll(bg, []lock.Request{ask(posix("a"), x, span(0, 9)), ask(posix("b"), s, span(9, 9))})
	mustBe(t, err, lock.ErrConflict)
	mustEmpty(t, m)
	_, err = m.TryLockAll(bg, []lock.Request{ask(smb("a"), s, span(0, 9)), ask(smb("a"), x, span(9, 9))})
	mustBe(t, err, lock.ErrConflict)
	mustEmpty(t, m)
	if _, err = m.TryLockAll(bg, []lock.Request{ask(smb("a"), x, span(0, 9)), ask(smb("a"), s, span(9, 9)), ask(posix("b"), x, span(10, 19)), ask(posix("b"), s, span(12, 13))}); err != nil {
		t.Fatal(err)
	}
	b := posix("b")
	mustHold(t, m, fact{file, smb("a"), span(0, 9), x}, fact{file, smb("a"), span(9, 9), s},
		fact{file, b, span(10, 11), x}, fact{file, b, span(12, 13), s}, fact{file, b, span(14, 19), x})
	compatible(t, table(m, lock.Filter{}))
}

// A batch that downgrades and is refused wakes nobody; one that is granted
// hands over only after its last part, so that no part loses to a waiter.
func TestBatchHandOver(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, x, span(20, 29))
		w := lockIn(bg, m, posix("w"), s, span(0, 14))
		_, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(0, 9)), ask(a, x, span(20, 20))})
		mustBe(t, err, lock.ErrConflict)
		w.waits(t)
		if _, err = m.TryLockAll(bg, []lock.Request{ask(a, s, span(0, 9)), ask(a, x, span(10, 14))}); err != nil {
			t.Fatal(err)
		}
		w.waits(t)
		mustUnlock(t, m, a, span(10, 14))
		w.holds(t)
	})
}

// An empty batch is granted and holds nothing; one over two files is refused.
func TestBatchOfOneFile(t *testing.T) {
	m := memory(t)
	if hs, err := m.TryLockAll(bg, nil); len(hs) != 0 || err != nil {
		t.Errorf("%+v, %v", hs, err)
	}
	other := ask(posix("a"), x, span(0, 9))
	other.File = "other"
	_, err := m.TryLockAll(bg, []lock.Request{ask(posix("a"), x, span(0, 9)), other})
	mustBe(t, err, lock.ErrInvalid)
	mustEmpty(t, m)
}
