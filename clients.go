package sneck

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"sneck/conn"
	"sneck/lock"
	"sneck/wal"
)

// AdapterOptions say what holds for the clients of one adapter.
type AdapterOptions struct {
	MaxConnections int           // how many may be connected at a time; 0 = as many as come
	TTL            time.Duration // of clients that connect with TTL 0; 0 = never for silence, at once on Disconnect
	// Courtesy leaves a client its locks when its TTL has passed, until somebody
	// wants what it holds: then that one wins, and the client has lost everything
	// (RFC 8881 8.4.3). One that comes back before has lost nothing.
	Courtesy bool
}

// clientele is the clients, and the timer of their deadlines.
type clientele struct {
	*conn.Table
	mu       sync.Mutex // guards what follows
	timer    *time.Timer
	due      time.Time
	closed   bool
	releases sync.WaitGroup // the timer's
	// ending are the clients whose locks are being released: who connects as one of
	// them waits, or the release would take what it gets.
	ending map[string]*sync.WaitGroup

	ended ended
}

func newClientele(adapters map[string]AdapterOptions) *clientele {
	as := make(map[string]conn.Adapter, len(adapters))
	for name, a := range adapters {
		as[name] = conn.Adapter{MaxConnections: a.MaxConnections, TTL: a.TTL, Courtesy: a.Courtesy}
	}
	return &clientele{Table: conn.New(as), ending: make(map[string]*sync.WaitGroup)}
}

// logClient makes a change of a client durable, as durable as chosen.
func (m *Manager) logClient(c conn.Change) error {
	if m.log == nil || c.IsZero() {
		return nil
	}
	r := m.log.NewRecord(nil, wal.KindClient, c)
	m.log.Submit(r)
	return m.log.Wait(r)
}

// ready is why nothing may change any more, or nil.
func (m *Manager) ready() error { return m.table.Refused() }

// Connect makes a client known, or notes that it is there again. Known clients
// lose their locks when they are silent or disconnected for longer than their TTL;
// one that comes back in time, from another address too, keeps everything. It
// survives a restart: then the client has its TTL, and at least the grace period,
// to come back.
//
// It may fail with ErrConnectionLimit, ErrInvalid (also if the client is known to
// another adapter), ErrHalted or ErrClosed.
func (m *Manager) Connect(ctx context.Context, c lock.Client) error {
	if err := m.ready(); err != nil {
		return err
	}
	if err := m.clients.settle(ctx, c.ID); err != nil {
		return fmt.Errorf("client %q: %w", c.ID, err)
	}
	m.clients.ended.any.Store(true)
	_, change, err := m.clients.Connect(c, time.Now())
	if err != nil {
		return err
	}
	m.clients.ended.remove(c.ID)
	m.arm()
	return m.logClient(change)
}

// settle waits until no release of the client is under way.
func (cs *clientele) settle(ctx context.Context, client string) error {
	for {
		cs.mu.Lock()
		wg := cs.ending[client]
		cs.mu.Unlock()
		if wg == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		wg.Wait()
	}
}

// Renew notes that the client is alive. It costs little: every operation of a
// client may call it. It fails with ErrUnknownClient if the client has no session,
// because it never connected or because its locks have gone.
func (m *Manager) Renew(client string) error {
	s := m.clients.Lookup(client)
	courteous := s != nil && s.Courteous()
	err := m.clients.Renew(client, time.Now())
	if courteous {
		m.arm()
	}
	return err
}

// Disconnect notes that the client's last connection is gone. With a TTL it has
// that long to come back; without one its locks and share reservations are
// released, and its waiters are told ErrReleased, before Disconnect returns. It
// fails with ErrUnknownClient, ErrHalted or ErrClosed.
func (m *Manager) Disconnect(_ context.Context, client string) error {
	if err := m.ready(); err != nil {
		return err
	}
	s, release, change, err := m.clients.Disconnect(client, time.Now())
	if err != nil {
		return err
	}
	m.arm()
	if !release {
		return m.logClient(change)
	}
	_, err = m.lose(s.Client().ID, change)
	return err
}

// Clients yields the known clients of an adapter, "" = of all, by ID. They are of
// one moment but for the number of locks.
func (m *Manager) Clients(adapter string) iter.Seq[lock.Client] {
	return func(yield func(lock.Client) bool) {
		for c := range m.clients.Clients(adapter) {
			for range m.table.Locks(lock.Filter{Client: c.ID}) {
				c.Locks++
			}
			if !yield(c) {
				return
			}
		}
	}
}

// lose releases what a client has whose session is over. It is the one way in
// which a client loses its locks, be it by its own end, by time, or by somebody
// who wanted them.
func (m *Manager) lose(client string, change conn.Change) (int, error) {
	wg := m.clients.begins(client)
	defer m.clients.ends(client, wg)
	m.clients.ended.add(client, time.Now())
	n, err := m.table.ReleaseClient(client)
	if e := m.logClient(change); err == nil {
		err = e
	}
	m.reclaimsNothing(client)
	return n, err
}

// renewed ends a session and begins the client's next one, so that what is under way
// leaves nothing behind and the client stays known.
func (m *Manager) renewed(s *conn.Session) (int, error) {
	c, connected := s.Client(), s.Connected()
	change, ended := m.clients.Evict(s)
	if !ended { // somebody else is at it
		return m.table.ReleaseClient(c.ID)
	}
	n, err := m.lose(c.ID, change)
	if err != nil || !connected {
		return n, err
	}
	_, change, err = m.clients.Connect(c, time.Now())
	if err == nil {
		m.clients.ended.remove(c.ID)
		err = m.logClient(change)
	}
	m.arm()
	return n, err
}

// begins notes that a release of the client begins.
func (cs *clientele) begins(client string) *sync.WaitGroup {
	for {
		cs.mu.Lock()
		wg := cs.ending[client]
		if wg == nil {
			wg = new(sync.WaitGroup)
			wg.Add(1)
			cs.ending[client] = wg
			cs.mu.Unlock()
			return wg
		}
		cs.mu.Unlock()
		wg.Wait()
	}
}

func (cs *clientele) ends(client string, wg *sync.WaitGroup) {
	cs.mu.Lock()
	delete(cs.ending, client)
	cs.mu.Unlock()
	wg.Done()
}

// arm sets the timer to the next deadline.
func (m *Manager) arm() {
	cs := m.clients
	next, ok := cs.Next()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed || !ok:
	case cs.timer == nil:
		cs.due, cs.timer = next, time.AfterFunc(time.Until(next), m.expire)
	case !cs.due.Equal(next):
		cs.due = next
		cs.timer.Reset(time.Until(next))
	}
}

// expire ends the sessions whose deadline has passed.
func (m *Manager) expire() {
	cs := m.clients
	cs.mu.Lock()
	if cs.closed {
		cs.mu.Unlock()
		return
	}
	cs.due = time.Time{}
	cs.releases.Add(1)
	cs.mu.Unlock()
	defer cs.releases.Done()
	over, polite, changes := cs.Expire(time.Now())
	for i, s := range over {
		m.expired(s, changes[i])
	}
	for _, s := range polite {
		// Who waits for it already has come before the courtesy.
		if m.table.Blocks(s.Client().ID) {
			m.yield(s)
		}
	}
	m.arm()
}

func (m *Manager) expired(s *conn.Session, change conn.Change) {
	client := s.Client()
	n, err := m.lose(client.ID, change)
	m.logger.Info("client expired", "client", client.ID, "adapter", client.Adapter, "addr", client.Addr, "locks", n, "error", err)
}

// yield ends a session that only courtesy keeps: somebody wants what it has. It
// reports whether it did.
func (m *Manager) yield(s *conn.Session) bool {
	if s == nil || !s.Courteous() {
		return false
	}
	change, ended := m.clients.EvictCourteous(s)
	if ended {
		m.expired(s, change)
	}
	return ended
}

// giveWay reports whether the refusal was for what a client held by courtesy only,
// who has lost it now: then it is worth another try.
func (m *Manager) giveWay(err error) bool {
	if !m.courtesy || err == nil {
		return false
	}
	holder, ok := holderOf(err)
	return ok && m.yield(m.clients.Lookup(holder.Client))
}

// stop ends the timer, and waits for what it has begun.
func (cs *clientele) stop() {
	cs.mu.Lock()
	cs.closed = true
	if cs.timer != nil {
		cs.timer.Stop()
	}
	cs.mu.Unlock()
	cs.releases.Wait()
}
