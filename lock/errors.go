package lock

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels, each matched by errors.Is through any wrapping.
var (
	ErrConflict        = errors.New("conflicting lock")
	ErrDeadlock        = errors.New("waiting would deadlock")
	ErrNotFound        = errors.New("no such lock")
	ErrRange           = errors.New("invalid byte range")
	ErrInvalid         = errors.New("invalid argument")
	ErrGrace           = errors.New("in grace: the lock may collide with one not reclaimed yet")
	ErrNoGrace         = errors.New("reclaim outside the grace period")
	ErrReclaimBad      = errors.New("nothing to reclaim")
	ErrLimit           = errors.New("limit reached")
	ErrConnectionLimit = errors.New("connection limit reached")
	ErrUnknownClient   = errors.New("unknown client")
	ErrRevoked         = errors.New("lock was revoked")
	ErrCanceled        = errors.New("the wait was cancelled")                          // by Cancel
	ErrReleased        = errors.New("the waiter's owner, client or file was released") // while it stood in line
	ErrHalted          = errors.New("the log failed: nothing is acknowledged any more")
	ErrClosed          = errors.New("lock manager is closed")
)

// ConflictError says who is in the way. It is [ErrConflict]. ShareHolder is
// set when a share mode is in the way, else Holder is. Both are copies, taken
// from the same state of the file as the decision.
type ConflictError struct {
	Request     Request
	Holder      Held
	ShareHolder *Share
}

func (e *ConflictError) Error() string {
	if s := e.ShareHolder; s != nil {
		return fmt.Sprintf("opening %q for %s: %s has it open for %s and denies %s", e.Request.File, e.Request.Owner, s.Owner, s.Access, s.Deny)
	}
	return fmt.Sprintf("%s lock on %s of %q: %s holds %s on %s", e.Request.Mode, e.Request.Range, e.Request.File, e.Holder.Owner, e.Holder.Mode, e.Holder.Range)
}

// Is makes errors.Is(e, ErrConflict) hold.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// DeadlockError names the owners that would wait for each other, the refused
// one first. It is [ErrDeadlock].
type DeadlockError struct{ Cycle []Owner }

func (e *DeadlockError) Error() string {
	return fmt.Sprintf("%v: %v", ErrDeadlock, e.Cycle)
}

// Is makes errors.Is(e, ErrDeadlock) hold.
func (e *DeadlockError) Is(target error) bool { return target == ErrDeadlock }

// GraceError says which restored lock the request may collide with, and how
// long its owner still has to reclaim it. It is [ErrGrace].
type GraceError struct {
	Holder    Held
	Remaining time.Duration
}

func (e *GraceError) Error() string {
	return fmt.Sprintf("%v: %s may still reclaim %s on %s of %q for %v", ErrGrace, e.Holder.Owner, e.Holder.Mode, e.Holder.Range, e.Holder.File, e.Remaining)
}

// Is makes errors.Is(e, ErrGrace) hold.
func (e *GraceError) Is(target error) bool { return target == ErrGrace }

// LimitError says which limit was reached. It is [ErrConnectionLimit] when
// What is [LimitConnections], else [ErrLimit].
type LimitError struct {
	What  string
	Limit int
}

// LimitConnections is the [LimitError.What] of an adapter's connection limit.
const LimitConnections = "connections"

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: at most %d", e.What, e.Limit)
}

// Is makes errors.Is(e, ErrLimit) or errors.Is(e, ErrConnectionLimit) hold.
func (e *LimitError) Is(target error) bool {
	if e.What == LimitConnections {
		return target == ErrConnectionLimit
	}
	return target == ErrLimit
}

// RangeError says which numbers do not make a range, and why. It is [ErrRange].
type RangeError struct {
	Protocol string // whose arithmetic refused: "posix", "nfs4", "nlm4", "smb", "fuse", "bytes"
	Start    uint64 // offset or first byte
	Arg      uint64 // length or last byte
	Signed   bool   // Start and Arg are int64 values
	Overflow bool   // past the largest offset: EOVERFLOW rather than EINVAL
	Reason   string
}

func (e *RangeError) Error() string {
	if e.Signed {
		return fmt.Sprintf("%v: %s (%d, %d): %s", ErrRange, e.Protocol, int64(e.Start), int64(e.Arg), e.Reason)
	}
	return fmt.Sprintf("%v: %s (%d, %d): %s", ErrRange, e.Protocol, e.Start, e.Arg, e.Reason)
}

// Is makes errors.Is(e, ErrRange) hold.
func (e *RangeError) Is(target error) bool { return target == ErrRange }

// NotFoundError says which lock was not there. It is [ErrNotFound].
type NotFoundError struct {
	File  FileKey
	Owner Owner
	Range Range
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%v: %s does not hold %s of %q", ErrNotFound, e.Owner, e.Range, e.File)
}

// Is makes errors.Is(e, ErrNotFound) hold.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// InvalidError says which field of a call cannot be accepted, and why. It is
// [ErrInvalid].
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%v: %s: %s", ErrInvalid, e.Field, e.Reason)
}

// Is makes errors.Is(e, ErrInvalid) hold.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }
