package shard

import (
	"math"

	"sneck/interval"
	"sneck/lock"
)

// After a restart what the log holds is unconfirmed until its owner reclaims it
// or the grace period is over. Nothing says so but the epoch: what was granted in
// an earlier epoch than the present one is unconfirmed, a reclaim makes it one of
// this epoch, and at the end of grace all that is left of earlier epochs is
// released. So a crash during grace leaves everything unconfirmed again that had
// not been released, and nothing that had.

// unconfirmed reports whether it was held before the epoch began.
func unconfirmed(it *interval.Item, epoch uint64) bool { return it.Epoch() < epoch }

// reclaimable reports whether o may reclaim r in mode m: it held every byte of
// it in that mode or a stronger one, and has not let go of it since (RFC 8881
// 8.4.2.1, 18.10; XNFS NLM_LOCK with reclaim). What was reclaimed already may be
// reclaimed again: the answer may have been lost. An SMB lock is reclaimed as it
// was made, exactly.
func (s *state) reclaimable(o *interval.Owner, r lock.Range, m lock.Mode) bool {
	if o.Semantics == lock.SMB {
		_, ok := s.stackedFor(o, r, m, math.MaxUint64) // whatever its epoch
		return ok
	}
	strong := true
	s.posix.OfIn(o, r.First(), r.Last(), func(it *interval.Item) bool {
		strong = m == lock.Shared || it.Exclusive()
		return strong
	})
	return strong && s.holds(o, r)
}

// reclaimConflict is the range of another owner that keeps o from reclaiming r, or
// nil. What o holds already nobody else can hold, so there is none, unless a
// record lies; but a zero-length range that another one has grown around is no
// reason to refuse either: it was none to hold them.
func (s *state) reclaimConflict(o *interval.Owner, r lock.Range, m lock.Mode) (hit *interval.Item) {
	if r.IsEmpty() {
		return nil
	}
	who := interval.Exclusives
	if m == lock.Exclusive {
		who = interval.Everyone
	}
	if hit = s.posix.First(r, who, o); hit != nil || s.smb == nil {
		return hit
	}
	s.smb.In(r, func(it *interval.Item) bool {
		if it.Mode().Conflicts(m) && !it.Owner().Is(o) && !it.Range().IsEmpty() {
			hit = it
		}
		return hit == nil
	})
	return hit
}

// stackedFor is the SMB lock of o on exactly r that a reclaim in mode m is of. One
// of that mode is it rather than a stronger one; and then one that was not
// reclaimed yet, unless there is none of that mode: who asks again has not had the
// answer, and must not be given another lock of the stack.
func (s *state) stackedFor(o *interval.Owner, r lock.Range, m lock.Mode, epoch uint64) (found interval.Item, ok bool) {
	best := 0
	s.stacked().At(o, r, func(it *interval.Item) bool {
		rank := 0
		switch old := unconfirmed(it, epoch); {
		case it.Mode() == m && old:
			rank = 4
		case it.Mode() == m:
			rank = 3
		case it.Exclusive() && old:
			rank = 2
		case it.Exclusive():
			rank = 1
		}
		if rank > best {
			found, ok, best = *it, true, rank
		}
		return true
	})
	return found, ok
}

// reclaim makes what o held before the restart o's again. Only the bytes that it
// names are confirmed.
func (s *state) reclaim(c *command) (it interval.Item, changed, weakened bool) {
	if c.owner.Semantics != lock.SMB {
		return s.replace(c.owner, c.rng, c.mode, c.id, c.spare, c.now)
	}
	was, _ := s.stackedFor(c.owner, c.rng, c.mode, EpochOf(c.id)) // there is one
	if !unconfirmed(&was, EpochOf(c.id)) {
		return was, false, false
	}
	it = interval.NewItem(c.owner, c.rng, c.mode, c.id, c.now)
	rest := s.stacked().Delete(was)
	s.setStacked(rest.Insert(it))
	return it, true, was.Mode() != c.mode
}

// near is r with a byte more on each side.
func near(r lock.Range) (a, b uint64) {
	a, b = r.First(), r.Last()
	if a > 0 {
		a--
	}
	if b < math.MaxUint64 {
		b++
	}
	return a, b
}

// staleOf counts o's ranges from before the epoch that a change of r may touch.
// The difference of before and after is right: what lies next to r is counted
// both times, and so are the pieces of what is cut.
func (s *state) staleOf(o *interval.Owner, r lock.Range, epoch uint64) (n int) {
	count := func(it *interval.Item) bool {
		if unconfirmed(it, epoch) {
			n++
		}
		return true
	}
	if o.Semantics == lock.SMB {
		s.stacked().At(o, r, count)
	} else {
		a, b := near(r)
		s.posix.OfIn(o, a, b, count)
	}
	return n
}

// recount changes the number of unconfirmed ranges by what change, of o's ranges
// on r, does to it.
func (s *state) recount(o *interval.Owner, r lock.Range, epoch uint64, change func()) {
	if s.stale == 0 {
		change()
		return
	}
	before := s.staleOf(o, r, epoch)
	change()
	s.stale += int32(s.staleOf(o, r, epoch) - before)
}

// begin counts what is unconfirmed in a state that was replayed.
func (s *state) begin(epoch uint64) (n int) {
	s.each(func(it *interval.Item) bool {
		if unconfirmed(it, epoch) {
			n++
		}
		return true
	})
	list := s.shares()
	for i := range list {
		if _, _, stale := list[i].stale(epoch); stale {
			n++
		}
	}
	s.stale = int32(n)
	return n
}
