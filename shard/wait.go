package shard

import (
	"context"
	"fmt"

	"sneck/interval"
	"sneck/lock"
)

// outcome is how a wait ended.
type outcome struct {
	item   interval.Item
	ticket Ticket // to be waited for before the outcome counts
	err    error
}

// decide tells w how its wait ended. Only the transition that took w out of
// the line leads here, so it happens once (invariant 4). It does not block:
// callbacks run on goroutines of their own, and each waits for the log itself.
func (t *Table) decide(w *waiter, o outcome) {
	t.forgetWaiter(w)
	if w.decide != nil {
		w.decide <- o // has room
		return
	}
	go func() { w.done(t.settle(w.ref.key, o)) }()
}

// noteWaiter makes w known to those who look for it by id or by owner.
func (t *Table) noteWaiter(w *waiter) {
	t.waiting.Store(w.id, w)
	t.wanting.add(w)
}

func (t *Table) forgetWaiter(w *waiter) {
	t.wanting.remove(w)
	t.waiting.Delete(w.id)
	t.waiters.Add(-1)
}

// settle waits for the log.
func (t *Table) settle(f lock.FileKey, o outcome) (lock.Held, error) {
	if o.err != nil {
		return lock.Held{}, o.err
	}
	if err := t.await(o.ticket); err != nil {
		return lock.Held{}, err
	}
	return t.held(f, &o.item), nil
}

// leave takes w out of the line, if it still stands there, and decides it with
// err. False: it was decided already.
func (t *Table) leave(w *waiter, err error) bool {
	var res result
	c := command{op: opCancel, wait: w}
	if _, e := t.apply(w.ref, false, &c, &res); e != nil || res.refusal != accepted {
		return false
	}
	t.decide(w, outcome{err: err})
	return true
}

// polite grants r at once, unless somebody is in the way or in line before it:
// then it reports that r has to wait.
func (t *Table) polite(r lock.Request, upgrade bool, s Session) (waits bool, o outcome) {
	ref := refOf(r.File)
	id := t.newIDs(t.shard(ref))
	c := command{op: opLock, owner: t.owner(r.Owner), rng: r.Range, mode: r.Mode, id: id, spare: id + 1, now: t.now(), upgrade: upgrade, polite: true}
	var res result
	ticket, err := t.apply(ref, true, &c, &res)
	if err == nil {
		if res.refusal == conflicts || res.refusal == queues {
			return true, outcome{}
		}
		err = t.settled(s, ref, c.owner, []lock.ID{id}, t.refusal(r, &res))
	}
	return false, outcome{item: res.item, ticket: ticket, err: err}
}

// stand puts w in line for r, or grants it if it can be granted now. It returns
// whether w stands there, else the outcome.
func (t *Table) stand(r lock.Request, upgrade bool, w *waiter) (waits bool, o outcome) {
	w.ref = refOf(r.File)
	w.id = t.newIDs(t.shard(w.ref))
	w.ticket = t.tickets.Add(1) // not the id: ids are not given out in the order of time
	w.spare, w.owner, w.rng, w.mode, w.upgrade, w.since = w.id+1, t.owner(r.Owner), r.Range, r.Mode, upgrade, t.now()
	c := command{op: opLock, owner: w.owner, rng: w.rng, mode: w.mode, id: w.id, spare: w.spare, now: w.since, upgrade: upgrade, wait: w}
	if most := t.limits.WaitersTotal; t.waiters.Add(1) > int64(most) && most > 0 {
		t.waiters.Add(-1)
		return false, outcome{err: t.limited(&r, limitWaiters)}
	}
	t.noteWaiter(w) // before it can be decided, so that what is decided is also removed
	var res result
	ticket, err := t.apply(w.ref, true, &c, &res)
	if err == nil && res.waits {
		if failed := t.refused(); failed != nil {
			t.leave(w, failed) // Fail may have gone through the line before w came
		}
		if w.session != nil && w.session.Over() && t.leave(w, over(w.owner.Client)) {
			return true, outcome{} // the release may have been there before w was
		}
		t.deadlocks(w)
		if t.blocked != nil {
			t.tellBlocked(w)
		}
		return true, outcome{}
	}
	t.forgetWaiter(w)
	if err == nil {
		err = t.settled(w.session, w.ref, w.owner, []lock.ID{w.id}, t.refusal(r, &res))
	}
	return false, outcome{item: res.item, ticket: ticket, err: err}
}

// Lock waits in line for r. It fails with ctx's error, wrapped, if ctx ends
// while it stands there; then it leaves nothing behind.
func (t *Table) Lock(ctx context.Context, r lock.Request, upgrade bool, s Session) (lock.Held, error) {
	waits, o := t.polite(r, upgrade, s)
	if !waits {
		return t.settle(r.File, o)
	}
	w := &waiter{decide: make(chan outcome, 1), session: s}
	if waits, o = t.stand(r, upgrade, w); waits {
		select {
		case o = <-w.decide:
		case <-ctx.Done():
			// Cancel against grant: the transition that finds w in line says
			// which. If it was decided already, that outcome stands.
			t.leave(w, fmt.Errorf("waiting for a %s lock on %s of %q: %w", r.Mode, r.Range, r.File, ctx.Err()))
			o = <-w.decide
		}
	}
	return t.settle(r.File, o)
}

// Enqueue is Lock without a goroutine that waits: done is called exactly once,
// on another goroutine, unless Enqueue itself fails.
func (t *Table) Enqueue(r lock.Request, s Session, done func(lock.Held, error)) (lock.ID, error) {
	waits, o := t.polite(r, false, s)
	if waits {
		w := &waiter{done: done, session: s}
		if waits, o = t.stand(r, false, w); waits {
			return w.id, nil
		}
	}
	if o.err != nil {
		return 0, o.err
	}
	go func() { done(t.settle(r.File, o)) }()
	return o.item.ID(), nil
}

// tellBlocked tells whose locks w waits for.
func (t *Table) tellBlocked(w *waiter) {
	s := t.look(w.ref)
	clients := make(map[string]bool)
	if i := s.place(w); i >= 0 {
		s.holders(w, func(o *interval.Owner) { clients[o.Client] = true })
	}
	for name := range clients {
		t.blocked(name)
	}
}

// OnBlocked has f called with each client whose locks somebody begins to wait for.
// It must be called before the table is used.
func (t *Table) OnBlocked(f func(client string)) { t.blocked = f }

// Blocks reports whether anybody waits for what the client holds.
func (t *Table) Blocks(client string) (found bool) {
	if t.waiters.Load() == 0 {
		return false
	}
	t.files(lock.Filter{Client: client}, func(_ lock.FileKey, s *state) bool {
		for _, w := range s.queue {
			s.holders(w, func(o *interval.Owner) { found = found || o.Client == client })
		}
		return !found
	})
	return found
}

// Cancel takes a waiter out of the line; it is decided with ErrCanceled. False:
// it was decided already, or there never was one.
func (t *Table) Cancel(id lock.ID) bool {
	w, ok := t.waiting.Load(id)
	return ok && t.leave(w, fmt.Errorf("lock on %s of %q: %w", w.rng, w.ref.key, lock.ErrCanceled))
}
