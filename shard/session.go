package shard

import (
	"fmt"

	"sneck/interval"
	"sneck/lock"
)

// Session is the life of the client that a request comes from. A client's locks
// are released when its session is over; a request that was under way then must
// leave nothing behind, however late it comes.
//
// The request looks at the session after its change was published and its client
// was put into the index; the release ends the session first and goes through the
// index then. So either the release finds what the request has made, or the
// request finds the session over, and takes it back.
type Session interface{ Over() bool }

// over is why a request of a session that has ended is refused.
func over(client string) error {
	return fmt.Errorf("client %q: its session is over: %w", client, lock.ErrUnknownClient)
}

// takeBack removes what a request of a session that was over has made: the lock
// or reservation with its id, if that is still there. What took its place since is
// not the request's.
func (t *Table) takeBack(ref fileRef, o *interval.Owner, id lock.ID) {
	var res result
	_, _ = t.apply(ref, false, &command{op: opRevoke, who: *o, id: id}, &res) // halted: nothing was acknowledged
}

// settled is how a request of a session ends: as it did, unless the session was
// over by then.
func (t *Table) settled(s Session, ref fileRef, o *interval.Owner, ids []lock.ID, err error) error {
	if s == nil || !s.Over() {
		return err
	}
	for _, id := range ids {
		t.takeBack(ref, o, id)
	}
	return over(o.Client)
}

// Revoke releases one lock or share reservation, whoever holds it. It returns what
// it was, and fails with ErrNotFound.
func (t *Table) Revoke(id lock.ID) (lock.Held, error) {
	for h := range t.Locks(lock.Filter{}) {
		if h.ID == id {
			var res result
			c := command{op: opRevoke, who: interval.Probe(h.Owner), id: id}
			if err := t.do(refOf(h.File), false, &c, &res); err != nil {
				return lock.Held{}, err
			}
			if res.refusal == accepted {
				return h, nil
			}
			break // it has gone meanwhile
		}
	}
	return lock.Held{}, fmt.Errorf("lock %d: %w", id, lock.ErrNotFound)
}
