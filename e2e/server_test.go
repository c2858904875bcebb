package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

const (
	roleEnv  = "SNECK_E2E_ROLE"  // what the test binary is to be: server or client
	graceEnv = "SNECK_E2E_GRACE" // the server's grace period
	logEnv   = "SNECK_E2E_LOG"   // the server's log directory

	socketPath = "socket" // in the working directory: the path of a socket may not be long
	ready      = "ready"  // what the server says when it can be connected to
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "server":
		os.Exit(serve())
	case "client":
		os.Exit(beClient())
	}
	os.Exit(m.Run())
}

// adapters are those of the server. Clients of durable ones have long enough to
// come back; those of others lose everything with their connection.
var adapters = map[string]sneck.AdapterOptions{
	"nfs4": {TTL: 20 * time.Minute},
	"nlm":  {TTL: 20 * time.Minute},
	"smb":  {MaxConnections: 10},
	"9p":   {},
}

// server embeds the facade behind a Unix socket. Every request has a goroutine of
// its own, so that one that blocks holds up no other.
type server struct {
	m     *sneck.Manager
	mu    sync.Mutex
	where map[string]*connection // by which a client has connected last
}

type connection struct {
	ctx context.Context // ends with it
	out *lines
}

// serve is the server process. It ends when its standard input does: then in
// good order.
func serve() int {
	grace, err := time.ParseDuration(os.Getenv(graceEnv))
	if err != nil {
		return fail(err)
	}
	m, err := sneck.Open(sneck.Options{Dir: os.Getenv(logEnv), GracePeriod: grace, Adapters: adapters})
	if err != nil {
		return fail(err)
	}
	_ = os.Remove(socketPath) // the predecessor's
	l, err := net.Listen("unix", socketPath)
	if err != nil {
		return fail(err)
	}
	s := &server{m: m, where: make(map[string]*connection)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed, or the process ends soon
			}
			go s.connection(c)
		}
	}()
	fmt.Println(ready)
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.mu.Lock() // whoever is being disconnected is so to the end
	if err := m.Close(); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// connection serves one until its other end is gone: then the clients that have
// come by it are disconnected, and what it has in line leaves it.
func (s *server) connection(c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	here := &connection{ctx: ctx, out: &lines{to: json.NewEncoder(c)}}
	for requests := json.NewDecoder(bufio.NewReader(c)); ; {
		var r request
		if err := requests.Decode(&r); err != nil {
			break
		}
		go func() {
			a := s.do(here, r)
			a.N = r.N
			here.out.write(a)
		}()
	}
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for client, by := range s.where {
		if by == here {
			delete(s.where, client)
			_ = s.m.Disconnect(context.Background(), client) // it may have done so itself
		}
	}
}

// do is one request.
func (s *server) do(c *connection, r request) (a answer) {
	m, ctx, id := s.m, c.ctx, r.Client.ID
	ask := lock.Request{File: r.File, Owner: r.Owner, Range: r.Range.rng(), Mode: r.Mode, Reclaim: r.Op == opReclaim}
	share := lock.Share{File: r.File, Owner: r.Owner, Access: r.Access, Deny: r.Deny, Reclaim: r.Op == opReclaimShare}
	var err error
	switch r.Op {
	case opConnect:
		s.mu.Lock()
		defer s.mu.Unlock()
		if err = m.Connect(ctx, r.Client); err == nil {
			s.where[id] = c
		}
	case opRenew:
		err = m.Renew(id)
	case opDisconnect:
		err = m.Disconnect(ctx, id)
	case opTry, opReclaim:
		err = a.holds(m.TryLock(ctx, ask))
	case opLock:
		err = a.holds(m.Lock(ctx, ask))
	case opUnlock:
		err = m.Unlock(ctx, r.File, r.Owner, ask.Range)
	case opTest:
		if h, found := m.Test(ask); found {
			_ = a.holds(h, nil)
		}
	case opComplete:
		err = m.ReclaimComplete(ctx, id)
	case opOpenShare, opReclaimShare:
		err = m.OpenShare(ctx, share)
	case opCloseShare:
		err = m.CloseShare(ctx, r.File, r.Owner)
	case opGrace:
		g := m.Grace()
		a.Grace = &g
	case opLocks:
		for h := range m.Locks(lock.Filter{}) {
			a.Locks = append(a.Locks, heldOf(h))
		}
	case opShares:
		for sh := range m.Shares(lock.Filter{}) {
			a.Shares = append(a.Shares, sh)
		}
	case opWaiters:
		for w := range m.Waiters(lock.Filter{}) {
			q := w.Request
			a.Line = append(a.Line, request{Op: opLock, File: q.File, Owner: q.Owner, Range: spanOf(q.Range), Mode: q.Mode})
		}
	case opClients:
		for cl := range m.Clients("") {
			a.Known = append(a.Known, cl)
		}
	case opCheckpoint:
		err = m.Checkpoint(ctx)
	case opEpoch:
		a.Epoch = m.Epoch()
	default:
		err = fmt.Errorf("%w: operation %q", lock.ErrInvalid, r.Op)
	}
	a.refused(err)
	return a
}

func (a *answer) holds(h lock.Held, err error) error {
	if err == nil {
		shown := heldOf(h)
		a.Held = &shown
	}
	return err
}

// refused says why, and who is in the way.
func (a *answer) refused(err error) {
	if err == nil {
		return
	}
	a.Err, a.Text = nameOf(err), err.Error()
	var c *lock.ConflictError
	var g *lock.GraceError
	switch {
	case errors.As(err, &c) && c.ShareHolder != nil:
		a.Share = c.ShareHolder
	case errors.As(err, &c):
		_ = a.holds(c.Holder, nil)
	case errors.As(err, &g):
		_ = a.holds(g.Holder, nil)
	}
}
