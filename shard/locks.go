package shard

import (
	"fmt"

	"sneck/interval"
	"sneck/lock"
)

// held is the public form of an item.
func (t *Table) held(f lock.FileKey, it *interval.Item) lock.Held {
	h := held(f, it)
	h.Unconfirmed = h.Epoch < t.grace.epoch
	return h
}

func held(f lock.FileKey, it *interval.Item) lock.Held {
	return lock.Held{
		ID: it.ID(), File: f, Owner: it.Owner().Owner, Range: it.Range(), Mode: it.Mode(),
		Epoch: it.Epoch(), Since: it.Time(),
	}
}

// refusal is the public form of why r was refused, or nil.
func (t *Table) refusal(r lock.Request, res *result) error {
	switch res.refusal {
	case conflicts:
		holder := t.held(r.File, &res.item)
		if holder.Unconfirmed {
			return &lock.GraceError{Holder: holder, Remaining: t.remaining()}
		}
		return &lock.ConflictError{Request: r, Holder: holder}
	case queues: // of somebody who does not stand in line
		return &lock.GraceError{Remaining: t.remaining()}
	case notReclaimable:
		return fmt.Errorf("%s on %s of %q: %w", r.Owner, r.Range, r.File, lock.ErrReclaimBad)
	case notHeld:
		return &lock.NotFoundError{File: r.File, Owner: r.Owner, Range: r.Range}
	case shareConflicts:
		if res.inGrace {
			return &lock.GraceError{Holder: t.shareHeld(r.File, &res.share), Remaining: t.remaining()}
		}
		sh := res.share.public(r.File)
		return &lock.ConflictError{Request: r, ShareHolder: &sh}
	case noRoom:
		return t.limited(&r, res.lacks)
	case deadlocks:
		return &lock.DeadlockError{Cycle: []lock.Owner{res.cycle[0].Owner, res.cycle[1].Owner}}
	}
	return nil
}

// do applies c and waits until the result is durable.
func (t *Table) do(ref fileRef, create bool, c *command, res *result) error {
	ticket, err := t.apply(ref, create, c, res)
	if err != nil || res.refusal == conflicts || res.refusal == shareConflicts {
		return err
	}
	return t.await(ticket)
}

// TryLock locks r, or says who is in the way. It does not stand in line, and
// does not mind who does.
func (t *Table) TryLock(r lock.Request, s Session) (lock.Held, error) {
	ref := refOf(r.File)
	id := t.newIDs(t.shard(ref))
	c := command{op: opLock, owner: t.owner(r.Owner), rng: r.Range, mode: r.Mode, id: id, spare: id + 1, now: t.now()}
	if r.Reclaim {
		c.op = opReclaim
	}
	var res result
	if err := t.settled(s, ref, c.owner, []lock.ID{id}, t.do(ref, !r.Reclaim, &c, &res)); err != nil {
		return lock.Held{}, err
	}
	if err := t.refusal(r, &res); err != nil {
		return lock.Held{}, err
	}
	return t.held(r.File, &res.item), nil
}

// TryLockAll locks all of rs, which are of one file, or none of them.
func (t *Table) TryLockAll(rs []lock.Request, session func(client string) Session) ([]lock.Held, error) {
	ref := refOf(rs[0].File)
	c := command{op: opAll, now: t.now()}
	for i, r := range rs {
		id := t.newIDs(t.shard(ref))
		c.all = append(c.all, &command{op: opLock, owner: t.owner(r.Owner), rng: r.Range, mode: r.Mode, id: id, spare: id + 1, now: c.now})
		if r.Reclaim {
			c.all[i].op = opReclaim
		}
	}
	var sessions []Session
	if session != nil {
		for _, part := range c.all {
			sessions = append(sessions, session(part.owner.Client))
		}
	}
	var res result
	err := t.do(ref, true, &c, &res)
	for i, part := range c.all[:len(sessions)] {
		if e := t.settled(sessions[i], ref, part.owner, []lock.ID{part.id}, nil); err == nil {
			err = e
		}
	}
	if err != nil {
		return nil, err
	}
	for i, part := range c.all {
		if part == res.refused {
			return nil, t.refusal(rs[i], &res)
		}
	}
	if err := t.refusal(rs[0], &res); err != nil { // of all together
		return nil, err
	}
	hs := make([]lock.Held, len(rs))
	for i := range rs {
		hs[i] = t.held(ref.key, &res.items[i])
	}
	return hs, nil
}

// Unlock lets go of what o holds of r. SMB owners must hold a lock on exactly
// r, or it is ErrNotFound.
func (t *Table) Unlock(f lock.FileKey, o lock.Owner, r lock.Range) error {
	c := command{op: opUnlock, who: interval.Probe(o), rng: r}
	var res result
	if err := t.do(refOf(f), false, &c, &res); err != nil {
		return err
	}
	if res.refusal == notHeld && o.Semantics == lock.SMB {
		return &lock.NotFoundError{File: f, Owner: o, Range: r}
	}
	return nil
}

// ReleaseOwner lets go of all that o holds and waits for on f.
func (t *Table) ReleaseOwner(f lock.FileKey, o lock.Owner) (int, error) {
	var res result
	c := command{op: opReleaseOwner, who: interval.Probe(o)}
	err := t.do(refOf(f), false, &c, &res)
	return res.released, err
}

// ReleaseFile lets go of all that anybody holds and waits for on f.
func (t *Table) ReleaseFile(f lock.FileKey) (int, error) {
	var res result
	c := command{op: opReleaseFile}
	err := t.do(refOf(f), false, &c, &res)
	return res.released, err
}

// OpenShare makes a share reservation, or adds to the one that its owner has.
func (t *Table) OpenShare(s lock.Share, session Session) error {
	ref := refOf(s.File)
	c := command{op: opOpen, owner: t.owner(s.Owner), access: s.Access, deny: s.Deny, reclaim: s.Reclaim, id: t.newIDs(t.shard(ref)), now: t.now()}
	var res result
	if err := t.settled(session, ref, c.owner, []lock.ID{c.id}, t.do(ref, true, &c, &res)); err != nil {
		return err
	}
	return t.refusal(lock.Request{File: s.File, Owner: s.Owner, Range: lock.WholeFile(), Reclaim: s.Reclaim}, &res)
}

// CloseShare lets go of what o has reserved on f.
func (t *Table) CloseShare(f lock.FileKey, o lock.Owner) error {
	var res result
	c := command{op: opClose, who: interval.Probe(o)}
	if err := t.do(refOf(f), false, &c, &res); err != nil {
		return err
	}
	return t.refusal(lock.Request{File: f, Owner: o}, &res)
}
