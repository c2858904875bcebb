package conn

import "time"

// deadline is the moment at which a session's time is over, if it has one. v is
// its pulse.
func (s *Session) deadline(v int64) (int64, bool) {
	switch v {
	case over, courteous:
		return 0, false
	case disconnected:
		return s.until, true
	default:
		ttl := s.ttl()
		return after(v, ttl), ttl > 0
	}
}

// file puts a session into the tree as its deadline is now, or takes it out.
func (t *Table) file(s *Session) {
	t.unfile(s)
	if at, ok := s.deadline(s.pulse.Load()); ok {
		s.filed, s.queued = at, true
		t.deadlines.ReplaceOrInsert(s)
	}
}

func (t *Table) unfile(s *Session) {
	if s.queued {
		t.deadlines.Delete(s)
		s.queued = false
	}
}

// Next is the earliest moment at which Expire may have something to do; false if
// there is none. Renewals may have put off what is due then, so it may have
// nothing to do either; the caller calls it and asks again. It also asks again
// after Connect, Disconnect, and Renew of a courteous session: only these may
// bring the moment forward.
func (t *Table) Next() (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.deadlines.Min()
	if !ok {
		return time.Time{}, false
	}
	return t.time(s.filed), true
}

// Expire ends the sessions whose deadline has come, in the order of their
// deadlines: they are over, and not in the table any more, before it returns, and
// their locks have to go. Those with a TTL whose adapter is courteous are not
// ended, but courteous from now on. changes has one for each that is over.
func (t *Table) Expire(now time.Time) (ended, polite []*Session, changes []Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.at(now)
	for {
		s, ok := t.deadlines.Min()
		if !ok || s.filed > at {
			return ended, polite, changes
		}
		v := s.pulse.Load()
		if d, _ := s.deadline(v); d > s.filed { // put off since it was filed
			t.file(s)
			continue
		}
		// When it is renewed meanwhile it is met again.
		switch courtesy := s.adapter.Courtesy && s.ttl() > 0; {
		case courtesy && t.leave(s, v, courteous):
			t.unfile(s)
			polite = append(polite, s)
		case !courtesy && t.leave(s, v, over):
			ended = append(ended, s)
			changes = append(changes, t.remove(s))
		}
	}
}
