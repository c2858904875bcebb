package shard

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"sneck/interval"
	"sneck/lock"
)

// Limits say how much there may be; 0 or less: as much as comes.
//
// What counts is ranges held; for a client and in all also requests in line, each
// of which has the place of the range that it will be. On a file somebody in line
// is refused when its turn comes and there is no place. A range that is cut in two
// counts as two. Only what asks for more is refused: an unlock that cuts a range in
// two and a reclaim go through, also if there is then more than the limit allows;
// so does, for a client and in all, a grant to somebody in line that cuts one of its
// owner's.
type Limits struct {
	LocksPerFile, LocksPerClient, LocksTotal int
	WaitersPerFile, WaitersTotal             int
}

// limits counts against them.
type limits struct {
	Limits
	pool    atomic.Int64 // of LocksTotal: what is not in use and no shard has
	counted bool         // clients or the total are
}

// What the limits are called in a [lock.LimitError].
const (
	limitFile        = "locks of a file"
	limitClient      = "locks of a client"
	limitTotal       = "locks"
	limitWaitersFile = "waiters of a file"
	limitWaiters     = "waiters"
)

// Limit sets the limits. It must be called before the table is used; what was
// replayed counts.
func (t *Table) Limit(l Limits) {
	t.limits.Limits = l
	t.limits.counted = l.LocksPerClient > 0 || l.LocksTotal > 0
	t.limits.pool.Store(int64(l.LocksTotal))
}

// limit lets the transition know what it can decide.
func (t *Table) limit(c *command) {
	c.most, c.mostWaiters = t.limits.LocksPerFile, t.limits.WaitersPerFile
	for _, part := range c.all {
		part.most = c.most
	}
}

// limited is the refusal of a request for which there is no place, made so that
// it says which limit.
func (t *Table) limited(r *lock.Request, what string) error {
	most := map[string]int{
		limitFile: t.limits.LocksPerFile, limitClient: t.limits.LocksPerClient, limitTotal: t.limits.LocksTotal,
		limitWaitersFile: t.limits.WaitersPerFile, limitWaiters: t.limits.WaitersTotal,
	}[what]
	return fmt.Errorf("%s on %s of %q: %w", r.Owner, r.Range, r.File, &lock.LimitError{What: what, Limit: most})
}

// units is what a state counts as.
func (s *state) units() int { return s.locks() + len(s.queue) }

// tally is how many units of a client a change has added.
type tally struct {
	client string
	n      int
}

// add notes that a change adds n units of the client.
func (r *result) add(client string, n int) {
	if n == 0 {
		return
	}
	if client == r.self {
		r.own += n
		return
	}
	for i := range r.others {
		if r.others[i].client == client {
			r.others[i].n += n
			return
		}
	}
	r.others = append(r.others, tally{client, n})
}

// self is the client of whoever asked.
func (c *command) self() string {
	switch {
	case c.owner != nil:
		return c.owner.Client
	case c.op == opReleaseClient:
		return c.client
	case c.wait != nil:
		return c.wait.owner.Client
	case len(c.all) > 0:
		return c.all[0].owner.Client
	}
	return c.who.Client
}

// asks reports whether c may be refused for want of a place.
func (c *command) asks() bool {
	return c.op == opLock || slices.ContainsFunc(c.all, func(part *command) bool { return part.op == opLock })
}

// reserve takes what a change adds from the limits before it is published. It
// says what there is too little of, if that is so; then nothing was taken.
func (t *Table) reserve(sh *shard, cl *cell, c *command, res *result) (lacks string) {
	if !t.limits.counted || !res.changed {
		return ""
	}
	// Only what grows is taken now; what shrinks is given back when it is published.
	if res.own > 0 && !t.take(cl, c.self(), res.own, c.asks()) {
		return limitClient
	}
	for i := range res.others {
		if o := &res.others[i]; o.n > 0 {
			if !t.take(cl, o.client, o.n, c.asks() && c.op == opAll) {
				t.untake(sh, cl, c, res, i, 0)
				return limitClient
			}
		}
	}
	if n := res.more(); !t.draw(sh, n, c.asks()) {
		t.untake(sh, cl, c, res, len(res.others), 0)
		return limitTotal
	}
	return ""
}

// more is how many units a change adds, those that it frees apart.
func (r *result) more() int {
	n := max(0, r.own)
	for i := range r.others {
		n += max(0, r.others[i].n)
	}
	return n
}

// untake gives back what reserve took: of the first others, and of the total.
func (t *Table) untake(sh *shard, cl *cell, c *command, res *result, others, total int) {
	if res.own > 0 {
		t.give(cl, c.self(), res.own)
	}
	for i := range others {
		if o := &res.others[i]; o.n > 0 {
			t.give(cl, o.client, o.n)
		}
	}
	t.refund(sh, total)
}

// cancelReserve gives back all that reserve took: the change was not published.
func (t *Table) cancelReserve(sh *shard, cl *cell, c *command, res *result) {
	if t.limits.counted && res.changed {
		t.untake(sh, cl, c, res, len(res.others), res.more())
	}
}

// free gives back what a published change has freed.
func (t *Table) free(sh *shard, cl *cell, c *command, res *result) {
	if !t.limits.counted || !res.changed {
		return
	}
	less := 0
	if res.own < 0 {
		t.give(cl, c.self(), -res.own)
		less -= res.own
	}
	for i := range res.others {
		if o := &res.others[i]; o.n < 0 {
			t.give(cl, o.client, -o.n)
			less -= o.n
		}
	}
	t.refund(sh, less)
}

// spent is added to the count of a client that goes.
const spent = math.MinInt64 / 2

// account is the client's entry, which is made if there is none.
func (t *Table) account(cl *cell, name string) *client {
	if l := cl.link.Load(); l != nil && l.client.name == name && !l.dead.Load() {
		return l.client
	}
	c, ok := t.clients.Load(name)
	if !ok {
		c, _ = t.clients.LoadOrStore(name, &client{name: name})
		t.sweeper.watch(t, c)
	}
	return c
}

// take adds n to what the client has, unless it would be too much.
func (t *Table) take(cl *cell, name string, n int, refuse bool) bool {
	if t.limits.LocksPerClient <= 0 {
		return true
	}
	for {
		c := t.account(cl, name)
		switch has := c.held.Add(int64(n)); {
		case has < 0: // it goes
			c.held.Add(-int64(n))
			if c.head.Load() == gone {
				t.forget(c)
			}
		case refuse && has > int64(t.limits.LocksPerClient):
			c.held.Add(-int64(n))
			return false
		default:
			return true
		}
	}
}

// give takes n off what the client has. It has that, so that its entry is there.
func (t *Table) give(cl *cell, name string, n int) {
	if t.limits.LocksPerClient > 0 {
		t.account(cl, name).held.Add(-int64(n))
	}
}

// LocksTotal is in a pool. Each shard takes some of it at a time, so that the pool
// is seldom touched; when it is empty, what the other shards have and do not use
// is collected.

const creditBlock = 64

// draw takes n from the shard's part of the total.
func (t *Table) draw(sh *shard, n int, refuse bool) bool {
	if t.limits.LocksTotal <= 0 || n == 0 {
		return true
	}
	for {
		if sh.credit.Add(-int64(n)) >= 0 || !refuse {
			return true
		}
		sh.credit.Add(int64(n))
		if !t.collect(sh, n) {
			return false
		}
	}
}

// collect moves credit to the shard, enough for n if there is enough anywhere.
func (t *Table) collect(sh *shard, n int) bool {
	want := int64(max(n, creditBlock))
	for {
		p := t.limits.pool.Load()
		got := min(want, p)
		if got < int64(n) {
			break
		}
		if t.limits.pool.CompareAndSwap(p, p-got) {
			sh.credit.Add(got)
			return true
		}
	}
	found := int64(0)
	for i := range t.shards {
		from := &t.shards[i]
		if v := from.credit.Load(); from != sh && v > 0 && from.credit.CompareAndSwap(v, 0) {
			found += v
		}
	}
	if found == 0 {
		return sh.credit.Load() >= int64(n)
	}
	sh.credit.Add(found)
	return sh.credit.Load() >= int64(n)
}

// refund gives n back to the shard's part, and of that to the pool.
func (t *Table) refund(sh *shard, n int) {
	if t.limits.LocksTotal <= 0 || n == 0 {
		return
	}
	if v := sh.credit.Add(int64(n)); v > 2*creditBlock && sh.credit.CompareAndSwap(v, creditBlock) {
		t.limits.pool.Add(v - creditBlock)
	}
}

// replayed counts what was restored against the limits, which it may exceed.
func (t *Table) replayed() {
	if !t.limits.counted {
		return
	}
	for i := range t.shards {
		sh := &t.shards[i]
		sh.cells.Range(func(_ fileRef, c *cell) bool {
			s := c.state.Load()
			s.each(func(it *interval.Item) bool {
				t.take(c, it.Owner().Client, 1, false)
				return true
			})
			t.draw(sh, s.locks(), false)
			return true
		})
	}
}
