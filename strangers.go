package sneck

import (
	"sync"
	"sync/atomic"
	"time"

	"sneck/shard"
)

// A client that never connected may hold locks. One that did, and whose session is
// over, is another matter: what it has sent before it knew may still come, and
// would stay for ever. So it has to connect again, for as long as such a request
// may be under way.

// forgetEnded is how long a client that has lost its session is known for that, at
// least; and at most twice as long.
const forgetEnded = 10 * time.Minute

// ended remembers them: two maps, the older of which is dropped now and then, so
// that what they hold has a bound.
type ended struct {
	any      atomic.Bool // somebody has ever had a session
	mu       sync.RWMutex
	now, old map[string]bool
	since    time.Time // when now was begun
}

// add notes that the client's session is over, before its locks go.
func (e *ended) add(client string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.Sub(e.since) >= forgetEnded {
		e.now, e.old, e.since = nil, e.now, at
	}
	if e.now == nil {
		e.now = make(map[string]bool)
	}
	e.now[client] = true
}

// remove notes that the client has connected again.
func (e *ended) remove(client string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.now, client)
	delete(e.old, client)
}

func (e *ended) has(client string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.now[client] || e.old[client]
}

// stranger is a client without a session.
type stranger struct {
	ended  *ended
	client string
}

// Over reports whether it had one that has ended.
func (s stranger) Over() bool { return s.ended.has(s.client) }

// session is what a request of the client belongs to; nil: to nothing that could
// end.
func (m *Manager) session(client string) shard.Session {
	if !m.clients.ended.any.Load() {
		return nil
	}
	if s := m.clients.Lookup(client); s != nil {
		return s
	}
	return stranger{&m.clients.ended, client}
}
