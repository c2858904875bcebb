package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sneck"
	"sneck/lock"
)

// reclaims asks for what was held before the restart.
func reclaims(m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) (lock.Held, error) {
	req := ask(o, mode, r)
	req.Reclaim = true
	return m.TryLock(bg, req)
}

func mustReclaim(t tb, m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) lock.Held {
	t.Helper()
	h, err := reclaims(m, o, mode, r)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if h.Unconfirmed || h.Epoch != m.Epoch() {
		t.Fatalf("reclaimed in epoch %d: %+v", m.Epoch(), h)
	}
	return h
}

// begin opens the log with options.
func begin(t tb, dir string, change func(*sneck.Options)) *sneck.Manager {
	t.Helper()
	o := sneck.Options{Dir: dir}
	if change != nil {
		change(&o)
	}
	m, err := sneck.Open(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return m
}

// before is a log in which some hold something.
func before(t *testing.T, hold func(m *sneck.Manager)) (dir string) {
	dir = t.TempDir()
	m := begin(t, dir, nil)
	hold(m)
	mustClose(t, m)
	return dir
}

// graceIs fails unless the grace period is active, or not, with so much
// unconfirmed.
func graceIs(t tb, m *sneck.Manager, active bool, unconfirmed int) {
	t.Helper()
	if g := m.Grace(); g.Active != active || g.Unconfirmed != unconfirmed || g.Remaining > 0 != active {
		t.Fatalf("%+v, want active %v, unconfirmed %d", g, active, unconfirmed)
	}
}

// Grace: restored locks are unconfirmed holders; a new lock that provably cannot
// collide is granted at once, others get a GraceError with the holder and the time
// left.
func TestGraceSelective(t *testing.T) {
	a, b := posix("a"), posix("b")
	dir := before(t, func(m *sneck.Manager) { mustTry(t, m, a, x, span(0, 9)) })
	synctest.Test(t, func(t *testing.T) {
		m := begin(t, dir, func(o *sneck.Options) { o.GracePeriod = time.Minute })
		defer mustClose(t, m)
		graceIs(t, m, true, 1)
		if g := m.Grace(); !slices.Equal(g.Expected, []string{a.Client}) || len(g.Complete) != 0 {
			t.Errorf("%+v", g)
		}
		held := table(m, lock.Filter{})[0]
		if !held.Unconfirmed || held.Epoch != 1 {
			t.Errorf("%+v", held)
		}
		if h, found := m.Test(ask(b, s, span(0, 99))); !found || h != held {
			t.Errorf("Test: %v, %+v", found, h)
		}
		time.Sleep(20 * time.Second)
		var g *lock.GraceError
		_, err := m.TryLock(bg, ask(b, s, span(9, 12)))
		if !errors.As(err, &g) || g.Holder != held || g.Remaining != 40*time.Second {
			t.Errorf("%v: %+v", err, g)
		}
		_, err = m.TryLockAll(bg, []lock.Request{ask(b, s, span(20, 29)), ask(b, s, span(9, 12))})
		mustBe(t, err, lock.ErrGrace)
		mustTry(t, m, b, x, span(10, 19))
		other := ask(b, x, lock.WholeFile())
		other.File = "other"
		if _, err := m.TryLock(bg, other); err != nil {
			t.Error(err)
		}
		graceIs(t, m, true, 1)
	})
}

// StrictGrace refuses every new lock and open, and lets reclaims through;
// blocking requests wait it out in line.
func TestGraceStrict(t *testing.T) {
	a, b := posix("a"), smb("b")
	dir := before(t, func(m *sneck.Manager) { mustTry(t, m, a, x, span(0, 9)) })
	synctest.Test(t, func(t *testing.T) {
		m := begin(t, dir, func(o *sneck.Options) { o.StrictGrace = true })
		defer mustClose(t, m)
		var g *lock.GraceError
		if _, err := m.TryLock(bg, ask(b, s, span(50, 59))); !errors.As(err, &g) || g.Remaining != 90*time.Second {
			t.Errorf("%v", err)
		}
		mustBe(t, m.OpenShare(bg, share(b, lock.Read, 0)), lock.ErrGrace)
		w := lockIn(bg, m, b, s, span(50, 59))
		w.waits(t)
		first := lockIn(bg, m, a, s, span(100, 109))
		first.waits(t)
		ctx, cancel := context.WithCancel(bg)
		gone := lockIn(ctx, m, posix("c"), x, span(70, 79))
		gone.waits(t)
		cancel()
		gone.fails(t, context.Canceled)
		mustUnlock(t, m, a, span(5, 9)) // lets go, and lets nobody in
		w.waits(t)
		mustReclaim(t, m, a, x, span(0, 4))
		w.holds(t) // that was the last one
		first.holds(t)
		graceIs(t, m, false, 0)
		mustTry(t, m, b, s, span(60, 69))
		mustShare(t, m, b, lock.Read, 0)
	})
}

// Reclaim: only by the owner that held it, the same bytes or fewer, the same mode
// or a weaker one.
func TestReclaim(t *testing.T) {
	a, c := posix("a"), smb("c")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, a, s, span(10, 19))
		mustTry(t, m, c, x, span(100, 109))
		mustTry(t, m, c, s, span(100, 109))
		mustTry(t, m, c, s, span(200, 209))
	})
	for name, tc := range map[string]struct {
		o    lock.Owner
		mode lock.Mode
		r    lock.Range
		want error
	}{
		"same":                        {a, x, span(0, 9), nil},
		"weaker":                      {a, s, span(0, 9), nil},
		"some bytes":                  {a, x, span(3, 5), nil},
		"over two in the weaker mode": {a, s, span(5, 15), nil},
		"stronger":                    {a, x, span(10, 19), lock.ErrReclaimBad},
		"stronger in part":            {a, x, span(5, 15), lock.ErrReclaimBad},
		"more bytes":                  {a, s, span(10, 20), lock.ErrReclaimBad},
		"other bytes":                 {a, s, span(50, 59), lock.ErrReclaimBad},
		"another owner":               {posix("b"), x, span(0, 9), lock.ErrReclaimBad},
		"other semantics":             {ofd("a"), x, span(0, 9), lock.ErrReclaimBad},
		"SMB":                         {c, x, span(100, 109), nil},
		"SMB, the other of the stack": {c, s, span(100, 109), nil},
		"SMB, stronger":               {c, x, span(200, 209), lock.ErrReclaimBad},
		"SMB, some bytes":             {c, s, span(200, 205), lock.ErrReclaimBad},
	} {
		t.Run(name, func(t *testing.T) {
			m := begin(t, crashed(t, dir), nil)
			defer mustClose(t, m)
			was := table(m, lock.Filter{})
			h, err := reclaims(m, tc.o, tc.mode, tc.r)
			if tc.want != nil {
				mustBe(t, err, tc.want)
				mustEqual(t, "the table", table(m, lock.Filter{}), was)
				return
			}
			if err != nil || h.Range != tc.r || h.Mode != tc.mode || h.Unconfirmed || h.Epoch != m.Epoch() {
				t.Fatalf("%+v, %v", h, err)
			}
			for _, g := range table(m, lock.Filter{}) {
				if g.Unconfirmed != (g.ID != h.ID) {
					t.Errorf("%+v", g)
				}
			}
			again, err := reclaims(m, tc.o, tc.mode, tc.r) // the answer was lost
			if err != nil || again.Range != tc.r || again.ID != h.ID {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// One reclaimed lock does not make a whole client, nor a whole range, reclaimed;
// and the owner's own restored lock does not refuse it.
func TestReclaimInParts(t *testing.T) {
	a := posix("a")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, a, x, span(20, 29))
	})
	m := begin(t, dir, nil)
	mustReclaim(t, m, a, x, span(3, 5))
	graceIs(t, m, true, 3) // two pieces, and the other one
	mustReclaim(t, m, a, x, span(6, 9))
	mustReclaim(t, m, a, s, span(20, 29))
	graceIs(t, m, true, 1)
	mustTry(t, m, a, s, span(10, 12)) // next to what is reclaimed; a new one
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	graceIs(t, m, false, 0)
	if got := picture(t, m, a, 30); got != "...wwwwwwwrrr.......rrrrrrrrrr" {
		t.Errorf("%s", got)
	}
	mustClose(t, m)
	m = begin(t, dir, nil)
	if got := picture(t, m, a, 30); got != "...wwwwwwwrrr.......rrrrrrrrrr" {
		t.Errorf("after another restart %s", got)
	}
	mustClose(t, m)
}

// Grace ends when nothing is unconfirmed, when all expected clients are complete,
// by time, or by EndGrace; what is left is released, which is logged and wakes
// waiters; then reclaims are refused.
func TestGraceEnds(t *testing.T) {
	a, b, w := posix("a"), smb("b"), ofd("w")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, s, span(10, 19))
		mustShare(t, m, b, lock.Read, lock.Write)
	})
	for name, tc := range map[string]struct {
		end  func(t *testing.T, m *sneck.Manager)
		left int // locks of a and b
	}{
		"reclaimed": {func(t *testing.T, m *sneck.Manager) {
			mustReclaim(t, m, a, x, span(0, 9))
			mustReclaim(t, m, b, s, span(10, 19))
			graceIs(t, m, true, 1)
			again := share(b, lock.Read, lock.Write)
			again.Reclaim = true
			if err := m.OpenShare(bg, again); err != nil {
				t.Error(err)
			}
		}, 2},
		"released": {func(t *testing.T, m *sneck.Manager) {
			mustUnlock(t, m, a, span(0, 9))
			mustRelease(t, 1)(m.ReleaseOwner(bg, file, b))
		}, 0},
		"complete": {func(t *testing.T, m *sneck.Manager) {
			mustReclaim(t, m, a, x, span(0, 9))
			for _, o := range []lock.Owner{a, b} {
				graceIs(t, m, true, 2)
				if err := m.ReclaimComplete(bg, o.Client); err != nil {
					t.Error(err)
				}
			}
		}, 1},
		"time": {func(t *testing.T, m *sneck.Manager) {
			time.Sleep(90*time.Second - 1)
			synctest.Wait()
			graceIs(t, m, true, 3)
			time.Sleep(1)
		}, 0},
		"EndGrace": {func(t *testing.T, m *sneck.Manager) {
			if err := m.EndGrace(bg); err != nil {
				t.Error(err)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := crashed(t, dir)
			var left []lock.Held
			synctest.Test(t, func(t *testing.T) {
				m := begin(t, dir, nil)
				waits := lockIn(bg, m, w, x, span(5, 5))
				waits.waits(t)
				other := lockIn(bg, m, w, s, span(12, 12)) // of the same owner, next to nothing that excludes it
				other.holds(t)
				tc.end(t, m)
				synctest.Wait()
				graceIs(t, m, false, 0)
				if tc.left == 2 || name == "complete" {
					waits.waits(t)
					mustUnlock(t, m, a, span(0, 9))
				}
				waits.holds(t)
				_, err := reclaims(m, a, x, span(0, 4))
				mustBe(t, err, lock.ErrNoGrace)
				if err := m.ReclaimComplete(bg, a.Client); err != nil {
					t.Error(err)
				}
				if err := m.EndGrace(bg); err != nil {
					t.Error(err)
				}
				left = table(m, lock.Filter{})
				mustClose(t, m)
			})
			m := begin(t, dir, nil)
			for i := range left {
				left[i].Unconfirmed = true
			}
			mustEqual(t, "after another restart", table(m, lock.Filter{}), left)
			mustClose(t, m)
		})
	}
}

// After ReclaimComplete a client reclaims nothing any more.
func TestReclaimAfterComplete(t *testing.T) {
	a, b := posix("a"), posix("b")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, a, x, span(20, 29))
		mustTry(t, m, b, x, span(40, 49))
	})
	m := begin(t, dir, nil)
	defer mustClose(t, m)
	mustReclaim(t, m, a, x, span(0, 9))
	if err := m.ReclaimComplete(bg, a.Client); err != nil {
		t.Fatal(err)
	}
	_, err := reclaims(m, a, x, span(20, 29))
	mustBe(t, err, lock.ErrReclaimBad)
	mustReclaim(t, m, b, x, span(40, 49))
	if g := m.Grace(); !slices.Equal(g.Complete, []string{a.Client}) || !slices.Equal(g.Expected, []string{a.Client, b.Client}) {
		t.Errorf("%+v", g)
	}
}

// The edge cases of RFC 8881 8.4.3: a client that has lost its lock, to time or at
// the end of a grace period that it missed, does not get it back after a further
// restart, whoever had it meanwhile.
func TestReclaimEdgeCases(t *testing.T) {
	a, b := posix("a"), posix("b")
	t.Run("lost to its lease", func(t *testing.T) {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			m := begin(t, dir, nil)
			if err := m.Connect(bg, lock.Client{ID: a.Client, Adapter: "nfs4", TTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
			mustTry(t, m, a, x, span(0, 9))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			mustTry(t, m, b, x, span(0, 9))
			mustUnlock(t, m, b, span(0, 9))
			mustClose(t, m)
		})
		m := begin(t, dir, nil)
		_, err := reclaims(m, a, x, span(0, 9))
		mustBe(t, err, lock.ErrNoGrace) // nothing is left to be reclaimed by anybody
		mustClose(t, m)
	})
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("lost to a grace period that it missed, crash ", crash), func(t *testing.T) {
			dir := before(t, func(m *sneck.Manager) {
				mustTry(t, m, a, x, span(0, 9))
				mustTry(t, m, b, x, span(20, 29))
			})
			m := begin(t, dir, nil) // the first restart
			mustReclaim(t, m, b, x, span(20, 29))
			if err := m.EndGrace(bg); err != nil {
				t.Fatal(err)
			}
			mustTry(t, m, b, x, span(0, 9))
			mustUnlock(t, m, b, span(0, 9))
			if crash {
				dir = crashed(t, dir)
			}
			mustClose(t, m)
			m = begin(t, dir, nil) // the second
			_, err := reclaims(m, a, x, span(0, 9))
			mustBe(t, err, lock.ErrReclaimBad)
			mustReclaim(t, m, b, x, span(20, 29))
			mustClose(t, m)
			m = begin(t, dir, nil) // the third
			_, err = reclaims(m, a, x, span(0, 9))
			mustBe(t, err, lock.ErrReclaimBad)
			mustClose(t, m)
		})
	}
}

// A crash inside grace starts a new one, which knows what the first did not
// settle: what was not reclaimed may still be, and what was must be again.
func TestCrashInGrace(t *testing.T) {
	a, b := posix("a"), smb("b")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, x, span(20, 29))
		mustShare(t, m, b, lock.Read|lock.Write, lock.Write)
	})
	for life := range 3 {
		m := begin(t, dir, nil)
		graceIs(t, m, true, 3)
		mustReclaim(t, m, a, x, span(0, 9))
		some := share(b, lock.Read, 0)
		some.Reclaim = true
		if err := m.OpenShare(bg, some); err != nil {
			t.Fatal(err)
		}
		graceIs(t, m, true, 2) // the rest of the share is still open
		more := share(b, lock.Delete, 0)
		more.Reclaim = true
		mustBe(t, m.OpenShare(bg, more), lock.ErrReclaimBad)
		mustBe(t, m.OpenShare(bg, share(posix("c"), lock.Write, 0)), lock.ErrGrace)
		if life == 1 {
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
		}
		dir = crashed(t, dir)
		mustClose(t, m)
	}
	m := begin(t, dir, nil)
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	mustEmpty(t, m)
	if len(shares(m)) != 0 {
		t.Errorf("%+v", shares(m))
	}
	mustClose(t, m)
}

// At the end of grace the part of a share reservation that was reclaimed stays.
func TestShareReclaimedInPart(t *testing.T) {
	b := smb("b")
	dir := before(t, func(m *sneck.Manager) { mustShare(t, m, b, lock.Read|lock.Write, lock.Read|lock.Write) })
	m := begin(t, dir, nil)
	some := share(b, lock.Read, lock.Write)
	some.Reclaim = true
	if err := m.OpenShare(bg, some); err != nil {
		t.Fatal(err)
	}
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	want := []lock.Share{share(b, lock.Read, lock.Write)}
	mustEqual(t, "the shares", shares(m), want)
	mustShare(t, m, posix("c"), lock.Read, 0)
	want = append(want, share(posix("c"), lock.Read, 0))
	mustClose(t, m)
	m = begin(t, dir, nil)
	mustEqual(t, "the shares after another restart", shares(m), want)
	mustClose(t, m)
}

// Without a grace period what was held is released at Open, for good.
func TestNoGrace(t *testing.T) {
	a := posix("a")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustShare(t, m, a, lock.Read, 0)
	})
	m := begin(t, dir, func(o *sneck.Options) { o.GracePeriod = -1 })
	graceIs(t, m, false, 0)
	mustEmpty(t, m)
	_, err := reclaims(m, a, x, span(0, 9))
	mustBe(t, err, lock.ErrNoGrace)
	mustTry(t, m, posix("b"), x, span(0, 9))
	mustClose(t, m)
	m = begin(t, dir, nil)
	mustHold(t, m, fact{file, posix("b"), span(0, 9), x})
	mustClose(t, m)
	// Nor is there one where nothing was held, or in memory.
	m = begin(t, t.TempDir(), nil)
	graceIs(t, m, false, 0)
	mustClose(t, m)
	m = mustOpen(t, "")
	graceIs(t, m, false, 0)
	_, err = reclaims(m, a, x, span(0, 9))
	mustBe(t, err, lock.ErrNoGrace)
	mustClose(t, m)
}

// A client that has lost what it held is not waited for: grace ends without it.
func TestGraceWithoutTheLost(t *testing.T) {
	a, b := posix("a"), posix("b")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, x, span(20, 29))
	})
	for name, lose := range map[string]func(m *sneck.Manager) error{
		"Disconnect":    func(m *sneck.Manager) error { return m.Disconnect(bg, b.Client) },
		"ReleaseClient": func(m *sneck.Manager) error { _, err := m.ReleaseClient(bg, b.Client); return err },
	} {
		t.Run(name, func(t *testing.T) {
			m := begin(t, crashed(t, dir), nil)
			defer mustClose(t, m)
			mustConnect(t, m, lock.Client{ID: b.Client, Adapter: "smb"})
			mustBe(t, lose(m), nil)
			graceIs(t, m, true, 1)
			mustBe(t, m.ReclaimComplete(bg, a.Client), nil)
			graceIs(t, m, false, 0)
			mustEmpty(t, m)
		})
	}
}
