package shard

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v3"

	"sneck/interval"
	"sneck/lock"
)

// Table is the lock table. All methods may be called at the same time.
type Table struct {
	shards  []shard
	shift   uint
	epoch   uint64
	blocks  atomic.Uint64
	journal Journal
	failed  atomic.Pointer[error] // why nothing may change any more
	clients *xsync.MapOf[string, *client]
	waiting *xsync.MapOf[lock.ID, *waiter]
	waiters atomic.Int64 // in waiting
	tickets atomic.Uint64
	owners  [1024]atomic.Pointer[interval.Owner]
	start   time.Time // what now counts from; its monotonic reading cannot be stepped
	sweeper sweeper
	grace   grace
	limits  limits
	blocked func(client string) // see OnBlocked
	wanting wanting
	step    func(Step) // for the test that stops a goroutine at every step
}

// New makes an empty table of n shards, rounded up to a power of two; 0 = 4 ×
// GOMAXPROCS, at least 16. It is to be replayed into, and then to begin.
func New(n int) *Table {
	if n <= 0 {
		n = max(16, 4*runtime.GOMAXPROCS(0))
	}
	log := max(1, bits.Len(uint(n-1)))
	t := &Table{
		shards:  make([]shard, 1<<log),
		shift:   uint(64 - log),
		clients: xsync.NewMapOf[string, *client](),
		waiting: xsync.NewMapOf[lock.ID, *waiter](),
		start:   time.Now(),
		wanting: newWanting(),
	}
	for i := range t.shards {
		t.shards[i].cells = newCells()
	}
	t.sweeper.stopped.Store(true)
	return t
}

// Begin opens the table for use. epoch, 1 or more, is the server epoch, which
// goes into every id; without a journal the table is in memory only.
//
// What was replayed is unconfirmed from now on; Begin returns how many ranges and
// share reservations that is.
func (t *Table) Begin(epoch uint64, j Journal) (unconfirmed int) {
	t.epoch, t.journal, t.grace.epoch = epoch, j, epoch
	for i := range t.shards {
		t.shards[i].cells.Range(func(_ fileRef, c *cell) bool {
			if s := c.state.Load(); !s.vacant() {
				unconfirmed += s.begin(epoch) // nobody reads it yet
			}
			return true
		})
	}
	t.grace.unconfirmed.Store(int64(unconfirmed))
	t.replayed()
	t.sweeper.stopped.Store(false)
	if t.pending() {
		t.sweeper.arm(t)
	}
	return unconfirmed
}

// now is the time in microseconds since 1970. It never goes backwards.
func (t *Table) now() int64 {
	return t.start.UnixMicro() + time.Since(t.start).Microseconds()
}

// owner is o with its hash. The last owners seen are kept, so that the ranges
// of one owner share one copy.
func (t *Table) owner(o lock.Owner) *interval.Owner {
	slot := &t.owners[interval.Hash(o)%uint64(len(t.owners))]
	if p := slot.Load(); p != nil && p.Owner == o {
		return p
	}
	p := interval.NewOwner(o)
	slot.Store(p)
	return p
}

// Step names a point at which a goroutine may stop without stopping others.
type Step uint8

const (
	StepFound     Step = iota // the cell
	StepLoaded                // its state
	StepComputed              // the next state
	StepPublished             // by the swap
	StepSubmitted             // to the journal
	StepIndexed               // the client
	StepDelivered             // to the waiters granted
	StepDead                  // a cell was marked dead, and is still in the map
)

func (t *Table) at(s Step) {
	if t.step != nil {
		t.step(s)
	}
}

// apply carries out c on a file. It returns the record that has to be durable
// before the result counts. create: make the cell if there is none.
func (t *Table) apply(ref fileRef, create bool, c *command, res *result) (Ticket, error) {
	if err := t.refused(); err != nil {
		if c.op != opCancel {
			return nil, err
		}
		c.halted = true
	}
	for try := int64(1); ; try++ {
		var cl *cell
		if create {
			cl = t.cell(ref)
		} else if cl = t.find(ref); cl == nil {
			var next state
			transition(&next, empty, c, res)
			return nil, nil
		}
		t.at(StepFound)
		s := cl.state.Load()
		if s == dead {
			t.shard(ref).bury(cl)
			continue
		}
		t.at(StepLoaded)
		if try > patience {
			cl.slow.Store(leastYield << min(try-patience, mostDoubled)) // long and unlucky
		} else if cl.slow.Load() != 0 {
			cl.yield()
			if s = cl.state.Load(); s == dead {
				continue
			}
		}
		if ticket, ok := t.try(cl, s, c, res); ok {
			if try > patience {
				cl.slow.Store(0)
			}
			return ticket, nil
		}
		*res = result{}
	}
}

const (
	// patience is how often an attempt may fail before its caller asks the
	// others to wait. Short ones succeed long before that.
	patience = 8
	// leastYield is how often they let other goroutines run then; each further
	// failure doubles it, so often.
	leastYield  = 256
	mostDoubled = 12
)

// yield waits while somebody who has failed again and again tries to get a long
// transition through: computing it takes longer than the time between two short
// ones, which would go on to win for ever. It waits a bounded number of turns,
// and then takes the request away, so that one who asked and stopped holds up
// the others once.
func (c *cell) yield() {
	n := c.slow.Load()
	for range n {
		if c.slow.Load() != n {
			return
		}
		runtime.Gosched()
	}
	c.slow.CompareAndSwap(n, 0)
}

// try computes the state after c and publishes it, unless the state has
// changed since s was loaded.
func (t *Table) try(cl *cell, s *state, c *command, res *result) (Ticket, bool) {
	sh := t.shard(cl.ref)
	t.prepare(sh, s, c)
	t.inGrace(c)
	t.limit(c)
	var scratch state
	transition(&scratch, s, c, res)
	if !res.changed {
		if s.empty() { // the cell may have been made for this call
			t.emptied(sh, cl)
		}
		if res.refusal == accepted {
			t.indexAll(cl, c) // whoever got the lock may not have come that far
		}
		return s.ticket, true
	}
	var next *state
	if t.journal == nil && scratch.empty() {
		next = empty
	} else {
		next = new(state)
		*next = scratch
		if t.journal != nil && res.logged {
			next.version++
			next.ticket = t.journal.Record(s.ticket, &record{file: cl.ref.key, version: next.version, first: s.vacant(), c: *c, granted: res.granted})
		}
	}
	if res.waits {
		c.wait.cell.Store(cl)
	}
	t.at(StepComputed)
	if lacks := t.reserve(sh, cl, c, res); lacks != "" {
		*res = result{refusal: noRoom, lacks: lacks}
		if s.empty() {
			t.emptied(sh, cl)
		}
		return nil, true
	}
	if !cl.state.CompareAndSwap(s, next) {
		t.cancelReserve(sh, cl, c, res)
		return nil, false
	}
	t.free(sh, cl, c, res)
	t.at(StepPublished)
	if res.logged {
		if t.journal != nil {
			t.journal.Submit(next.ticket)
		}
	}
	t.at(StepSubmitted)
	sh.count(s, next)
	t.confirmed(s, next)
	if next.empty() {
		t.emptied(sh, cl)
	}
	t.indexAll(cl, c)
	t.at(StepIndexed)
	for _, g := range res.granted {
		t.decide(g.w, outcome{item: g.item, ticket: next.ticket})
	}
	for _, w := range res.full {
		r := lock.Request{File: w.ref.key, Owner: w.owner.Owner, Range: w.rng, Mode: w.mode}
		t.decide(w, outcome{err: t.limited(&r, limitFile)})
	}
	if c.op != opCancel {
		for _, w := range res.gone {
			err := released(w)
			if c.op == opUnlock || c.op == opRevoke {
				err = &lock.NotFoundError{File: w.ref.key, Owner: w.owner.Owner, Range: w.rng}
			}
			t.decide(w, outcome{err: err})
		}
	}
	t.at(StepDelivered)
	t.search(c, res)
	if len(next.queue) > 1 && !res.waits {
		t.shifted(s, next)
	}
	if c.strict && len(next.queue) > 0 && !t.grace.strict.Load() {
		t.stir(cl.ref) // the grace period has ended meanwhile
	}
	return next.ticket, true
}

// search looks for the deadlocks that what was granted has closed.
func (t *Table) search(c *command, res *result) {
	if t.waiters.Load() == 0 {
		return
	}
	for _, g := range res.granted {
		t.granted(g.w.owner)
	}
	switch {
	case !res.logged || res.waits:
	case c.op == opLock, c.op == opReclaim:
		t.granted(c.owner)
	case c.op == opAll:
		for _, part := range c.all {
			t.granted(part.owner)
		}
	}
}

// indexAll puts the clients that c may have brought to the file into the index.
func (t *Table) indexAll(cl *cell, c *command) {
	switch c.op {
	case opLock, opReclaim, opOpen:
		t.index(cl, c.owner.Client)
	case opAll:
		for _, part := range c.all {
			t.index(cl, part.owner.Client)
		}
	}
}

// Refused is why nothing may change any more, or nil.
func (t *Table) Refused() error { return t.refused() }

func (t *Table) refused() error {
	if err := t.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// prepare gives c what it needs on a file in state s, and only that: the clock
// and the ids cost as much as the rest of an unlock.
func (t *Table) prepare(sh *shard, s *state, c *command) {
	if c.now == 0 && len(s.queue) > 0 {
		c.now = t.now() // for the grants
	}
	if c.op == opUnlock && c.spare == 0 {
		if it, one := s.posix.Only(); !one || it.First() < c.rng.First() && c.rng.Last() < it.Last() {
			c.spare = t.newIDs(sh)
		}
	}
}

// Refuse refuses every later change with err. It waits for nothing. The first
// error stays.
func (t *Table) Refuse(err error) { t.failed.CompareAndSwap(nil, &err) }

// Fail ends all changes: every waiter is decided with err, and every later
// change is refused with it. What is held can still be looked at. The first
// error stays.
func (t *Table) Fail(err error) {
	t.Refuse(err)
	first := t.refused()
	t.waiting.Range(func(_ lock.ID, w *waiter) bool {
		t.leave(w, first)
		return true
	})
	t.sweeper.stop()
}
