package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"sneck"
	"sneck/lock"
)

// request is one line to a server, or to a client for its server.
type request struct {
	N      uint64       // the answer to it has the same
	Op     string       // see server.do; and opDial, which is for the client itself
	Client lock.Client  `json:",omitzero"` // of the operations on clients
	File   lock.FileKey `json:",omitempty"`
	Owner  lock.Owner   `json:",omitzero"`
	Range  extent       `json:",omitzero"`
	Mode   lock.Mode    `json:",omitempty"`
	Access lock.Access  `json:",omitempty"`
	Deny   lock.Access  `json:",omitempty"`
}

const (
	opConnect      = "connect"
	opRenew        = "renew"
	opDisconnect   = "disconnect"
	opTry          = "lock (try)"
	opLock         = "lock (blocking)"
	opUnlock       = "unlock"
	opTest         = "test"
	opReclaim      = "reclaim"
	opComplete     = "reclaimComplete"
	opOpenShare    = "openShare"
	opReclaimShare = "reclaimShare"
	opCloseShare   = "closeShare"
	opGrace        = "grace"
	opLocks        = "locks"
	opShares       = "shares"
	opWaiters      = "waiters"
	opClients      = "clients"
	opCheckpoint   = "checkpoint"
	opEpoch        = "epoch"

	opDial = "dial" // the client connects to the server's socket, anew
)

func (r request) String() string {
	switch r.Op {
	case opTry, opLock, opUnlock, opTest, opReclaim:
		return fmt.Sprintf("%s: %s %s %s of %q", r.Op, r.Owner, r.Mode, r.Range.rng(), r.File)
	case opOpenShare, opReclaimShare, opCloseShare:
		return fmt.Sprintf("%s: %s opens %q for %s, denies %s", r.Op, r.Owner, r.File, r.Access, r.Deny)
	}
	return fmt.Sprintf("%s: %s", r.Op, r.Client.ID)
}

// answer is one line back.
type answer struct {
	N      uint64
	Err    string             // name of the sentinel that the error is; "" = done
	Text   string             `json:",omitempty"` // of the error
	Held   *held              `json:",omitempty"` // what is held now, or what is in the way
	Share  *lock.Share        `json:",omitempty"` // what is in the way
	Locks  []held             `json:",omitempty"`
	Shares []lock.Share       `json:",omitempty"`
	Line   []request          `json:",omitempty"` // who stands in line
	Known  []lock.Client      `json:",omitempty"`
	Grace  *sneck.GraceStatus `json:",omitempty"`
	Epoch  uint64             `json:",omitempty"`
}

// Not names of sentinels.
const (
	lost    = "lost"    // there was no answer: the other end is gone
	unnamed = "unnamed" // the error is no sentinel, or several
)

// held is a lock.Held as a line.
type held struct {
	ID          lock.ID
	File        lock.FileKey
	Owner       lock.Owner
	Range       extent
	Mode        lock.Mode
	Epoch       uint64
	Unconfirmed bool
}

func heldOf(h lock.Held) held {
	return held{h.ID, h.File, h.Owner, spanOf(h.Range), h.Mode, h.Epoch, h.Unconfirmed}
}

// extent is a lock.Range as a line.
type extent struct {
	First, Last uint64
	Empty       bool `json:",omitempty"`
}

func spanOf(r lock.Range) extent { return extent{r.First(), r.Last(), r.IsEmpty()} }

func (s extent) rng() lock.Range {
	r, err := lock.Bytes(s.First, s.Last)
	if s.Empty {
		r, err = lock.SMBRange(s.First, 0)
	}
	if err != nil {
		panic(err)
	}
	return r
}

var sentinels = map[string]error{
	"ErrConflict": lock.ErrConflict, "ErrDeadlock": lock.ErrDeadlock, "ErrNotFound": lock.ErrNotFound,
	"ErrRange": lock.ErrRange, "ErrInvalid": lock.ErrInvalid, "ErrGrace": lock.ErrGrace,
	"ErrNoGrace": lock.ErrNoGrace, "ErrReclaimBad": lock.ErrReclaimBad, "ErrLimit": lock.ErrLimit,
	"ErrConnectionLimit": lock.ErrConnectionLimit, "ErrUnknownClient": lock.ErrUnknownClient,
	"ErrRevoked": lock.ErrRevoked, "ErrCanceled": lock.ErrCanceled, "ErrReleased": lock.ErrReleased,
	"ErrHalted": lock.ErrHalted, "ErrClosed": lock.ErrClosed,
}

// nameOf is the name of the one sentinel that err is.
func nameOf(err error) string {
	var found []string
	for name, e := range sentinels {
		if errors.Is(err, e) {
			found = append(found, name)
		}
	}
	switch {
	case err == nil:
		return ""
	case len(found) == 1:
		return found[0]
	}
	return unnamed
}

// link is one end of a line of requests: it numbers them, and gives each answer
// to who waits for it, in whatever order they come.
type link struct {
	mu   sync.Mutex
	to   *json.Encoder
	last uint64
	open map[uint64]func(answer)
	gone chan struct{} // closed when no answer comes any more, and everybody was told
}

// dial begins a link of which the answers come from r.
func dial(r io.Reader, w io.Writer) *link {
	l := &link{to: json.NewEncoder(w), open: make(map[uint64]func(answer)), gone: make(chan struct{})}
	go l.read(json.NewDecoder(r))
	return l
}

// send has done called exactly once, with the answer, or with lost if none can
// come any more.
func (l *link) send(r request, done func(answer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	r.N = l.last
	if l.open == nil || l.to.Encode(r) != nil {
		go done(answer{Err: lost})
		return
	}
	l.open[r.N] = done
}

func (l *link) read(from *json.Decoder) {
	for {
		var a answer
		if err := from.Decode(&a); err != nil {
			break
		}
		l.mu.Lock()
		done := l.open[a.N]
		delete(l.open, a.N)
		l.mu.Unlock()
		done(a)
	}
	l.mu.Lock()
	open := l.open
	l.open = nil
	l.mu.Unlock()
	for _, done := range open {
		done(answer{Err: lost})
	}
	close(l.gone)
}

// lines writes lines of which several goroutines have some.
type lines struct {
	mu sync.Mutex
	to *json.Encoder
}

func (l *lines) write(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.to.Encode(a) // whoever waits for it is gone
}
