package shard

import (
	"slices"

	"sneck/interval"
	"sneck/lock"
)

// op is what a command does. The numbers are in the log.
type op uint8

const (
	opLock          op = iota + 1 // owner, rng, mode, id, spare
	opUnlock                      // who, rng, spare
	opReleaseOwner                // who
	opReleaseClient               // client
	opReleaseFile                 //
	opCancel                      // wait; only its grants are logged
	opAll                         // all; logged as its parts
)

// command is one thing to do to one file.
type command struct {
	op     op
	owner  *interval.Owner // stays in the table
	who    interval.Owner  // does not
	client string
	rng    lock.Range
	mode   lock.Mode
	id     lock.ID
	spare  lock.ID
	now    int64 // microseconds since 1970; of every grant

	upgrade bool       // opLock: only if the owner holds all of rng
	polite  bool       // opLock: not before those in line whom it would keep out
	wait    *waiter    // opLock: polite, and stand in line as this if refused; opCancel: who leaves it
	all     []*command // opAll: locks, all or none
	halted  bool       // nothing can be logged any more: grant nothing
}

// refusal is why a command changed nothing.
type refusal uint8

const (
	accepted  refusal = iota
	conflicts         // with result.item in the way
	queues            // has to stay behind somebody in line
	notHeld
	deadlocks // with result.cycle
)

// result is what a transition says besides the new state.
type result struct {
	refusal refusal
	item    interval.Item   // opLock: what is held now; when it conflicts, what is in the way
	items   []interval.Item // opAll: the same for each, in order
	refused *command        // opAll: the part that was refused
	cycle   [2]*interval.Owner
	waits   bool // opLock: it stands in line

	changed  bool    // the state is another one
	logged   bool    // and what is held is
	released int     // opRelease…: how many locks went
	granted  []grant // waiters that hold their lock now, in the order in which they got it
	gone     []*waiter
}

type grant struct {
	w    *waiter
	item interval.Item
}

// transition is the one function that changes what is held: live traffic, the
// replay of the log and every test go through it. It fills next with the state
// of the file after c; without a change next is s. It looks at nothing but its
// arguments.
//
//	            ┌─ conflict? ── yes ─▶ wait? ── yes ─▶ in line
//	opLock ─────┤                        └───── no ──▶ refused, with the holder
//	            └─ no ─▶ replace, merge or stack ─┐
//	opUnlock ───▶ split or pop ───────────────────┤  bytes got
//	opRelease… ─▶ remove, leave the line ─────────┼─ free or weaker ─▶ handOver:
//	opCancel ───▶ leave the line ─────────────────┘  grant those in line
func transition(next, s *state, c *command, res *result) {
	*next = *s
	switch c.op {
	case opLock:
		if stirred, where := next.lock(c, res); stirred {
			next.handOver(c, where, res)
		}
	case opAll:
		stirs := false
		for _, part := range c.all {
			stirred, _ := next.lock(part, res)
			if res.refusal != accepted {
				*next = *s
				*res = result{refusal: res.refusal, item: res.item, refused: part}
				return
			}
			stirs = stirs || stirred
			res.items = append(res.items, res.item)
		}
		if stirs { // only now: a part must not lose to a waiter what another part set free
			next.handOver(c, lock.WholeFile(), res)
		}
		for i, part := range c.all { // a later part may have merged, split or replaced an earlier one
			if part.owner.Semantics != lock.SMB {
				next.posix.OfIn(part.owner, part.rng.First(), part.rng.First(), func(it *interval.Item) bool {
					res.items[i] = *it
					return true
				})
			}
		}
	case opUnlock:
		if !next.drop(&c.who, c.rng, c.spare) {
			res.refusal = notHeld
			return
		}
		res.changed, res.logged = true, true
		// An upgrade is of what its owner holds: without that it is over.
		res.gone = next.leave(func(w *waiter) bool {
			return w.upgrade && w.owner.Is(&c.who) && !next.holds(w.owner, w.rng)
		})
		where := c.rng
		if res.gone != nil {
			where = lock.WholeFile()
		}
		next.handOver(c, where, res)
	case opReleaseOwner, opReleaseClient, opReleaseFile:
		next.release(c, res)
	case opCancel:
		res.gone = next.leave(c.takes)
		if res.gone == nil {
			res.refusal = notHeld
			return
		}
		res.changed = true
		next.handOver(c, c.wait.rng, res)
	}
}

// lock grants c, refuses it or puts it in line. It reports whether a grant may
// let in somebody who waits, and where.
func (s *state) lock(c *command, res *result) (stirs bool, where lock.Range) {
	if c.upgrade && !s.holds(c.owner, c.rng) {
		res.refusal = notHeld
		return
	}
	if hit := s.conflict(c.owner, c.rng, c.mode); hit != nil {
		res.refusal, res.item = conflicts, *hit
	} else if me := (waiter{owner: c.owner, rng: c.rng, mode: c.mode}); (c.polite || c.wait != nil) && s.anyBehind(&me, s.queue) {
		res.refusal = queues
	} else {
		it, changed, weakened := s.grab(c.owner, c.rng, c.mode, c.id, c.spare, c.now)
		res.item = it
		if changed {
			res.changed, res.logged = true, true
		}
		return s.stirs(c.owner, c.rng, weakened)
	}
	if c.wait == nil {
		return
	}
	if c.upgrade {
		// Both hold what the other one waits for, and neither can give it up.
		for _, v := range s.queue {
			if v.upgrade && !v.owner.Is(c.owner) && v.rng.Overlaps(c.rng) && s.blocks(c.owner, v) && s.blocks(v.owner, c.wait) {
				res.refusal, res.cycle = deadlocks, [2]*interval.Owner{c.owner, v.owner}
				return
			}
		}
	}
	res.refusal, res.waits, res.changed = accepted, true, true
	s.odd = s.odd || c.rng.IsEmpty() || s.waitsAt(c.owner)
	s.queue = append(slices.Clip(s.queue), c.wait)
	return
}

// stirs reports whether a grant of r to o may let in somebody who waits, and
// where. It may if it weakened what o held there; and if o still waits for
// something else: what o has just got may be what somebody before it waits for,
// and behind him it need not stay then. A zero-length range is let in even by a
// stronger mode that splits the range which it was inside of.
func (s *state) stirs(o *interval.Owner, r lock.Range, weakened bool) (bool, lock.Range) {
	if s.waitsAt(o) || s.odd && slices.ContainsFunc(s.queue, func(w *waiter) bool { return w.rng.IsEmpty() }) {
		return true, lock.WholeFile()
	}
	return weakened, r
}

// release removes what c lets go of and who leaves the line with it, and hands
// over.
func (s *state) release(c *command, res *result) {
	res.released = c.release(&s.posix)
	if s.smb != nil {
		smb := *s.smb
		res.released += c.release(&smb)
		s.setStacked(smb)
	}
	res.gone = s.leave(c.takes)
	res.logged = res.released > 0
	res.changed = res.logged || res.gone != nil
	if res.changed {
		s.handOver(c, lock.WholeFile(), res)
	}
}

// release removes from the set what c lets go of, and counts it.
func (c *command) release(set *interval.Set) int {
	var gone []interval.Item
	add := func(it *interval.Item) bool { gone = append(gone, *it); return true }
	switch c.op {
	case opReleaseOwner:
		set.Of(&c.who, add)
	case opReleaseClient:
		set.OfClient(c.client, add)
	case opReleaseFile:
		set.Each(add)
	}
	*set = set.DeleteAll(gone)
	return len(gone)
}

// takes reports whether w leaves the line with what c releases.
func (c *command) takes(w *waiter) bool {
	switch c.op {
	case opReleaseOwner:
		return w.owner.Is(&c.who)
	case opReleaseClient:
		return w.owner.Client == c.client
	}
	return c.op == opReleaseFile || w == c.wait
}

// handOver grants whoever in line can have his lock now that the bytes freed
// are free or held more weakly, or that somebody left the line there: in
// ticket order, in this same transition. A wake-up is a grant; nobody is woken
// to try again.
//
// A grant may stir up the line once more: then it is gone through again from
// its head.
func (s *state) handOver(c *command, freed lock.Range, res *result) {
	if len(s.queue) == 0 || c.halted {
		return
	}
	var taker *interval.Owner // holds all of freed exclusively: nobody else can be granted
	ours := false             // the queue is a copy
	for i := 0; i < len(s.queue); {
		if taker != nil && !s.odd {
			break // the others are others
		}
		w := s.queue[i]
		// A zero-length range is let in by bytes that it does not overlap: the
		// one before it, or the one at it.
		unmoved := taker != nil && !taker.Is(w.owner) || !w.rng.Overlaps(freed)
		if unmoved && !w.rng.IsEmpty() || s.conflict(w.owner, w.rng, w.mode) != nil || s.anyBehind(w, s.queue[:i]) {
			i++
			continue
		}
		if !ours {
			s.queue, ours = slices.Clone(s.queue), true
		}
		s.queue = slices.Delete(s.queue, i, i+1)
		it, _, weakened := s.grab(w.owner, w.rng, w.mode, w.id, w.spare, c.now)
		res.granted = append(res.granted, grant{w: w, item: it})
		res.changed, res.logged = true, true
		stirs := weakened
		if s.odd { // else w was its owner's only one, and none is of zero length
			stirs, _ = s.stirs(w.owner, w.rng, weakened)
		}
		if stirs {
			freed, taker, i = lock.WholeFile(), nil, 0
		} else if w.mode == lock.Exclusive && w.rng.Contains(freed) {
			taker = w.owner
		}
	}
	if len(s.queue) == 0 {
		s.queue, s.odd = nil, false
	}
}
