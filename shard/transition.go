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
	opOpen                        // owner, access, deny, reclaim, id, now
	opClose                       // who
	opReclaim                     // as opLock
	opReleaseStale                // epoch: what was held before it and not reclaimed
	opRevoke                      // who, id
	opStir                        // grants whoever can be; only its grants are logged
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
	now    int64  // microseconds since 1970; of every grant
	epoch  uint64 // server epoch

	most, mostWaiters int // of the file: locks and waiters together, and waiters; 0: no limit

	access, deny lock.Access // opOpen
	reclaim      bool        // only what was held before the restart

	upgrade bool       // opLock: only if the owner holds all of rng
	polite  bool       // opLock: not before those in line whom it would keep out
	wait    *waiter    // opLock: polite, and stand in line as this if refused; opCancel: who leaves it
	all     []*command // opAll: locks, all or none
	halted  bool       // nothing can be logged any more: grant nothing
	strict  bool       // in a grace period that lets nobody have anything new: grant nothing, but what is reclaimed
}

// refusal is why a command changed nothing.
type refusal uint8

const (
	accepted  refusal = iota
	conflicts         // with result.item in the way
	queues            // has to stay behind somebody in line
	notHeld
	deadlocks      // with result.cycle
	shareConflicts // with result.share in the way
	notReclaimable
	noRoom // a limit: result.lacks
)

// result is what a transition says besides the new state.
type result struct {
	refusal refusal
	item    interval.Item   // opLock: what is held now; when it conflicts, what is in the way
	items   []interval.Item // opAll: the same for each, in order
	refused *command        // opAll: the part that was refused
	cycle   [2]*interval.Owner
	share   share // opOpen: what is in the way
	inGrace bool  // opOpen: because it was not reclaimed
	waits   bool  // opLock: it stands in line

	lacks  string  // noRoom: which limit
	self   string  // the client that asked
	own    int     // units of it, which the change adds
	others []tally // of other clients

	changed  bool      // the state is another one
	logged   bool      // and what is held is
	released int       // opRelease…: how many locks went
	full     []*waiter // waiters who were refused, since the file has as many locks as it may
	granted  []grant   // waiters that hold their lock now, in the order in which they got it
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
	res.self = c.self()
	switch c.op {
	case opLock, opReclaim:
		stirred, where := next.lock(c, res)
		if res.refusal == noRoom {
			*next = *s
			return
		}
		if stirred {
			next.handOver(c, where, res)
		}
	case opAll:
		stirs := false
		for _, part := range c.all {
			stirred, _ := next.lock(part, res)
			if res.refusal != accepted {
				*next = *s
				*res = result{refusal: res.refusal, item: res.item, lacks: res.lacks, refused: part}
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
		dropped, n := false, next.locks()
		next.recount(&c.who, c.rng, c.epoch, func() { dropped = next.drop(&c.who, c.rng, c.spare) })
		if !dropped {
			res.refusal = notHeld
			return
		}
		res.changed, res.logged = true, true
		res.add(c.who.Client, next.locks()-n)
		// An upgrade is of what its owner holds: without that it is over.
		res.gone = next.leave(func(w *waiter) bool {
			return w.upgrade && w.owner.Is(&c.who) && !next.holds(w.owner, w.rng)
		})
		res.left()
		where := c.rng
		if res.gone != nil {
			where = lock.WholeFile()
		}
		next.handOver(c, where, res)
	case opReleaseOwner, opReleaseClient, opReleaseFile, opReleaseStale:
		next.release(c, res)
	case opRevoke:
		next.revoke(c, res)
	case opStir:
		next.handOver(c, lock.WholeFile(), res)
	case opOpen:
		next.open(c, res)
	case opClose:
		next.close(c, res)
	case opCancel:
		res.gone = next.leave(c.takes)
		if res.gone == nil {
			res.refusal = notHeld
			return
		}
		res.changed = true
		res.left()
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
	if c.op == opReclaim && !s.reclaimable(c.owner, c.rng, c.mode) {
		res.refusal = notReclaimable
		return
	}
	if hit := s.inTheWay(c); hit != nil {
		res.refusal, res.item = conflicts, *hit
	} else if c.strict && c.op != opReclaim {
		res.refusal = queues
	} else if me := (waiter{owner: c.owner, rng: c.rng, mode: c.mode}); (c.polite || c.wait != nil) && s.anyBehind(&me, s.queue) {
		res.refusal = queues
	} else {
		var changed, weakened bool
		n := s.locks()
		s.recount(c.owner, c.rng, EpochOf(c.id), func() {
			if c.op == opReclaim {
				res.item, changed, weakened = s.reclaim(c)
			} else {
				res.item, changed, weakened = s.grab(c.owner, c.rng, c.mode, c.id, c.spare, c.now)
			}
		})
		if changed {
			res.changed, res.logged = true, true
		}
		if c.op == opLock && c.most > 0 && s.locks() > n && s.locks() > c.most {
			*res = result{refusal: noRoom, lacks: limitFile}
			return false, where
		}
		res.add(c.owner.Client, s.locks()-n)
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
	switch {
	case c.mostWaiters > 0 && len(s.queue) >= c.mostWaiters:
		*res = result{refusal: noRoom, lacks: limitWaitersFile}
		return
	}
	res.add(c.owner.Client, 1)
	res.refusal, res.waits, res.changed = accepted, true, true
	s.odd = s.odd || c.rng.IsEmpty() || s.waitsAt(c.owner)
	s.queue = append(slices.Clip(s.queue), c.wait)
	return
}

// inTheWay is the held range that keeps c out, or nil.
func (s *state) inTheWay(c *command) *interval.Item {
	if c.op != opReclaim {
		return s.conflict(c.owner, c.rng, c.mode)
	}
	return s.reclaimConflict(c.owner, c.rng, c.mode)
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
	res.released = s.releaseOf(c, &s.posix, res)
	if s.smb != nil {
		smb := *s.smb
		res.released += s.releaseOf(c, &smb, res)
		s.setStacked(smb)
	}
	res.gone = s.leave(c.takes)
	res.left()
	res.logged = s.dropShares(c) || res.released > 0
	res.changed = res.logged || res.gone != nil
	if res.changed {
		s.handOver(c, lock.WholeFile(), res)
	}
}

// revoke removes the range or reservation with the id, if it is c.who's.
func (s *state) revoke(c *command, res *result) {
	var found interval.Item
	s.of(&c.who).Of(&c.who, func(it *interval.Item) bool {
		if it.ID() == c.id {
			found = *it
		}
		return found.Owner() == nil
	})
	where := lock.WholeFile()
	switch at := s.shareOf(&c.who); {
	case found.Owner() != nil:
		if unconfirmed(&found, c.epoch) && s.stale > 0 {
			s.stale--
		}
		if c.who.Semantics == lock.SMB {
			s.setStacked(s.stacked().Delete(found))
		} else {
			s.posix = s.posix.Delete(found)
		}
		res.released = 1
		res.add(c.who.Client, -1)
		// An upgrade of what is gone is over.
		res.gone = s.leave(func(w *waiter) bool { return w.upgrade && w.owner.Is(&c.who) && !s.holds(w.owner, w.rng) })
		res.left()
	case at >= 0 && s.shares()[at].id == c.id:
		s.recountShares(c.epoch, func() { s.setShares(slices.Delete(slices.Clone(s.shares()), at, at+1)) })
	default:
		res.refusal = notHeld
		return
	}
	res.changed, res.logged = true, true
	s.handOver(c, where, res)
}

// releaseOf removes from the set what c lets go of, and counts it.
func (s *state) releaseOf(c *command, set *interval.Set, res *result) int {
	var gone []interval.Item
	add := func(it *interval.Item) bool {
		old := unconfirmed(it, c.epoch)
		if c.op == opReleaseStale && !old {
			return true
		}
		if old && s.stale > 0 {
			s.stale--
		}
		gone = append(gone, *it)
		res.add(it.Owner().Client, -1)
		return true
	}
	switch c.op {
	case opReleaseOwner:
		set.Of(&c.who, add)
	case opReleaseClient:
		set.OfClient(c.client, add)
	case opReleaseFile, opReleaseStale:
		set.Each(add)
	}
	*set = set.DeleteAll(gone)
	return len(gone)
}

// left counts those who left the line.
func (r *result) left() {
	for _, w := range r.gone {
		r.add(w.owner.Client, -1)
	}
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
	if len(s.queue) == 0 || c.halted || c.strict {
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
		was := *s
		s.queue = slices.Delete(s.queue, i, i+1)
		var it interval.Item
		weakened, n := false, s.units()+1
		s.recount(w.owner, w.rng, EpochOf(w.id), func() { it, _, weakened = s.grab(w.owner, w.rng, w.mode, w.id, w.spare, c.now) })
		if c.most > 0 && s.locks() > c.most && s.locks() > was.locks() {
			// There is no place for it on the file: it leaves the line.
			was.queue = s.queue
			*s = was
			res.full = append(res.full, w)
			res.add(w.owner.Client, -1)
			res.changed = true
			freed, taker, i = lock.WholeFile(), nil, 0
			continue
		}
		res.add(w.owner.Client, s.units()-n)
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
