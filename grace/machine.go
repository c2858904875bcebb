package grace

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"sneck/lock"
)

// Machine is the grace period of one start of the server. It is not for
// concurrent use.
type Machine struct {
	active      bool
	reason      Reason
	deadline    time.Time
	expected    map[string]bool // whether it is complete
	others      map[string]bool // complete, though not expected
	missing     int             // expected and not complete
	unconfirmed int
}

// Reason says why grace has ended.
type Reason uint8

const (
	NotEnded  Reason = iota // it goes on, or there was none
	Reclaimed               // nothing was unconfirmed any more
	Completed               // every expected client was complete
	Expired                 // the period was over
	Ended                   // by an administrator
)

var reasons = [...]string{"not ended", "reclaimed", "complete", "expired", "ended"}

func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Status is what an administrator sees.
type Status struct {
	Active      bool
	Remaining   time.Duration // until the period is over; 0 when not active, never negative
	Expected    []string      // clients that held something at the restart; sorted
	Complete    []string      // clients that reclaim nothing any more; sorted
	Unconfirmed int           // restored locks and shares, neither reclaimed nor released
}

// Start begins a grace period of that length. expected are the clients of which
// something was restored, unconfirmed how many locks and shares that is. With
// period <= 0 or unconfirmed <= 0 the machine is not active, now and for good;
// what is unconfirmed then is to be released at once.
func Start(now time.Time, period time.Duration, expected []string, unconfirmed int) *Machine {
	m := &Machine{
		expected: make(map[string]bool, len(expected)), others: map[string]bool{},
		unconfirmed: max(unconfirmed, 0),
	}
	for _, client := range expected {
		m.expected[client] = false
	}
	m.missing = len(m.expected)
	if period > 0 && unconfirmed > 0 {
		m.active, m.deadline = true, now.Add(period)
	}
	return m
}

// Active reports whether it is grace. Only a call that says so ends it: Tick has
// to be called when the deadline has come.
func (m *Machine) Active() bool { return m.active }

// Deadline is when the period is over; the zero time when not active.
func (m *Machine) Deadline() time.Time {
	if !m.active {
		return time.Time{}
	}
	return m.deadline
}

// Reason says why grace has ended.
func (m *Machine) Reason() Reason { return m.reason }

// Status is how things stand. Its slices are copies.
func (m *Machine) Status(now time.Time) Status {
	s := Status{Active: m.active, Expected: slices.Sorted(maps.Keys(m.expected)), Unconfirmed: m.unconfirmed}
	if m.active {
		s.Remaining = max(m.deadline.Sub(now), 0)
	}
	for client, complete := range m.expected {
		if complete {
			s.Complete = append(s.Complete, client)
		}
	}
	s.Complete = slices.AppendSeq(s.Complete, maps.Keys(m.others))
	slices.Sort(s.Complete)
	return s
}

// Complete notes that the client will reclaim nothing more: RECLAIM_COMPLETE
// (RFC 8881 18.51), or what another protocol has for it. Of a client that is not
// expected it is noted as well. Twice is harmless; when not active it is nothing.
func (m *Machine) Complete(client string) (ended bool) {
	if !m.active {
		return false
	}
	complete, expected := m.expected[client]
	switch {
	case !expected:
		m.others[client] = true
		return false
	case complete:
		return false
	}
	m.expected[client] = true
	m.missing--
	return m.missing == 0 && m.end(Completed)
}

// MayReclaim reports whether the client may reclaim anything now: if not, an
// error that is [lock.ErrNoGrace] outside of grace and [lock.ErrReclaimBad] after
// Complete. Whether it held what it reclaims is for the lock table to say.
func (m *Machine) MayReclaim(client string) error {
	switch {
	case !m.active:
		return fmt.Errorf("client %q: %w", client, lock.ErrNoGrace)
	case m.expected[client] || m.others[client]:
		return fmt.Errorf("client %q has said that it is complete: %w", client, lock.ErrReclaimBad)
	}
	return nil
}

// Unconfirmed tells the machine how many restored locks and shares are neither
// reclaimed nor released now.
func (m *Machine) Unconfirmed(n int) (ended bool) {
	m.unconfirmed = max(n, 0)
	return m.unconfirmed == 0 && m.end(Reclaimed)
}

// Tick ends grace if the period is over: at the deadline it is.
func (m *Machine) Tick(now time.Time) (ended bool) {
	return m.active && !now.Before(m.deadline) && m.end(Expired)
}

// End ends grace now, by an administrator.
func (m *Machine) End() (ended bool) { return m.end(Ended) }

func (m *Machine) end(r Reason) bool {
	if !m.active {
		return false
	}
	m.active, m.reason = false, r
	return true
}
