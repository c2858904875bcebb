package shard

import (
	"sync/atomic"
	"time"
)

const (
	sweepEvery = time.Second
	sweepLinks = 1 << 16 // how many links one sweep looks at, about
)

// sweeper removes what is left of files and clients that are no longer there.
// It runs on a timer that is armed while there are idle cells or clients with
// links, one sweep at a time, and holds nobody up.
type sweeper struct {
	armed   atomic.Bool
	stopped atomic.Bool
	clients atomic.Pointer[client] // those with links, a stack
}

func (w *sweeper) stop() { w.stopped.Store(true) }

func (w *sweeper) arm(t *Table) {
	if !w.armed.Load() && !w.stopped.Load() && w.armed.CompareAndSwap(false, true) {
		time.AfterFunc(sweepEvery, t.tick)
	}
}

// watch has c looked at in the sweeps to come.
func (w *sweeper) watch(t *Table, c *client) {
	if !c.queued.Load() && c.queued.CompareAndSwap(false, true) {
		w.push(c)
	}
	w.arm(t)
}

func (w *sweeper) push(c *client) {
	for {
		c.next = w.clients.Load()
		if w.clients.CompareAndSwap(c.next, c) {
			return
		}
	}
}

// emptied notes that nothing is left on the cell.
func (t *Table) emptied(sh *shard, c *cell) {
	if !c.touched.Load() {
		c.touched.Store(true)
	}
	if !c.queued.Load() && c.queued.CompareAndSwap(false, true) {
		sh.push(c)
	}
	t.sweeper.arm(t)
}

func (sh *shard) push(c *cell) {
	for {
		c.next = sh.idle.Load()
		if sh.idle.CompareAndSwap(c.next, c) {
			return
		}
	}
}

func (t *Table) tick() {
	if t.sweeper.stopped.Load() {
		return
	}
	more := t.sweep()
	t.sweeper.armed.Store(false)
	if more || t.pending() {
		t.sweeper.arm(t)
	}
}

// pending reports whether there is something to sweep: what came while a sweep
// was under way did not arm the timer.
func (t *Table) pending() bool {
	for i := range t.shards {
		if t.shards[i].idle.Load() != nil {
			return true
		}
	}
	return t.sweeper.clients.Load() != nil
}

// sweep removes the cells that have been empty since the sweep before, and
// trims clients. It must not run twice at the same time; a table sweeps itself.
// It reports whether something is left to look at.
func (t *Table) sweep() (more bool) {
	for i := range t.shards {
		sh := &t.shards[i]
		for c := sh.idle.Swap(nil); c != nil; {
			next := c.next
			if t.retire(sh, c) {
				more = true
				sh.push(c)
			}
			c = next
		}
	}
	budget := int64(sweepLinks)
	for c := t.sweeper.clients.Swap(nil); c != nil; {
		next := c.next
		if budget > 0 {
			budget -= t.visit(c)
		}
		if c.head.Load() != gone {
			more = true
			t.sweeper.push(c)
		}
		c = next
	}
	return more
}

// retire kills the cell if it was empty for a whole round. It reports whether
// the cell has to be looked at again.
func (t *Table) retire(sh *shard, c *cell) bool {
	s := c.state.Load()
	if !s.empty() {
		c.queued.Store(false)
		// Emptied just now, and not queued since it was queued still?
		return c.state.Load().empty() && c.queued.CompareAndSwap(false, true)
	}
	if s == dead || c.touched.Swap(false) || !durable(s.ticket) {
		return s != dead
	}
	// A cell that is made anew for this file begins at the clock, so it must
	// be there before the cell is seen dead.
	sh.raise(s.version)
	if !c.state.CompareAndSwap(s, dead) {
		return true
	}
	t.at(StepDead)
	sh.bury(c)
	return false
}

// raise makes sure that the clock is at version at least.
func (sh *shard) raise(version uint64) {
	for v := sh.clock.Load(); v < version && !sh.clock.CompareAndSwap(v, version); {
		v = sh.clock.Load()
	}
}

// visit trims a client if that is due: when it made many links, or now and
// then, the more seldom the more links there are. It returns what that cost.
func (t *Table) visit(c *client) int64 {
	c.rests++
	n := c.kept.Load() + c.made.Load()
	if c.made.Load()*4 < n && c.rests < n/1024 {
		return 1
	}
	c.rests = 0
	t.trim(c)
	return n + 1
}
