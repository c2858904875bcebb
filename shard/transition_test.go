package shard

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"sneck/interval"
	"sneck/lock"
)

// genRange draws small ranges, at the low or at the top end, so that they meet.
func genRange(rt *rapid.T, top bool) lock.Range {
	a := rapid.Uint64Range(0, 15).Draw(rt, "first")
	b := rapid.Uint64Range(a, 15).Draw(rt, "last")
	if top {
		a, b = ^uint64(15)+a, ^uint64(15)+b
	}
	return span(a, b)
}

// Random commands to one file, with waiters: after each step the invariants
// hold, nothing that the caller held is lost by a refusal, the older state is
// untouched, and the same command on the same state gives the same again.
func TestTransitionInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		top := rapid.Bool().Draw(rt, "top")
		owners := []*interval.Owner{}
		for i := range 5 {
			o := own(fmt.Sprintf("c%d", i%2), fmt.Sprint(i), lock.Semantics(1+i%3))
			owners = append(owners, interval.NewOwner(o))
		}
		s := new(state)
		id := lock.ID(1)
		decided := map[*waiter]bool{}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			c := &command{owner: rapid.SampledFrom(owners).Draw(rt, "owner"), id: id, spare: id + 1, now: int64(id)}
			c.who = *c.owner
			id += 2
			c.rng = genRange(rt, top)
			if c.owner.Semantics == lock.SMB && rapid.IntRange(0, 3).Draw(rt, "zero") == 0 {
				c.rng, _ = lock.SMBRange(c.rng.First(), 0)
			}
			c.mode = lock.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
			switch n := rapid.IntRange(0, 19).Draw(rt, "op"); {
			case n < 6:
				c.op = opLock
			case n < 12:
				c.op = opLock
				c.upgrade = n == 11 && c.owner.Semantics != lock.SMB
				if c.upgrade {
					c.mode = lock.Exclusive
				}
				c.wait = &waiter{id: c.id, spare: c.spare, owner: c.owner, rng: c.rng, mode: c.mode, upgrade: c.upgrade}
			case n < 16:
				c.op = opUnlock
			case n == 16:
				c.op = opReleaseOwner
			case n == 17:
				c.op, c.client = opReleaseClient, c.owner.Client
			case n == 18:
				c.op = opCancel
				if len(s.queue) == 0 {
					continue
				}
				c.wait = rapid.SampledFrom(s.queue).Draw(rt, "who")
			case n == 19:
				c.op = opAll
				for range rapid.IntRange(1, 3).Draw(rt, "parts") {
					c.all = append(c.all, &command{op: opLock, owner: c.owner, rng: genRange(rt, top),
						mode: lock.Mode(rapid.IntRange(1, 2).Draw(rt, "mode")), id: id, spare: id + 1, now: c.now})
					id += 2
				}
			}
			before := fmt.Sprintf("%+v", *s)
			var next, again state
			var res, res2 result
			transition(&next, s, c, &res)
			transition(&again, s, c, &res2)
			if after := fmt.Sprintf("%+v", *s); after != before {
				rt.Fatalf("a transition changed the state that it came from:\n%s\n%s", before, after)
			}
			if list(&next) != list(&again) || res.refusal != res2.refusal {
				rt.Fatalf("the same command gave two results:\n%s\n%s", list(&next), list(&again))
			}
			if !res.changed && list(&next) != list(s) {
				rt.Fatalf("unchanged, it says, but was\n%s\nand is\n%s", list(s), list(&next))
			}
			if res.refusal != accepted && res.changed {
				rt.Fatalf("refused and changed")
			}
			check(t, &next)
			if c.op == opLock && res.refusal == accepted && !res.waits && c.owner.Semantics != lock.SMB {
				held := false
				next.posix.OfIn(c.owner, c.rng.First(), c.rng.Last(), func(it *interval.Item) bool {
					held = held || it.Range().Contains(c.rng) && it.Mode() == c.mode && it.ID() == res.item.ID()
					return true
				})
				// A grant to the same owner in the same transition may have changed it again.
				if !held && len(res.granted) == 0 {
					rt.Fatalf("granted %v %v, but the table is\n%s", c.mode, c.rng, list(&next))
				}
			}
			for _, g := range res.granted {
				if decided[g.w] {
					rt.Fatalf("invariant 4: a waiter is decided twice")
				}
				decided[g.w] = true
			}
			for _, w := range res.gone {
				if decided[w] {
					rt.Fatalf("invariant 4: a waiter is decided twice")
				}
				decided[w] = true
			}
			s = &next
		}
	})
}

func list(s *state) (out string) {
	s.each(func(it *interval.Item) bool {
		out += fmt.Sprintf("%v %v %v #%d\n", it.Owner(), it.Range(), it.Mode(), it.ID())
		return true
	})
	for _, w := range s.queue {
		out += fmt.Sprintf("#%d %v waits for %v %v\n", w.id, w.owner, w.rng, w.mode)
	}
	return out
}

// A grant may weaken what its owner held, and so let in somebody who stands
// before it:
//
//	held     AAAAAAAAAA BBBBBBBBBB     exclusive
//	in line  ccccc                      C, shared, kept out by A
//	         aaaaaaaaaaaaaaaaaaaaa      A, shared, kept out by B
//	B goes   aaaaaaaaaaaaaaaaaaaaa      A holds shared, and C is let in too
func TestGrantThatWeakensLetsInEarlierOnes(t *testing.T) {
	tb := newTable(nil)
	a, b, c := own("x", "a", lock.POSIX), own("x", "b", lock.POSIX), own("x", "c", lock.POSIX)
	must := func(o lock.Owner, r lock.Range) {
		t.Helper()
		if _, err := tb.TryLock(lock.Request{File: "f", Owner: o, Range: r, Mode: lock.Exclusive}, nil); err != nil {
			t.Fatal(err)
		}
	}
	must(a, span(0, 9))
	must(b, span(10, 19))
	got := make(chan lock.Held, 2)
	wait := func(o lock.Owner, r lock.Range) {
		t.Helper()
		if _, err := tb.Enqueue(lock.Request{File: "f", Owner: o, Range: r, Mode: lock.Shared}, nil, func(h lock.Held, err error) {
			if err != nil {
				t.Error(err)
			}
			got <- h
		}); err != nil {
			t.Fatal(err)
		}
	}
	wait(c, span(0, 4))
	wait(a, span(0, 19))
	if err := tb.Unlock("f", b, lock.WholeFile()); err != nil {
		t.Fatal(err)
	}
	<-got
	<-got
	if n := tb.Stats(); n.Waiters != 0 || n.Locks != 2 {
		t.Fatalf("%+v\n%s", n, dump(tb))
	}
	checkAll(t, tb)
}
