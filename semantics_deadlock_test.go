package sneck_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"sneck"
	"sneck/lock"
)

func on(f string, o lock.Owner, mode lock.Mode, r lock.Range) lock.Request {
	return lock.Request{File: lock.FileKey(f), Owner: o, Range: r, Mode: mode}
}

func lockOn(m *sneck.Manager, r lock.Request) *call {
	return start(func() (lock.Held, error) { return m.Lock(bg, r) })
}

func mustLockOn(t tb, m *sneck.Manager, r lock.Request) {
	t.Helper()
	if _, err := m.TryLock(bg, r); err != nil {
		t.Fatalf("%v", err)
	}
}

// refused fails unless waiting would have closed this cycle.
func (c *call) refused(t tb, cycle ...lock.Owner) {
	t.Helper()
	c.fails(t, lock.ErrDeadlock)
	var d *lock.DeadlockError
	if !errors.As(c.err, &d) || !slices.Equal(d.Cycle, cycle) {
		t.Fatalf("%v, want a cycle of %v", c.err, cycle)
	}
}

// ring makes n owners each hold a file of their own and wait for the next one's,
// all but the last one, and returns their waits.
func ring(t tb, m *sneck.Manager, owners []lock.Owner) (waits []*call, last lock.Request) {
	n := len(owners)
	for i, o := range owners {
		mustLockOn(t, m, on(fmt.Sprint("file ", i), o, x, span(0, 9)))
	}
	for i := range n - 1 {
		waits = append(waits, lockOn(m, on(fmt.Sprint("file ", i+1), owners[i], x, span(5, 5))))
		waits[i].waits(t)
	}
	return waits, on("file 0", owners[n-1], x, span(7, 7))
}

// Deadlock: across files, of any length (the kernel misses a cycle of 20), the
// youngest waiter is refused and names the cycle; the others go on when it gives
// way.
func TestDeadlockRing(t *testing.T) {
	for _, n := range []int{2, 3, 20, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				var owners []lock.Owner
				for i := range n {
					owners = append(owners, posix(fmt.Sprint("o", i)))
				}
				waits, last := ring(t, m, owners)
				_, err := m.Lock(bg, last)
				mustBe(t, err, lock.ErrDeadlock)
				var d *lock.DeadlockError
				if !errors.As(err, &d) || len(d.Cycle) != n || d.Cycle[0] != owners[n-1] || d.Cycle[1] != owners[0] {
					t.Fatalf("%#v", err)
				}
				for i := range n {
					if d.Cycle[i] != owners[(n-1+i)%n] {
						t.Fatalf("the cycle is %v", d.Cycle)
					}
				}
				for _, w := range waits {
					w.waits(t)
				}
				// It gives way.
				mustRelease(t, 1)(m.ReleaseClient(bg, owners[n-1].Client))
				for i := n - 2; i >= 0; i-- {
					waits[i].holds(t)
					mustRelease(t, 2)(m.ReleaseClient(bg, owners[i].Client))
				}
				mustEmpty(t, m)
			})
		})
	}
}

// OFD and SMB owners take part only as blockers: nobody is refused for a cycle
// that one of them waits in.
func TestDeadlockOtherSemantics(t *testing.T) {
	for _, o := range []lock.Owner{ofd("b"), smb("b")} {
		bubble(t, func(t *testing.T, m *sneck.Manager) {
			a := posix("a")
			waits, last := ring(t, m, []lock.Owner{a, o})
			w := lockOn(m, last)
			w.waits(t)
			waits[0].waits(t)
			mustRelease(t, 1)(m.ReleaseClient(bg, a.Client))
			w.holds(t)
			waits[0].fails(t, lock.ErrReleased)
			mustRelease(t, 2)(m.ReleaseClient(bg, o.Client))
		})
	}
}

// All blockers count, not the first one only; and an owner's several waits.
func TestDeadlockSeveral(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b, c := posix("a"), posix("b"), posix("c")
		for _, o := range []lock.Owner{a, b, c} {
			mustLockOn(t, m, on("shared", o, s, span(0, 9)))
		}
		mustLockOn(t, m, on("c's", c, x, span(0, 9)))
		// a waits for c, and for somebody else.
		mustLockOn(t, m, on("other", posix("other"), x, span(0, 9)))
		first := lockOn(m, on("other", a, x, span(0, 0)))
		second := lockOn(m, on("c's", a, x, span(0, 0)))
		third := lockOn(m, on("other", a, x, span(5, 5)))
		// c wants what b and a have.
		_, err := m.Lock(bg, on("shared", c, x, span(3, 3)))
		mustBe(t, err, lock.ErrDeadlock)
		for _, w := range []*call{first, second, third} {
			w.waits(t)
		}
		mustRelease(t, 2)(m.ReleaseClient(bg, c.Client))
		second.holds(t)
		mustRelease(t, 1)(m.ReleaseClient(bg, posix("other").Client))
		first.holds(t)
		third.holds(t)
		mustRelease(t, 4)(m.ReleaseClient(bg, a.Client))
		mustRelease(t, 1)(m.ReleaseClient(bg, b.Client))
	})
}

// The line counts too. Who stands in line before is waited for, but not the other
// waits of his owner: his turn may come, and then they may pass. When it has come
// they are waited for, and that may close a cycle.
func TestDeadlockThroughTheLine(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b, c := posix("a"), posix("b"), posix("c")
		mustLockOn(t, m, on("f", c, s, span(0, 9)))
		mustLockOn(t, m, on("g", b, x, span(0, 9)))
		w := lockOn(m, on("f", a, x, span(0, 9))) // for c
		r := lockOn(m, on("f", b, s, span(0, 9))) // for w, in line
		v := lockOn(m, on("g", a, x, span(0, 0))) // for b and so for r, which waits for w, which does not wait for v
		for _, q := range []*call{w, r, v} {
			q.waits(t)
		}
		mustRelease(t, 1)(m.ReleaseClient(bg, c.Client))
		w.holds(t)
		r.waits(t)         // for a now, and so for v, which waits for r
		v.refused(t, a, b) // being younger
		mustRelease(t, 1)(m.ReleaseClient(bg, a.Client))
		r.holds(t)
		mustRelease(t, 2)(m.ReleaseClient(bg, b.Client))
		mustEmpty(t, m)
	})
}

// A cycle within the line of one file: one waits for the turn of another, who
// waits for what the first one's owner holds.
func TestDeadlockWithinALine(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, b, c := posix("a"), posix("b"), posix("c")
		mustLockOn(t, m, on("f", ofd("h"), x, span(0, 0)))
		mustLockOn(t, m, on("f", b, s, span(9, 9)))
		mustLockOn(t, m, on("g", a, s, span(0, 0)))
		first := lockOn(m, on("f", a, x, span(0, 5))) // for h
		behind := lockOn(m, on("f", c, x, span(5, 9)))
		w := lockOn(m, on("g", b, x, span(0, 0))) // for a, and so for first
		for _, q := range []*call{first, behind, w} {
			q.waits(t)
		}
		v := lockOn(m, on("f", a, x, span(8, 8))) // behind c, who waits for b, who waits for a
		v.refused(t, a, c, b)
		for _, q := range []*call{first, behind, w} {
			q.waits(t)
		}
		mustRelease(t, 1)(m.ReleaseClient(bg, ofd("h").Client))
		first.holds(t)
		mustRelease(t, 2)(m.ReleaseClient(bg, a.Client))
		w.holds(t)
		behind.waits(t)
		mustRelease(t, 2)(m.ReleaseClient(bg, b.Client))
		behind.holds(t)
		mustRelease(t, 1)(m.ReleaseClient(bg, c.Client))
		mustEmpty(t, m)
	})
}

// A grant to an owner that still waits elsewhere may close a cycle, whichever way
// it comes: the youngest waiter of it, who need not be that owner, is refused.
func TestDeadlockByGrant(t *testing.T) {
	o, p, q, h := posix("o"), posix("p"), ofd("q"), ofd("h")
	for name, tc := range map[string]struct {
		first lock.Mode // what h holds before, so that o stands in line; 0 = nothing
		mode  lock.Mode // what o wants
		gets  func(t *testing.T, m *sneck.Manager, wants lock.Request)
	}{
		"TryLock": {0, s, func(t *testing.T, m *sneck.Manager, wants lock.Request) { mustLockOn(t, m, wants) }},
		"TryLockAll": {0, x, func(t *testing.T, m *sneck.Manager, wants lock.Request) {
			if _, err := m.TryLockAll(bg, []lock.Request{ask(h, s, span(20, 20)), wants, ask(h, s, span(30, 30))}); err != nil {
				t.Fatal(err)
			}
		}},
		"unlock": {s, x, func(t *testing.T, m *sneck.Manager, _ lock.Request) { mustUnlock(t, m, h, span(0, 0)) }},
		"downgrade": {x, s, func(t *testing.T, m *sneck.Manager, _ lock.Request) {
			mustTry(t, m, h, s, span(0, 0))
		}},
		"downgrade in a batch": {x, s, func(t *testing.T, m *sneck.Manager, _ lock.Request) {
			if _, err := m.TryLockAll(bg, []lock.Request{ask(h, s, span(0, 0))}); err != nil {
				t.Fatal(err)
			}
		}},
		"ReleaseOwner": {x, x, func(t *testing.T, m *sneck.Manager, _ lock.Request) {
			mustRelease(t, 1)(m.ReleaseOwner(bg, file, h))
		}},
		"ReleaseClient": {x, s, func(t *testing.T, m *sneck.Manager, _ lock.Request) {
			mustRelease(t, 1)(m.ReleaseClient(bg, h.Client))
		}},
		"Cancel": {s, s, func(t *testing.T, m *sneck.Manager, _ lock.Request) { // of whom it stands behind
			if !m.Cancel(slices.Collect(m.Waiters(lock.Filter{File: file}))[0].ID) {
				t.Fatal("it does not stand in line")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				wants := ask(o, tc.mode, span(0, 4))
				mustTry(t, m, q, x, span(9, 9))
				mustLockOn(t, m, on("elsewhere", p, x, span(0, 9)))
				elsewhere := lockOn(m, on("elsewhere", o, x, span(0, 0))) // for p
				if tc.first != 0 {
					mustTry(t, m, h, tc.first, span(0, 0))
					if name == "Cancel" {
						lockIn(bg, m, h, x, span(4, 9)).waits(t)
					}
					lockOn(m, wants).waits(t)
				}
				w := lockIn(bg, m, p, x, span(0, 9)) // for q; and in line, but not for who is in line elsewhere too
				elsewhere.waits(t)
				w.waits(t)
				tc.gets(t, m, wants)
				w.refused(t, p, o)
				elsewhere.waits(t)
				mustEqual(t, "what it has", factOf(table(m, lock.Filter{File: file, Owner: &o})[0]), fact{file, o, span(0, 4), tc.mode})
				mustRelease(t, 1)(m.ReleaseClient(bg, p.Client))
				elsewhere.holds(t)
				mustRelease(t, 2)(m.ReleaseClient(bg, o.Client))
			})
		})
	}
}

// A wait of an owner may be in a cycle that another one, which asks for the same
// bytes from a better place, is not in.
func TestDeadlockThroughOneOfTwoWaits(t *testing.T) {
	for _, behind := range []lock.Mode{s, x} {
		bubble(t, func(t *testing.T, m *sneck.Manager) {
			h, p, u, w := ofd("h"), posix("p"), posix("u"), posix("w")
			mustLockOn(t, m, on("f", h, x, span(5, 5)))
			mustLockOn(t, m, on("f", p, x, span(0, 0)))
			mustLockOn(t, m, on("g", w, x, span(0, 0)))
			elsewhere := lockOn(m, on("g", p, x, span(0, 0))) // for w
			wide := lockOn(m, on("f", u, x, span(0, 9)))      // for p, and for h
			narrow := lockOn(m, on("f", u, x, span(5, 5)))    // for h
			for _, q := range []*call{elsewhere, wide, narrow} {
				q.waits(t)
			}
			v := lockOn(m, on("f", w, behind, span(5, 5))) // for narrow and h, but for wide as well
			v.refused(t, w, u, p)
			for _, q := range []*call{elsewhere, wide, narrow} {
				q.waits(t)
			}
			mustRelease(t, 1)(m.ReleaseClient(bg, w.Client))
			elsewhere.holds(t)
			mustRelease(t, 2)(m.ReleaseClient(bg, p.Client))
			mustRelease(t, 1)(m.ReleaseClient(bg, h.Client))
			wide.holds(t)
			narrow.holds(t)
			mustRelease(t, 1)(m.ReleaseClient(bg, u.Client))
			mustEmpty(t, m)
		})
	}
}

// A waiter need not stay behind who waits for his owner. When that one does not
// any more he has to, and that may close a cycle: also where nobody has been
// granted anything, or somebody else.
//
//	held     o.hhhhhhp
//	in line  jj             waits for O
//	          vv            for J's turn, and so for O; for H
//	           uuuuuuu      for V's turn, and so for O; for H and P
//	             w          O's: for H. It need not stay behind U, until he does not wait for O
//
// P waits for O, elsewhere.
func TestDeadlockByWhomItStandsBehind(t *testing.T) {
	o, h, p, j, v, u := posix("o"), ofd("h"), posix("p"), posix("j"), posix("v"), posix("u")
	for name, does := range map[string]func(t *testing.T, m *sneck.Manager, jq, vq *queue){
		"J cancelled": func(t *testing.T, m *sneck.Manager, jq, _ *queue) {
			if !m.Cancel(jq.id) {
				t.Fatal("it does not stand in line")
			}
		},
		"V cancelled": func(t *testing.T, m *sneck.Manager, _, vq *queue) {
			if !m.Cancel(vq.id) {
				t.Fatal("it does not stand in line")
			}
		},
		"J released": func(t *testing.T, m *sneck.Manager, _, _ *queue) {
			mustRelease(t, 0)(m.ReleaseOwner(bg, file, j))
		},
		"J's client released": func(t *testing.T, m *sneck.Manager, _, _ *queue) {
			mustRelease(t, 0)(m.ReleaseClient(bg, j.Client))
		},
		"O unlocks": func(t *testing.T, m *sneck.Manager, jq, _ *queue) {
			mustUnlock(t, m, o, span(0, 0))
			jq.holds(t)
		},
		"O unlocks some of it": func(t *testing.T, m *sneck.Manager, jq, _ *queue) {
			mustTry(t, m, o, s, span(20, 29))
			mustUnlock(t, m, o, span(0, 24))
			jq.holds(t)
		},
		"V locks": func(t *testing.T, m *sneck.Manager, _, _ *queue) {
			mustTry(t, m, v, s, span(0, 0)) // what J wants: V need not stay behind J now
		},
		"U locks": func(t *testing.T, m *sneck.Manager, _, _ *queue) {
			mustTry(t, m, u, s, span(1, 1)) // what V wants
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				mustTry(t, m, o, s, span(0, 0))
				mustTry(t, m, h, x, span(2, 7))
				mustTry(t, m, p, x, span(8, 8))
				mustLockOn(t, m, on("elsewhere", o, x, span(0, 0)))
				elsewhere := lockOn(m, on("elsewhere", p, x, span(0, 0)))
				jq := enqueue(t, m, j, x, span(0, 1))
				vq := enqueue(t, m, v, x, span(1, 2))
				uq := enqueue(t, m, u, x, span(2, 8))
				w := lockIn(bg, m, o, x, span(4, 4))
				for _, q := range []*call{elsewhere, &jq.call, &vq.call, &uq.call, w} {
					q.waits(t)
				}
				does(t, m, jq, vq)
				w.refused(t, o, u, p)
				elsewhere.waits(t)
				uq.waits(t)
				for _, o := range []lock.Owner{o, h, p, j, v, u} {
					if _, err := m.ReleaseClient(bg, o.Client); err != nil {
						t.Fatal(err)
					}
				}
				elsewhere.holds(t)
				mustEmpty(t, m)
			})
		})
	}
}

// Two that close a cycle at the same time: exactly one of them is refused.
func TestConcurrentDeadlock(t *testing.T) {
	const rounds = 500
	m := mustOpen(t, "")
	defer mustClose(t, m)
	for round := range rounds {
		owners := []lock.Owner{posix(fmt.Sprint("a", round)), posix(fmt.Sprint("b", round)), posix(fmt.Sprint("c", round))}[:2+round%2]
		n := len(owners)
		for i, o := range owners {
			mustLockOn(t, m, on(fmt.Sprint("file ", i), o, x, span(0, 9)))
		}
		var refused atomic.Int32
		var wg sync.WaitGroup
		for i, o := range owners {
			wg.Go(func() {
				_, err := m.Lock(bg, on(fmt.Sprint("file ", (i+1)%n), o, x, span(0, 9)))
				if err != nil {
					mustBe(t, err, lock.ErrDeadlock)
					refused.Add(1)
				}
				if _, err := m.ReleaseClient(bg, o.Client); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if refused.Load() != 1 {
			t.Fatalf("round %d: %d of %d refused", round, refused.Load(), n)
		}
	}
	mustEmpty(t, m)
}

// No false positive: whoever takes files in one order never deadlocks, however
// many wait.
func TestConcurrentNoDeadlock(t *testing.T) {
	m := mustOpen(t, "")
	defer mustClose(t, m)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			o := posix(fmt.Sprint("o", w))
			for i := range 200 {
				for f := range 4 {
					if (i+w+f)%3 == 0 {
						continue
					}
					mode := []lock.Mode{s, x}[(i+f)%2]
					if _, err := m.Lock(bg, on(fmt.Sprint("file ", f), o, mode, span(uint64(i%3), uint64(i%3+4)))); err != nil {
						t.Errorf("%v", err)
					}
				}
				if _, err := m.ReleaseClient(bg, o.Client); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustEmpty(t, m)
}

// snapshot is what is held at one moment, and who stands in line, the oldest first.
type snapshot struct{ held, line []fact }

// waitsFor is whom each in line waits for, as the comment in shard/deadlock.go has
// it: all waits of the POSIX owners of what is in its way, and the waits of POSIX
// owners that it has to stay behind. Other owners' waits wait for nobody.
//
// It is found by trying everything, and is all that there is, not just enough.
func (sn snapshot) waitsFor() graph {
	rivals := func(a, b fact) bool {
		return a.File == b.File && !a.Owner.Same(b.Owner) && a.Mode.Conflicts(b.Mode) && a.Range.Overlaps(b.Range)
	}
	keepsOut := func(o lock.Owner, w fact) bool { // o holds something that w is not compatible with
		return slices.ContainsFunc(sn.held, func(h fact) bool {
			return h.Owner.Same(o) && h.File == w.File && h.Mode.Conflicts(w.Mode) && h.Range.Overlaps(w.Range)
		})
	}
	g := graph{owners: make([]lock.Owner, len(sn.line)), edges: make([][]bool, len(sn.line))}
	for i, w := range sn.line {
		g.owners[i], g.edges[i] = w.Owner, make([]bool, len(sn.line))
		if w.Owner.Semantics != lock.POSIX {
			continue
		}
		for _, h := range sn.held {
			if !rivals(h, w) || h.Owner.Semantics != lock.POSIX {
				continue
			}
			for j, v := range sn.line {
				g.edges[i][j] = g.edges[i][j] || v.Owner.Same(h.Owner)
			}
		}
		forOwner := make([]bool, i) // waits for w's owner, be it for the turn of another who does
		for k, v := range sn.line[:i] {
			forOwner[k] = v.File == w.File && keepsOut(w.Owner, v)
			for j, u := range sn.line[:k] {
				forOwner[k] = forOwner[k] || forOwner[j] && rivals(v, u) && !keepsOut(v.Owner, u)
			}
			if rivals(v, w) && v.Owner.Semantics == lock.POSIX && !forOwner[k] {
				g.edges[i][k] = true
			}
		}
	}
	return g
}

// graph has the waits as nodes, the oldest first.
type graph struct {
	owners []lock.Owner
	edges  [][]bool
}

// leads reports whether a path leads from one wait to another, or back to itself,
// over waits that are not younger than limit.
func (g graph) leads(from, to, limit int) bool {
	seen := make([]bool, len(g.owners))
	for todo := []int{from}; len(todo) > 0; {
		n := todo[0]
		todo = todo[1:]
		if g.edges[n][to] {
			return true
		}
		for k := range limit + 1 {
			if g.edges[n][k] && !seen[k] {
				seen[k] = true
				todo = append(todo, k)
			}
		}
	}
	return false
}

// cycle is the owner of a wait that is in a cycle.
func (g graph) cycle() (o lock.Owner, any bool) {
	for n := range g.owners {
		if g.leads(n, n, len(g.owners)-1) {
			return g.owners[n], true
		}
	}
	return lock.Owner{}, false
}

// closes reports whether the wait is the youngest of a cycle of waits of just
// these owners, its own first.
func (g graph) closes(n int, owners []lock.Owner) bool {
	if !g.leads(n, n, n) || len(owners) < 2 || !owners[0].Same(g.owners[n]) {
		return false
	}
	at := []int{n}
	for _, o := range owners[1:] {
		var next []int
		for k := range n {
			if g.owners[k].Same(o) && slices.ContainsFunc(at, func(i int) bool { return g.edges[i][k] }) {
				next = append(next, k)
			}
		}
		at = next
	}
	return slices.ContainsFunc(at, func(i int) bool { return g.edges[i][n] })
}

func (g graph) String() string {
	var b strings.Builder
	for i, o := range g.owners {
		fmt.Fprintf(&b, "\n\t%d %s for", i, o)
		for k, is := range g.edges[i] {
			if is {
				fmt.Fprint(&b, " ", k)
			}
		}
	}
	return b.String()
}

// snapshotOf is what is in m while nobody does anything. Of several files, the
// order in the line says nothing.
func snapshotOf(m *sneck.Manager) (sn snapshot) {
	sn.held = facts(table(m, lock.Filter{}))
	for w := range m.Waiters(lock.Filter{}) {
		sn.line = append(sn.line, fact{w.Request.File, w.Request.Owner, w.Request.Range, w.Request.Mode})
	}
	return sn
}

// mustNotDeadlock fails if anybody waits for himself while nobody does anything.
func mustNotDeadlock(t tb, m *sneck.Manager) {
	t.Helper()
	sn := snapshotOf(m)
	g := sn.waitsFor()
	if o, any := g.cycle(); any {
		t.Errorf("%s waits for himself, and was not told:%v\nheld: %v\nin line: %v", o, g, sn.held, sn.line)
	}
}

// mustBeDeadlock fails unless err says that a wait of o, who is a POSIX owner,
// would have closed a cycle of POSIX owners.
func mustBeDeadlock(t tb, err error, o lock.Owner) {
	t.Helper()
	mustBe(t, err, lock.ErrDeadlock)
	var d *lock.DeadlockError
	if !errors.As(err, &d) || len(d.Cycle) < 2 || !d.Cycle[0].Same(o) {
		t.Fatalf("%s was refused: %#v", o, err)
	}
	for i, p := range d.Cycle {
		if p.Semantics != lock.POSIX || p.Same(d.Cycle[(i+1)%len(d.Cycle)]) {
			t.Fatalf("%s was refused: %v", o, err)
		}
	}
}

// world is several files, each with its line.
type world []*model

func (wd world) snapshot() (sn snapshot, ids []lock.ID) {
	var line []waits
	files := make(map[lock.ID]*model)
	for _, md := range wd {
		sn.held = append(sn.held, md.facts()...)
		line = append(line, md.line...)
		for _, w := range md.line {
			files[w.id] = md
		}
	}
	slices.SortFunc(line, func(a, b waits) int { return cmp.Compare(a.came, b.came) })
	for _, w := range line {
		ids = append(ids, w.id)
		sn.line = append(sn.line, files[w.id].fact(w.entry))
	}
	return sn, ids
}

// explain tries to say why these, and nobody else, were told of a deadlock: as long
// as there is a cycle, one of them that is the youngest of the cycle that it was
// told of leaves the line, and that hands over; until fits agrees with what has
// become of it. In which order it was it cannot know, so it tries all.
//
// It fails if there was a cycle and nobody was told, and if somebody was told and
// there was none. order and granted are of the calls before, none at first.
func (wd world) explain(told map[lock.ID]*lock.DeadlockError, order, granted []lock.ID, fits func(after world, order, granted []lock.ID) bool) error {
	sn, ids := wd.snapshot()
	g := sn.waitsFor()
	err := func(why string, args ...any) error {
		return fmt.Errorf("%s\nwho waits for whom:%v\nheld: %v\nin line: %v\nrefused before: %d\ntold: %v", fmt.Sprintf(why, args...), g, sn.held, sn.line, order, told)
	}
	if len(told) == 0 {
		if o, any := g.cycle(); any {
			return err("%s waits for himself, and was not told", o)
		}
		if !fits(wd, order, granted) {
			return err("others than %d were granted", granted)
		}
		return nil
	}
	var first error
	for n := len(ids) - 1; n >= 0; n-- {
		d := told[ids[n]]
		if d == nil || !g.closes(n, d.Cycle) {
			continue
		}
		after, rest := make(world, len(wd)), maps.Clone(told)
		delete(rest, ids[n])
		var more []lock.ID
		for i, md := range wd {
			after[i] = md.clone()
			if at := slices.IndexFunc(md.line, func(w waits) bool { return w.id == ids[n] }); at >= 0 {
				after[i].line = slices.Delete(after[i].line, at, at+1)
				more = after[i].handOver()
			}
		}
		e := after.explain(rest, append(slices.Clip(order), ids[n]), append(slices.Clip(granted), more...), fits)
		if e == nil {
			return nil
		}
		first = cmp.Or(first, e)
	}
	return cmp.Or(first, err("nobody who was told is the youngest of his cycle"))
}

// The oracle is the same table without deadlock detection: OFD owners, who wait
// for ever. After each call a brute-force search of the graph of who waits for
// whom there says who has to be refused.
func TestModelOfDeadlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, modelOfDeadlocks) })
}

func modelOfDeadlocks(t *rapid.T) {
	type wait struct {
		call, without *call
		shadow        lock.ID // in the line without detection
		cancel        func()
		came          int
	}
	m, shadow := mustOpen(t, ""), mustOpen(t, "")
	defer func() { _ = m.Close(); _ = shadow.Close(); synctest.Wait() }()
	var line []*wait // oldest first
	came := 0
	files := []lock.FileKey{"0", "1"}
	// real is who takes part: h holds things up, and is not looked for.
	real := func(name string) lock.Owner {
		if name == "h" {
			return ofd(name)
		}
		return posix(name)
	}
	// picture is what there is without detection, of the real owners.
	picture := func() (wd world) {
		for _, f := range files {
			md := newModel(0)
			md.file = f
			spot := func(r lock.Range) place { return place{first: int(r.First()), last: int(r.Last())} }
			for h := range shadow.Locks(lock.Filter{File: f}) {
				md.grant(entry{real(h.Owner.ID), spot(h.Range), h.Mode})
			}
			for v := range shadow.Waiters(lock.Filter{File: f}) {
				i := slices.IndexFunc(line, func(w *wait) bool { return w.shadow == v.ID })
				md.line = append(md.line, waits{entry{real(v.Request.Owner.ID), spot(v.Request.Range), v.Request.Mode}, v.ID, line[i].came})
			}
			wd = append(wd, md)
		}
		return wd
	}
	// settle has the line without detection refuse those who were refused, and
	// holds both against each other.
	settle := func() {
		t.Helper()
		synctest.Wait()
		told := make(map[lock.ID]*lock.DeadlockError)
		for _, w := range line {
			var d *lock.DeadlockError
			if w.call.ended.Load() && errors.As(w.call.err, &d) && !w.without.ended.Load() {
				told[w.shadow] = d
			}
		}
		var refused []lock.ID
		err := picture().explain(told, nil, nil, func(_ world, order, granted []lock.ID) bool {
			refused = order
			for _, w := range line {
				if got := w.call.ended.Load() && w.call.err == nil; got != (w.without.ended.Load() && w.without.err == nil || slices.Contains(granted, w.shadow)) {
					return false
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range refused {
			if !shadow.Cancel(id) {
				t.Fatalf("%d does not wait without detection", id)
			}
			synctest.Wait()
		}
		line = slices.DeleteFunc(line, func(w *wait) bool {
			ended := w.call.ended.Load()
			if ended != w.without.ended.Load() {
				t.Fatalf("ended %v (%v), without detection %v (%v)", ended, w.call.err, !ended, w.without.err)
			}
			if want := w.without.err; ended && told[w.shadow] == nil {
				mustBe(t, w.call.err, kind(t, want))
			}
			return ended
		})
		mustNotDeadlock(t, m)
	}
	for range rapid.IntRange(1, 60).Draw(t, "calls") {
		name, f := rapid.SampledFrom([]string{"a", "b", "c", "d", "h"}).Draw(t, "owner"), rapid.SampledFrom(files).Draw(t, "file")
		first := rapid.Uint64Range(0, 3).Draw(t, "first")
		r := span(first, first+rapid.Uint64Range(0, 2).Draw(t, "more"))
		mode := rapid.SampledFrom([]lock.Mode{s, x}).Draw(t, "mode")
		with, without := on(string(f), real(name), mode, r), on(string(f), ofd(name), mode, r)
		w := &wait{call: new(call), without: new(call), came: came}
		came++
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1, 2:
			id, err := m.Enqueue(with, w.call.end)
			sid, serr := shadow.Enqueue(without, w.without.end)
			if err != nil || serr != nil {
				t.Fatalf("%v, %v", err, serr)
			}
			w.shadow, w.cancel = sid, func() { m.Cancel(id); shadow.Cancel(sid) }
			line = append(line, w)
		case 3: // Upgrade, which stands in line as Enqueue does
			var ctx context.Context
			ctx, w.cancel = context.WithCancel(bg)
			go func() { w.call.end(m.Upgrade(ctx, f, with.Owner, r)) }()
			go func() { w.without.end(shadow.Upgrade(ctx, f, without.Owner, r)) }()
			synctest.Wait()
			for v := range shadow.Waiters(lock.Filter{File: f}) {
				if !slices.ContainsFunc(line, func(w *wait) bool { return w.shadow == v.ID }) {
					w.shadow = v.ID
				}
			}
			line = append(line, w)
		case 4, 5:
			_, err := m.TryLock(bg, with)
			_, serr := shadow.TryLock(bg, without)
			mustBe(t, err, kind(t, serr))
		case 6, 7:
			if held := table(shadow, lock.Filter{}); len(held) > 0 { // in an order that does not vary
				h := rapid.SampledFrom(held).Draw(t, "held")
				f, with.Owner, without.Owner = h.File, real(h.Owner.ID), h.Owner
			}
			if err := errors.Join(m.Unlock(bg, f, with.Owner, r), shadow.Unlock(bg, f, without.Owner, r)); err != nil {
				t.Fatal(err)
			}
		case 8: // everything, of one file
			n, err := m.ReleaseOwner(bg, f, with.Owner)
			sn, serr := shadow.ReleaseOwner(bg, f, without.Owner)
			if err != nil || serr != nil || n != sn {
				t.Fatalf("%d, %v; without detection %d, %v", n, err, sn, serr)
			}
		case 9:
			if len(line) > 0 {
				line[rapid.IntRange(0, len(line)-1).Draw(t, "place")].cancel()
			}
		}
		settle()
	}
}
