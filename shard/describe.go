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
	Owner  lock.Owner // not for ReleaseClient and ReleaseFile
	Client string     // for ReleaseClient
	Range  lock.Range // for Lock and Unlock
	Mode   lock.Mode  // for Lock
	ID     lock.ID    // for Lock: what it is called unless it merges with a range that has an id
	Spare  lock.ID    // for Lock and Unlock: what a piece is called that is cut off; 0 if none can be
	Since  time.Time  // for Lock
}

// Op is what a part does.
type Op uint8

const (
	Lock          = Op(opLock)
	Unlock        = Op(opUnlock)
	ReleaseOwner  = Op(opReleaseOwner)
	ReleaseClient = Op(opReleaseClient)
	ReleaseFile   = Op(opReleaseFile)
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
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}

// FileState is what a checkpoint says of one file.
type FileState struct {
	File    lock.FileKey
	Version uint64
	Locks   []lock.Held
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
	case opLock:
		p.Mode, p.ID, p.Since = c.mode, c.id, time.UnixMicro(c.now)
		fallthrough
	case opUnlock:
		p.Range = c.rng
		fallthrough
	case opReleaseOwner:
		p.Owner = c.who.Owner
	}
	return p
}

// DescribeState takes the record of a file's state apart.
func DescribeState(body []byte) (FileState, error) {
	r := reader{b: body}
	var f FileState
	f.File, f.Version = r.state()
	items, _ := r.items(interval.NewOwner) // the error is r's
	r.end()
	if r.err != nil {
		return FileState{}, fmt.Errorf("state record: %w", r.err)
	}
	f.Locks = make([]lock.Held, len(items))
	for i := range items {
		f.Locks[i] = held(f.File, &items[i])
	}
	return f, nil
}

// end fails unless all has been read.
func (r *reader) end() {
	if len(r.b) > 0 {
		r.fail(fmt.Errorf("%d bytes too many", len(r.b)))
	}
}
