package conn

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"sneck/lock"
)

// Adapter says how the clients of a protocol front end are treated.
type Adapter struct {
	// MaxConnections is how many clients may be connected at a time; 0 = any
	// number.
	MaxConnections int
	// TTL is for clients that come with a TTL of 0. If it is 0 too, they are never
	// too silent, and their locks go at once on Disconnect.
	TTL time.Duration
	// Courtesy keeps a client whose TTL is over until somebody else wants what it
	// holds. It does not concern clients without a TTL.
	Courtesy bool
}

// Table is the clients of a server. All methods but Replay and Begin may be
// called from any number of goroutines.
//
// Every durable change of it is returned as a [Change] for the caller to log; the
// order in which changes get into the log does not matter.
type Table struct {
	adapters map[string]*adapter
	unnamed  *adapter // for the ones that New was not told of
	sessions sync.Map // client ID to *Session; changed under mu only

	mu        sync.Mutex
	begun     bool
	begin     time.Time // all moments are nanoseconds since
	past      past      // what was replayed, until Begin
	seq       uint64    // of the last durable change
	deadlines *btree.BTreeG[*Session]
	connected int
	known     int
}

type adapter struct {
	Adapter
	connected int // guarded by the table's mutex
}

func (a *adapter) full() bool { return a.MaxConnections > 0 && a.connected >= a.MaxConnections }

// New is a table without clients. Clients of an adapter that is not named have no
// limit and no TTL. Negative numbers are taken for 0.
func New(adapters map[string]Adapter) *Table {
	t := &Table{
		adapters: make(map[string]*adapter, len(adapters)), unnamed: new(adapter),
		deadlines: btree.NewG(16, func(s, u *Session) bool {
			switch {
			case s.filed != u.filed:
				return s.filed < u.filed
			case s.generation != u.generation:
				return s.generation < u.generation
			}
			return s.record.Load().ID < u.record.Load().ID // only for logs that nobody has written
		}),
	}
	for name, a := range adapters {
		a.TTL = max(a.TTL, 0)
		t.adapters[name] = &adapter{Adapter: a}
	}
	return t
}

func (t *Table) adapter(name string) *adapter {
	if a, ok := t.adapters[name]; ok {
		return a
	}
	return t.unnamed
}

// at is a time as a moment of the table's.
func (t *Table) at(now time.Time) int64 { return max(int64(now.Sub(t.begin)), alive) }

// time is a moment as others know it.
func (t *Table) time(at int64) time.Time { return t.begin.Add(time.Duration(at)) }

// Lookup is the client's session: connected, disconnected or courteous. It is nil
// for a client that never connected, or whose session is over.
func (t *Table) Lookup(client string) *Session {
	v, _ := t.sessions.Load(client)
	s, _ := v.(*Session)
	return s
}

// Connect connects a client. One that is not known begins a session. One that is
// goes on with its own: it keeps everything, its address and TTL are what c says
// now, and its deadline is anew. If a durable part of that has changed, the change
// says what; else it is Nothing.
//
// It fails with a [lock.LimitError] when the adapter has no room for one more
// connected client, and with a [lock.InvalidError] when c makes no sense or the
// client has a session with another adapter; what was there stays as it was.
func (t *Table) Connect(c lock.Client, now time.Time) (*Session, Change, error) {
	if err := validate(&c); err != nil {
		return nil, Change{}, err
	}
	c.LastSeen, c.Locks = time.Time{}, 0
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start(now, 0)
	s, a := t.Lookup(c.ID), t.adapter(c.Adapter)
	if s != nil {
		if was := s.record.Load().Adapter; was != c.Adapter {
			return nil, Change{}, &lock.InvalidError{Field: "Client.Adapter", Reason: fmt.Sprintf("client %q comes by %q, and has a session with %q", c.ID, c.Adapter, was)}
		}
	}
	if (s == nil || !s.Connected()) && a.full() {
		return nil, Change{}, &lock.LimitError{What: lock.LimitConnections, Limit: a.MaxConnections}
	}
	what := Nothing
	if s == nil {
		what, s = Began, t.session(&c, a, t.seq+1)
	} else if was := s.record.Load(); was.Addr != c.Addr || was.TTL != c.TTL {
		what = Updated
		s.record.Store(&c)
	}
	t.enter(s, t.at(now))
	t.file(s)
	if what == Began {
		t.publish(s)
	}
	return s, t.change(what, s), nil
}

// session is a new session, disconnected and not in the table yet.
func (t *Table) session(c *lock.Client, a *adapter, generation uint64) *Session {
	s := &Session{table: t, adapter: a, generation: generation, gone: true}
	s.record.Store(c)
	s.last.Store(never)
	s.pulse.Store(disconnected)
	return s
}

// publish puts a session into the table.
func (t *Table) publish(s *Session) {
	t.sessions.Store(s.record.Load().ID, s)
	t.known++
}

// enter makes a session connected that may be so already.
func (t *Table) enter(s *Session, now int64) {
	if s.pulse.renew(now) {
		return
	}
	s.gone = false
	s.pulse.Store(max(now, s.seen()))
	s.adapter.connected++
	t.connected++
}

// Renew notes that the client is alive. It fails with [lock.ErrUnknownClient] when
// it has no session; a session that is there is never refused its renewal (RFC
// 7530 9.5), also if it is late.
//
// A client that has disconnected stays so, and has its TTL from now on: only
// Connect makes it count as a connection. With a TTL of 0 it has only what Begin
// gave it. A courteous client is again what it was before, connected or
// disconnected, with its TTL from now on; disconnected also if its place as a
// connection has been taken meanwhile.
func (t *Table) Renew(client string, now time.Time) error {
	s := t.Lookup(client)
	if s == nil {
		return unknown(client)
	}
	if s.pulse.renew(t.at(now)) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.at(now)
	switch s.pulse.Load() {
	case over:
		return unknown(client)
	case courteous:
		if !s.gone && !s.adapter.full() {
			t.enter(s, at)
			break
		}
		s.pulse.Store(disconnected)
		s.gone, s.until = true, after(at, s.ttl())
	case disconnected:
		if ttl := s.ttl(); ttl > 0 {
			s.until = max(s.until, after(at, ttl))
		}
	default: // it has connected just now
		s.pulse.renew(at)
		return nil
	}
	s.last.Store(max(at, s.last.Load()))
	t.file(s)
	return nil
}

func unknown(client string) error { return fmt.Errorf("client %q: %w", client, lock.ErrUnknownClient) }

// Disconnect notes that the client is not connected any more. If it has no TTL
// the session is over when it returns, release says so, and its locks have to go.
// Else it has its TTL, from now on, to come back; there is nothing to log then.
// One that has disconnected already, and a courteous one, gets no more time.
//
// An adapter whose client may have several connections, or a new one before it
// knows that the old one is gone, calls it when the last one is.
//
// It fails with [lock.ErrUnknownClient] for a client without a session.
func (t *Table) Disconnect(client string, now time.Time) (s *Session, release bool, change Change, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.Lookup(client); s == nil {
		return nil, false, Change{}, unknown(client)
	}
	if s.ttl() == 0 {
		return s, true, t.end(s), nil
	}
	s.gone = true
	if s.Connected() {
		s.until = after(t.at(now), s.ttl())
		for !t.leave(s, s.pulse.Load(), disconnected) {
		}
		t.file(s)
	}
	return s, false, Change{}, nil
}

// leave takes a session from the state that the pulse v says to another one.
// False: it has been renewed since.
func (t *Table) leave(s *Session, v, state int64) bool {
	if v < alive {
		s.pulse.Store(state)
		return true
	}
	s.last.Store(v)
	if !s.pulse.CompareAndSwap(v, state) {
		return false
	}
	s.adapter.connected--
	t.connected--
	return true
}

// Evict ends a session now, whatever its state: its locks have to go. True for
// the one call that did it, of this method and all others; the change is to be
// logged then.
func (t *Table) Evict(s *Session) (change Change, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s == nil || s.table != t || s.Over() {
		return Change{}, false
	}
	return t.end(s), true
}

// EvictCourteous is Evict if the session is courteous: somebody wants what it
// holds. False also if the client has come back just now; then its locks count.
func (t *Table) EvictCourteous(s *Session) (change Change, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s == nil || s.table != t || !s.Courteous() {
		return Change{}, false
	}
	return t.end(s), true
}

// end ends a session.
func (t *Table) end(s *Session) Change {
	for !t.leave(s, s.pulse.Load(), over) {
	}
	return t.remove(s)
}

// remove takes a session that is over out of the table.
func (t *Table) remove(s *Session) Change {
	t.unfile(s)
	t.sessions.Delete(s.record.Load().ID)
	t.known--
	return t.change(Ended, s)
}

// Clients yields the clients of the adapter, "" = of all, that have a session at
// the moment when it begins, by ID.
func (t *Table) Clients(adapter string) iter.Seq[lock.Client] {
	return func(yield func(lock.Client) bool) {
		t.mu.Lock()
		var cs []lock.Client
		for _, s := range t.all() {
			if adapter == "" || s.record.Load().Adapter == adapter {
				cs = append(cs, s.Client())
			}
		}
		t.mu.Unlock()
		for _, c := range cs {
			if !yield(c) {
				return
			}
		}
	}
}

// all is every session, by ID. The mutex is held.
func (t *Table) all() []*Session {
	all := make([]*Session, 0, t.known)
	t.sessions.Range(func(_, s any) bool {
		all = append(all, s.(*Session))
		return true
	})
	slices.SortFunc(all, func(s, u *Session) int { return strings.Compare(s.record.Load().ID, u.record.Load().ID) })
	return all
}

// Count counts the clients that are connected, and those that have a session.
func (t *Table) Count() (connected, known int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.connected, t.known
}

func validate(c *lock.Client) error {
	if c.ID == "" {
		return &lock.InvalidError{Field: "Client.ID", Reason: "it is empty"}
	}
	for _, f := range [...]struct{ name, value string }{
		{"Client.ID", c.ID}, {"Client.Adapter", c.Adapter}, {"Client.Addr", c.Addr},
	} {
		if len(f.value) > lock.MaxOwnerField {
			return &lock.InvalidError{Field: f.name, Reason: fmt.Sprintf("it has %d bytes, more than %d", len(f.value), lock.MaxOwnerField)}
		}
	}
	if c.TTL < 0 {
		return &lock.InvalidError{Field: "Client.TTL", Reason: fmt.Sprintf("%v is negative", c.TTL)}
	}
	return nil
}
