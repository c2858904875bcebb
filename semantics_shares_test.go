package sneck_test

import (
	"cmp"
	"errors"
	"iter"
	"slices"
	"testing"

	"sneck"
	"sneck/lock"
)

func share(o lock.Owner, access, deny lock.Access) lock.Share {
	return lock.Share{File: file, Owner: o, Access: access, Deny: deny}
}

func mustShare(t tb, m *sneck.Manager, o lock.Owner, access, deny lock.Access) {
	t.Helper()
	if err := m.OpenShare(bg, share(o, access, deny)); err != nil {
		t.Fatalf("%v", err)
	}
}

// shares are the share reservations, by file, of each in the order of the table.
func shares(m interface {
	Shares(lock.Filter) iter.Seq[lock.Share]
}) []lock.Share {
	all := slices.Collect(m.Shares(lock.Filter{}))
	slices.SortStableFunc(all, func(a, b lock.Share) int { return cmp.Compare(a.File, b.File) })
	return all
}

// Share reservations: denied iff newAccess∩oldDeny or newDeny∩oldAccess is not
// empty, for different owners, across all protocols. The full matrix.
func TestShareMatrix(t *testing.T) {
	m := mustOpen(t, "")
	defer mustClose(t, m)
	for i, pair := range [][2]lock.Owner{{smb("a"), smb("b")}, {posix("a"), smb("b")}, {ofd("a"), posix("b")}} {
		for n := range 1 << 12 {
			a1, d1, a2, d2 := lock.Access(n&7), lock.Access(n>>3&7), lock.Access(n>>6&7), lock.Access(n>>9&7)
			mustShare(t, m, pair[0], a1, d1)
			err := m.OpenShare(bg, share(pair[1], a2, d2))
			want := a2&d1 != 0 || d2&a1 != 0
			var c *lock.ConflictError
			switch {
			case !want && err != nil:
				t.Fatalf("pair %d: %v denying %v, then %v denying %v: %v", i, a1, d1, a2, d2, err)
			case want && (!errors.As(err, &c) || c.ShareHolder == nil || *c.ShareHolder != share(pair[0], a1, d1) || c.Request.File != file || c.Request.Owner != pair[1]):
				t.Fatalf("pair %d: %v denying %v, then %v denying %v: %v", i, a1, d1, a2, d2, err)
			}
			if got := len(shares(m)); got != 2 && !want || got != 1 && want || m.Stats().Shares != got {
				t.Fatalf("%d shares, Stats say %d", got, m.Stats().Shares)
			}
			if _, err := m.ReleaseFile(bg, file); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustEmpty(t, m)
}

// A second open by the same owner adds; CloseShare removes all of it.
func TestShareOfOneOwner(t *testing.T) {
	m := mustOpen(t, "")
	defer mustClose(t, m)
	a, b := smb("a"), posix("b")
	mustShare(t, m, a, lock.Read, lock.Write)
	mustShare(t, m, a, lock.Write, lock.Read) // it does not deny itself
	mustEqual(t, "the shares", shares(m), []lock.Share{share(a, lock.Read|lock.Write, lock.Read|lock.Write)})
	for _, acc := range []lock.Access{lock.Read, lock.Write} {
		mustBe(t, m.OpenShare(bg, share(b, acc, 0)), lock.ErrConflict)
	}
	mustShare(t, m, b, lock.Delete, 0)
	mustBe(t, m.CloseShare(bg, file, ofd("a")), lock.ErrNotFound) // another owner
	if err := m.CloseShare(bg, file, a); err != nil {
		t.Fatal(err)
	}
	mustBe(t, m.CloseShare(bg, file, a), lock.ErrNotFound)
	mustShare(t, m, b, lock.Read|lock.Write, lock.Read)
	mustEqual(t, "the shares", shares(m), []lock.Share{share(b, lock.Read|lock.Write|lock.Delete, lock.Read)})
	if err := m.CloseShare(bg, file, b); err != nil {
		t.Fatal(err)
	}
	mustEmpty(t, m)
}

// TryLock does not look at share modes; CheckIO does.
func TestShareAndLocks(t *testing.T) {
	m := mustOpen(t, "")
	defer mustClose(t, m)
	a, b := smb("a"), posix("b")
	for _, tc := range []struct {
		deny        lock.Access
		read, write bool // denied to others
	}{
		{0, false, false}, {lock.Read, true, false}, {lock.Write, false, true}, {lock.Read | lock.Write, true, true}, {lock.Delete, false, false},
	} {
		mustShare(t, m, a, lock.Read|lock.Write, tc.deny)
		for _, write := range []bool{false, true} {
			h, denied := m.CheckIO(file, b, span(5, 9), write)
			want := tc.read && !write || tc.write && write
			if denied != want || denied && (!h.Owner.Same(a) || h.Range != lock.WholeFile() || h.File != file) {
				t.Errorf("denying %v, write %v: %v, %+v", tc.deny, write, denied, h)
			}
			if h, denied := m.CheckIO(file, a, span(5, 9), write); denied {
				t.Errorf("denying %v, write %v: denied to itself: %+v", tc.deny, write, h)
			}
			zero, _ := lock.SMBRange(5, 0)
			if h, denied := m.CheckIO(file, b, zero, write); denied {
				t.Errorf("I/O of no bytes is denied: %+v", h)
			}
		}
		held := mustTry(t, m, b, x, span(5, 9))
		if h, found := m.Test(ask(a, s, span(0, 99))); !found || h != held {
			t.Errorf("Test: %v, %+v", found, h)
		}
		mustUnlock(t, m, b, span(5, 9))
		if err := m.CloseShare(bg, file, a); err != nil {
			t.Fatal(err)
		}
	}
	mustEmpty(t, m)
}

// Releasing an owner, a client or a file takes its share reservations too.
func TestShareReleased(t *testing.T) {
	a, b := smb("a"), smb("b")
	for name, release := range map[string]func(*sneck.Manager) (int, error){
		"owner":  func(m *sneck.Manager) (int, error) { return m.ReleaseOwner(bg, file, a) },
		"client": func(m *sneck.Manager) (int, error) { return m.ReleaseClient(bg, a.Client) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, dir)
			mustShare(t, m, a, lock.Read, lock.Write)
			mustShare(t, m, b, lock.Read, 0)
			mustTry(t, m, a, x, span(0, 9))
			if n, err := release(m); n != 1 || err != nil {
				t.Errorf("%d locks, %v", n, err)
			}
			if n, err := release(m); n != 0 || err != nil {
				t.Errorf("again: %d locks, %v", n, err)
			}
			want := []lock.Share{share(b, lock.Read, 0)}
			mustEqual(t, "the shares", shares(m), want)
			mustClose(t, m)
			m = open(t, dir)
			mustEqual(t, "the shares after a restart", shares(m), want)
			mustClose(t, m)
		})
	}
}

// Share reservations survive a restart, by the log and by a checkpoint.
func TestShareRestart(t *testing.T) {
	dir := t.TempDir()
	a, b := smb("a"), posix("b")
	want := []lock.Share{share(a, lock.Read, lock.Write), share(b, lock.Read, 0)}
	for life := range 3 {
		m := open(t, dir)
		if life == 0 {
			mustShare(t, m, a, lock.Read, lock.Write)
			mustShare(t, m, b, lock.Read, 0)
			mustTry(t, m, a, s, span(0, 9))
		}
		mustEqual(t, "the shares", shares(m), want)
		if m.Stats().Shares != 2 {
			t.Errorf("Stats: %+v", m.Stats())
		}
		refusal := lock.ErrGrace // after a restart
		if life == 0 {
			refusal = lock.ErrConflict
		}
		mustBe(t, m.OpenShare(bg, share(posix("c"), lock.Write, 0)), refusal)
		if life == 1 {
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, m)
	}
}

func TestShareInvalid(t *testing.T) {
	m := mustOpen(t, "")
	defer mustClose(t, m)
	for _, s := range []lock.Share{
		{Owner: smb("a")}, {File: file}, {File: file, Owner: smb("a"), Access: 8}, {File: file, Owner: smb("a"), Deny: 16},
	} {
		mustBe(t, m.OpenShare(bg, s), lock.ErrInvalid)
	}
	mustBe(t, m.CloseShare(bg, "", smb("a")), lock.ErrInvalid)
	mustEmpty(t, m)
}
