package sneck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sneck/grace"
	"sneck/lock"
)

// GraceStatus is where the grace period stands.
type GraceStatus struct {
	Active      bool
	Remaining   time.Duration // until it ends by time; 0 when it is not active
	Expected    []string      // clients that held something when the server stopped, sorted
	Complete    []string      // clients that have said ReclaimComplete, sorted
	Unconfirmed int           // restored locks and shares, neither reclaimed nor released
}

// reclaiming is the grace period of this start of the server.
type reclaiming struct {
	active  atomic.Bool // so that nobody asks the machine after it is over
	strict  bool
	mu      sync.Mutex // guards machine and timer
	machine *grace.Machine
	timer   *time.Timer
	over    chan struct{} // closed when what was not reclaimed is released
	err     error         // of that; valid once over is closed
}

// beginGrace begins the grace period, if anything is unconfirmed. Without one
// (GracePeriod < 0) what was restored is released before Open returns.
func (m *Manager) beginGrace(o *Options, unconfirmed int) error {
	g := &m.grace
	g.strict = o.StrictGrace
	g.over = make(chan struct{})
	now := time.Now()
	g.machine = grace.Start(now, o.GracePeriod, m.table.ExpectedClients(), unconfirmed)
	m.clients.Begin(now, max(0, o.GracePeriod))
	if !g.machine.Active() {
		close(g.over)
		if unconfirmed == 0 {
			return nil
		}
		n, err := m.table.EndGrace()
		m.logger.Info("restored locks released: there is no grace period", "locks", n, "error", err)
		return err
	}
	g.active.Store(true)
	m.table.Grace(g.strict, m.reclaimed, m.graceLeft)
	g.timer = time.AfterFunc(o.GracePeriod, func() {
		m.endGrace(func(gm *grace.Machine) bool { return gm.Tick(time.Now()) })
	})
	m.logger.Info("grace period begins", "epoch", m.epoch, "period", o.GracePeriod, "unconfirmed", unconfirmed, "strict", g.strict)
	return nil
}

// reclaimed is called by whoever settled the last thing that was unconfirmed.
func (m *Manager) reclaimed() {
	go m.endGrace(func(gm *grace.Machine) bool { return gm.Unconfirmed(m.table.Unconfirmed()) })
}

// graceLeft is how long the grace period may still take.
func (m *Manager) graceLeft() time.Duration {
	m.grace.mu.Lock()
	defer m.grace.mu.Unlock()
	return max(0, time.Until(m.grace.machine.Deadline()))
}

// endGrace ends the grace period if that is so, by what f says: what was not
// reclaimed is released by the one release path, and those in line go on. It
// reports whether it was this call that did.
func (m *Manager) endGrace(f func(*grace.Machine) bool) bool {
	g := &m.grace
	g.mu.Lock()
	ended := f(g.machine)
	reason := g.machine.Reason()
	if ended {
		g.active.Store(false)
		g.timer.Stop()
	}
	g.mu.Unlock()
	if !ended {
		return false
	}
	n, err := m.table.EndGrace()
	g.err = err
	close(g.over)
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelError
	}
	m.logger.Log(context.Background(), level, "grace period ended", "epoch", m.epoch, "reason", reason, "released", n, "error", err)
	return true
}

// Grace says where the grace period stands.
func (m *Manager) Grace() GraceStatus {
	g := &m.grace
	g.mu.Lock()
	st := g.machine.Status(time.Now())
	g.mu.Unlock()
	return GraceStatus{Active: st.Active, Remaining: st.Remaining, Expected: st.Expected, Complete: st.Complete, Unconfirmed: m.table.Unconfirmed()}
}

// ReclaimComplete says that the client has reclaimed all that it wants to (RFC
// 8881 18.51): further reclaims of it fail with ErrReclaimBad. When all clients
// that are expected have said so the grace period is over; then ReclaimComplete
// returns when what was not reclaimed is released. Outside of grace it does
// nothing. It fails with ErrInvalid, ErrHalted or ErrClosed.
func (m *Manager) ReclaimComplete(_ context.Context, client string) error {
	if err := m.ready(); err != nil {
		return err
	}
	if len(client) > lock.MaxOwnerField {
		return &lock.InvalidError{Field: "client", Reason: fmt.Sprintf("it has %d bytes, more than %d", len(client), lock.MaxOwnerField)}
	}
	if m.endGrace(func(gm *grace.Machine) bool { return gm.Complete(client) }) {
		return m.grace.err
	}
	return nil
}

// reclaimsNothing notes that the client has lost what it held before the restart:
// nobody waits for it to reclaim that.
func (m *Manager) reclaimsNothing(client string) {
	if m.grace.active.Load() {
		m.endGrace(func(gm *grace.Machine) bool { return gm.Complete(client) })
	}
}

// EndGrace ends the grace period now, and returns when what was not reclaimed is
// released, or with ctx's error, wrapped, if ctx ends before: then it goes on all
// the same. Outside of grace it does nothing.
func (m *Manager) EndGrace(ctx context.Context) error {
	if err := m.ready(); err != nil {
		return err
	}
	if !m.grace.active.Load() {
		return nil
	}
	go m.endGrace((*grace.Machine).End)
	select {
	case <-m.grace.over:
		return m.grace.err
	case <-ctx.Done():
		return fmt.Errorf("end of grace: %w", ctx.Err())
	}
}

// mayReclaim is why a client may not reclaim anything now, or nil.
func (m *Manager) mayReclaim(client string) error {
	g := &m.grace
	if !g.active.Load() {
		return lock.ErrNoGrace
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.machine.MayReclaim(client)
}

// stop ends the timer.
func (g *reclaiming) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

// holderOf is whose lock or share was in the way, if that is what err says.
func holderOf(err error) (lock.Owner, bool) {
	var c *lock.ConflictError
	var g *lock.GraceError
	switch {
	case errors.As(err, &c) && c.ShareHolder != nil:
		return c.ShareHolder.Owner, true
	case errors.As(err, &c):
		return c.Holder.Owner, true
	case errors.As(err, &g):
		return g.Holder.Owner, true
	}
	return lock.Owner{}, false
}
