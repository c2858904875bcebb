package sneck_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sneck"
	"sneck/lock"
)

// What is not valid is refused with a typed error before anything is changed,
// by every method that takes it.
func TestInvalidInput(t *testing.T) {
	good := ask(posix("a"), s, span(0, 9))
	long := strings.Repeat("x", lock.MaxOwnerField+1)
	change := func(f func(r *lock.Request)) lock.Request {
		r := good
		f(&r)
		return r
	}
	bad := map[string]struct {
		r     lock.Request
		want  error
		field string
	}{
		"nothing at all":       {lock.Request{}, lock.ErrInvalid, "File"},
		"no file":              {change(func(r *lock.Request) { r.File = "" }), lock.ErrInvalid, "File"},
		"file key too long":    {change(func(r *lock.Request) { r.File = lock.FileKey(strings.Repeat("f", lock.MaxFileKey+1)) }), lock.ErrInvalid, "File"},
		"no semantics":         {change(func(r *lock.Request) { r.Owner.Semantics = 0 }), lock.ErrInvalid, "Owner.Semantics"},
		"unknown semantics":    {change(func(r *lock.Request) { r.Owner.Semantics = lock.SMB + 1 }), lock.ErrInvalid, "Owner.Semantics"},
		"client too long":      {change(func(r *lock.Request) { r.Owner.Client = long }), lock.ErrInvalid, "Owner.Client"},
		"id too long":          {change(func(r *lock.Request) { r.Owner.ID = long }), lock.ErrInvalid, "Owner.ID"},
		"share too long":       {change(func(r *lock.Request) { r.Owner.Share = long }), lock.ErrInvalid, "Owner.Share"},
		"zero length of POSIX": {change(func(r *lock.Request) { r.Range = at(5) }), lock.ErrRange, ""},
		"zero length of OFD":   {change(func(r *lock.Request) { r.Owner.Semantics, r.Range = lock.OFD, at(5) }), lock.ErrRange, ""},
		"no mode":              {change(func(r *lock.Request) { r.Mode = 0 }), lock.ErrInvalid, "Mode"},
		"unknown mode":         {change(func(r *lock.Request) { r.Mode = x + 1 }), lock.ErrInvalid, "Mode"},
		"reclaim":              {change(func(r *lock.Request) { r.Reclaim = true }), lock.ErrNoGrace, ""},
	}
	m := memory(t)
	mustTry(t, m, posix("holder"), s, span(0, 9))
	before, stats := table(m, lock.Filter{}), m.Stats()
	for name, tc := range bad {
		t.Run(name, func(t *testing.T) {
			calls := map[string]func() (lock.Held, error){
				"TryLock": func() (lock.Held, error) { return m.TryLock(bg, tc.r) },
				"Lock":    func() (lock.Held, error) { return m.Lock(bg, tc.r) },
				"Enqueue": func() (lock.Held, error) {
					id, err := m.Enqueue(tc.r, func(lock.Held, error) { t.Error("done was called") })
					return lock.Held{ID: id}, err
				},
				"TryLockAll": func() (lock.Held, error) {
					hs, err := m.TryLockAll(bg, []lock.Request{tc.r})
					return lock.Held{ID: lock.ID(len(hs))}, err
				},
			}
			if tc.r.Mode == good.Mode && !tc.r.Reclaim {
				calls["Unlock"] = func() (lock.Held, error) { return lock.Held{}, m.Unlock(bg, tc.r.File, tc.r.Owner, tc.r.Range) }
				calls["Upgrade"] = func() (lock.Held, error) { return m.Upgrade(bg, tc.r.File, tc.r.Owner, tc.r.Range) }
				if !tc.r.Range.IsEmpty() {
					calls["ReleaseOwner"] = func() (lock.Held, error) {
						n, err := m.ReleaseOwner(bg, tc.r.File, tc.r.Owner)
						return lock.Held{ID: lock.ID(n)}, err
					}
				}
			}
			if tc.field == "File" {
				calls["ReleaseFile"] = func() (lock.Held, error) {
					n, err := m.ReleaseFile(bg, tc.r.File)
					return lock.Held{ID: lock.ID(n)}, err
				}
			}
			for call, f := range calls {
				h, err := f()
				if h != (lock.Held{}) {
					t.Errorf("%s returned %+v with its error", call, h)
				}
				mustBe(t, err, tc.want)
				var inv *lock.InvalidError
				if errors.As(err, &inv) && inv.Field != tc.field {
					t.Errorf("%s: field %q, want %q", call, inv.Field, tc.field)
				}
			}
			mustEqual(t, "the table", table(m, lock.Filter{}), before)
			mustEqual(t, "Stats", m.Stats(), stats)
			mustIdle(t, m)
		})
	}
}

// The longest names that are allowed are, and empty owner fields too.
func TestLargestInput(t *testing.T) {
	m := memory(t)
	long := strings.Repeat("\xff", lock.MaxOwnerField)
	r := lock.Request{
		File:  lock.FileKey(strings.Repeat("\x00", lock.MaxFileKey)),
		Owner: lock.Owner{Client: long, ID: long, Share: long, Semantics: lock.OFD},
		Mode:  x,
	}
	for _, o := range []lock.Owner{r.Owner, {Semantics: lock.OFD}} {
		r.Owner = o
		h, err := m.TryLock(bg, r)
		if err != nil || h.Range != lock.WholeFile() { // the zero Range
			t.Fatalf("%+v, %v", h, err)
		}
		mustRelease(t, 1)(m.ReleaseClient(bg, o.Client))
	}
	mustEmpty(t, m)
}

// What cannot be a request has nothing in its way, whatever is held.
func TestInvalidTest(t *testing.T) {
	m := memory(t)
	mustTry(t, m, posix("holder"), x, lock.WholeFile())
	for name, r := range map[string]lock.Request{
		"nothing at all":       {},
		"no file":              {Owner: posix("a"), Mode: x},
		"no mode":              ask(posix("a"), 0, span(0, 9)),
		"unknown mode":         ask(posix("a"), x+1, span(0, 9)),
		"no semantics":         ask(lock.Owner{ID: "a"}, x, span(0, 9)),
		"unknown semantics":    ask(lock.Owner{ID: "a", Semantics: lock.SMB + 1}, x, span(0, 9)),
		"zero length of POSIX": ask(posix("a"), x, at(5)),
	} {
		t.Run(name, func(t *testing.T) {
			if h, found := m.Test(r); found {
				t.Errorf("%+v", h)
			}
		})
	}
}

// Options that make no sense are refused.
func TestInvalidOptions(t *testing.T) {
	for name, o := range map[string]sneck.Options{
		"durability":      {Durability: 99},
		"negative shards": {Shards: -1},
		"too many shards": {Shards: 1<<16 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := sneck.Open(o)
			mustBe(t, err, lock.ErrInvalid)
			if m != nil {
				t.Error("a Manager was returned with the error")
			}
		})
	}
	for _, n := range []int{0, 1, 2, 3, 1000} {
		m, err := sneck.Open(sneck.Options{Shards: n})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			r := ask(posix("a"), x, span(0, 9))
			r.File = lock.FileKey(fmt.Sprint(i))
			if _, err := m.TryLock(bg, r); err != nil {
				t.Fatal(err)
			}
		}
		if st := m.Stats(); st.Locks != 100 || st.Files != 100 || st.Clients != 1 {
			t.Errorf("%d shards: %+v", n, st)
		}
		mustClose(t, m)
	}
}

// Errors are typed, each is one sentinel only, and a call that fails changes
// nothing: the table, the line and the counts are equal before and after.
func TestErrorsChangeNothing(t *testing.T) {
	a, b, c := posix("a"), smb("b"), ofd("c")
	for name, tc := range map[string]struct {
		call func(m *sneck.Manager) error
		want error
		as   any
	}{
		"TryLock, in the way of POSIX": {func(m *sneck.Manager) error { _, err := m.TryLock(bg, ask(c, s, span(0, 0))); return err }, lock.ErrConflict, new(*lock.ConflictError)},
		"TryLock, in the way of SMB":   {func(m *sneck.Manager) error { _, err := m.TryLock(bg, ask(a, x, span(5, 25))); return err }, lock.ErrConflict, new(*lock.ConflictError)},
		"TryLock, own SMB":             {func(m *sneck.Manager) error { _, err := m.TryLock(bg, ask(b, x, span(20, 20))); return err }, lock.ErrConflict, new(*lock.ConflictError)},
		"TryLockAll, the last": {func(m *sneck.Manager) error {
			_, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(0, 4)), ask(a, x, span(40, 49)), ask(a, x, span(20, 20))})
			return err
		}, lock.ErrConflict, new(*lock.ConflictError)},
		"TryLockAll, the first": {func(m *sneck.Manager) error {
			_, err := m.TryLockAll(bg, []lock.Request{ask(a, x, span(20, 20)), ask(a, s, span(0, 4))})
			return err
		}, lock.ErrConflict, new(*lock.ConflictError)},
		"Unlock, SMB, another range": {func(m *sneck.Manager) error { return m.Unlock(bg, file, b, span(20, 28)) }, lock.ErrNotFound, new(*lock.NotFoundError)},
		"Unlock, SMB, another owner": {func(m *sneck.Manager) error { return m.Unlock(bg, file, smb("z"), span(20, 29)) }, lock.ErrNotFound, new(*lock.NotFoundError)},
		"Upgrade, not held":          {func(m *sneck.Manager) error { _, err := m.Upgrade(bg, file, a, span(0, 10)); return err }, lock.ErrNotFound, new(*lock.NotFoundError)},
		"Upgrade, no such file":      {func(m *sneck.Manager) error { _, err := m.Upgrade(bg, "none", a, span(0, 10)); return err }, lock.ErrNotFound, new(*lock.NotFoundError)},
		"Upgrade, the second":        {func(m *sneck.Manager) error { _, err := m.Upgrade(bg, file, c, span(60, 69)); return err }, lock.ErrDeadlock, new(*lock.DeadlockError)},
		"Upgrade, SMB":               {func(m *sneck.Manager) error { _, err := m.Upgrade(bg, file, b, span(20, 29)); return err }, lock.ErrInvalid, new(*lock.InvalidError)},
		"Lock, zero length":          {func(m *sneck.Manager) error { _, err := m.Lock(bg, ask(a, s, at(3))); return err }, lock.ErrRange, new(*lock.RangeError)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				mustTry(t, m, a, x, span(0, 9))
				mustTry(t, m, b, s, span(20, 29))
				mustTry(t, m, b, s, span(20, 29))
				mustTry(t, m, a, s, span(60, 69))
				mustTry(t, m, c, s, span(60, 69))
				enqueue(t, m, c, x, span(5, 30))
				upgradeIn(bg, m, a, span(60, 69)).waits(t)
				before, line, stats := table(m, lock.Filter{}), slices.Collect(m.Waiters(lock.Filter{})), m.Stats()
				err := tc.call(m)
				mustBe(t, err, tc.want)
				if !errors.As(err, tc.as) {
					t.Errorf("%#v is not a %T", err, tc.as)
				}
				if err.Error() == tc.want.Error() {
					t.Errorf("%q says nothing of what was refused", err)
				}
				mustEqual(t, "the table", table(m, lock.Filter{}), before)
				mustEqual(t, "the line", slices.Collect(m.Waiters(lock.Filter{})), line)
				mustEqual(t, "Stats", m.Stats(), stats)
			})
		})
	}
}

// Unlock of bytes that the owner does not hold succeeds for POSIX and OFD
// owners, as fcntl does.
func TestUnlockOfNothing(t *testing.T) {
	m := memory(t)
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		mustUnlock(t, m, owner(sem, "a"), lock.WholeFile())
	}
	mustEmpty(t, m)
	mustTry(t, m, posix("b"), x, span(0, 9))
	before := table(m, lock.Filter{})
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		mustUnlock(t, m, owner(sem, "a"), lock.WholeFile())
		mustUnlock(t, m, owner(sem, "b"), span(10, eof))
	}
	mustEqual(t, "the table", table(m, lock.Filter{}), before)
	mustBe(t, m.Unlock(bg, "none", smb("a"), span(0, 9)), lock.ErrNotFound)
}

// Each release returns how many locks it released, and knows whose they are.
func TestReleaseCounts(t *testing.T) {
	m := memory(t)
	var all []lock.Owner
	for _, client := range []string{"c", "d"} {
		for _, id := range []string{"1", "2"} {
			for _, sem := range allSemantics {
				all = append(all, lock.Owner{Client: client, ID: id, Semantics: sem})
			}
		}
	}
	fill := func() {
		t.Helper()
		for _, f := range []lock.FileKey{"f", "g", "h"} {
			for _, o := range all {
				for _, r := range []lock.Range{span(0, 9), span(20, 29), span(9, 12)} { // 2 ranges of POSIX owners
					if _, err := m.TryLock(bg, lock.Request{File: f, Owner: o, Mode: s, Range: r}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	fill()
	total := m.Stats().Locks // 4 names, 3 files, (2+2+3) ranges
	mustEqual(t, "locks", total, 4*3*7)
	mustRelease(t, 2)(m.ReleaseOwner(bg, "f", all[0]))
	mustRelease(t, 0)(m.ReleaseOwner(bg, "f", all[0]))
	mustRelease(t, 3)(m.ReleaseOwner(bg, "f", all[2]))
	mustEqual(t, "locks", m.Stats().Locks, total-5)
	if m.HasOwner("f", all[0]) || !m.HasOwner("g", all[0]) || m.HasOwner("f", all[2]) || !m.HasOwner("f", all[1]) {
		t.Error("HasOwner disagrees")
	}
	mustRelease(t, 4*7-5)(m.ReleaseFile(bg, "f"))
	mustRelease(t, 0)(m.ReleaseFile(bg, "f"))
	mustRelease(t, 2*2*7)(m.ReleaseClient(bg, "c"))
	mustRelease(t, 0)(m.ReleaseClient(bg, "c"))
	mustRelease(t, 0)(m.ReleaseClient(bg, "nobody"))
	for _, h := range table(m, lock.Filter{}) {
		if h.Owner.Client != "d" || h.File == "f" {
			t.Errorf("%+v is left", h)
		}
	}
	mustEqual(t, "Stats", m.Stats(), sneck.Stats{Locks: 2 * 2 * 7, Files: 2, Clients: 1, Epoch: m.Epoch()})
	mustRelease(t, 2*2*7)(m.ReleaseClient(bg, "d"))
	mustEmpty(t, m)
	fill() // and everything can be locked again
	mustEqual(t, "locks", m.Stats().Locks, total)
}
