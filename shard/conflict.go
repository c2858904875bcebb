package shard

import (
	"sneck/interval"
	"sneck/lock"
)

// conflict is the held range that keeps o from locking r in mode m, or nil.
//
//   - Shared is kept out by Exclusive, Exclusive by everything.
//   - A POSIX or OFD owner never conflicts with itself.
//   - An SMB handle's own exclusive lock lets its own shared lock stack on it;
//     nothing lets its own exclusive lock in (MS-FSA 2.1.5.8).
//   - Every protocol conflicts with every other: owners of different Semantics
//     are different owners.
func (s *state) conflict(o *interval.Owner, r lock.Range, m lock.Mode) *interval.Item {
	except := o
	if o.Semantics == lock.SMB && m == lock.Exclusive {
		except = nil
	}
	return s.firstOther(except, r, m)
}

// firstOther is the first range in r, not of the owner except, that conflicts
// with mode m.
func (s *state) firstOther(except *interval.Owner, r lock.Range, m lock.Mode) *interval.Item {
	who := interval.Exclusives
	if m == lock.Exclusive {
		who = interval.Everyone
	}
	hit := s.posix.First(r, who, except)
	if s.smb == nil {
		return hit
	}
	return lower(hit, s.smb.First(r, who, except))
}

// denies is the held range that keeps o from reading or writing r, or nil.
//
// SMB ranges are mandatory for everybody: an exclusive one denies all I/O of
// other owners, a shared one denies every write, its holder's too (MS-FSA
// 2.1.4.10). POSIX and OFD ranges are advisory to POSIX and OFD I/O, but SMB
// I/O sees them as it sees its own kind. I/O of zero bytes is never denied.
func (s *state) denies(o *interval.Owner, r lock.Range, write bool) *interval.Item {
	if r.IsEmpty() {
		return nil
	}
	hit := s.stacked().First(r, interval.Exclusives, o)
	if write {
		hit = lower(hit, s.stacked().First(r, interval.Shareds, nil))
	}
	if o.Semantics != lock.SMB {
		return hit
	}
	who := interval.Exclusives
	if write {
		who = interval.Everyone
	}
	return lower(hit, s.posix.First(r, who, nil))
}

// lower is the one of two that begins first.
func lower(x, y *interval.Item) *interval.Item {
	if x == nil || y != nil && y.First() < x.First() {
		return y
	}
	return x
}
