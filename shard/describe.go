package shard

import (
	"errors"
	"fmt"
	"time"

	"sneck/interval"
	"sneck/lock"
)

// What records say, for whoever wants to read them without a table. Decoding is
// that of Replay and Restore; whether a record follows from those before it
// only these can tell.

// Change is what the record of one file's change says.
type Change struct {
	File    lock.FileKey
	Version uint64
	First   bool   // nothing was held before
	Parts   []Part // in the order in which they happened
}

// Part is one step of a change.
type Part struct {
	Op     Op
	Owner  lock.Owner // not for ReleaseClient, ReleaseFile and ReleaseUnconfirmed
	Client string     // for ReleaseClient
	Range  lock.Range // for Lock, Reclaim and Unlock
	Mode   lock.Mode  // for Lock and Reclaim
	ID     lock.ID    // for Lock, Reclaim and OpenShare: what it is called unless it is held already; for Revoke: of what
	Spare  lock.ID    // for Lock, Reclaim and Unlock: what a piece is called that is cut off; 0 if none can be
	Since  time.Time  // for Lock, Reclaim and OpenShare

	Access, Deny lock.Access // for OpenShare
	Reclaim      bool        // for OpenShare: of what was held before a restart
	Epoch        uint64      // for ReleaseUnconfirmed
}

// Op is what a part does.
type Op uint8

const (
	Lock          = Op(opLock)
	Unlock        = Op(opUnlock)
	ReleaseOwner  = Op(opReleaseOwner)
	ReleaseClient = Op(opReleaseClient)
	ReleaseFile   = Op(opReleaseFile)
	OpenShare     = Op(opOpen)
	CloseShare    = Op(opClose)
	Reclaim       = Op(opReclaim)
	// ReleaseUnconfirmed is of what was held before a server epoch and was not
	// reclaimed in it.
	ReleaseUnconfirmed = Op(opReleaseStale)
	Revoke             = Op(opRevoke)
)

func (o Op) String() string {
	switch o {
	case Lock:
		return "lock"
	case Unlock:
		return "unlock"
	case ReleaseOwner:
		return "release owner"
	case ReleaseClient:
		return "release client"
	case ReleaseFile:
		return "release file"
	case OpenShare:
		return "open share"
	case CloseShare:
		return "close share"
	case Reclaim:
		return "reclaim"
	case ReleaseUnconfirmed:
		return "release unconfirmed"
	case Revoke:
		return "revoke"
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// FileState is what a checkpoint says of one file.
type FileState struct {
	File    lock.FileKey
	Version uint64
	Locks   []lock.Held
	Shares  []ShareState
}

// ShareState is a share reservation in a state: all that its owner's opens allow
// and deny.
type ShareState struct {
	Owner lock.Owner
	ID    lock.ID   // of the last open
	Epoch uint64    // of ID
	Since time.Time // when that was
	// Access and Deny are of the opens in that epoch; OldAccess and OldDeny of those
	// before it which none of them reclaimed.
	Access, Deny       lock.Access
	OldAccess, OldDeny lock.Access
}

// EpochOf is the server epoch in which an id was given out.
func EpochOf(id lock.ID) uint64 { return uint64(id) >> interval.EpochShift }

// DescribeChange takes the record of a change apart.
func DescribeChange(body []byte) (Change, error) {
	r := reader{b: body}
	var c Change
	var n uint64
	c.File, c.Version, c.First, n = r.change()
	for i := uint64(0); i < n && r.err == nil; i++ {
		if part, err := r.part(interval.NewOwner); err == nil {
			c.Parts = append(c.Parts, part.describe())
		}
	}
	r.end()
	if r.err == nil && n == 0 {
		r.err = errors.New("it says nothing")
	}
	if r.err != nil {
		return Change{}, fmt.Errorf("lock record: %w", r.err)
	}
	return c, nil
}

func (c *command) describe() Part {
	p := Part{Op: Op(c.op), Client: c.client, Spare: c.spare}
	switch c.op {
	case opReleaseStale:
		p.Epoch = c.epoch
	case opLock, opReclaim:
		p.Mode, p.ID, p.Since = c.mode, c.id, time.UnixMicro(c.now)
		fallthrough
	case opUnlock:
		p.Range = c.rng
		fallthrough
	case opRevoke:
		p.Owner, p.ID = c.who.Owner, c.id
	case opReleaseOwner, opClose:
		p.Owner = c.who.Owner
	case opOpen:
		p.Owner, p.ID, p.Since = c.who.Owner, c.id, time.UnixMicro(c.now)
		p.Access, p.Deny, p.Reclaim = c.access, c.deny, c.reclaim
	}
	return p
}

// DescribeState takes the record of a file's state apart.
func DescribeState(body []byte) (FileState, error) {
	r := reader{b: body}
	var f FileState
	f.File, f.Version = r.state()
	items, shares := r.held(interval.NewOwner)
	r.end()
	if r.err != nil {
		return FileState{}, fmt.Errorf("state record: %w", r.err)
	}
	f.Locks = make([]lock.Held, len(items))
	for i := range items {
		f.Locks[i] = held(f.File, &items[i])
	}
	for i := range shares {
		sh := &shares[i]
		f.Shares = append(f.Shares, ShareState{
			Owner: sh.owner.Owner, ID: sh.id, Epoch: EpochOf(sh.id), Since: time.UnixMicro(sh.since),
			Access: sh.access, Deny: sh.deny, OldAccess: sh.oldAccess, OldDeny: sh.oldDeny,
		})
	}
	return f, nil
}

// end fails unless all has been read.
func (r *reader) end() {
	if len(r.b) > 0 {
		r.fail(fmt.Errorf("%d bytes too many", len(r.b)))
	}
}
