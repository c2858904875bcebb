package shard

import (
	"fmt"
	"sync/atomic"

	"sneck/lock"
)

// The client index says on which files a client may hold locks or wait, so
// that releasing a client does not look at every file. It is a list of links
// per client that only ever says too much, never too little: a link is made
// when a client's call has changed a file, and goes when a sweep finds that
// the client has nothing there any more.
//
//	client ── head ─▶ link ─▶ link ─▶ link
//	                   │cell   │cell   │cell
//	                   ▼       ▼       ▼
//	cell ── link ─▶ (the one made last)
//
// A lock and unlock of the same file again and again must not make a link each
// time: the cell remembers the one made last, and a call that finds it alive
// and its own client's has nothing to do.
//
// Call and sweep meet in the link's state. The call publishes first and looks
// at the link then; the sweep marks the link dead first and looks at what is
// published then. Whichever comes second sees the other one: either the sweep
// finds the client on the file and keeps the link, or the call finds the link
// dead and makes a new one.
type link struct {
	client *client
	cell   *cell
	next   atomic.Pointer[link]
	dead   atomic.Bool
}

type client struct {
	name     string
	head     atomic.Pointer[link]
	made     atomic.Int64 // links made since the last trim
	kept     atomic.Int64 // links that the last trim left
	held     atomic.Int64 // what counts against the client's limit; below 0: see trim
	trimming atomic.Bool

	// The sweeper's.
	queued atomic.Bool
	next   *client
	rests  int64 // sweeps since the last trim
}

// trimAtOnce is the number of links up to which a call may trim its client: it
// costs the call less than a millisecond.
const trimAtOnce = 1 << 12

// gone is the head of a client that is no longer in the map. It is its last.
var gone = new(link)

// index makes sure that the client is known to be on the file. The change that
// put it there must have been published.
func (t *Table) index(cl *cell, name string) {
	if l := cl.link.Load(); l != nil && l.client.name == name && !l.dead.Load() {
		return
	}
	for {
		c, ok := t.clients.Load(name)
		if !ok {
			c, _ = t.clients.LoadOrStore(name, &client{name: name})
		}
		l := &link{client: c, cell: cl}
		if !c.push(l) {
			t.forget(c)
			continue
		}
		cl.link.Store(l)
		if l.dead.Load() { // it may have gone before it was stored
			cl.link.CompareAndSwap(l, nil)
		}
		// The sweeper trims; but links to few files that are made anew all the
		// time are not left to lie until then.
		if n := c.made.Add(1); n > 2*c.kept.Load()+64 && n < trimAtOnce {
			t.trim(c)
		}
		t.sweeper.watch(t, c)
		return
	}
}

// push puts l on top of the list; false if the client is gone.
func (c *client) push(l *link) bool {
	for {
		h := c.head.Load()
		if h == gone {
			return false
		}
		l.next.Store(h)
		if c.head.CompareAndSwap(h, l) {
			return true
		}
	}
}

// links visits the client's links until f returns false.
func (c *client) links(f func(*link) bool) {
	for l := c.head.Load(); l != nil && l != gone; l = l.next.Load() {
		if !f(l) {
			return
		}
	}
}

// forget removes a client that is gone from the map.
func (t *Table) forget(c *client) {
	t.clients.Compute(c.name, func(now *client, _ bool) (*client, bool) { return now, now == c || now == nil })
}

// trim drops the links that say too much, and the client itself when none is
// left. One goroutine trims a client at a time; others pass by.
func (t *Table) trim(c *client) {
	if !c.trimming.CompareAndSwap(false, true) {
		return
	}
	defer c.trimming.Store(false)
	made, kept := c.made.Load(), int64(0)
	seen := make(map[*cell]struct{})
	var prev *link
	c.links(func(l *link) bool {
		l.dead.Store(true)
		if _, twice := seen[l.cell]; !twice && l.cell.state.Load().has(c.name) {
			l.dead.Store(false)
			seen[l.cell] = struct{}{}
			kept++
			prev = l
			return true
		}
		if prev == nil && !c.head.CompareAndSwap(l, l.next.Load()) {
			// Links were pushed on top meanwhile: the one right above l.
			c.links(func(p *link) bool { prev = p; return p.next.Load() != l })
		}
		if prev != nil {
			prev.next.Store(l.next.Load())
		}
		// A link that has gone must not be reached from a cell that stays: it
		// leads on to other links and cells that have gone.
		l.cell.link.CompareAndSwap(l, nil)
		return true
	})
	c.kept.Store(kept)
	c.made.Add(-made)
	// Whoever counts something of a client that goes sees that, and counts it with
	// the next one.
	if c.head.Load() == nil && c.held.CompareAndSwap(0, spent) {
		if c.head.CompareAndSwap(nil, gone) {
			t.forget(c)
		} else {
			c.held.Add(-spent)
		}
	}
}

// released is the error of a waiter that its owner, client or file took along.
func released(w *waiter) error {
	return fmt.Errorf("lock on %s of %q: %w", w.rng, w.ref.key, lock.ErrReleased)
}

// ReleaseClient lets go of all that the client holds and waits for.
func (t *Table) ReleaseClient(name string) (int, error) {
	c, ok := t.clients.Load(name)
	if !ok {
		return 0, t.refused()
	}
	n := 0
	var tickets []Ticket
	var err error
	c.links(func(l *link) bool {
		var res result
		var ticket Ticket
		cmd := command{op: opReleaseClient, client: name}
		if ticket, err = t.apply(l.cell.ref, false, &cmd, &res); err != nil {
			return false
		}
		n += res.released
		if !durable(ticket) {
			tickets = append(tickets, ticket)
		}
		return true
	})
	for _, ticket := range tickets {
		if e := t.await(ticket); err == nil {
			err = e
		}
	}
	t.trim(c)
	return n, err
}
