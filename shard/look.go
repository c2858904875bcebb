package shard

import (
	"iter"
	"time"

	"sneck/interval"
	"sneck/lock"
)

// Test is the lock that would be in r's way, owner's own ones and the line
// aside. It waits for nobody and allocates nothing.
func (t *Table) Test(r lock.Request) (lock.Held, bool) {
	s := t.look(refOf(r.File))
	if s == empty {
		return lock.Held{}, false
	}
	o := interval.Probe(r.Owner)
	hit := s.firstOther(&o, r.Range, r.Mode)
	if hit == nil {
		return lock.Held{}, false
	}
	return t.held(r.File, hit), true
}

// CheckIO is the lock that denies o to read or write r. It waits for nobody
// and allocates nothing.
func (t *Table) CheckIO(f lock.FileKey, o lock.Owner, r lock.Range, write bool) (lock.Held, bool) {
	s := t.look(refOf(f))
	if s == empty || s.opens == nil && s.smb == nil && o.Semantics != lock.SMB {
		return lock.Held{}, false
	}
	io := interval.Probe(o)
	if hit := s.denies(&io, r, write); hit != nil {
		return t.held(f, hit), true
	}
	if hit := s.shareDenies(&io, write); hit != nil && !r.IsEmpty() {
		return t.shareHeld(f, hit), true
	}
	return lock.Held{}, false
}

// Shares yields the share reservations, of each file in the order in which they
// were made, the files in no order.
func (t *Table) Shares(q lock.Filter) iter.Seq[lock.Share] {
	return func(yield func(lock.Share) bool) {
		t.files(q, func(f lock.FileKey, s *state) bool {
			list := s.shares()
			for i := range list {
				if q.Match(f, list[i].owner.Owner) && !yield(list[i].public(f)) {
					return false
				}
			}
			return true
		})
	}
}

// HasOwner reports whether o holds anything on f.
func (t *Table) HasOwner(f lock.FileKey, o lock.Owner) bool {
	s := t.look(refOf(f))
	if s == empty {
		return false
	}
	ow := interval.Probe(o)
	return s.owns(&ow)
}

// Locks yields what is held: of each file a consistent picture, the files in
// no order. Locks may change meanwhile.
func (t *Table) Locks(q lock.Filter) iter.Seq[lock.Held] {
	return func(yield func(lock.Held) bool) {
		t.files(q, func(f lock.FileKey, s *state) bool {
			more := true
			s.each(func(it *interval.Item) bool {
				if q.Match(f, it.Owner().Owner) {
					more = yield(t.held(f, it))
				}
				return more
			})
			return more
		})
	}
}

// Waiters yields who stands in line, of each file in ticket order.
func (t *Table) Waiters(q lock.Filter) iter.Seq[lock.Waiting] {
	return func(yield func(lock.Waiting) bool) {
		if t.waiters.Load() == 0 {
			return
		}
		t.files(q, func(f lock.FileKey, s *state) bool {
			for i, w := range s.queue {
				if q.Match(f, w.owner.Owner) && !yield(s.waits(f, i)) {
					return false
				}
			}
			return true
		})
	}
}

// waits describes the i-th in line: who holds what he waits for, and who
// stands before him.
func (s *state) waits(f lock.FileKey, i int) lock.Waiting {
	w := s.queue[i]
	out := lock.Waiting{
		ID:      w.id,
		Request: lock.Request{File: f, Owner: w.owner.Owner, Range: w.rng, Mode: w.mode},
		Since:   time.UnixMicro(w.since),
	}
	seen := make(map[ident]bool)
	add := func(o *interval.Owner) {
		if who := identOf(o); !seen[who] {
			seen[who] = true
			out.Blockers = append(out.Blockers, o.Owner)
		}
	}
	s.blockers(i, add)
	return out
}

// files visits the files that the filter may find something on.
func (t *Table) files(q lock.Filter, f func(lock.FileKey, *state) bool) {
	name := q.Client
	if q.Owner != nil {
		name = q.Owner.Client
	}
	switch {
	case q.File != "":
		f(q.File, t.look(refOf(q.File)))
	case name != "":
		c, ok := t.clients.Load(name)
		if !ok {
			return
		}
		seen := make(map[*cell]bool)
		c.links(func(l *link) bool {
			if seen[l.cell] {
				return true
			}
			seen[l.cell] = true
			return f(l.cell.ref.key, l.cell.state.Load())
		})
	default:
		more := true
		for i := range t.shards {
			t.shards[i].cells.Range(func(r fileRef, c *cell) bool {
				more = f(r.key, c.state.Load())
				return more
			})
			if !more {
				return
			}
		}
	}
}

// Stats counts what is in the table.
type Stats struct{ Locks, Shares, Files, Clients, Waiters int }

// Stats counts what is in the table now; Clients are those that hold or wait.
func (t *Table) Stats() Stats {
	st := Stats{Waiters: int(t.waiters.Load())}
	for i := range t.shards {
		locks, files := t.shards[i].counts()
		st.Locks += locks
		st.Files += files
		st.Shares += int(t.shards[i].shares.Load())
	}
	st.Locks, st.Files, st.Shares = max(0, st.Locks), max(0, st.Files), max(0, st.Shares)
	t.clients.Range(func(name string, c *client) bool {
		here := false
		c.links(func(l *link) bool { here = l.cell.state.Load().has(name); return !here })
		if here {
			st.Clients++
		}
		return true
	})
	return st
}
