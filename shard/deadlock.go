package shard

import (
	"cmp"
	"slices"
	"sync"

	"github.com/puzpuzpuz/xsync/v3"

	"sneck/deadlock"
	"sneck/interval"
	"sneck/lock"
)

// Who waits for whom is nowhere stored: it is asked of the live states. A wait
// waits for all waits of whoever holds what is in its way, who may not let go of
// it before; and for those in line before it, each of which has to be granted
// first.
//
//	wait ─▶ file's state ─┬─▶ holders in the way ─▶ owners ─▶ all their waits
//	                      └─▶ those before it in line
//
// It does not wait for the other waits of an owner that is before it in line and
// holds nothing of it yet: that one's turn may come, and then the other waits may
// pass. If they may not, the grant closes a cycle, and is when it is looked for.
//
// Only POSIX owners are looked for: an OFD or SMB owner is not a process that a
// refusal could help, so it is the end of every path (POSIX fcntl, EDEADLK; Linux
// fs/locks.c does the same for OFD locks).
//
// A waiter stands in line first and searches then. Of two that close a cycle
// together the one that comes second sees both. Whoever sees a cycle refuses the
// youngest waiter of it, so that of several that see it all choose the same one,
// and it can be decided only once. An owner that is granted something while it
// waits for something else may have closed a cycle as well: then whoever granted
// it searches.

// ident is what makes owners the same.
type ident struct {
	client, id string
	semantics  lock.Semantics
}

func identOf(o *interval.Owner) ident { return ident{o.Client, o.ID, o.Semantics} }

// wanting knows the waits of every POSIX owner that stands in line anywhere.
// They are never empty, and never changed.
type wanting struct {
	owners *xsync.MapOf[ident, []*waiter]
	pool   sync.Pool // of *search
}

func newWanting() wanting { return wanting{owners: xsync.NewMapOf[ident, []*waiter]()} }

// add notes that w stands in line, or is about to.
func (g *wanting) add(w *waiter) {
	if w.owner.Semantics != lock.POSIX {
		return
	}
	g.owners.Compute(identOf(w.owner), func(line []*waiter, _ bool) ([]*waiter, bool) {
		return append(slices.Clip(line), w), false
	})
}

// remove notes that w was decided.
func (g *wanting) remove(w *waiter) {
	if w.owner.Semantics != lock.POSIX {
		return
	}
	g.owners.Compute(identOf(w.owner), func(line []*waiter, _ bool) ([]*waiter, bool) {
		line = slices.DeleteFunc(slices.Clone(line), func(v *waiter) bool { return v == w })
		return line, len(line) == 0
	})
}

// search is a search with what it has read.
type search struct {
	deadlock.Search[*waiter]
	seen map[*cell]*state // the state that each file was asked in
	to   []*waiter        // what the wait that is looked at waits for
	t    *Table
}

// holder notes that it waits for all waits of a holder.
func (x *search) holder(o *interval.Owner) {
	if o.Semantics == lock.POSIX {
		line, _ := x.t.wanting.owners.Load(identOf(o))
		x.to = append(x.to, line...)
	}
}

// before notes that it waits for one before it.
func (x *search) before(v *waiter) bool {
	if v.owner.Semantics == lock.POSIX {
		x.to = append(x.to, v)
	}
	return true
}

// blockers visits the owners that keep the i-th in line waiting, some more than
// once: holders, and those before it.
func (s *state) blockers(i int, f func(*interval.Owner)) {
	w := s.queue[i]
	s.holders(w, f)
	s.behind(w, s.queue[:i], func(v *waiter) bool { f(v.owner); return true })
}

// holders visits the owners of what is in w's way.
func (s *state) holders(w *waiter, f func(*interval.Owner)) {
	holder := func(it *interval.Item) bool {
		own := it.Owner().Is(w.owner) && !(w.owner.Semantics == lock.SMB && w.mode == lock.Exclusive)
		if !own && it.Mode().Conflicts(w.mode) {
			f(it.Owner())
		}
		return true
	}
	s.posix.In(w.rng, holder)
	s.stacked().In(w.rng, holder)
}

// reach visits enough of what keeps the i-th in line waiting: holders, and those
// before it. The others are waited for by one of them: whoever waits behind
// somebody that asks for the same bytes and more waits for whatever that one does.
//
//	held       hhhhhhhhhh
//	in line    uuuuuuuuuu        exclusive
//	           vvvvvvvvvv        exclusive: waits for u and h
//	last in    wwww              waits for v; that u and h are in its way too adds nothing
//
// It would, if v held something: then it need not stay behind everybody; nor does
// it stay behind its owner's own waits.
func (s *state) reach(i int, x *search) {
	w := s.queue[i]
	if s.owns(w.owner) {
		s.holders(w, x.holder)
		s.behind(w, s.queue[:i], x.before)
		return
	}
	for k := i - 1; k >= 0; k-- {
		v := s.queue[k]
		if !rivals(w, v) {
			continue
		}
		x.before(v)
		covers := v.rng.Contains(w.rng) && (v.mode == lock.Exclusive || w.mode == lock.Shared)
		if covers && v.owner.Semantics == lock.POSIX && !s.owns(v.owner) && !s.waitsBefore(v.owner, k) {
			return
		}
	}
	s.holders(w, x.holder)
}

// waitsBefore reports whether o stands in line before the k-th place.
func (s *state) waitsBefore(o *interval.Owner, k int) bool {
	return s.odd && slices.ContainsFunc(s.queue[:k], func(u *waiter) bool { return u.owner.Is(o) })
}

// place is where w stands in line, or -1. Most lines are in the order of ids.
func (s *state) place(w *waiter) int {
	i, _ := slices.BinarySearchFunc(s.queue, w.id, func(v *waiter, id lock.ID) int { return cmp.Compare(v.id, id) })
	if i < len(s.queue) && s.queue[i] == w {
		return i
	}
	return slices.Index(s.queue, w)
}

// next appends the waits that w waits for.
func (x *search) next(w *waiter, to []*waiter) []*waiter {
	c := w.cell.Load()
	if c == nil {
		return to // it does not stand there yet
	}
	s, asked := x.seen[c]
	if !asked {
		s = c.state.Load()
		x.seen[c] = s
	}
	x.to = to
	if i := s.place(w); i >= 0 {
		s.reach(i, x)
	}
	to, x.to = x.to, nil
	return to
}

// deadlocks refuses a waiter of each cycle that w is part of.
func (t *Table) deadlocks(w *waiter) {
	if w.owner.Semantics != lock.POSIX {
		return
	}
	x, _ := t.wanting.pool.Get().(*search)
	if x == nil {
		x = &search{seen: make(map[*cell]*state), t: t}
	}
	for {
		cycle := x.Cycle(w, x.next)
		if cycle == nil {
			break
		}
		// If none of the states has changed until now, all were in force when the
		// last one was read. Else it may never have been a cycle.
		if !slices.ContainsFunc(cycle, func(v *waiter) bool {
			c := v.cell.Load()
			return c.state.Load() != x.seen[c]
		}) {
			victim := slices.MaxFunc(cycle, func(u, v *waiter) int { return cmp.Compare(u.ticket, v.ticket) })
			t.leave(victim, &lock.DeadlockError{Cycle: named(cycle, victim)})
		}
		clear(x.seen)
	}
	clear(x.seen)
	t.wanting.pool.Put(x)
}

// named is the owners of the cycle, the victim's first.
func named(cycle []*waiter, victim *waiter) (owners []lock.Owner) {
	at := slices.Index(cycle, victim)
	for i := range cycle {
		o := cycle[(at+i)%len(cycle)].owner.Owner
		if i == 0 || !o.Same(owners[len(owners)-1]) {
			owners = append(owners, o)
		}
	}
	return owners
}

// granted searches for cycles that a grant has closed: the owner has got
// something, and waits for something else.
func (t *Table) granted(o *interval.Owner) {
	if o.Semantics != lock.POSIX {
		return
	}
	line, _ := t.wanting.owners.Load(identOf(o))
	for _, w := range line {
		t.deadlocks(w)
	}
}

// shifted searches for cycles that are closed because somebody has to stay behind
// another one now: who waited for him until something was let go of, or granted,
// or left the line (see behind). Only those who hold something have that exception.
func (t *Table) shifted(was, s *state) {
	for i, w := range s.queue {
		if i > 0 && w.owner.Semantics == lock.POSIX && (s.owns(w.owner) || was.owns(w.owner)) {
			t.deadlocks(w)
		}
	}
}
