package sneck_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"sneck"
	"sneck/lock"
)

func upgradeIn(ctx context.Context, m *sneck.Manager, o lock.Owner, r lock.Range) *call {
	return start(func() (lock.Held, error) { return m.Upgrade(ctx, file, o, r) })
}

// Upgrade is atomic: the old lock is kept until it is granted, and then all of
// r is exclusive; what lies beside it stays as it was.
func TestWaitUpgradeGranted(t *testing.T) {
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		t.Run(sem.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				a, b := owner(sem, "a"), posix("b")
				draw(t, m, a, "rrrrrrrrrr")
				mustTry(t, m, b, s, span(5, 5))
				up := upgradeIn(bg, m, a, span(3, 6))
				up.waits(t)
				if got := picture(t, m, a, 10); got != "rrrrrrrrrr" {
					t.Errorf("meanwhile: %s", got)
				}
				mustDeny(t, m, posix("c"), x, span(3, 3))
				mustUnlock(t, m, b, span(5, 5))
				if h := up.holds(t); h.Range != span(3, 6) || h.Mode != x {
					t.Errorf("%+v", h)
				}
				if got := picture(t, m, a, 10); got != "rrrwwwwrrr" {
					t.Errorf("then: %s", got)
				}
			})
		})
	}
}

// Upgrade at once: over a whole lock, several locks that touch, and one that
// is exclusive in part already.
func TestWaitUpgradeAtOnce(t *testing.T) {
	for _, tc := range []struct {
		before      string
		first, last uint64
		after       string // "" = ErrNotFound
	}{
		{"rrrrrrrrrr", 0, 9, "wwwwwwwwww"},
		{"rrrrrrrrrr", 4, 5, "rrrrwwrrrr"},
		{"rrrwwwrrrr", 2, 6, "rrwwwwwrrr"},
		{"wwwwwwwwww", 2, 6, "wwwwwwwwww"},
		{"rrrr.rrrrr", 0, 9, ""},
		{"rrrr......", 0, 4, ""},
		{".rrrr.....", 0, 4, ""},
		{"..........", 0, 4, ""},
		{"rrrrrrrrrr>", 3, eof, "rrrwwwwwww>"},
		{"rrrrrrrrrr", 3, eof, ""},
	} {
		m := memory(t)
		a := posix("a")
		draw(t, m, a, tc.before)
		before := table(m, lock.Filter{})
		h, err := m.Upgrade(bg, file, a, span(tc.first, tc.last))
		if tc.after == "" {
			mustBe(t, err, lock.ErrNotFound)
			mustEqual(t, "the table", table(m, lock.Filter{}), before)
			continue
		}
		if err != nil || h.Mode != x || !h.Range.Contains(span(tc.first, tc.last)) {
			t.Errorf("%s: %+v, %v", tc.before, h, err)
		}
		if got := picture(t, m, a, 10); got != tc.after {
			t.Errorf("%s, [%d,%d] upgraded: %s, want %s", tc.before, tc.first, tc.last, got, tc.after)
		}
	}
}

// The old lock is kept too when the upgrade is cancelled, refused or ended by
// Close; a release takes it, as it takes everything.
func TestWaitUpgradeNotGranted(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(t *testing.T, m *sneck.Manager, cancel func())
		want error
	}{
		"context": {func(_ *testing.T, _ *sneck.Manager, cancel func()) { cancel() }, context.Canceled},
		"Cancel": {func(t *testing.T, m *sneck.Manager, _ func()) {
			for w := range m.Waiters(lock.Filter{}) {
				if !m.Cancel(w.ID) {
					t.Error("not in line")
				}
			}
		}, lock.ErrCanceled},
		"Close": {func(t *testing.T, m *sneck.Manager, _ func()) { mustClose(t, m) }, lock.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				a, b := posix("a"), smb("b")
				draw(t, m, a, "rrrrrrrrrr")
				mustTry(t, m, b, s, span(5, 5))
				before := table(m, lock.Filter{})
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				up := upgradeIn(ctx, m, a, span(3, 6))
				up.waits(t)
				end.do(t, m, cancel)
				up.fails(t, end.want)
				mustEqual(t, "the table", table(m, lock.Filter{}), before)
				mustIdle(t, m)
			})
		})
	}
	t.Run("release", func(t *testing.T) {
		bubble(t, func(t *testing.T, m *sneck.Manager) {
			a, b := posix("a"), posix("b")
			draw(t, m, a, "rrrrrrrrrr")
			mustTry(t, m, b, s, span(5, 5))
			up := upgradeIn(bg, m, a, span(3, 6))
			mustRelease(t, 1)(m.ReleaseOwner(bg, file, a))
			up.fails(t, lock.ErrReleased)
			mustHold(t, m, fact{file, b, span(5, 5), s})
		})
	})
}

// The second of two upgraders on the same bytes gets ErrDeadlock, which names
// both, keeps its lock, and leaves the first in line. On other bytes, or when
// the first has given up, it is not refused.
func TestWaitSecondUpgrader(t *testing.T) {
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		t.Run(sem.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				a, b := owner(sem, "a"), owner(sem, "b")
				draw(t, m, a, "rrrrrr....")
				draw(t, m, b, "rrrrrrrrrr")
				mustTry(t, m, posix("c"), s, span(7, 7))
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				first := upgradeIn(ctx, m, a, span(0, 5))
				first.waits(t)
				before := table(m, lock.Filter{})
				for _, r := range []lock.Range{span(0, 5), span(5, 9), span(2, 2)} {
					_, err := m.Upgrade(bg, file, b, r)
					mustBe(t, err, lock.ErrDeadlock)
					var dead *lock.DeadlockError
					if !errors.As(err, &dead) || !slices.Equal(dead.Cycle, []lock.Owner{b, a}) {
						t.Errorf("%#v", err)
					}
				}
				mustEqual(t, "the table", table(m, lock.Filter{}), before)
				first.waits(t)
				elsewhere := upgradeIn(bg, m, b, span(7, 8))
				elsewhere.waits(t)
				cancel()
				first.fails(t, context.Canceled)
				second := upgradeIn(bg, m, b, span(0, 5))
				second.waits(t)
				mustRelease(t, 1)(m.ReleaseOwner(bg, file, a))
				second.holds(t)
				mustUnlock(t, m, posix("c"), span(7, 7))
				elsewhere.holds(t)
			})
		})
	}
}

// The second upgrader's refusal lets the first go on when it releases.
func TestWaitRefusedUpgraderGivesWay(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		draw(t, m, a, "rrrrrrrrrr")
		draw(t, m, b, "rrrrrrrrrr")
		first := upgradeIn(bg, m, a, span(0, 9))
		_, err := m.Upgrade(bg, file, b, span(0, 9))
		mustBe(t, err, lock.ErrDeadlock)
		mustUnlock(t, m, b, span(0, 9))
		first.holds(t)
	})
}

// An upgrade passes writers that wait for its own shared lock.
func TestWaitUpgradePassesWriters(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		draw(t, m, a, "rrrrrrrrrr")
		w := lockIn(bg, m, posix("w"), x, span(0, 9))
		upgradeIn(bg, m, a, span(0, 9)).holds(t)
		mustTry(t, m, a, s, span(0, 9))
		mustTry(t, m, b, s, span(0, 9))
		up := upgradeIn(bg, m, a, span(0, 9))
		up.waits(t)
		mustUnlock(t, m, b, span(0, 9))
		up.holds(t)
		w.waits(t)
		mustUnlock(t, m, a, span(0, 9))
		w.holds(t)
	})
}

// SMB locks are not converted.
func TestWaitUpgradeSMB(t *testing.T) {
	m := memory(t)
	mustTry(t, m, smb("a"), s, span(0, 9))
	_, err := m.Upgrade(bg, file, smb("a"), span(0, 9))
	mustBe(t, err, lock.ErrInvalid)
	mustHold(t, m, fact{file, smb("a"), span(0, 9), s})
}
