package conn

import (
	"math"
	"sync/atomic"
	"time"

	"sneck/lock"
)

// Session is one life of one client. A request keeps the pointer that it found
// when it began: if the session is over when its lock is there, the release may
// have missed that lock, and the request has to undo it.
type Session struct {
	table      *Table
	adapter    *adapter
	generation uint64
	record     atomic.Pointer[lock.Client] // as connected with; never changed in place
	pulse      pulse
	last       atomic.Int64 // when it was last seen, unless connected: then the pulse says

	// Guarded by the table's mutex.
	seq    uint64 // its last durable change
	until  int64  // deadline while disconnected
	gone   bool   // disconnected, or was so when it became courteous
	filed  int64  // moment under which it is in the tree
	queued bool   // it is in the tree
}

// Client is who it is: a copy, with LastSeen filled and the TTL that is in force,
// which is the adapter's if the client came with none. LastSeen is zero if the
// client was not seen since the restart.
func (s *Session) Client() lock.Client {
	c := *s.record.Load()
	c.TTL = s.ttl()
	if seen := s.seen(); seen != never {
		c.LastSeen = s.table.time(seen)
	}
	return c
}

// Generation tells the sessions of a client apart: a later one has a higher one.
func (s *Session) Generation() uint64 { return s.generation }

// Over reports whether its locks go or have gone. It is true from before the
// call that ended the session returns, for good.
func (s *Session) Over() bool { return s.pulse.Load() == over }

// Connected reports whether it counts as a connection of its adapter.
func (s *Session) Connected() bool { return s.pulse.Load() >= alive }

// Courteous reports whether its deadline has passed and only courtesy keeps its
// locks. Whoever wants them calls Table.EvictCourteous: the client may come back
// at any moment.
func (s *Session) Courteous() bool { return s.pulse.Load() == courteous }

// ttl is how long it may be silent; 0 = for ever.
func (s *Session) ttl() time.Duration {
	if ttl := s.record.Load().TTL; ttl > 0 {
		return ttl
	}
	return s.adapter.TTL
}

// seen is when it was last seen, or never.
func (s *Session) seen() int64 {
	if v := s.pulse.Load(); v >= alive {
		return v
	}
	return s.last.Load()
}

// pulse is the state of a session, and of a connected one also when it was last
// seen, in nanoseconds since the table's begin. One word holds both, so that a
// renewal and an expiry that meet cannot both succeed. Renewals move it forward
// without the table's mutex; everything else happens under it.
type pulse struct{ atomic.Int64 }

const (
	disconnected = math.MinInt64 + iota
	courteous
	over
	alive // and everything above: connected, and last seen then

	never = math.MinInt64 // for last
)

// renew notes that a connected client was seen. False: it is not connected.
func (p *pulse) renew(now int64) bool {
	for {
		v := p.Load()
		if v < alive {
			return false
		}
		if now <= v || p.CompareAndSwap(v, now) {
			return true
		}
	}
}

// after is the moment d after at; far away rather than wrapped around.
func after(at int64, d time.Duration) int64 {
	if at > math.MaxInt64-int64(d) {
		return math.MaxInt64
	}
	return at + int64(d)
}
