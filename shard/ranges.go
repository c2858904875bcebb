package shard

import (
	"slices"

	"sneck/interval"
	"sneck/lock"
)

// grab holds r for o, which nothing may keep it from. It returns what o holds
// there now, whether that is a change, and whether it weakened something that
// o held before.
func (s *state) grab(o *interval.Owner, r lock.Range, m lock.Mode, id, spare lock.ID, now int64) (it interval.Item, changed, weakened bool) {
	if o.Semantics == lock.SMB {
		it = interval.NewItem(o, r, m, id, now)
		s.setStacked(s.stacked().Insert(it))
		return it, true, false
	}
	return s.replace(o, r, m, id, spare, now)
}

// replace is how POSIX ranges are set (POSIX fcntl, F_SETLK): the new mode
// takes the place of whatever the owner held on these bytes, and ranges of one
// owner and mode that touch or overlap become one:
//
//	held       rrrrrrrrrr..rrr...       wwwwwwwwww
//	new           wwww                     rrrr
//	then       rrrwwwwrrr..rrr...       wwwrrrrwww   (weakened)
//
// Merging is bookkeeping, not a request: it may enclose an SMB zero-length range
// that lies between two ranges and kept neither of them out.
//
// What is left of before a restart and was not reclaimed merges with nothing,
// or it would be confirmed.
//
// The range that results is a new lock with the new id. A piece that is left
// of another mode keeps its id; if the new range cuts the middle out of one,
// its right piece gets the id spare.
func (s *state) replace(o *interval.Owner, r lock.Range, m lock.Mode, id, spare lock.ID, now int64) (it interval.Item, changed, weakened bool) {
	a, b := r.First(), r.Last()
	from, until := near(r) // adjacent ranges merge
	var buf [8]interval.Item
	mine := buf[:0]
	if s.posix.Len() > 0 {
		s.posix.OfIn(o, from, until, func(it *interval.Item) bool {
			mine = append(mine, *it)
			return true
		})
	}
	first, last, cut, epoch := a, b, false, EpochOf(id)
	for i := range mine {
		it := &mine[i]
		if it.Mode() != m || unconfirmed(it, epoch) {
			continue
		}
		if it.First() <= a && b <= it.Last() {
			return *it, false, false // it is so already
		}
		s.posix = s.posix.Delete(*it)
		first, last = min(first, it.First()), max(last, it.Last())
	}
	for i := range mine {
		if it := &mine[i]; (it.Mode() != m || unconfirmed(it, epoch)) && it.Range().Overlaps(r) {
			cut = true
			weakened = weakened || it.Exclusive() && m == lock.Shared
		}
	}
	if cut {
		s.posix, _ = s.posix.Cut(o, r, spare)
	}
	merged, err := lock.Bytes(first, last)
	if err != nil {
		panic("shard: " + err.Error())
	}
	it = interval.NewItem(o, merged, m, id, now)
	s.posix = s.posix.Insert(it)
	return it, true, weakened
}

// drop lets go of r. For POSIX and OFD owners that is whatever of it they hold
// (fcntl, F_UNLCK); for SMB handles it is one lock on exactly r, an exclusive
// one before a shared one, the oldest first (MS-FSA 2.1.5.9). It reports
// whether there was any.
func (s *state) drop(o *interval.Owner, r lock.Range, spare lock.ID) bool {
	if o.Semantics != lock.SMB {
		set, changed := s.posix.Cut(o, r, spare)
		s.posix = set
		return changed
	}
	var found interval.Item
	s.stacked().At(o, r, func(it *interval.Item) bool {
		if found.Owner() == nil || it.Exclusive() {
			found = *it
		}
		return !it.Exclusive()
	})
	if found.Owner() == nil {
		return false
	}
	s.setStacked(s.stacked().Delete(found))
	return true
}

// holds reports whether o holds every byte of r, in whatever mode.
func (s *state) holds(o *interval.Owner, r lock.Range) bool {
	next, all := r.First(), false
	s.of(o).OfIn(o, r.First(), r.Last(), func(it *interval.Item) bool {
		if it.First() > next {
			return false
		}
		if it.Last() >= r.Last() {
			all = true
			return false
		}
		next = it.Last() + 1 // cannot wrap: it.Last() < r.Last()
		return true
	})
	return all
}

// leave takes the waiters that go out of the line and returns them.
func (s *state) leave(goes func(*waiter) bool) (gone []*waiter) {
	for _, w := range s.queue {
		if goes(w) {
			gone = append(gone, w)
		}
	}
	if gone != nil {
		s.queue = slices.DeleteFunc(slices.Clone(s.queue), goes)
		if len(s.queue) == 0 {
			s.queue, s.odd = nil, false
		}
	}
	return gone
}
