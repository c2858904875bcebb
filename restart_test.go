package sneck_test

import (
	"context"
	"errors"
	"fmt"
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
// higher epoch and holds exactly the same, down to ids, times and the display
// fields of owners. It returns the new Manager.
func reopened(t testing.TB, dir string, epoch uint64, want []lock.Held) *sneck.Manager {
	t.Helper()
	m := open(t, dir)
	if m.Epoch() <= epoch {
		t.Errorf("epoch %d after %d", m.Epoch(), epoch)
	}
	got := table(m, lock.Filter{})
	mustEqual(t, "the table", got, want)
	mustIdle(t, m)
	if st := m.Stats(); st.Locks != len(want) || st.Epoch != m.Epoch() || st.LogBytes <= 0 {
		t.Errorf("%+v with %d locks", st, len(want))
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
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := open(t, dir)
			change(t, m)
			want := table(m, lock.Filter{})
			compatible(t, slices.DeleteFunc(slices.Clone(want), func(h lock.Held) bool { return h.File != file }))
			reopened(t, crashed(t, dir), m.Epoch(), want)
			mustClose(t, m)
			n := reopened(t, dir, m.Epoch(), want)
			// And they are held, by whom they were: kept from others, and
			// nobody else's to let go.
			for _, h := range want {
				stranger := smb("stranger")
				if !h.Range.IsEmpty() {
					if _, found := n.Test(lock.Request{File: h.File, Owner: stranger, Range: h.Range, Mode: x}); !found {
						t.Errorf("%+v is in nobody's way", h)
					}
				}
				if err := n.Unlock(bg, h.File, h.Owner, h.Range); err != nil {
					t.Errorf("%+v: %v", h, err)
				}
			}
			mustHold(t, n)
			mustClose(t, n)
			mustHold(t, reopened(t, dir, n.Epoch(), nil))
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
	mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{first, second})
	if second.Epoch <= first.Epoch || m.Epoch() <= second.Epoch {
		t.Errorf("%d, %d, now %d", first.Epoch, second.Epoch, m.Epoch())
	}
}

// IDs are never reused: of locks, of pieces that a split leaves, of waiters,
// whether granted or not, over several restarts.
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
		// What was held before this life has its ids still.
		for _, h := range old {
			if !slices.Contains(table(m, lock.Filter{}), h) {
				t.Errorf("%+v is gone or changed", h)
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
		mustRelease(t, 150)(m.ReleaseFile(bg, "f"))
		mustRelease(t, 25)(m.ReleaseOwner(bg, "g", lock.Owner{Client: "c0", ID: "i", Semantics: lock.SMB}))
		mustRelease(t, 125)(m.ReleaseClient(bg, "c0"))
		want := table(m, lock.Filter{})
		mustEqual(t, "locks", len(want), 150)
		mustClose(t, m)
		m = reopened(t, dir, m.Epoch(), want)
		mustRelease(t, 150)(m.ReleaseClient(bg, "c1"))
		mustEmpty(t, m)
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
			mustEqual(t, "the table", table(snap, lock.Filter{}), table(m, lock.Filter{}))
			a := posix("a")
			mustEqual(t, "a's locks", table(snap, lock.Filter{Owner: &a}), table(m, lock.Filter{Owner: &a}))
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
				mustEqual(rt, "the table", table(m, lock.Filter{}), before)
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
