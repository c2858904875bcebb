package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"sneck"
	"sneck/lock"
	"sneck/wal"
)

// reopened opens what a Manager has left in dir and fails unless it is in a
// higher epoch and holds exactly the same, down to ids, epochs, times and the
// display fields of owners, all of it unconfirmed and in grace for whoever held
// it. It returns the new Manager.
func reopened(t testing.TB, dir string, epoch uint64, want []lock.Held, reserved ...lock.Share) *sneck.Manager {
	t.Helper()
	m := open(t, dir)
	if m.Epoch() <= epoch {
		t.Errorf("epoch %d after %d", m.Epoch(), epoch)
	}
	mustEqual(t, "the table", table(m, lock.Filter{}), marked(want, true))
	mustEqual(t, "the shares", shares(m), reserved)
	mustIdle(t, m)
	if st := m.Stats(); st.Locks != len(want) || st.Shares != len(reserved) || st.Epoch != m.Epoch() || st.LogBytes <= 0 {
		t.Errorf("%+v with %d locks and %d shares", st, len(want), len(reserved))
	}
	n := len(want) + len(reserved)
	graceIs(t, m, n > 0, n)
	holders := make(map[string]bool)
	for _, h := range want {
		holders[h.Owner.Client] = true
	}
	for _, sh := range reserved {
		holders[sh.Owner.Client] = true
	}
	if g := m.Grace(); !slices.Equal(g.Expected, slices.Sorted(maps.Keys(holders))) || len(g.Complete) > 0 {
		t.Errorf("%+v, held by %v", g, holders)
	}
	return m
}

// Every kind of change, then reopened, after Close and as if the process had
// been killed: the same table, in a higher epoch.
func TestRestartEveryChange(t *testing.T) {
	a := lock.Owner{Client: "client \x00\xff", ID: "\x01id", Semantics: lock.POSIX, Share: "share a", PID: 1<<32 - 1}
	b := lock.Owner{Client: "client b", ID: "", Semantics: lock.OFD, Share: "share b", PID: 7}
	c := lock.Owner{Client: "", ID: "c", Semantics: lock.SMB, Share: "share c"}
	// granted puts r in line, and returns when the call that frees its bytes
	// has let it in.
	granted := func(t *testing.T, m *sneck.Manager, r lock.Request, free func()) {
		t.Helper()
		done := make(chan error, 1)
		if _, err := m.Enqueue(r, func(_ lock.Held, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if len(slices.Collect(m.Waiters(lock.Filter{}))) == 0 {
			t.Fatal("it does not wait")
		}
		free()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, m *sneck.Manager){
		"nothing":   func(t *testing.T, m *sneck.Manager) {},
		"shared":    func(t *testing.T, m *sneck.Manager) { mustTry(t, m, a, s, span(0, 9)) },
		"exclusive": func(t *testing.T, m *sneck.Manager) { mustTry(t, m, b, x, span(5, eof)) },
		"whole file and last byte": func(t *testing.T, m *sneck.Manager) {
			mustTry(t, m, a, s, lock.WholeFile())
			mustTry(t, m, c, s, span(eof, eof))
		},
		"several files": func(t *testing.T, m *sneck.Manager) {
			for i := range 40 {
				r := ask(a, x, span(uint64(i), uint64(2*i)))
				r.File = lock.FileKey(fmt.Sprint("\x00file\xff", i%20))
				if _, err := m.TryLock(bg, r); err != nil {
					t.Fatal(err)
				}
			}
		},
		"merge":          func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "rrr..rrr"); draw(t, m, a, "...rr") },
		"replace":        func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "rrrrrrrr"); draw(t, m, a, "..wwww..") },
		"downgrade":      func(t *testing.T, m *sneck.Manager) { draw(t, m, b, "wwwwwwww"); draw(t, m, b, "..rrrr..") },
		"the same again": func(t *testing.T, m *sneck.Manager) { draw(t, m, b, "wwwwwwww"); draw(t, m, b, "..wwww..") },
		"by another name": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "www")
			o := a
			o.Share, o.PID = "other", 1
			draw(t, m, o, "....www")
		},
		"merge, another name": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "www")
			o := a
			o.Share, o.PID = "other", 1
			draw(t, m, o, "...www")
		},
		"unlock of the middle": func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "wwwwwwww"); mustUnlock(t, m, a, span(3, 4)) },
		"unlock of several":    func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "ww.rr.ww"); mustUnlock(t, m, a, span(1, 6)) },
		"unlock of all":        func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "ww.rr.ww"); mustUnlock(t, m, a, lock.WholeFile()) },
		"stack": func(t *testing.T, m *sneck.Manager) {
			for _, mode := range []lock.Mode{x, s, s} {
				mustTry(t, m, c, mode, span(0, 9))
			}
			mustTry(t, m, c, s, span(3, 20))
		},
		"unstack": func(t *testing.T, m *sneck.Manager) {
			for _, mode := range []lock.Mode{x, s, s} {
				mustTry(t, m, c, mode, span(0, 9))
			}
			mustUnlock(t, m, c, span(0, 9))
			mustUnlock(t, m, c, span(0, 9))
		},
		"zero length": func(t *testing.T, m *sneck.Manager) {
			for _, at := range []lock.Range{at(0), at(5), at(eof), at(7)} {
				mustTry(t, m, c, x, at)
			}
			mustUnlock(t, m, c, at(7))
			mustTry(t, m, a, x, span(5, 9))
			mustTry(t, m, a, x, span(0, 4)) // becomes one around a zero-length lock
		},
		"batch": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			if _, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(2, 2)), ask(b, s, span(2, 2)), ask(c, x, span(10, 19)), ask(c, s, span(10, 19)), ask(a, s, span(3, 3))}); err != nil {
				t.Fatal(err)
			}
		},
		"refused batch": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			_, err := m.TryLockAll(bg, []lock.Request{ask(c, s, span(10, 19)), ask(b, s, span(2, 2))})
			mustBe(t, err, lock.ErrConflict)
		},
		"refused lock": func(t *testing.T, m *sneck.Manager) { draw(t, m, a, "wwwww"); mustDeny(t, m, b, s, span(2, 2)) },
		"Lock at once": func(t *testing.T, m *sneck.Manager) {
			if _, err := m.Lock(bg, ask(b, x, span(0, 9))); err != nil {
				t.Fatal(err)
			}
		},
		"who waits": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			if _, err := m.Enqueue(ask(b, s, span(2, 2)), func(lock.Held, error) {}); err != nil {
				t.Fatal(err)
			}
		},
		"grant by unlock": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			granted(t, m, ask(b, s, span(2, 8)), func() { mustUnlock(t, m, a, span(2, 3)); mustUnlock(t, m, a, span(4, 4)) })
		},
		"grant by downgrade": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			granted(t, m, ask(c, s, span(2, 3)), func() { draw(t, m, a, ".rrr.") })
		},
		"grant by batch": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			granted(t, m, ask(c, s, span(2, 3)), func() {
				if _, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(0, 4)), ask(a, x, span(10, 12))}); err != nil {
					t.Fatal(err)
				}
			})
		},
		"grant that merges": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			mustTry(t, m, b, s, span(5, 9))
			granted(t, m, ask(b, s, span(2, 4)), func() { mustUnlock(t, m, a, span(2, 4)) })
		},
		"grant that grants": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			mustTry(t, m, b, x, span(10, 19))
			granted(t, m, ask(c, s, span(11, 12)), func() {
				granted(t, m, ask(b, s, span(4, 19)), func() { mustUnlock(t, m, a, span(4, 4)) })
			})
		},
		"grant by Cancel": func(t *testing.T, m *sneck.Manager) {
			mustTry(t, m, a, s, span(0, 9))
			id, err := m.Enqueue(ask(b, x, span(5, 14)), func(lock.Held, error) {})
			if err != nil {
				t.Fatal(err)
			}
			granted(t, m, ask(c, s, span(7, 12)), func() { m.Cancel(id) })
		},
		"grant by the end of a context": func(t *testing.T, m *sneck.Manager) {
			mustTry(t, m, a, s, span(0, 9))
			ctx, cancel := context.WithCancel(bg)
			end := make(chan error)
			go func() { _, err := m.Lock(ctx, ask(b, x, span(5, 14))); end <- err }()
			mustStand(m, 1)
			granted(t, m, ask(c, s, span(7, 12)), cancel)
			mustBe(t, <-end, context.Canceled)
		},
		"grant by ReleaseOwner": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			granted(t, m, ask(b, s, span(2, 8)), func() { mustRelease(t, 1)(m.ReleaseOwner(bg, file, a)) })
		},
		"grant by ReleaseClient": func(t *testing.T, m *sneck.Manager) {
			mustTry(t, m, c, x, span(0, 9))
			granted(t, m, ask(b, s, span(2, 8)), func() { mustRelease(t, 1)(m.ReleaseClient(bg, c.Client)) })
		},
		"Upgrade": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "rrrrrrrr")
			if _, err := m.Upgrade(bg, file, a, span(2, 3)); err != nil {
				t.Fatal(err)
			}
		},
		"Upgrade, refused": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "rrrr")
			_, err := m.Upgrade(bg, file, a, span(2, 4))
			mustBe(t, err, lock.ErrNotFound)
		},
		"Upgrade after a wait": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "rrrrrrrr")
			draw(t, m, b, "..r")
			end := make(chan error)
			go func() { _, err := m.Upgrade(bg, file, a, span(2, 3)); end <- err }()
			mustStand(m, 1)
			mustUnlock(t, m, b, lock.WholeFile())
			mustBe(t, <-end, nil)
		},
		"ReleaseOwner": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "ww.r")
			draw(t, m, b, "....w")
			mustRelease(t, 2)(m.ReleaseOwner(bg, file, a))
		},
		"ReleaseClient": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "ww.r")
			draw(t, m, b, "....w")
			mustRelease(t, 2)(m.ReleaseClient(bg, a.Client))
		},
		"ReleaseFile": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "ww.r")
			draw(t, m, b, "....w")
			mustRelease(t, 3)(m.ReleaseFile(bg, file))
		},
		"shares": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read|lock.Write, lock.Delete)
			mustShare(t, m, b, lock.Read, 0)
			mustShare(t, m, a, 0, 0)
		},
		"shares and locks": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read|lock.Write, lock.Write)
			mustTry(t, m, a, x, span(0, 9))
			mustTry(t, m, c, x, span(20, 29))
			mustShare(t, m, b, lock.Read, lock.Delete)
		},
		"a share added to": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read, 0)
			mustShare(t, m, a, lock.Read, 0)
			mustShare(t, m, c, lock.Delete, lock.Write)
		},
		"a refused share": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read, lock.Write)
			mustBe(t, m.OpenShare(bg, share(a, lock.Write, 0)), lock.ErrConflict)
		},
		"CloseShare": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read, 0)
			mustShare(t, m, a, lock.Read, 0)
			mustTry(t, m, c, x, span(0, 9))
			mustBe(t, m.CloseShare(bg, file, c), nil)
		},
		"ReleaseOwner with a share": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, c, lock.Read, 0)
			mustShare(t, m, a, lock.Read, 0)
			mustTry(t, m, c, x, span(0, 9))
			mustRelease(t, 1)(m.ReleaseOwner(bg, file, c))
		},
		"ReleaseClient with shares": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, a, lock.Read, 0)
			mustShare(t, m, b, lock.Read, 0)
			mustRelease(t, 0)(m.ReleaseClient(bg, b.Client))
		},
		"ReleaseFile with shares": func(t *testing.T, m *sneck.Manager) {
			mustShare(t, m, a, lock.Read, 0)
			mustShare(t, m, b, lock.Read, 0)
			mustTry(t, m, c, x, span(0, 9))
			mustRelease(t, 1)(m.ReleaseFile(bg, file))
		},
		"Revoke": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "ww.rrww")
			draw(t, m, b, "...r")
			mustBe(t, m.Revoke(bg, table(m, lock.Filter{Owner: &a})[1].ID, "test"), nil)
			mustTry(t, m, c, x, span(20, 29))
			mustBe(t, m.Revoke(bg, mustTry(t, m, c, s, span(20, 29)).ID, "test"), nil)
		},
		"grant by Revoke": func(t *testing.T, m *sneck.Manager) {
			draw(t, m, a, "wwwww")
			granted(t, m, ask(b, s, span(2, 8)), func() {
				mustBe(t, m.Revoke(bg, table(m, lock.Filter{Owner: &a})[0].ID, "test"), nil)
			})
		},
		"a client that comes and goes": func(t *testing.T, m *sneck.Manager) {
			mustBe(t, m.Connect(bg, lock.Client{ID: b.Client, Adapter: "smb"}), nil)
			draw(t, m, b, "ww.r")
			draw(t, m, a, ".....w")
			mustShare(t, m, b, lock.Read, 0)
			mustBe(t, m.Disconnect(bg, b.Client), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, dir)
			change(t, m)
			want := table(m, lock.Filter{})
			compatible(t, slices.DeleteFunc(slices.Clone(want), func(h lock.Held) bool { return h.File != file }))
			reserved := shares(m)
			// Reclaimed, they are what they were, and so they are after one more
			// restart.
			again := crashed(t, dir)
			n := reopened(t, again, m.Epoch(), want, reserved...)
			mustReclaimAll(t, n)
			reclaimed := table(n, lock.Filter{})
			mustClose(t, n)
			reopened(t, again, n.Epoch(), reclaimed, reserved...)
			mustClose(t, m)
			n = reopened(t, dir, m.Epoch(), want, reserved...)
			// And they are held, by whom they were: kept from others, and
			// nobody else's to let go.
			for _, h := range want {
				stranger := smb("stranger")
				if !h.Range.IsEmpty() {
					r := lock.Request{File: h.File, Owner: stranger, Range: h.Range, Mode: x}
					hit, found := n.Test(r)
					if !found {
						t.Errorf("%+v is in nobody's way", h)
					}
					mustBeInTheWay(t, n, r, hit)
				}
				if err := n.Unlock(bg, h.File, h.Owner, h.Range); err != nil {
					t.Errorf("%+v: %v", h, err)
				}
			}
			mustHold(t, n)
			for _, sh := range reserved {
				stranger := lock.Share{File: sh.File, Owner: smb("stranger"), Access: sh.Deny, Deny: sh.Access}
				if sh.Access|sh.Deny != 0 {
					mustBe(t, n.OpenShare(bg, stranger), lock.ErrGrace)
				}
				if err := n.CloseShare(bg, sh.File, sh.Owner); err != nil {
					t.Errorf("%+v: %v", sh, err)
				}
			}
			mustEndGrace(n) // nothing is left to be reclaimed
			mustClose(t, n)
			mustEmpty(t, reopened(t, dir, n.Epoch(), nil))
		})
	}
}

// The epoch grows at every Open, also after an unclean stop that left no locks
// and nothing else.
func TestRestartEpoch(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for i := range 6 {
		m := open(t, dir)
		if e := m.Epoch(); e <= last || e != m.Stats().Epoch {
			t.Fatalf("epoch %d after %d, Stats %+v", e, last, m.Stats())
		}
		last = m.Epoch()
		if i%2 == 0 {
			mustClose(t, m)
		} else {
			dir = crashed(t, dir)
		}
	}
	if e := memory(t).Epoch(); e != 1 {
		t.Errorf("epoch %d in memory", e)
	}
}

// The epoch of a lock is the one in which it was granted, however often the
// server restarts, and what is new has the new one.
func TestRestartEpochOfLocks(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	first := mustTry(t, m, posix("a"), s, span(0, 9))
	mustClose(t, m)
	m = open(t, dir)
	second := mustTry(t, m, posix("b"), s, span(0, 9))
	mustClose(t, m)
	m = open(t, dir)
	mustEqual(t, "the table", table(m, lock.Filter{}), marked([]lock.Held{first, second}, true))
	if second.Epoch <= first.Epoch || m.Epoch() <= second.Epoch {
		t.Errorf("%d, %d, now %d", first.Epoch, second.Epoch, m.Epoch())
	}
	// Who reclaims has a lock of the present epoch, and the others have not.
	third := mustReclaim(t, m, posix("a"), s, span(0, 9))
	mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{marked([]lock.Held{second}, true)[0], third})
	mustClose(t, m)
	reopened(t, dir, m.Epoch(), []lock.Held{second, third})
}

// A checkpoint that is made in grace has what is unconfirmed and what is not, side
// by side, and a restart gives both back: pieces of one owner and mode that touch
// are apart when they are of different epochs, and of a share reservation that was
// reclaimed in part the rest is still to be reclaimed.
func TestRestartCheckpointInGrace(t *testing.T) {
	a, b, c := posix("a"), ofd("b"), smb("c")
	dir := t.TempDir()
	m := open(t, dir)
	mustTry(t, m, a, x, span(0, 9))
	mustTry(t, m, a, s, span(20, 29))
	mustTry(t, m, b, s, span(40, eof))
	mustTry(t, m, c, s, span(30, 39))
	mustTry(t, m, c, s, span(30, 39))
	mustShare(t, m, c, lock.Read|lock.Write, lock.Delete|lock.Write)
	mustShare(t, m, b, lock.Read, 0)
	mustClose(t, m)

	m = open(t, dir)
	mustReclaim(t, m, a, x, span(3, 5))     // [0,2] and [6,9] are left
	mustTry(t, m, a, s, span(30, 32))       // new, next to what is unconfirmed
	mustReclaim(t, m, b, s, span(100, eof)) // [40,99] is left
	mustReclaim(t, m, c, s, span(30, 39))   // the other one of the stack is left
	some := share(c, lock.Read, lock.Delete)
	some.Reclaim = true
	mustBe(t, m.OpenShare(bg, some), nil)
	graceIs(t, m, true, 7) // 5 ranges and 2 shares
	want, reserved := table(m, lock.Filter{}), shares(m)
	mustBe(t, m.Checkpoint(bg), nil)
	log := crashed(t, dir)
	reopened(t, log, m.Epoch(), want, reserved...)

	// And the grace period that goes on is as it was.
	mustReclaim(t, m, a, x, span(0, 9))
	graceIs(t, m, true, 5)
	rest := share(c, lock.Write, 0)
	rest.Reclaim = true
	mustBe(t, m.OpenShare(bg, rest), nil)
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	graceIs(t, m, false, 0)
	mustHold(t, m, fact{file, a, span(0, 9), x}, fact{file, a, span(30, 32), s}, fact{file, b, span(100, eof), s}, fact{file, c, span(30, 39), s})
	mustEqual(t, "the shares", shares(m), []lock.Share{share(c, lock.Read|lock.Write, lock.Delete)})
	want, reserved = table(m, lock.Filter{}), shares(m)
	reopened(t, crashed(t, dir), m.Epoch(), want, reserved...)
	mustBe(t, m.Checkpoint(bg), nil)
	mustClose(t, m)
	reopened(t, dir, m.Epoch(), want, reserved...)
}

// A range that merged around an SMB owner's zero-length lock is reclaimed as any
// other, and so is that lock: both were held.
func TestReclaimAroundZeroLength(t *testing.T) {
	a, c := posix("a"), smb("c")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, c, x, at(5))
		mustTry(t, m, a, x, span(5, 9))
		mustTry(t, m, a, x, span(0, 4))
	})
	for i := range 2 {
		m := open(t, crashed(t, dir))
		graceIs(t, m, true, 2)
		rs := []lock.Request{ask(a, x, span(0, 9)), ask(c, x, at(5))}
		for _, r := range []lock.Request{rs[i], rs[1-i]} {
			mustReclaim(t, m, r.Owner, r.Mode, r.Range)
		}
		mustEndGrace(m)
		mustHold(t, m, fact{file, a, span(0, 9), x}, fact{file, c, at(5), x})
	}
}

// IDs are never reused: of locks, of pieces that a split leaves, of waiters,
// whether granted or not, of what is reclaimed, over several restarts.
func TestRestartIDs(t *testing.T) {
	dir := t.TempDir()
	seen := make(map[lock.ID]string)
	note := func(id lock.ID, what string) {
		t.Helper()
		if was, ok := seen[id]; ok || id == 0 {
			t.Fatalf("id %d was that of %s, and is now of %s", id, was, what)
		}
		seen[id] = what
	}
	for life := range 4 {
		m := open(t, dir)
		old := table(m, lock.Filter{})
		for i := range 20 {
			what := fmt.Sprintf("life %d, %d", life, i)
			f := lock.FileKey(fmt.Sprint("f", i%3))
			o := posix(what)
			h, err := m.TryLock(bg, lock.Request{File: f, Owner: o, Range: span(uint64(1000*life+20*i), uint64(1000*life+20*i+9)), Mode: x})
			if err != nil {
				t.Fatal(err)
			}
			note(h.ID, what)
			id, err := m.Enqueue(lock.Request{File: f, Owner: smb(what), Range: h.Range, Mode: s}, func(lock.Held, error) {})
			if err != nil {
				t.Fatal(err)
			}
			note(id, what+" waiting")
			if i%2 == 0 && !m.Cancel(id) {
				t.Fatal("not in line")
			}
			if err := m.Unlock(bg, f, o, span(h.Range.First()+5, h.Range.First()+5)); err != nil {
				t.Fatal(err)
			}
			pieces := table(m, lock.Filter{Owner: &o})
			if len(pieces) != 2 || pieces[0].ID != h.ID {
				t.Fatalf("%+v, of %+v", pieces, h)
			}
			note(pieces[1].ID, what+" right piece")
		}
		// What was held before this life has its ids still, unless it is
		// reclaimed; of a piece of it that is not, one side has.
		for i, h := range old {
			if !h.Unconfirmed || !slices.Contains(table(m, lock.Filter{}), h) {
				t.Errorf("%+v is gone or changed", h)
			}
			r := lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true}
			switch {
			case i%3 == 0:
				continue
			case i%3 == 1 && h.Range.Last()-h.Range.First() >= 2:
				r.Range = span(h.Range.First()+1, h.Range.Last()-1)
			}
			what := fmt.Sprintf("life %d reclaims %s of %s", life, r.Range, h.Owner)
			got, err := m.TryLock(bg, r)
			if err != nil {
				t.Fatal(err)
			}
			note(got.ID, what)
			for _, piece := range table(m, lock.Filter{Owner: &h.Owner}) {
				switch {
				case r.Range == h.Range:
				case piece.Range == span(h.Range.First(), h.Range.First()):
					mustEqual(t, what, piece, lock.Held{ID: h.ID, File: h.File, Owner: h.Owner, Range: piece.Range, Mode: h.Mode, Epoch: h.Epoch, Since: h.Since, Unconfirmed: true})
				case piece.Range == span(h.Range.Last(), h.Range.Last()):
					note(piece.ID, what+", right piece")
					mustEqual(t, what, piece, lock.Held{ID: piece.ID, File: h.File, Owner: h.Owner, Range: piece.Range, Mode: h.Mode, Epoch: h.Epoch, Since: h.Since, Unconfirmed: true})
				}
			}
		}
		mustClose(t, m) // waiters that are left are gone with their ids
	}
}

// Releasing a file, a client or an owner removes its records: after a restart
// there is nothing, of locks that were restored too.
func TestRestartAfterRelease(t *testing.T) {
	dir := t.TempDir()
	for _, restored := range []bool{false, true} {
		m := open(t, dir)
		for _, f := range []lock.FileKey{"f", "g", "h"} {
			for _, sem := range allSemantics {
				for i := range uint64(50) { // enough for a tree
					r := lock.Request{File: f, Owner: lock.Owner{Client: fmt.Sprint("c", i%2), ID: "i", Semantics: sem}, Range: span(3*i, 3*i), Mode: s}
					if _, err := m.TryLock(bg, r); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if restored {
			mustClose(t, m)
			m = open(t, dir)
		}
		if restored {
			graceIs(t, m, true, 450)
		}
		mustRelease(t, 150)(m.ReleaseFile(bg, "f"))
		mustRelease(t, 25)(m.ReleaseOwner(bg, "g", lock.Owner{Client: "c0", ID: "i", Semantics: lock.SMB}))
		mustRelease(t, 125)(m.ReleaseClient(bg, "c0"))
		want := table(m, lock.Filter{})
		mustEqual(t, "locks", len(want), 150)
		if restored {
			graceIs(t, m, true, 150)
			mustEqual(t, "the table", want, marked(want, true))
		}
		mustClose(t, m)
		m = reopened(t, dir, m.Epoch(), want)
		mustRelease(t, 150)(m.ReleaseClient(bg, "c1"))
		mustEmpty(t, m)
		mustEndGrace(m)
		mustClose(t, m)
		m = reopened(t, dir, m.Epoch(), nil)
		mustEmpty(t, m)
		mustClose(t, m)
	}
}

// A file on which nothing has happened for a while is forgotten. When it comes
// back, its changes follow the old ones: in the log, in ids, and after a
// restart in which it was forgotten too.
func TestRestartForgottenFiles(t *testing.T) {
	dir := t.TempDir()
	ids := make(map[lock.ID]bool)
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			m := open(t, dir)
			for round := range 3 {
				for i := range 30 {
					o := owner(allSemantics[i%3], "a")
					r := lock.Request{File: lock.FileKey(fmt.Sprint(i)), Owner: o, Range: span(0, 9), Mode: x}
					h, err := m.TryLock(bg, r)
					if err != nil {
						t.Fatal(err)
					}
					if ids[h.ID] {
						t.Fatalf("id %d again", h.ID)
					}
					ids[h.ID] = true
					if i%10 == round { // is not forgotten in this round
						continue
					}
					if err := m.Unlock(bg, r.File, o, r.Range); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute) // the bubble's: long enough for anything that is done now and then
				mustEqual(t, "files", m.Stats().Files, 3)
				mustEqual(t, "locks", m.Stats().Locks, 3)
				want := table(m, lock.Filter{})
				reopened(t, crashed(t, dir), m.Epoch(), want)
				for _, h := range want {
					mustBe(t, m.Unlock(bg, h.File, h.Owner, h.Range), nil)
				}
			}
			mustEmpty(t, m)
			mustClose(t, m)
		})
	}
}

// Inspect shows the table of a log, changes nothing in it, not even the epoch,
// and can do so while a Manager has it open.
func TestRestartInspect(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	look := func() {
		t.Helper()
		before := content(t, dir)
		for range 2 {
			snap, err := sneck.Inspect(dir)
			if err != nil {
				t.Fatal(err)
			}
			if snap.Epoch != m.Epoch() || snap.Log.TornTail != nil || snap.Log.Records == 0 {
				t.Errorf("%+v in epoch %d", snap, m.Epoch())
			}
			// A log is not in grace, whoever reads it.
			mustEqual(t, "the table", table(snap, lock.Filter{}), marked(table(m, lock.Filter{}), false))
			a := posix("a")
			mustEqual(t, "a's locks", table(snap, lock.Filter{Owner: &a}), marked(table(m, lock.Filter{Owner: &a}), false))
			for range snap.Locks(lock.Filter{}) {
				break
			}
		}
		mustEqual(t, "the files", content(t, dir), before)
	}
	look()
	draw(t, m, posix("a"), "rrrwww.r>")
	mustTry(t, m, smb("b"), s, at(3))
	look()
	mustUnlock(t, m, posix("a"), span(1, 4))
	look()
	want := table(m, lock.Filter{})
	mustClose(t, m)
	look()
	m = reopened(t, dir, m.Epoch(), want)
	look()
	mustReclaim(t, m, posix("a"), s, span(5, 5))
	mustReclaim(t, m, posix("a"), s, span(9, 19))
	look()
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	mustHold(t, m, fact{file, posix("a"), span(5, 5), s}, fact{file, posix("a"), span(9, 19), s})
	look()
}

// Inspect of what is no log is an error and leaves no trace.
func TestRestartInspectNothing(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "none")} {
		if snap, err := sneck.Inspect(d); err == nil || snap != nil || !strings.Contains(err.Error(), d) {
			t.Errorf("%+v, %v", snap, err)
		}
	}
	mustEqual(t, "the files", content(t, dir), map[string]string{})
	if _, err := os.Stat(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// Two Managers on one directory: the second is refused with an error that says
// so, and the first one and the log are none the worse for it.
func TestRestartInUse(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	mustTry(t, m, posix("a"), x, span(0, 9))
	before := content(t, dir)
	second, err := sneck.Open(sneck.Options{Dir: dir})
	if second != nil || !errors.Is(err, wal.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("%v, %v", second, err)
	}
	mustEqual(t, "the files", content(t, dir), before)
	mustTry(t, m, posix("a"), x, span(10, 19))
	want := table(m, lock.Filter{})
	mustClose(t, m)
	reopened(t, dir, m.Epoch(), want)
}

// A directory that cannot be used is an error that names it.
func TestRestartBadDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := sneck.Open(sneck.Options{Dir: path}); m != nil || err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("%v, %v", m, err)
	}
}

// Random calls with checkpoints and restarts in between, some as if the process
// had been killed, give the same answers and the same table as a Manager in memory that
// lives on.
func TestRestartModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		if err != nil {
			rt.Fatal(err)
		}
		md := newModel(anyBase.Draw(rt, "base")) // only for its places
		mem := mustOpen(rt, "")
		m := mustOpen(rt, dir)
		defer func() { _ = mem.Close(); _ = m.Close() }()
		files := []lock.FileKey{"f", "g"}
		both := func(rt *rapid.T, f func(m *sneck.Manager) (lock.Held, error)) {
			rt.Helper()
			want, werr := f(mem)
			got, gerr := f(m)
			if !errors.Is(kind(rt, gerr), kind(rt, werr)) || factOf(got) != factOf(want) {
				rt.Fatalf("got %+v, %v; in memory %+v, %v", got, gerr, want, werr)
			}
			var gc, wc *lock.ConflictError
			if errors.As(gerr, &gc) && errors.As(werr, &wc) && factOf(gc.Holder) != factOf(wc.Holder) {
				rt.Fatalf("%v; in memory %v", gerr, werr)
			}
		}
		// settle returns when all grants are acknowledged: Cancel does not wait
		// for those that it leads to, nor Enqueue for its own.
		told := make(map[lock.ID]chan struct{})
		settle := func() {
			for w := range m.Waiters(lock.Filter{}) {
				delete(told, w.ID)
			}
			for _, ch := range told {
				<-ch
			}
			clear(told)
		}
		counted := func(n int, err error) (lock.Held, error) { return lock.Held{ID: lock.ID(n)}, err }
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				hs := table(m, lock.Filter{})
				if got, want := facts(hs), facts(table(mem, lock.Filter{})); !slices.Equal(got, want) {
					rt.Fatalf("the table has\n\t%v\nin memory\n\t%v", got, want)
				}
				if got, want := m.Stats(), mem.Stats(); got.Locks != want.Locks || got.Files != want.Files || got.Clients != want.Clients || got.Waiters != want.Waiters {
					rt.Fatalf("%+v, in memory %+v", got, want)
				}
				for _, f := range files {
					compatible(rt, table(m, lock.Filter{File: f}))
				}
			},
			"TryLock": func(rt *rapid.T) {
				r := md.ask(anyEntry(rt))
				r.File = rapid.SampledFrom(files).Draw(rt, "file")
				both(rt, func(m *sneck.Manager) (lock.Held, error) { return m.TryLock(bg, r) })
			},
			"TryLockAll": func(rt *rapid.T) {
				rs := []lock.Request{md.ask(anyEntry(rt)), md.ask(anyEntry(rt)), md.ask(anyEntry(rt))}
				f := rapid.SampledFrom(files).Draw(rt, "file")
				for i := range rs {
					rs[i].File = f
				}
				both(rt, func(m *sneck.Manager) (lock.Held, error) {
					hs, err := m.TryLockAll(bg, rs)
					if err != nil {
						return lock.Held{}, err
					}
					return hs[2], nil
				})
			},
			"Enqueue": func(rt *rapid.T) {
				r := md.ask(anyEntry(rt))
				r.File = rapid.SampledFrom(files).Draw(rt, "file")
				both(rt, func(m *sneck.Manager) (lock.Held, error) {
					ch := make(chan struct{})
					id, err := m.Enqueue(r, func(lock.Held, error) { close(ch) })
					if m != mem {
						told[id] = ch
					}
					return lock.Held{}, err
				})
			},
			"Cancel": func(rt *rapid.T) {
				f := rapid.SampledFrom(files).Draw(rt, "file")
				of := func(m *sneck.Manager) []lock.Waiting { return slices.Collect(m.Waiters(lock.Filter{File: f})) }
				if len(of(m)) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(of(m))-1).Draw(rt, "place")
				both(rt, func(m *sneck.Manager) (lock.Held, error) {
					w := of(m)[i]
					if !m.Cancel(w.ID) {
						rt.Fatalf("%+v is not in line", w)
					}
					return lock.Held{Owner: w.Request.Owner}, nil
				})
			},
			"Unlock": func(rt *rapid.T) {
				e := anyEntry(rt)
				f := rapid.SampledFrom(files).Draw(rt, "file")
				both(rt, func(m *sneck.Manager) (lock.Held, error) {
					return lock.Held{}, m.Unlock(bg, f, e.owner, md.rng(e.place))
				})
			},
			"ReleaseOwner": func(rt *rapid.T) {
				o, f := anyOwner.Draw(rt, "owner"), rapid.SampledFrom(files).Draw(rt, "file")
				both(rt, func(m *sneck.Manager) (lock.Held, error) { return counted(m.ReleaseOwner(bg, f, o)) })
			},
			"ReleaseClient": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "really") > 0 {
					rt.Skip()
				}
				c := rapid.SampledFrom([]string{"c", "d"}).Draw(rt, "client")
				both(rt, func(m *sneck.Manager) (lock.Held, error) { return counted(m.ReleaseClient(bg, c)) })
			},
			"ReleaseFile": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "really") > 0 {
					rt.Skip()
				}
				f := rapid.SampledFrom(files).Draw(rt, "file")
				both(rt, func(m *sneck.Manager) (lock.Held, error) { return counted(m.ReleaseFile(bg, f)) })
			},
			"Checkpoint": func(rt *rapid.T) {
				if err := m.Checkpoint(bg); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(rt *rapid.T) {
				before, epoch := table(m, lock.Filter{}), m.Epoch()
				if rapid.Bool().Draw(rt, "killed") {
					settle()
					dir = crashed(t, dir)
				}
				mustClose(rt, m)
				clear(told)
				m = mustOpen(rt, dir)
				if m.Epoch() <= epoch {
					rt.Fatalf("epoch %d after %d", m.Epoch(), epoch)
				}
				mustEqual(rt, "the table", table(m, lock.Filter{}), marked(before, true))
				mustReclaimAll(rt, m)
				// Who stood in line does not any more. From the last on, so
				// that nobody lets anybody in.
				for _, w := range slices.Backward(slices.Collect(mem.Waiters(lock.Filter{}))) {
					if !mem.Cancel(w.ID) {
						rt.Fatalf("%+v is not in line", w)
					}
				}
			},
		})
	})
}
