package shard

import (
	"slices"

	"sneck/interval"
	"sneck/lock"
)

// share is what the opens of one owner may do with the file and deny others:
// all of them together. It is immutable, as the state that it is part of.
type share struct {
	owner  *interval.Owner
	id     lock.ID // of the last open; its epoch says whether what it has is confirmed
	since  int64
	access lock.Access
	deny   lock.Access

	// What was held before a restart and was not reclaimed by the open id, which
	// came after it.
	oldAccess, oldDeny lock.Access
}

// opens are the share reservations of one file, in the order in which their
// owners came.
type opens struct{ list []share }

// all is what sh allows and denies, confirmed or not.
func (sh *share) all() (access, deny lock.Access) {
	return sh.access | sh.oldAccess, sh.deny | sh.oldDeny
}

// stale is what of sh was not reclaimed in the epoch.
func (sh *share) stale(epoch uint64) (access, deny lock.Access, some bool) {
	access, deny = sh.oldAccess, sh.oldDeny
	if EpochOf(sh.id) < epoch {
		access, deny = sh.all()
		return access, deny, true // also of one that allows and denies nothing
	}
	return access, deny, access|deny != 0
}

// shares is the list of reservations.
func (s *state) shares() []share {
	if s.opens == nil {
		return nil
	}
	return s.opens.list
}

func (s *state) setShares(list []share) {
	s.opens = nil
	if len(list) > 0 {
		s.opens = &opens{list: list}
	}
}

// shareOf is the place of o's reservation, or -1.
func (s *state) shareOf(o *interval.Owner) int {
	return slices.IndexFunc(s.shares(), func(sh share) bool { return sh.owner.Is(o) })
}

// shareConflict is the reservation that keeps o from opening the file, or nil:
// an access that the other one denies, or a denial of an access that it has, for
// different owners, whatever their protocols (MS-FSA 2.1.5.1.2.2, RFC 8881 9.7).
func (s *state) shareConflict(o *interval.Owner, access, deny lock.Access) *share {
	list := s.shares()
	for i := range list {
		sh := &list[i]
		if a, d := sh.all(); (access&d != 0 || deny&a != 0) && !sh.owner.Is(o) {
			return sh
		}
	}
	return nil
}

// shareDenies is the reservation that keeps o from reading or writing, or nil.
func (s *state) shareDenies(o *interval.Owner, write bool) *share {
	if s.opens == nil {
		return nil
	}
	access := lock.Read
	if write {
		access = lock.Write
	}
	return s.shareConflict(o, access, 0)
}

// open makes a reservation, or adds to the one that the owner has. One that
// reclaims may only have what the owner had before the restart, or less
// (RFC 8881 9.11); what it does not ask for stays unconfirmed.
func (s *state) open(c *command, res *result) {
	list, at := s.shares(), s.shareOf(c.owner)
	next := share{owner: c.owner, id: c.id, since: c.now, access: c.access, deny: c.deny}
	if at >= 0 {
		was := list[at]
		if epoch := EpochOf(c.id); EpochOf(was.id) < epoch {
			next.oldAccess, next.oldDeny, _ = was.stale(epoch)
		} else {
			next.access, next.deny = was.access|c.access, was.deny|c.deny
			next.oldAccess, next.oldDeny = was.oldAccess, was.oldDeny
		}
	}
	if c.reclaim {
		had := lock.Access(0)
		hadDeny := had
		if at >= 0 {
			had, hadDeny = list[at].all()
		}
		if at < 0 || c.access&^had != 0 || c.deny&^hadDeny != 0 {
			res.refusal = notReclaimable
			return
		}
	}
	if hit := s.shareConflict(c.owner, c.access, c.deny); hit != nil {
		res.refusal, res.share, res.inGrace = shareConflicts, *hit, hit.grace(c.access, c.deny, EpochOf(c.id))
		return
	}
	if c.strict && !c.reclaim {
		res.refusal = queues
		return
	}
	next.oldAccess &^= next.access
	next.oldDeny &^= next.deny
	list = slices.Clone(list)
	if at >= 0 {
		list[at] = next
	} else {
		list = append(list, next)
	}
	s.recountShares(EpochOf(c.id), func() { s.setShares(list) })
	res.changed, res.logged = true, true
}

// close removes the owner's reservation, of however many opens it is.
func (s *state) close(c *command, res *result) {
	at := s.shareOf(&c.who)
	if at < 0 {
		res.refusal = notHeld
		return
	}
	s.recountShares(c.epoch, func() { s.setShares(slices.Delete(slices.Clone(s.shares()), at, at+1)) })
	res.changed, res.logged = true, true
}

// dropShares removes the reservations that c lets go of. It reports whether
// there were any.
func (s *state) dropShares(c *command) (dropped bool) {
	if c.op == opReleaseStale {
		return s.dropStaleShares(c.epoch)
	}
	goes := func(sh share) bool {
		switch c.op {
		case opReleaseOwner:
			return sh.owner.Is(&c.who)
		case opReleaseClient:
			return sh.owner.Client == c.client
		}
		return true
	}
	if !slices.ContainsFunc(s.shares(), goes) {
		return false
	}
	s.recountShares(c.epoch, func() {
		s.setShares(slices.DeleteFunc(slices.Clone(s.shares()), goes))
	})
	return true
}

// dropStaleShares removes what was not reclaimed in the epoch.
func (s *state) dropStaleShares(epoch uint64) (dropped bool) {
	var rest []share
	for _, sh := range s.shares() {
		_, _, stale := sh.stale(epoch)
		dropped = dropped || stale
		if stale && EpochOf(sh.id) < epoch {
			continue
		}
		sh.oldAccess, sh.oldDeny = 0, 0
		rest = append(rest, sh)
	}
	if dropped {
		s.recountShares(epoch, func() { s.setShares(rest) })
	}
	return dropped
}

// recountShares changes the number of what is unconfirmed by what change, of the
// shares, does to it.
func (s *state) recountShares(epoch uint64, change func()) {
	if s.stale == 0 {
		change()
		return
	}
	count := func() (n int32) {
		for i := range s.shares() {
			if _, _, stale := s.shares()[i].stale(epoch); stale {
				n++
			}
		}
		return n
	}
	before := count()
	change()
	s.stale += count() - before
}

// public is the public form of a reservation.
func (sh *share) public(f lock.FileKey) lock.Share {
	access, deny := sh.all()
	return lock.Share{File: f, Owner: sh.owner.Owner, Access: access, Deny: deny}
}

// grace reports whether sh is in the way of nothing but what was not reclaimed.
func (sh *share) grace(access, deny lock.Access, epoch uint64) bool {
	if EpochOf(sh.id) < epoch {
		return true
	}
	return access&sh.deny == 0 && deny&sh.access == 0
}

// shareHeld is a reservation in the form of a lock, for answers that have no
// other: on the whole file, exclusive if it denies reading.
func (t *Table) shareHeld(f lock.FileKey, sh *share) lock.Held {
	mode := lock.Shared
	if _, deny := sh.all(); deny&lock.Read != 0 {
		mode = lock.Exclusive
	}
	it := interval.NewItem(sh.owner, lock.WholeFile(), mode, sh.id, sh.since)
	h := t.held(f, &it)
	h.Unconfirmed = h.Unconfirmed || sh.oldAccess|sh.oldDeny != 0
	return h
}
