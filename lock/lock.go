package lock

import (
	"fmt"
	"strings"
	"time"
)

// FileKey names a file for as long as it exists: an NFS file handle, inode plus
// generation, an SMB file id. Opaque bytes, 1..1024 of them, never a path.
type FileKey string

// MaxFileKey is the length in bytes that a [FileKey] may have.
const MaxFileKey = 1024

// Validate reports whether k can name a file: an [InvalidError] if not.
func (k FileKey) Validate() error {
	switch {
	case len(k) == 0:
		return &InvalidError{Field: "File", Reason: "it is empty"}
	case len(k) > MaxFileKey:
		return &InvalidError{Field: "File", Reason: fmt.Sprintf("it has %d bytes, more than %d", len(k), MaxFileKey)}
	}
	return nil
}

// Mode is how much of the bytes a lock takes.
type Mode uint8

const (
	Shared    Mode = iota + 1 // read lock: any number of owners
	Exclusive                 // write lock: one owner
)

func (m Mode) String() string {
	switch m {
	case Shared:
		return "shared"
	case Exclusive:
		return "exclusive"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Conflicts reports whether two different owners may not hold m and n on the
// same byte: all pairs but shared with shared.
func (m Mode) Conflicts(n Mode) bool { return m == Exclusive || n == Exclusive }

// Semantics says which protocol family's rules an owner's ranges follow.
type Semantics uint8

const (
	POSIX Semantics = iota + 1 // process owner (fcntl, NLM, NFSv4): replace, merge, split; deadlock detection on
	OFD                        // open-file owner (F_OFD_*, flock): POSIX ranges, deadlock detection off
	SMB                        // open-handle owner: stack, never merge, unlock exactly; deadlock detection off
)

func (s Semantics) String() string {
	switch s {
	case POSIX:
		return "posix"
	case OFD:
		return "ofd"
	case SMB:
		return "smb"
	}
	return fmt.Sprintf("Semantics(%d)", uint8(s))
}

// MaxOwnerField is the length in bytes that an owner's Client, ID and Share
// may each have, so that a log record has a bound. NFSv4's opaque owners have at most 1024 (RFC 8881 3.2).
const MaxOwnerField = 4096

// Owner is compared, never parsed: two owners are the same iff Client, ID and
// Semantics are equal ([Owner.Same]); == compares the display fields too.
//
// An owner must not contain anything that changes with a restart of the
// server: it is what a reclaim is matched by.
type Owner struct {
	Client    string    // whose death releases the lock: NLM host, NFSv4 client, SMB session, a mount
	ID        string    // opaque, unique within Client
	Semantics Semantics // whose rules the owner's ranges follow
	Share     string    // export or share name: listing, quotas and metrics only, never identity
	PID       uint32    // process id to show in F_GETLK, NLM's svid, 9P's proc_id; 0 = unknown; never identity
}

// Same reports whether o and p are the same owner.
func (o Owner) Same(p Owner) bool {
	return o.Semantics == p.Semantics && o.ID == p.ID && o.Client == p.Client
}

// Validate reports whether o can own a lock: an [InvalidError] if not.
func (o Owner) Validate() error {
	if o.Semantics < POSIX || o.Semantics > SMB {
		return &InvalidError{Field: "Owner.Semantics", Reason: fmt.Sprintf("%d is none of POSIX, OFD, SMB", uint8(o.Semantics))}
	}
	for _, f := range [...]struct{ name, value string }{
		{"Owner.Client", o.Client}, {"Owner.ID", o.ID}, {"Owner.Share", o.Share},
	} {
		if len(f.value) > MaxOwnerField {
			return &InvalidError{Field: f.name, Reason: fmt.Sprintf("it has %d bytes, more than %d", len(f.value), MaxOwnerField)}
		}
	}
	return nil
}

func (o Owner) String() string {
	return fmt.Sprintf("%s:%q/%q", o.Semantics, o.Client, o.ID)
}

// ID is one held lock or waiter; never reused, also not after a restart.
type ID uint64

// Request asks for a lock.
type Request struct {
	File    FileKey
	Owner   Owner
	Range   Range
	Mode    Mode
	Reclaim bool // re-establish a lock held before the restart; only during grace
}

// Validate reports whether r makes sense by itself: an [InvalidError] or
// [RangeError] if not.
func (r Request) Validate() error {
	if err := r.File.Validate(); err != nil {
		return err
	}
	if err := r.Owner.Validate(); err != nil {
		return err
	}
	if r.Mode != Shared && r.Mode != Exclusive {
		return &InvalidError{Field: "Mode", Reason: fmt.Sprintf("%d is neither Shared nor Exclusive", uint8(r.Mode))}
	}
	return r.Range.ValidFor(r.Owner.Semantics)
}

// ValidFor reports whether owners of semantics s may lock r: only SMB knows
// zero-length ranges; for others they are a [RangeError].
func (r Range) ValidFor(s Semantics) error {
	if r.empty && s != SMB {
		return &RangeError{Protocol: s.String(), Start: r.first, Arg: 0, Reason: "only SMB owners can lock a zero-length range"}
	}
	return nil
}

// Held is one lock in the table. It is a copy: it never changes afterwards.
type Held struct {
	ID          ID
	File        FileKey
	Owner       Owner
	Range       Range
	Mode        Mode
	Epoch       uint64    // server epoch in which it was granted or reclaimed
	Since       time.Time // when it was granted; to the microsecond
	Unconfirmed bool      // restored from the log and not reclaimed yet
}

// Waiting is one request that stands in line.
type Waiting struct {
	ID       ID
	Request  Request
	Since    time.Time
	Blockers []Owner // whom it waits for now: holders and earlier waiters
}

// Access is what an open may do, and what it denies others.
type Access uint8

const (
	Read Access = 1 << iota
	Write
	Delete
)

func (a Access) String() string {
	if a == 0 {
		return "nothing"
	}
	var names []string
	for i, name := range [...]string{"read", "write", "delete"} {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if rest := a &^ (Read | Write | Delete); rest != 0 {
		names = append(names, fmt.Sprintf("Access(%d)", uint8(rest)))
	}
	return strings.Join(names, "+")
}

// Validate reports whether a has bits that mean something only: an
// [InvalidError] of that field if not.
func (a Access) Validate(field string) error {
	if a > Read|Write|Delete {
		return &InvalidError{Field: field, Reason: fmt.Sprintf("%d has other bits than Read, Write and Delete", uint8(a))}
	}
	return nil
}

// Share is an open's share reservation.
type Share struct {
	File    FileKey
	Owner   Owner
	Access  Access
	Deny    Access
	Reclaim bool // re-establish one held before the restart; only during grace
}

// Validate reports whether s makes sense by itself: an [InvalidError] if not.
func (s Share) Validate() error {
	if err := s.File.Validate(); err != nil {
		return err
	}
	if err := s.Owner.Validate(); err != nil {
		return err
	}
	if err := s.Access.Validate("Access"); err != nil {
		return err
	}
	return s.Deny.Validate("Deny")
}

// Client is one client of one adapter and how long it may be silent.
type Client struct {
	ID       string
	Adapter  string        // "nlm", "nfs4", "smb", "fuse", ...
	Addr     string        // where it connects from; may change
	TTL      time.Duration // how long it may be silent or disconnected before its locks go; 0 = at once on Disconnect, never for silence
	LastSeen time.Time     // output
	Locks    int           // output
}

// Filter selects locks, shares or waiters: all set fields must match; the zero
// value matches everything.
type Filter struct {
	File   FileKey
	Client string
	Owner  *Owner
	Share  string
}

// Match reports whether a lock or waiter of owner o on file f passes.
func (q Filter) Match(f FileKey, o Owner) bool {
	return (q.File == "" || q.File == f) &&
		(q.Client == "" || q.Client == o.Client) &&
		(q.Owner == nil || q.Owner.Same(o)) &&
		(q.Share == "" || q.Share == o.Share)
}
