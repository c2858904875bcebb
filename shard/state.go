package shard

import (
	"slices"
	"sync/atomic"

	"sneck/interval"
	"sneck/lock"
)

// state is everything about one file. It is immutable once published: a
// transition fills in a new one.
type state struct {
	posix interval.Set  // ranges of POSIX and OFD owners: one owner's never overlap
	smb   *interval.Set // ranges of SMB owners: they stack; nil when there are none
	queue []*waiter     // who stands in line, by ticket: the first came first
	opens *opens        // share reservations; nil when there are none
	stale int32         // ranges and shares from before the restart that were not reclaimed
	odd   bool          // since the line was last empty, an owner stood in it twice, or for a zero-length range

	// What the shell keeps beside it; a transition neither reads nor writes it.
	version uint64 // grows with every logged change of the file
	ticket  Ticket // the log record that made this state; nil if it is durable
}

// locks is the number of ranges held.
func (s *state) locks() int {
	n := s.posix.Len()
	if s.smb != nil {
		n += s.smb.Len()
	}
	return n
}

// vacant reports whether nothing is held: no range, and no share reservation.
func (s *state) vacant() bool { return s.smb == nil && s.opens == nil && s.posix.Len() == 0 }

func (s *state) empty() bool { return len(s.queue) == 0 && s.vacant() }

// of is the set that o's ranges are in.
func (s *state) of(o *interval.Owner) *interval.Set {
	if o.Semantics != lock.SMB {
		return &s.posix
	}
	return s.stacked()
}

var none interval.Set // never written

// stacked is the SMB ranges.
func (s *state) stacked() *interval.Set {
	if s.smb == nil {
		return &none
	}
	return s.smb
}

func (s *state) setStacked(set interval.Set) {
	s.smb = nil
	if set.Len() > 0 {
		s.smb = &set
	}
}

// each visits all held ranges, the POSIX ones first, until f returns false.
func (s *state) each(f func(*interval.Item) bool) {
	more := true
	g := func(it *interval.Item) bool { more = f(it); return more }
	if s.posix.Each(g); more {
		s.stacked().Each(g)
	}
}

// waiter is a request that stands in line. Its upper half is what a transition
// sees of it; nothing of that changes.
type waiter struct {
	id, spare lock.ID // of the lock that it becomes, and of a split that this makes
	owner     *interval.Owner
	rng       lock.Range
	mode      lock.Mode
	upgrade   bool
	since     int64
	session   Session
	ticket    uint64 // grows with each that comes, to whatever file

	ref    fileRef                // the file
	cell   atomic.Pointer[cell]   // its cell, once it may stand there; the cell stays as long as it does
	decide chan outcome           // Lock: receives once
	done   func(lock.Held, error) // Enqueue: called once
}

// A waiter has to stay behind those who came earlier, still wait, and would
// conflict with it: else readers that keep coming would starve a writer. But it
// need not stay behind one who waits for its own owner, be it for what the
// owner holds or for the turn of somebody else who does: that one cannot go
// first anyway, and to wait for it would be a deadlock of our own making.
//
//	held     oooooooooo
//	in line  uuuuuuuuuu             exclusive: waits for O
//	               vvvvvvvvvvvvv    waits for U's turn, and so for O
//	new                 oooooo      need not wait for V

// rivals reports whether w would have to stay behind v, but for that exception.
func rivals(w, v *waiter) bool {
	return !v.owner.Is(w.owner) && v.mode.Conflicts(w.mode) && v.rng.Overlaps(w.rng)
}

// behind visits those of the earlier waiters whom w has to stay behind, in
// order, until f returns false.
func (s *state) behind(w *waiter, earlier []*waiter, f func(*waiter) bool) {
	i := slices.IndexFunc(earlier, func(v *waiter) bool { return rivals(w, v) })
	if i < 0 {
		return
	}
	holds := s.owns(w.owner)
	var onOwner []bool // earlier[k] waits for w's owner
	for k, v := range earlier {
		if holds {
			waits := s.blocks(w.owner, v)
			for j := 0; j < k && !waits; j++ {
				waits = onOwner[j] && rivals(v, earlier[j]) && !s.blocks(v.owner, earlier[j])
			}
			if onOwner = append(onOwner, waits); waits {
				continue
			}
		}
		if k >= i && rivals(w, v) && !f(v) {
			return
		}
	}
}

// owns reports whether o holds anything.
func (s *state) owns(o *interval.Owner) (any bool) {
	s.of(o).Of(o, func(*interval.Item) bool { any = true; return false })
	return any
}

// waitsAt reports whether o stands in line.
func (s *state) waitsAt(o *interval.Owner) bool {
	return slices.ContainsFunc(s.queue, func(w *waiter) bool { return w.owner.Is(o) })
}

// blocks reports whether a lock that o holds is in v's way.
func (s *state) blocks(o *interval.Owner, v *waiter) bool {
	found := false
	hit := func(it *interval.Item) bool {
		found = v.mode.Conflicts(it.Mode()) && it.Range().Overlaps(v.rng)
		return !found
	}
	if o.Semantics == lock.SMB {
		s.stacked().Of(o, hit)
	} else {
		s.posix.OfIn(o, v.rng.First(), v.rng.Last(), hit)
	}
	return found
}

// anyBehind reports whether w has to stay behind any of the earlier ones.
func (s *state) anyBehind(w *waiter, earlier []*waiter) (any bool) {
	s.behind(w, earlier, func(*waiter) bool { any = true; return false })
	return any
}

// has reports whether any lock or waiter of the client is on the file.
func (s *state) has(client string) bool {
	found := slices.ContainsFunc(s.queue, func(w *waiter) bool { return w.owner.Client == client })
	yes := func(*interval.Item) bool { found = true; return false }
	if !found {
		s.posix.OfClient(client, yes)
	}
	if !found {
		s.stacked().OfClient(client, yes)
	}
	return found || slices.ContainsFunc(s.shares(), func(sh share) bool { return sh.owner.Client == client })
}
