package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/lock"
	"sneck/shard"
)

// These tests are of the rules of docs/semantics.md for which the tests by topic,
// in the other files, have nothing, or nothing direct.

// Each shrink, downgrade, unlock, release, revoke, cancel and expiry, and whatever
// else takes something from a holder or somebody out of the line, runs the same
// hand-over: who can go then holds his lock when the call returns.
func TestRuleEveryPathHandsOver(t *testing.T) {
	a, v, w := posix("a"), posix("v"), ofd("w")
	// What w waits for: a's lock, or v, who stands in line for a's lock.
	behindA := func(t *testing.T, m *sneck.Manager) { mustTry(t, m, a, x, span(0, 9)) }
	behindV := func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, a, s, span(0, 9))
		lockIn(bg, m, v, x, span(0, 9)).waits(t)
	}
	connected := func(o lock.Owner, ttl time.Duration, then func(*testing.T, *sneck.Manager)) func(*testing.T, *sneck.Manager) {
		return func(t *testing.T, m *sneck.Manager) {
			mustConnect(t, m, client(o, ttl))
			then(t, m)
		}
	}
	upgrading := func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, a, s, span(0, 9))
		mustTry(t, m, v, s, span(0, 9))
		upgradeIn(bg, m, v, span(0, 9)).waits(t)
	}
	silence := func(*testing.T, *sneck.Manager) {
		time.Sleep(time.Minute)
		synctest.Wait()
	}
	revoke := func(o lock.Owner) func(*testing.T, *sneck.Manager) {
		return func(t *testing.T, m *sneck.Manager) {
			mustBe(t, m.Revoke(bg, table(m, lock.Filter{Owner: &o})[0].ID, "test"), nil)
		}
	}
	disconnect := func(o lock.Owner) func(*testing.T, *sneck.Manager) {
		return func(t *testing.T, m *sneck.Manager) { mustBe(t, m.Disconnect(bg, o.Client), nil) }
	}
	releaseClient := func(o lock.Owner, n int) func(*testing.T, *sneck.Manager) {
		return func(t *testing.T, m *sneck.Manager) { mustRelease(t, n)(m.ReleaseClient(bg, o.Client)) }
	}
	for name, tc := range map[string]struct {
		hold, free func(*testing.T, *sneck.Manager)
	}{
		"unlock":              {behindA, func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(0, 9)) }},
		"shrink at the head":  {behindA, func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(0, 6)) }},
		"shrink at the tail":  {behindA, func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(4, 9)) }},
		"split":               {behindA, func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(4, 6)) }},
		"downgrade":           {behindA, func(t *testing.T, m *sneck.Manager) { mustTry(t, m, a, s, span(0, 9)) }},
		"downgrade of a part": {behindA, func(t *testing.T, m *sneck.Manager) { mustTry(t, m, a, s, span(4, 6)) }},
		"downgrade by Lock": {behindA, func(t *testing.T, m *sneck.Manager) {
			if _, err := m.Lock(bg, ask(a, s, span(2, 8))); err != nil {
				t.Fatal(err)
			}
		}},
		"downgrade by Enqueue": {behindA, func(t *testing.T, m *sneck.Manager) { enqueue(t, m, a, s, span(2, 8)).holds(t) }},
		"downgrade by TryLockAll": {behindA, func(t *testing.T, m *sneck.Manager) {
			if _, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(2, 8))}); err != nil {
				t.Fatal(err)
			}
		}},
		"ReleaseOwner":               {behindA, func(t *testing.T, m *sneck.Manager) { mustRelease(t, 1)(m.ReleaseOwner(bg, file, a)) }},
		"ReleaseClient":              {behindA, releaseClient(a, 1)},
		"ReleaseClient of connected": {connected(a, time.Minute, behindA), releaseClient(a, 1)},
		"Revoke":                     {behindA, revoke(a)},
		"Disconnect":                 {connected(a, 0, behindA), disconnect(a)},
		"silence":                    {connected(a, time.Minute, behindA), silence},
		"Disconnect, and silence": {connected(a, time.Minute, behindA), func(t *testing.T, m *sneck.Manager) {
			disconnect(a)(t, m)
			silence(t, m)
		}},

		"Cancel in line": {behindV, func(t *testing.T, m *sneck.Manager) {
			if !m.Cancel(slices.Collect(m.Waiters(lock.Filter{Owner: &v}))[0].ID) {
				t.Fatal("v is not in line")
			}
		}},
		"end of a context in line": {func(t *testing.T, m *sneck.Manager) {
			mustTry(t, m, a, s, span(0, 9))
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			t.Cleanup(cancel)
			lockIn(ctx, m, v, x, span(0, 9)).waits(t)
		}, silence},
		"ReleaseOwner in line":  {behindV, func(t *testing.T, m *sneck.Manager) { mustRelease(t, 0)(m.ReleaseOwner(bg, file, v)) }},
		"ReleaseClient in line": {behindV, releaseClient(v, 0)},
		"Disconnect in line":    {connected(v, 0, behindV), disconnect(v)},
		"silence in line":       {connected(v, time.Minute, behindV), silence},
		// v's wait is the youngest of the cycle, though the last to be part of it.
		"refused for a deadlock": {func(t *testing.T, m *sneck.Manager) {
			mustLockOn(t, m, on("other", posix("h"), s, span(0, 9)))
			mustTry(t, m, a, s, span(0, 9))
			lockOn(m, on("other", a, x, span(0, 9))).waits(t)
			lockIn(bg, m, v, x, span(0, 9)).waits(t)
		}, func(t *testing.T, m *sneck.Manager) { mustLockOn(t, m, on("other", v, s, span(0, 9))) }},
		"upgrade over for an unlock": {upgrading, func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, v, span(0, 0)) }},
		"upgrade over for a Revoke":  {upgrading, revoke(v)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				tc.hold(t, m)
				c := lockIn(bg, m, w, s, span(4, 6))
				c.waits(t)
				tc.free(t, m)
				// Now, not some time later.
				mustEqual(t, "what w has", facts(table(m, lock.Filter{Owner: &w})), []fact{{file, w, span(4, 6), s}})
				c.holds(t)
				if ws := slices.Collect(m.Waiters(lock.Filter{File: file})); len(ws) > 0 {
					t.Errorf("still in line: %+v", ws)
				}
				compatible(t, table(m, lock.Filter{File: file}))
			})
		})
	}
}

// A reclaim in a weaker mode is a downgrade, and hands over as any other; so does
// a lock that was restored and is unlocked, released or revoked.
func TestRuleRestoredLocksHandOver(t *testing.T) {
	a, w := posix("a"), smb("w")
	dir := before(t, func(m *sneck.Manager) { mustTry(t, m, a, x, span(0, 9)) })
	for name, free := range map[string]func(t *testing.T, m *sneck.Manager){
		"reclaim, weaker":         func(t *testing.T, m *sneck.Manager) { mustReclaim(t, m, a, s, span(0, 9)) },
		"reclaim, weaker, a part": func(t *testing.T, m *sneck.Manager) { mustReclaim(t, m, a, s, span(3, 7)) },
		"unlock":                  func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(4, 6)) },
		"ReleaseOwner":            func(t *testing.T, m *sneck.Manager) { mustRelease(t, 1)(m.ReleaseOwner(bg, file, a)) },
		"ReleaseClient":           func(t *testing.T, m *sneck.Manager) { mustRelease(t, 1)(m.ReleaseClient(bg, a.Client)) },
		"Revoke": func(t *testing.T, m *sneck.Manager) {
			mustBe(t, m.Revoke(bg, table(m, lock.Filter{})[0].ID, "test"), nil)
		},
		"a new lock, weaker":        func(t *testing.T, m *sneck.Manager) { mustTry(t, m, a, s, span(0, 9)) },
		"the end of grace":          func(t *testing.T, m *sneck.Manager) { mustBe(t, m.EndGrace(bg), nil) },
		"the last ReclaimComplete":  func(t *testing.T, m *sneck.Manager) { mustBe(t, m.ReclaimComplete(bg, a.Client), nil) },
		"the time of grace is over": func(*testing.T, *sneck.Manager) { time.Sleep(90 * time.Second); synctest.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := crashed(t, dir)
			synctest.Test(t, func(t *testing.T) {
				m := begin(t, dir, nil)
				c := lockIn(bg, m, w, s, span(4, 6))
				c.waits(t)
				free(t, m)
				mustEqual(t, "what w has", facts(table(m, lock.Filter{Owner: &w})), []fact{{file, w, span(4, 6), s}})
				c.holds(t)
				mustClose(t, m)
			})
		})
	}
}

// late is the session of a request that comes late: it is over by the time at
// which the request has been carried out. then is what happens in between.
type late struct {
	done func() bool // the request has been carried out
	then func()
}

func (l *late) Over() bool {
	if !l.done() {
		return false
	}
	if f := l.then; f != nil {
		l.then = nil
		f()
	}
	return true
}

// A request in flight while its client is released does not leave a lock behind,
// nor a waiter, nor a share reservation; and whom it kept out meanwhile is let in.
func TestRuleLateRequestLeavesNothing(t *testing.T) {
	o, h, w := posix("late"), posix("holder"), smb("w")
	told := func(tb *shard.Table, s shard.Session) error {
		c := new(call)
		if _, err := tb.Enqueue(ask(o, x, span(0, 9)), s, c.end); err != nil {
			return err
		}
		if synctest.Wait(); !c.ended.Load() {
			return errors.New("it still waits")
		}
		return c.err
	}
	waits := func(tb *shard.Table, s shard.Session) error {
		ctx, cancel := context.WithTimeout(bg, time.Minute)
		defer cancel()
		_, err := tb.Lock(ctx, ask(o, x, span(0, 9)), false, s)
		return err
	}
	for name, tc := range map[string]struct {
		held bool // h has a shared lock on the bytes
		call func(tb *shard.Table, s shard.Session) error
	}{
		"TryLock": {false, func(tb *shard.Table, s shard.Session) error {
			_, err := tb.TryLock(ask(o, x, span(0, 9)), s)
			return err
		}},
		"TryLockAll": {false, func(tb *shard.Table, s shard.Session) error {
			_, err := tb.TryLockAll([]lock.Request{ask(o, x, span(0, 4)), ask(o, x, span(10, 14))}, func(string) shard.Session { return s })
			return err
		}},
		"Lock":            {false, waits},
		"Enqueue":         {false, told},
		"Lock in line":    {true, waits},
		"Enqueue in line": {true, told},
		"OpenShare":       {true, func(tb *shard.Table, s shard.Session) error { return tb.OpenShare(share(o, lock.Read, lock.Write), s) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb := shard.New(1)
				tb.Begin(1, nil)
				defer tb.Fail(lock.ErrClosed)
				var want []fact
				if tc.held {
					if _, err := tb.TryLock(ask(h, s, span(0, 9)), nil); err != nil {
						t.Fatal(err)
					}
					want = append(want, fact{file, h, span(0, 9), s})
				}
				var granted call
				err := tc.call(tb, &late{func() bool {
					st := tb.Stats()
					return st.Waiters+st.Locks+st.Shares > len(want)
				}, func() {
					if _, err := tb.Enqueue(ask(w, s, span(0, 9)), nil, granted.end); err != nil {
						t.Error(err)
					}
				}})
				mustBe(t, err, lock.ErrUnknownClient)
				granted.holds(t)
				want = append(want, fact{file, w, span(0, 9), s})
				slices.SortFunc(want, compareFacts)
				mustEqual(t, "the table", facts(table(tb, lock.Filter{})), want)
				if st := tb.Stats(); st.Waiters != 0 || st.Shares != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// An upgrade that is refused for a deadlock over several files keeps its lock too.
func TestRuleDeadlockedUpgradeKeepsItsLock(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		mustLockOn(t, m, on("other", b, x, span(0, 9)))
		mustTry(t, m, a, s, span(5, 5))
		draw(t, m, b, "rrrrrrrrrr")
		w := lockOn(m, on("other", a, x, span(0, 0)))
		w.waits(t)
		before := table(m, lock.Filter{})
		up := upgradeIn(bg, m, b, span(3, 6)) // for a, who waits for b
		up.fails(t, lock.ErrDeadlock)
		mustEqual(t, "the table", table(m, lock.Filter{}), before)
		w.waits(t)
	})
}

// Who waits for whom is asked of what is held now. An edge that has gone, in
// whatever way, is part of no cycle: nobody is refused for it.
func TestRuleNoStaleEdges(t *testing.T) {
	a, b := posix("a"), posix("b")
	for name, end := range map[string]func(t *testing.T, m *sneck.Manager, cancel func()){
		"Cancel": func(t *testing.T, m *sneck.Manager, _ func()) {
			if !m.Cancel(slices.Collect(m.Waiters(lock.Filter{Owner: &a}))[0].ID) {
				t.Fatal("not in line")
			}
		},
		"context": func(_ *testing.T, _ *sneck.Manager, cancel func()) { cancel(); synctest.Wait() },
		"release of the waiter": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustRelease(t, 0)(m.ReleaseOwner(bg, "g", a))
		},
		"unlock": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustBe(t, m.Unlock(bg, "g", b, span(0, 9)), nil)
		},
		"unlock of a part": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustBe(t, m.Unlock(bg, "g", b, span(4, 6)), nil)
		},
		"downgrade": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustLockOn(t, m, on("g", b, s, span(0, 9)))
		},
		"release of the holder": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustRelease(t, 1)(m.ReleaseClient(bg, b.Client))
		},
		"release of the file": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustRelease(t, 1)(m.ReleaseFile(bg, "g"))
		},
		"Revoke": func(t *testing.T, m *sneck.Manager, _ func()) {
			mustBe(t, m.Revoke(bg, table(m, lock.Filter{File: "g"})[0].ID, "test"), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				mustLockOn(t, m, on("f", a, x, span(0, 9)))
				mustLockOn(t, m, on("g", b, x, span(0, 9)))
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				start(func() (lock.Held, error) { return m.Lock(ctx, on("g", a, s, span(4, 6))) }).waits(t)
				end(t, m, cancel)
				w := lockOn(m, on("f", b, x, span(5, 5)))
				w.waits(t) // for a, who waits for nobody
				mustBe(t, m.Unlock(bg, "f", a, span(0, 9)), nil)
				w.holds(t)
			})
		})
	}
}

// And an edge that is there only since a while is seen: whoever waits for some
// bytes waits for who has got them meanwhile, and for who still has some of them.
func TestRuleNewEdgesAreSeen(t *testing.T) {
	a, b, h := posix("a"), posix("b"), ofd("h")
	for name, tc := range map[string]struct {
		before, change func(t *testing.T, m *sneck.Manager)
	}{
		"by TryLock": {nil, func(t *testing.T, m *sneck.Manager) {
			mustLockOn(t, m, on("g", b, s, span(0, 9)))
		}},
		"by TryLockAll": {nil, func(t *testing.T, m *sneck.Manager) {
			if _, err := m.TryLockAll(bg, []lock.Request{on("g", b, s, span(0, 9))}); err != nil {
				t.Fatal(err)
			}
		}},
		"by a grant": {func(t *testing.T, m *sneck.Manager) {
			mustLockOn(t, m, on("g", h, x, span(20, 20)))
			lockOn(m, on("g", b, s, span(8, 20))).waits(t)
		}, func(t *testing.T, m *sneck.Manager) {
			mustBe(t, m.Unlock(bg, "g", h, span(20, 20)), nil)
			if !m.HasOwner("g", b) {
				t.Fatal("b was not granted")
			}
		}},
		"what is left of a larger lock": {nil, func(t *testing.T, m *sneck.Manager) {
			mustLockOn(t, m, on("g", b, s, span(0, 99)))
			mustBe(t, m.Unlock(bg, "g", b, span(0, 8)), nil)
			mustBe(t, m.Unlock(bg, "g", b, span(10, 99)), nil)
		}},
		"in a weaker mode that is still in the way": {nil, func(t *testing.T, m *sneck.Manager) {
			mustLockOn(t, m, on("g", b, x, span(100, 109)))
			mustLockOn(t, m, on("g", b, s, span(0, 105)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				mustLockOn(t, m, on("f", a, x, span(0, 9)))
				mustLockOn(t, m, on("g", h, s, span(0, 9)))
				if tc.before != nil {
					tc.before(t, m)
				}
				w := lockOn(m, on("g", a, x, span(0, 9))) // for h
				w.waits(t)
				tc.change(t, m) // for b too
				mustBe(t, m.Unlock(bg, "g", h, span(0, 9)), nil)
				w.waits(t)
				_, err := m.Lock(bg, on("f", b, x, span(5, 5)))
				mustBe(t, err, lock.ErrDeadlock)
				mustBe(t, m.Unlock(bg, "g", b, lock.WholeFile()), nil)
				w.holds(t)
			})
		})
	}
}

// A grant to somebody in line, who waits for something else, may close a cycle: who
// waited for his turn waits for him now. It is when the youngest of them is refused.
func TestRuleGrantInLineClosesACycle(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		o, p, q := posix("o"), posix("p"), posix("q")
		mustLockOn(t, m, on("x", p, x, span(0, 9)))
		mustLockOn(t, m, on("z", q, x, span(0, 9)))
		granted := lockOn(m, on("z", o, s, span(0, 9)))
		behind := lockOn(m, on("z", p, x, span(0, 9))) // for q, and o's turn
		youngest := lockOn(m, on("x", o, x, span(5, 5)))
		for _, c := range []*call{granted, behind, youngest} {
			c.waits(t)
		}
		mustBe(t, m.Unlock(bg, "z", q, span(0, 9)), nil)
		granted.holds(t)
		youngest.fails(t, lock.ErrDeadlock)
		behind.waits(t)
		mustRelease(t, 1)(m.ReleaseOwner(bg, "z", o))
		behind.holds(t)
	})
}

// What an answer says is the caller's, and so is what he has asked with: to write
// to it changes neither the table, nor the line, nor the log.
func TestRuleAnswersAreTheCallers(t *testing.T) {
	a, b, c := posix("a"), posix("b"), smb("c")
	scribble := func(owners []lock.Owner) {
		for i := range owners {
			owners[i] = ofd("scribbled")
		}
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		// The record of a change is encoded some time after the call has returned.
		m := begin(t, dir, func(o *sneck.Options) { o.Durability, o.SyncInterval = sneck.Interval, time.Hour })
		mustShare(t, m, c, lock.Read, lock.Write)
		mustLockOn(t, m, on("f", a, x, span(0, 9)))
		mustLockOn(t, m, on("g", b, x, span(0, 9)))
		w := lockOn(m, on("g", a, x, span(0, 0)))
		rs := []lock.Request{ask(a, x, span(0, 9)), ask(b, x, span(10, 19))}
		hs, err := m.TryLockAll(bg, rs)
		if err != nil {
			t.Fatal(err)
		}
		held, reserved, line := table(m, lock.Filter{}), shares(m), slices.Collect(m.Waiters(lock.Filter{}))

		for i := range rs {
			rs[i], hs[i] = ask(ofd("scribbled"), s, span(7, 7)), lock.Held{}
		}
		var conflict *lock.ConflictError
		if err := m.OpenShare(bg, share(a, lock.Write, 0)); !errors.As(err, &conflict) || conflict.ShareHolder == nil {
			t.Fatal(err)
		}
		*conflict.ShareHolder = lock.Share{}
		for q := range m.Waiters(lock.Filter{}) {
			scribble(q.Blockers)
		}
		_, err = m.Lock(bg, on("f", b, x, span(5, 5)))
		var dead *lock.DeadlockError
		if !errors.As(err, &dead) {
			t.Fatal(err)
		}
		scribble(dead.Cycle)

		mustEqual(t, "the table", table(m, lock.Filter{}), held)
		mustEqual(t, "the shares", shares(m), reserved)
		mustEqual(t, "the line", slices.Collect(m.Waiters(lock.Filter{})), line)
		w.waits(t)
		mustClose(t, m)
		m = begin(t, dir, nil)
		mustEqual(t, "the table after a restart", table(m, lock.Filter{}), marked(held, true))
		mustEqual(t, "the shares after a restart", shares(m), reserved)
		mustBe(t, m.ReclaimComplete(bg, a.Client), nil)
		g := m.Grace()
		for _, names := range [][]string{g.Expected, g.Complete} {
			for i := range names {
				names[i] = "scribbled"
			}
		}
		if g := m.Grace(); !slices.Equal(g.Expected, []string{a.Client, b.Client, c.Client}) || !slices.Equal(g.Complete, []string{a.Client}) {
			t.Errorf("%+v", g)
		}
		mustClose(t, m)
	})
}

// Share reservations: denied iff newAccess∩oldDeny or newDeny∩oldAccess is not
// empty, for different owners, of whatever semantics: the same client and ID under
// other semantics is another owner. What is refused changes nothing, also of an
// owner that has opened the file before.
func TestRuleSharesOfEverySemantics(t *testing.T) {
	m := memory(t)
	for _, hs := range allSemantics {
		for _, as := range allSemantics {
			holder, asker := owner(hs, "a"), owner(as, "a")
			for n := range 1 << 12 {
				a1, d1, a2, d2 := lock.Access(n&7), lock.Access(n>>3&7), lock.Access(n>>6&7), lock.Access(n>>9&7)
				mustShare(t, m, holder, a1, d1)
				want := []lock.Share{share(holder, a1, d1)}
				if hs != as {
					mustShare(t, m, asker, 0, 0)
					want = append(want, share(asker, 0, 0))
				}
				err := m.OpenShare(bg, share(asker, a2, d2))
				switch denied := hs != as && (a2&d1 != 0 || d2&a1 != 0); {
				case denied:
					mustBe(t, err, lock.ErrConflict)
				case err != nil:
					t.Fatalf("%s has %v and denies %v, %s wants %v and to deny %v: %v", holder, a1, d1, asker, a2, d2, err)
				case hs == as:
					want[0].Access, want[0].Deny = a1|a2, d1|d2
				default:
					want[1].Access, want[1].Deny = a2, d2
				}
				if got := slices.Collect(m.Shares(lock.Filter{File: file})); !slices.Equal(got, want) {
					t.Fatalf("the shares are %v, want %v", got, want)
				}
				if _, err := m.ReleaseFile(bg, file); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	mustEmpty(t, m)
}

// No lock call looks at share modes, and no open looks at locks.
func TestRuleLocksDoNotMindShares(t *testing.T) {
	all := lock.Read | lock.Write | lock.Delete
	for _, sem := range allSemantics {
		for name, call := range map[string]func(t *testing.T, m *sneck.Manager, o lock.Owner){
			"TryLock": func(t *testing.T, m *sneck.Manager, o lock.Owner) { mustTry(t, m, o, x, span(0, 9)) },
			"TryLockAll": func(t *testing.T, m *sneck.Manager, o lock.Owner) {
				_, err := m.TryLockAll(bg, []lock.Request{ask(o, x, span(0, 9))})
				mustBe(t, err, nil)
			},
			"Lock":    func(t *testing.T, m *sneck.Manager, o lock.Owner) { lockIn(bg, m, o, x, span(0, 9)).holds(t) },
			"Enqueue": func(t *testing.T, m *sneck.Manager, o lock.Owner) { enqueue(t, m, o, x, span(0, 9)).holds(t) },
			"Upgrade": func(t *testing.T, m *sneck.Manager, o lock.Owner) {
				mustTry(t, m, o, s, span(0, 9))
				if o.Semantics != lock.SMB {
					upgradeIn(bg, m, o, span(0, 9)).holds(t)
				}
			},
		} {
			t.Run(fmt.Sprint(sem, "/", name), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *sneck.Manager) {
					a, b := smb("a"), owner(sem, "b")
					mustShare(t, m, a, all, all)
					call(t, m, b)
					mustShare(t, m, b, 0, 0)
					mustBe(t, m.CloseShare(bg, file, a), nil)
					mustShare(t, m, ofd("c"), all, 0) // b's lock is in nobody's way
				})
			})
		}
	}
}

// An owner is found again after a restart by its client, ID and semantics, and by
// nothing that may be another one then: not its process id, nor the name of the
// share. Every call that locks can reclaim, and does not wait.
func TestRuleReclaimByEveryCall(t *testing.T) {
	a, b, c := posix("a"), ofd("b"), smb("c")
	dir := before(t, func(m *sneck.Manager) {
		for i, o := range []lock.Owner{a, b, c} {
			o.Share, o.PID = "share before", uint32(100+i)
			for _, first := range []uint64{0, 1000, 2000, 3000, 4000} {
				mustTry(t, m, o, x, span(first+uint64(100*i), first+uint64(100*i)+9))
			}
			mustShare(t, m, o, lock.Read, lock.Delete)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := begin(t, dir, nil)
		unconfirmed := 18
		for i, o := range []lock.Owner{a, b, c} {
			o.Share, o.PID = "share after", uint32(7+i)
			req := func(n int) lock.Request {
				r := ask(o, x, span(uint64(1000*n+100*i), uint64(1000*n+100*i+9)))
				r.Reclaim = true
				return r
			}
			settles := func(n int, err error) {
				t.Helper()
				mustBe(t, err, nil)
				synctest.Wait()
				unconfirmed -= n
				graceIs(t, m, unconfirmed > 0, unconfirmed)
			}
			_, err := m.TryLock(bg, req(0))
			settles(1, err)
			hs, err := m.TryLockAll(bg, []lock.Request{req(1), req(2)})
			settles(2, err)
			for _, h := range hs {
				if h.Owner != o || h.Epoch != m.Epoch() || h.Unconfirmed {
					t.Errorf("%+v", h)
				}
			}
			_, err = m.Lock(bg, req(3))
			settles(1, err)
			got := make(chan lock.Held, 1)
			id, err := m.Enqueue(req(4), func(h lock.Held, err error) {
				if err != nil {
					t.Error(err)
				}
				got <- h
			})
			settles(1, err)
			if h := <-got; h.ID != id || h.Range != req(4).Range || h.Owner != o {
				t.Errorf("%d is %+v", id, h)
			}
			sh := share(o, lock.Read, lock.Delete)
			sh.Reclaim = true
			settles(1, m.OpenShare(bg, sh))
			for _, h := range table(m, lock.Filter{Owner: &o}) {
				if h.Owner != o {
					t.Errorf("%+v is displayed as before", h)
				}
			}
		}
		mustClose(t, m)
	})
}

// A reclaim is of what is still held: what was unlocked, released or revoked since
// the restart cannot be reclaimed, and whoever has it meanwhile keeps it. Of a
// batch with one bad part nothing is reclaimed.
func TestRuleReclaimOfWhatIsGone(t *testing.T) {
	a, b := posix("a"), smb("b")
	dir := before(t, func(m *sneck.Manager) {
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, a, x, span(20, 29))
		mustTry(t, m, b, x, span(40, 49))
		mustShare(t, m, a, lock.Read, 0)
	})
	for name, lose := range map[string]func(t *testing.T, m *sneck.Manager){
		"unlocked":         func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(0, 9)) },
		"unlocked in part": func(t *testing.T, m *sneck.Manager) { mustUnlock(t, m, a, span(9, 9)) },
		"released":         func(t *testing.T, m *sneck.Manager) { mustRelease(t, 2)(m.ReleaseOwner(bg, file, a)) },
		"client released":  func(t *testing.T, m *sneck.Manager) { mustRelease(t, 2)(m.ReleaseClient(bg, a.Client)) },
		"file released":    func(t *testing.T, m *sneck.Manager) { mustRelease(t, 3)(m.ReleaseFile(bg, file)) },
		"revoked": func(t *testing.T, m *sneck.Manager) {
			mustBe(t, m.Revoke(bg, table(m, lock.Filter{Owner: &a})[0].ID, "test"), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := begin(t, crashed(t, dir), nil)
			defer mustClose(t, m)
			lose(t, m)
			_, err := reclaims(m, a, x, span(0, 9))
			if m.Grace().Active {
				mustBe(t, err, lock.ErrReclaimBad)
			}
			h := mustTry(t, m, ofd("c"), x, span(9, 9))
			for _, mode := range []lock.Mode{s, x} {
				if got, err := reclaims(m, a, mode, span(0, 9)); err == nil {
					t.Fatalf("got %+v", got)
				}
			}
			o := ofd("c")
			mustEqual(t, "c's lock", table(m, lock.Filter{Owner: &o}), []lock.Held{h})
		})
	}

	m := begin(t, crashed(t, dir), nil)
	defer mustClose(t, m)
	good, bad := ask(a, x, span(0, 9)), ask(a, x, span(20, 30))
	good.Reclaim, bad.Reclaim = true, true
	was := table(m, lock.Filter{})
	_, err := m.TryLockAll(bg, []lock.Request{good, bad})
	mustBe(t, err, lock.ErrReclaimBad)
	mustEqual(t, "the table", table(m, lock.Filter{}), was)
	graceIs(t, m, true, 4)
	// After ReclaimComplete nothing of the client is reclaimed, be it a lock or a
	// share reservation; and nothing of anybody outside of grace.
	sh := share(a, lock.Read, 0)
	sh.Reclaim = true
	mustBe(t, m.ReclaimComplete(bg, a.Client), nil)
	refused := func(want error) {
		t.Helper()
		_, err := m.TryLockAll(bg, []lock.Request{good})
		mustBe(t, err, want)
		_, err = m.Lock(bg, good)
		mustBe(t, err, want)
		_, err = m.Enqueue(good, func(lock.Held, error) { t.Error("done was called") })
		mustBe(t, err, want)
		mustBe(t, m.OpenShare(bg, sh), want)
	}
	refused(lock.ErrReclaimBad)
	graceIs(t, m, true, 4)
	mustBe(t, m.EndGrace(bg), nil)
	refused(lock.ErrNoGrace)
	mustEmpty(t, m)
}

// One lock that is reclaimed is one lock: the others of its owner, of its client's
// other owners, on the file and on other files, and the share reservations, stay
// unconfirmed and go at the end of grace.
func TestRuleReclaimIsOfOneLock(t *testing.T) {
	a := lock.Owner{Client: "c", ID: "a", Semantics: lock.POSIX}
	b := lock.Owner{Client: "c", ID: "b", Semantics: lock.POSIX}
	z := lock.Owner{Client: "c", ID: "a", Semantics: lock.SMB}
	dir := before(t, func(m *sneck.Manager) {
		for _, f := range []string{string(file), "other"} {
			for i, o := range []lock.Owner{a, b, z} {
				mustLockOn(t, m, on(f, o, x, span(uint64(100*i), uint64(100*i+9))))
				mustLockOn(t, m, on(f, o, x, span(uint64(100*i+20), uint64(100*i+29))))
			}
		}
		mustTry(t, m, z, s, span(200, 209)) // on its stack
		mustShare(t, m, a, lock.Read, 0)
		mustShare(t, m, z, lock.Read, 0)
	})
	for _, tc := range []struct {
		o lock.Owner
		r lock.Range
	}{{a, span(0, 9)}, {b, span(120, 129)}, {z, span(200, 209)}} {
		m := begin(t, crashed(t, dir), nil)
		graceIs(t, m, true, 15)
		h := mustReclaim(t, m, tc.o, x, tc.r)
		graceIs(t, m, true, 14)
		for _, g := range table(m, lock.Filter{}) {
			if g.Unconfirmed != (g.ID != h.ID) {
				t.Errorf("%+v", g)
			}
		}
		mustBe(t, m.EndGrace(bg), nil)
		mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{h})
		mustEqual(t, "the shares", shares(m), []lock.Share(nil))
		mustClose(t, m)
	}
}

// In grace nothing ever conflicts: owners reclaim what is theirs and what is not,
// in parts and in other modes, while others lock and unlock. A reclaim is granted
// iff its owner still holds all of it, as strong; and at the end of grace exactly
// what was not confirmed is gone.
func TestRuleReclaimNeverConflicts(t *testing.T) {
	r := newRand(t)
	owners := []lock.Owner{posix("a"), posix("b"), ofd("a"), smb("c"), smb("d")}
	some := func() (lock.Owner, lock.Mode, lock.Range) {
		first := uint64(r.IntN(24))
		return owners[r.IntN(len(owners))], []lock.Mode{s, x}[r.IntN(2)], span(first, first+uint64(r.IntN(6)))
	}
	reclaimed, bad := 0, 0
	for range 20 {
		dir := t.TempDir()
		none := func(o *sneck.Options) { o.Durability = sneck.None }
		m := begin(t, dir, none)
		for range 30 {
			o, mode, rng := some()
			_, _ = m.TryLock(bg, ask(o, mode, rng))
		}
		mustClose(t, m)
		m = begin(t, dir, none)
		for range 60 {
			if !m.Grace().Active {
				break
			}
			o, mode, rng := some()
			mine := table(m, lock.Filter{Owner: &o})
			if n := len(mine); n > 0 && r.IntN(2) == 0 {
				h := mine[r.IntN(n)]
				mode, rng = h.Mode, h.Range
			}
			switch r.IntN(6) {
			case 0:
				_, _ = m.TryLock(bg, ask(o, mode, rng))
			case 1:
				_ = m.Unlock(bg, file, o, rng)
			default:
				has := mayReclaim(mine, o, mode, rng)
				h, err := reclaims(m, o, mode, rng)
				switch {
				case errors.Is(err, lock.ErrNoGrace): // it has just ended
				case has != (err == nil) || !has && !errors.Is(err, lock.ErrReclaimBad):
					t.Fatalf("%s reclaims %s %s: %+v, %v; it has %v", o, mode, rng, h, err, mine)
				case has:
					reclaimed++
				default:
					bad++
				}
			}
			compatible(t, table(m, lock.Filter{}))
		}
		want := slices.DeleteFunc(table(m, lock.Filter{}), func(h lock.Held) bool { return h.Unconfirmed })
		mustBe(t, m.EndGrace(bg), nil)
		mustEndGrace(m)
		mustEqual(t, "the table", table(m, lock.Filter{}), want)
		mustClose(t, m)
	}
	if reclaimed < 50 || bad < 50 {
		t.Errorf("%d reclaimed, %d refused", reclaimed, bad)
	}
}

// mayReclaim reports whether mine, which are o's locks by first byte, are enough
// for a reclaim.
func mayReclaim(mine []lock.Held, o lock.Owner, mode lock.Mode, r lock.Range) bool {
	if o.Semantics == lock.SMB {
		return slices.ContainsFunc(mine, func(h lock.Held) bool { return h.Range == r && h.Mode >= mode })
	}
	for b := r.First(); b <= r.Last(); b++ {
		if !slices.ContainsFunc(mine, func(h lock.Held) bool { return h.Range.Contains(span(b, b)) && h.Mode >= mode }) {
			return false
		}
	}
	return true
}

// A client that reconnects before its TTL ends keeps everything, its share
// reservations and its places in line too: they are granted while it is away.
func TestRuleReconnectKeepsEverything(t *testing.T) {
	with(t, sneck.Options{}, func(t *testing.T, m *sneck.Manager) {
		a, b := posix("a"), posix("b")
		mustConnect(t, m, client(a, time.Minute))
		held := mustTry(t, m, a, x, span(0, 9))
		mustShare(t, m, a, lock.Read, lock.Write)
		mustTry(t, m, b, x, span(20, 49))
		granted, waits := lockIn(bg, m, a, x, span(20, 29)), lockIn(bg, m, a, s, span(40, 49))
		for range 5 {
			mustBe(t, m.Disconnect(bg, a.Client), nil)
			time.Sleep(time.Minute - 1)
			synctest.Wait()
			mustUnlock(t, m, b, span(20, 29))
			granted.holds(t)
			waits.waits(t)
			again := client(a, time.Minute)
			again.Addr = "elsewhere"
			mustConnect(t, m, again)
		}
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		mustHold(t, m, factOf(held), fact{file, a, span(20, 29), x}, fact{file, b, span(30, 49), x})
		mustEqual(t, "the shares", shares(m), []lock.Share{share(a, lock.Read, lock.Write)})
		waits.waits(t)
		time.Sleep(1) // and not longer
		waits.fails(t, lock.ErrReleased)
		mustHold(t, m, fact{file, b, span(30, 49), x})
		mustEqual(t, "the shares", shares(m), []lock.Share(nil))
	})
}

// Checking and inserting is one step: of many who want the same at the same time,
// by whatever call, exactly one gets it.
func TestRuleOneOfManyGetsIt(t *testing.T) {
	const many = 6
	ended, cancel := context.WithCancel(bg)
	cancel() // Lock does not wait then
	m := memory(t)
	for round := range 300 {
		for kind, calls := range map[string][]func(lock.Owner) error{
			"lock": {
				func(o lock.Owner) error { _, err := m.TryLock(bg, ask(o, x, span(0, 9))); return err },
				func(o lock.Owner) error {
					_, err := m.TryLockAll(bg, []lock.Request{ask(o, s, span(20, 29)), ask(o, x, span(9, 19))})
					return err
				},
				func(o lock.Owner) error { _, err := m.Lock(ended, ask(o, x, lock.WholeFile())); return err },
			},
			"share": {func(o lock.Owner) error { return m.OpenShare(bg, share(o, lock.Read|lock.Write, lock.Write)) }},
		} {
			var ready, wg sync.WaitGroup
			var got atomic.Int32
			ready.Add(many)
			for i := range many {
				wg.Go(func() {
					o := owner(allSemantics[(round+i)%3], fmt.Sprint(i))
					ready.Done()
					ready.Wait()
					switch err := calls[i%len(calls)](o); {
					case err == nil:
						got.Add(1)
					case !errors.Is(err, lock.ErrConflict) && !errors.Is(err, context.Canceled):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got.Load() != 1 {
				t.Fatalf("round %d: %d have the %s: %+v, %+v", round, got.Load(), kind, table(m, lock.Filter{}), shares(m))
			}
			if _, err := m.ReleaseFile(bg, file); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustEmpty(t, m)
}

// Memory grows with who is there, not with who was: of clients that come, lock,
// wait and go, nothing remains after a while.
func TestRuleClientsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := limited(t, sneck.Limits{LocksPerFile: -1, WaitersPerFile: -1})
		stays := posix("stays")
		mustConnect(t, m, client(stays, 0))
		mustTry(t, m, stays, x, span(0, 9))
		n := 0
		round := func() uint64 {
			for range 1000 {
				n++
				o := owner(allSemantics[n%3], fmt.Sprint(n))
				c := client(o, time.Duration(n%2)*time.Minute)
				mustConnect(t, m, c)
				mustTry(t, m, o, s, span(100, 109))
				mustLockOn(t, m, on(fmt.Sprint("file ", n), o, x, span(0, 9)))
				mustShare(t, m, o, lock.Read, 0)
				enqueue(t, m, o, s, span(5, 5))
				switch n % 3 {
				case 0:
					mustBe(t, m.Disconnect(bg, c.ID), nil)
				case 1:
					mustRelease(t, 2)(m.ReleaseClient(bg, c.ID))
					mustBe(t, m.Disconnect(bg, c.ID), nil)
				case 2:
					mustBe(t, m.Revoke(bg, table(m, lock.Filter{Client: c.ID})[0].ID, "test"), nil)
					mustBe(t, m.Disconnect(bg, c.ID), nil)
				}
				synctest.Wait()
			}
			time.Sleep(time.Hour) // the bubble's
			synctest.Wait()
			mustHold(t, m, fact{file, stays, span(0, 9), x})
			mustIdle(t, m)
			if st := m.Stats(); st.Clients != 1 || st.Files != 1 || st.Shares != 0 || len(clients(m)) != 1 {
				t.Fatalf("%+v", st)
			}
			runtime.GC()
			runtime.GC()
			var ms runtime.MemStats
			runtime.ReadMemStats(&ms)
			return ms.HeapAlloc
		}
		for range 2 {
			round()
		}
		first := round()
		for range 3 {
			round()
		}
		if last := round(); last > first+256<<10 {
			t.Errorf("the heap grew from %d to %d bytes", first, last)
		}
		mustClose(t, m)
	})
}

// stuckLog is a log whose disk takes nothing: the segment that is written is a pipe
// that nobody reads.
type stuckLog struct {
	path string
	pipe int
	full int // bytes in the pipe when no more go in
}

// stuckSegment is the size of segments that stick needs: larger than what a test
// writes into the pipe, smaller than what stick writes before.
const stuckSegment = 16 << 10

// wordy is an owner whose records have half the size of a segment.
func wordy(name string) lock.Owner {
	o := posix(name)
	o.Share, o.ID = strings.Repeat("s", lock.MaxOwnerField), strings.Repeat("i", lock.MaxOwnerField)
	return o
}

// stick has m hold something on the file "warm", with which a segment ends, and
// makes the next one a pipe (docs/log-format.md says what it is called).
func stick(t *testing.T, m *sneck.Manager, dir string) *stuckLog {
	t.Helper()
	snap, err := sneck.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	generations, err := filepath.Glob(filepath.Join(dir, "log-*"))
	if err != nil || len(generations) == 0 {
		t.Fatalf("%v, %v", generations, err)
	}
	l := &stuckLog{path: filepath.Join(generations[len(generations)-1], fmt.Sprintf("%020d", snap.Log.Frames+2))}
	if err := unix.Mkfifo(l.path, 0o600); err != nil {
		t.Fatal(err)
	}
	if l.pipe, err = unix.Open(l.path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(l.pipe) })
	block := make([]byte, 4096)
	for err == nil {
		_, err = unix.Write(l.pipe, block)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	l.full = l.bytes(t)
	if _, err := unix.Read(l.pipe, block); err != nil { // for some of a large record: then it is seen on its way
		t.Fatal(err)
	}
	var last []lock.Request
	for i := range uint64(3) {
		last = append(last, on("warm", wordy("warm"), x, span(10*i, 10*i+4)))
	}
	if _, err := m.TryLockAll(bg, last); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *stuckLog) bytes(t *testing.T) int {
	n, err := unix.IoctlGetInt(l.pipe, unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stuck returns when a large record is on its way to the disk, and gets no further.
func (l *stuckLog) stuck(t *testing.T) {
	for l.bytes(t) != l.full {
		runtime.Gosched()
	}
}

// goOn takes what is written until now; more than a pipe has room for must not come.
func (l *stuckLog) goOn(t *testing.T) {
	for rest := make([]byte, l.full); ; {
		if _, err := unix.Read(l.pipe, rest); errors.Is(err, unix.EAGAIN) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A slow disk stalls nobody who only looks, at the file that is being changed or at
// any other, nor who stands in line, gives up or is alive; and until a change is on
// the disk nobody is told that it was made.
func TestRuleSlowDiskStallsNoReader(t *testing.T) {
	a, b, w, v := posix("a"), smb("b"), ofd("w"), posix("v")
	dir := t.TempDir()
	// With None there is no sync to fail, as one of a pipe does.
	m := begin(t, dir, func(o *sneck.Options) { o.Durability, o.SegmentSize = sneck.None, stuckSegment })
	mustConnect(t, m, client(a, time.Hour))
	held := mustTry(t, m, a, x, span(0, 9))
	mustShare(t, m, b, lock.Read, lock.Write)
	granted := enqueue(t, m, w, s, span(5, 5))
	log := stick(t, m, dir)

	var calls []*call
	begins := func(f func() (lock.Held, error)) {
		c := new(call)
		calls = append(calls, c)
		go func() { c.end(f()) }()
	}
	begins(func() (lock.Held, error) { return m.TryLock(bg, on("new", wordy("l"), x, span(0, 9))) })
	log.stuck(t)
	begins(func() (lock.Held, error) { return lock.Held{}, m.Unlock(bg, file, a, span(4, 6)) }) // lets w in
	begins(func() (lock.Held, error) { return lock.Held{}, m.OpenShare(bg, share(v, lock.Read, 0)) })
	for !m.HasOwner(file, w) || !m.HasOwner("new", wordy("l")) || len(shares(m)) < 2 {
		runtime.Gosched()
	}
	for range 3 {
		for _, f := range []lock.FileKey{file, "new", "warm", "nothing"} {
			q := ask(v, x, span(0, 0))
			q.File = f
			if _, found := m.Test(q); found != (f != "nothing") {
				t.Errorf("Test of %q: %v", f, found)
			}
			if _, found := m.CheckIO(f, smb("z"), span(0, 0), true); found != (f != "nothing") {
				t.Errorf("CheckIO of %q: %v", f, found)
			}
		}
		if n := len(table(m, lock.Filter{})); n != 7 || m.Stats().Locks != 7 || len(slices.Collect(m.Locks(lock.Filter{File: file}))) != 3 || len(shares(m)) != 2 {
			t.Errorf("%d locks, %+v", n, m.Stats())
		}
		if cs := clients(m); len(cs) != 1 || m.Renew(a.Client) != nil || m.Grace().Active || m.Epoch() != 1 {
			t.Errorf("%+v", cs)
		}
		if h := mustDeny(t, m, v, s, span(0, 3)); h.ID != held.ID { // as the table says now, and it needs no record
			t.Errorf("%+v", h)
		}
		q := enqueue(t, m, v, x, span(0, 9))
		if ws := slices.Collect(m.Waiters(lock.Filter{})); len(ws) != 1 || ws[0].ID != q.id || !m.Cancel(q.id) {
			t.Errorf("%+v", ws)
		}
		ctx, cancel := context.WithCancel(bg)
		cancel()
		_, err := m.Lock(ctx, ask(v, x, span(0, 9)))
		mustBe(t, err, context.Canceled)
	}
	for i, c := range calls {
		if c.ended.Load() {
			t.Errorf("call %d has ended before the disk had it: %+v, %v", i, c.held, c.err)
		}
	}
	if granted.ended.Load() {
		t.Errorf("w was told before the disk had it")
	}
	want := table(m, lock.Filter{})
	log.goOn(t)
	for _, c := range append(calls, &granted.call) {
		for !c.ended.Load() {
			runtime.Gosched()
		}
		mustBe(t, c.err, nil)
	}
	mustEqual(t, "the table", table(m, lock.Filter{}), want)
	_ = m.Close() // it syncs, which a pipe does not
}

// A failing log denies: what was under way, and whatever changes anything later,
// of locks, share reservations, clients and the grace period, is told ErrHalted;
// after Close, ErrClosed. After a restart there is what was acknowledged.
func TestRuleEndedManagerRefuses(t *testing.T) {
	a, b := posix("a"), smb("b")
	refuses := func(t *testing.T, m *sneck.Manager, want error) {
		t.Helper()
		held, reserved := table(m, lock.Filter{}), shares(m)
		id := table(m, lock.Filter{Owner: &a})[0].ID
		again := ask(a, x, span(0, 9))
		again.Reclaim = true
		for name, f := range map[string]func() error{
			"TryLock":               func() error { _, err := m.TryLock(bg, ask(b, s, span(500, 509))); return err },
			"TryLock, reclaim":      func() error { _, err := m.TryLock(bg, again); return err },
			"TryLockAll":            func() error { _, err := m.TryLockAll(bg, []lock.Request{ask(b, s, span(500, 509))}); return err },
			"Lock":                  func() error { _, err := m.Lock(bg, ask(b, s, span(0, 9))); return err },
			"Enqueue":               func() error { _, err := m.Enqueue(ask(b, s, span(0, 9)), func(lock.Held, error) {}); return err },
			"Upgrade":               func() error { _, err := m.Upgrade(bg, file, a, span(0, 9)); return err },
			"Unlock":                func() error { return m.Unlock(bg, file, a, span(0, 9)) },
			"Unlock of another's":   func() error { return m.Unlock(bg, "no such file", smb("z"), span(0, 9)) },
			"OpenShare":             func() error { return m.OpenShare(bg, share(a, lock.Read, 0)) },
			"CloseShare":            func() error { return m.CloseShare(bg, file, b) },
			"ReleaseOwner":          func() error { _, err := m.ReleaseOwner(bg, file, a); return err },
			"ReleaseClient":         func() error { _, err := m.ReleaseClient(bg, a.Client); return err },
			"ReleaseClient, no TTL": func() error { _, err := m.ReleaseClient(bg, "connected"); return err },
			"ReleaseFile":           func() error { _, err := m.ReleaseFile(bg, file); return err },
			"Revoke":                func() error { return m.Revoke(bg, id, "test") },
			"Connect":               func() error { return m.Connect(bg, lock.Client{ID: "new"}) },
			"Disconnect":            func() error { return m.Disconnect(bg, "connected") },
			"ReclaimComplete":       func() error { return m.ReclaimComplete(bg, a.Client) },
			"EndGrace":              func() error { return m.EndGrace(bg) },
			"Checkpoint":            func() error { return m.Checkpoint(bg) },
		} {
			if err := f(); !errors.Is(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if m.Cancel(id) {
			t.Error("Cancel of a lock")
		}
		mustEqual(t, "the table", table(m, lock.Filter{}), held)
		mustEqual(t, "the shares", shares(m), reserved)
	}
	hold := func(t *testing.T, dir string) *sneck.Manager {
		m := begin(t, dir, nil)
		mustTry(t, m, a, x, span(0, 9))
		mustShare(t, m, b, lock.Read, lock.Write)
		mustConnect(t, m, lock.Client{ID: "connected"})
		mustClose(t, m)
		return begin(t, dir, func(o *sneck.Options) { o.SegmentSize = stuckSegment }) // in grace
	}
	t.Run("closed", func(t *testing.T) {
		m := hold(t, t.TempDir())
		mustClose(t, m)
		refuses(t, m, lock.ErrClosed)
	})
}

// Random requests in all protocols' ways of saying them: whatever a constructor
// takes is locked as exactly these bytes, however near to 2^64 they are: of the
// bytes around both ends, those inside are taken, and those outside are free.
func TestRuleEndsOfRanges(t *testing.T) {
	r := newRand(t)
	edges := []uint64{0, 1, 2, 1<<63 - 2, 1<<63 - 1, 1 << 63, 1<<63 + 1, eof - 2, eof - 1, eof}
	pick := func() uint64 {
		if r.IntN(3) == 0 {
			return r.Uint64()
		}
		return edges[r.IntN(len(edges))]
	}
	makers := []func(a, b uint64) (lock.Range, error){
		lock.Bytes, lock.NLM4Range, lock.NFS4Range, lock.SMBRange, lock.FUSERange,
		func(a, b uint64) (lock.Range, error) { return lock.POSIXRange(int64(a), int64(b)) },
	}
	taken := 0
	for range 3000 {
		rng, err := makers[r.IntN(len(makers))](pick(), pick())
		if err != nil {
			mustBe(t, err, lock.ErrRange)
			continue
		}
		if rng.IsEmpty() {
			continue
		}
		taken++
		m := mustOpen(t, "")
		mustTry(t, m, smb("a"), x, rng)
		first, last := rng.First(), rng.Last()
		for _, b := range []uint64{0, first - 1, first, first + 1, last - 1, last, last + 1, eof} { // may wrap: then it is another byte
			inside := first <= b && b <= last
			if h, found := m.Test(ask(posix("b"), s, span(b, b))); found != inside || found && h.Range != rng {
				t.Fatalf("%s: byte %d is taken: %v, %+v", rng, b, found, h)
			}
		}
		mustClose(t, m)
	}
	if taken < 500 {
		t.Errorf("%d of 3000 are ranges", taken)
	}
}

// What docs/semantics.md says of the tests and of the code is so: every test that
// it names is there, so is every function, and no rule is without a test.
func TestRuleDocument(t *testing.T) {
	data, err := os.ReadFile("docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(?:([a-z0-9/]+)\\.)?((?:Test|Fuzz)[A-Za-z0-9]+)`")
	code := regexp.MustCompile("`([a-z0-9_/]+\\.go):([A-Za-z0-9.]+)`")
	declared := make(map[string]string) // what is in the files of a folder, or in one file
	read := func(name, pattern string) string {
		if _, known := declared[name]; !known {
			paths, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range paths {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				declared[name] += string(data)
			}
		}
		return declared[name]
	}
	rules, tests := 0, 0
	for n, text := range strings.Split(string(data), "\n") {
		bad := func(format string, args ...any) {
			t.Helper()
			t.Errorf("docs/semantics.md:%d: %s", n+1, fmt.Sprintf(format, args...))
		}
		for _, name := range named.FindAllStringSubmatch(text, -1) {
			tests++
			if !strings.Contains(read(name[1]+" tests", filepath.Join(name[1], "*_test.go")), "\nfunc "+name[2]+"(") {
				bad("there is no test %s in the folder %q", name[2], name[1])
			}
		}
		for _, name := range code.FindAllStringSubmatch(text, -1) {
			found, err := regexp.MatchString(`(?m)^\t?(?:func (?:\([a-z]+ \*?[A-Za-z]+(?:\[[A-Z]\])?\) )?|type )`+regexp.QuoteMeta(name[2])+`\b`, read(name[1], name[1]))
			if err != nil || !found {
				bad("%s has no %s", name[1], name[2])
			}
		}
		if !strings.HasPrefix(text, "| ") || strings.HasPrefix(text, "| rule |") || strings.HasPrefix(text, "| bug class |") {
			continue
		}
		rules++
		cells := strings.Split(strings.Trim(text, "| "), " | ")
		if !named.MatchString(cells[len(cells)-1]) {
			bad("no test is named")
		}
		switch {
		case len(cells) == 4 && !code.MatchString(cells[2]):
			bad("no place in the code is named")
		case len(cells) != 4 && len(cells) != 2:
			bad("%d columns", len(cells))
		}
	}
	if rules < 50 || tests < 100 {
		t.Errorf("%d rules and %d tests found", rules, tests)
	}
}
