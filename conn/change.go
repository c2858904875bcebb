package conn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"sneck/lock"
)

// What says what has happened to a client.
type What uint8

const (
	Nothing What = iota // nothing that has to be logged
	Began               // it has begun a session
	Updated             // its address or TTL is another one
	Ended               // its session is over
	Mark                // of no client: what a snapshot says is complete up to Seq
)

var whats = [...]string{"nothing", "began", "updated", "ended", "mark"}

func (w What) String() string {
	if int(w) < len(whats) {
		return whats[w]
	}
	return fmt.Sprintf("What(%d)", uint8(w))
}

// Change is a durable change of a table, a record of the log. It says everything
// about its client, so that nothing before it has to be known.
type Change struct {
	What       What
	Seq        uint64      // grows with every change of the table
	Generation uint64      // of the session: the Seq of the change that began it
	Client     lock.Client // with the TTL that it came with, 0 for its adapter's; only the ID when Ended
}

// IsZero reports whether there is nothing to log.
func (c Change) IsZero() bool { return c.What == Nothing }

// change numbers and describes what has happened to a session.
func (t *Table) change(what What, s *Session) Change {
	if what == Nothing {
		return Change{}
	}
	t.seq++
	s.seq = t.seq
	return s.change(what)
}

func (s *Session) change(what What) Change {
	c := Change{What: what, Seq: s.seq, Generation: s.generation, Client: *s.record.Load()}
	if what == Ended {
		c.Client = lock.Client{ID: c.Client.ID}
	}
	return c
}

// AppendTo appends the record's encoding to b.
//
//	change := what byte, seq uvarint, then by what
//	began, updated := generation uvarint, id string, adapter string, addr string, ttl uvarint (nanoseconds)
//	ended  := generation uvarint, id string
//	mark   := nothing
//	string := length uvarint, bytes
func (c Change) AppendTo(b []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(c.What)), c.Seq)
	if c.What == Mark {
		return b
	}
	b = appendString(binary.AppendUvarint(b, c.Generation), c.Client.ID)
	if c.What == Ended {
		return b
	}
	b = appendString(appendString(b, c.Client.Adapter), c.Client.Addr)
	return binary.AppendUvarint(b, uint64(c.Client.TTL))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ParseChange reads what AppendTo has written. What it returns makes sense by
// itself.
func ParseChange(body []byte) (c Change, err error) {
	r := reader{b: body}
	c.What, c.Seq = What(r.byte()), r.uvarint()
	switch c.What {
	case Began, Updated, Ended:
		c.Generation, c.Client.ID = r.uvarint(), r.string()
		if c.What != Ended {
			c.Client.Adapter, c.Client.Addr = r.string(), r.string()
			c.Client.TTL = r.duration()
		}
		r.check(validate(&c.Client))
	case Mark:
	default:
		r.check(fmt.Errorf("it is of kind %s", c.What))
	}
	if len(r.b) > 0 {
		r.check(fmt.Errorf("%d bytes too many", len(r.b)))
	}
	r.check(c.numbers())
	if r.err != nil {
		return Change{}, fmt.Errorf("client record: %w", r.err)
	}
	return c, nil
}

// numbers says what is wrong with Seq and Generation.
func (c *Change) numbers() error {
	if c.Seq == 0 || c.Seq > math.MaxInt64 {
		return fmt.Errorf("it has number %d", c.Seq)
	}
	if c.What == Mark || c.What == Began && c.Generation == c.Seq || c.What != Began && 0 < c.Generation && c.Generation < c.Seq {
		return nil
	}
	return fmt.Errorf("number %d says that generation %d %s", c.Seq, c.Generation, c.What)
}

// reader takes a record apart. The first thing that is wrong sticks.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("it ends too early")

func (r *reader) check(err error) {
	if r.err == nil && err != nil {
		r.err, r.b = err, nil
	}
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.check(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.check(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.check(errShort)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) duration() time.Duration {
	n := r.uvarint()
	if n > math.MaxInt64 {
		r.check(fmt.Errorf("a time of %d ns", n))
	}
	return time.Duration(n)
}
