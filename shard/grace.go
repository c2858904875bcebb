package shard

import (
	"sync/atomic"
	"time"

	"sneck/lock"
)

// grace is what the table has to know of the grace period. When it ends is
// decided elsewhere.
type grace struct {
	epoch       uint64 // what is of an earlier one is unconfirmed; 0: not in use
	unconfirmed atomic.Int64
	strict      atomic.Bool // nobody may have anything new
	settled     func()      // called when nothing is unconfirmed any more
	remaining   func() time.Duration
}

// Grace begins a grace period: strict says whether it lets nobody have anything
// new, settled is called once nothing is unconfirmed any more, on the goroutine
// of whoever settled the last one, and remaining tells how long it may take. It
// must be called before the table is used.
func (t *Table) Grace(strict bool, settled func(), remaining func() time.Duration) {
	t.grace.strict.Store(strict)
	t.grace.settled, t.grace.remaining = settled, remaining
}

// Unconfirmed is how many ranges and share reservations were held before the
// restart, and were neither reclaimed nor released since.
func (t *Table) Unconfirmed() int { return int(t.grace.unconfirmed.Load()) }

func (t *Table) remaining() time.Duration {
	if t.grace.remaining == nil {
		return 0
	}
	return t.grace.remaining()
}

// inGrace tells a command of the epoch and of the grace period.
func (t *Table) inGrace(c *command) {
	c.epoch, c.strict = t.epoch, t.grace.strict.Load()
	for _, part := range c.all {
		part.epoch, part.strict = c.epoch, c.strict
	}
}

// confirmed notes how many unconfirmed things a change has settled.
func (t *Table) confirmed(s, next *state) {
	d := int64(next.stale - s.stale)
	if d == 0 {
		return
	}
	if t.grace.unconfirmed.Add(d) == 0 && t.grace.settled != nil {
		t.grace.settled()
	}
}

// EndGrace releases all that is unconfirmed, and lets those in line have what
// they wait for. It returns how many locks it released, when that is durable.
// The grace period must be over: nothing may be reclaimed any more.
func (t *Table) EndGrace() (int, error) {
	t.grace.strict.Store(false)
	released := 0
	var tickets []Ticket
	var err error
	for i := range t.shards {
		t.shards[i].cells.Range(func(r fileRef, cl *cell) bool {
			s := cl.state.Load()
			if s.stale == 0 {
				if len(s.queue) > 0 {
					t.stir(r)
				}
				return true
			}
			var res result
			var ticket Ticket
			if ticket, err = t.apply(r, false, &command{op: opReleaseStale}, &res); err != nil {
				return false
			}
			released += res.released
			if !durable(ticket) {
				tickets = append(tickets, ticket)
			}
			return true
		})
	}
	for _, ticket := range tickets {
		if e := t.await(ticket); err == nil {
			err = e
		}
	}
	return released, err
}

// stir lets those in line on a file have what they can.
func (t *Table) stir(r fileRef) {
	var res result
	_, _ = t.apply(r, false, &command{op: opStir}, &res) // halted: they are told
}

// ExpectedClients yields the clients that hold something unconfirmed, each once.
func (t *Table) ExpectedClients() []string {
	if t.Unconfirmed() == 0 {
		return nil
	}
	seen := make(map[string]bool)
	for h := range t.Locks(lock.Filter{}) {
		seen[h.Owner.Client] = true
	}
	for s := range t.Shares(lock.Filter{}) {
		seen[s.Owner.Client] = true
	}
	var names []string
	for name := range seen {
		names = append(names, name)
	}
	return names
}
