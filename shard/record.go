package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"sneck/interval"
	"sneck/lock"
)

// record is the change of one file: the command and the grants that it led to.
// Replaying the parts one after the other through transition gives the same
// state again, since nobody stands in line then.
//
//	record  := 2·version uvarint (+1 if nothing was held before), file string, parts uvarint, part...
//	part    := op byte, then by op
//	lock    := owner, range, mode byte, id uvarint, spare uvarint, now varint
//	unlock  := owner, range, spare uvarint
//	release := owner | client string | nothing
//	open    := owner, access byte, deny byte, reclaim byte, id uvarint, now varint
//	close   := owner
//	reclaim := as lock
//	release unconfirmed := epoch uvarint
//	revoke  := owner, id uvarint
//	owner   := semantics byte, client string, id string, share string, pid uvarint
//	range   := kind byte (0 bytes, 1 zero-length), first uvarint, last uvarint (bytes only)
//	string  := length uvarint, bytes
type record struct {
	file    lock.FileKey
	version uint64
	first   bool // nothing was held before
	c       command
	granted []grant
}

func (r *record) AppendTo(b []byte) []byte {
	n := r.version << 1
	if r.first {
		n |= 1
	}
	b = binary.AppendUvarint(b, n)
	b = appendString(b, string(r.file))
	parts := uint64(len(r.granted))
	switch r.c.op {
	case opAll:
		parts += uint64(len(r.c.all))
	case opCancel, opStir: // only its grants are logged
	default:
		parts++
	}
	b = binary.AppendUvarint(b, parts)
	switch r.c.op {
	case opAll:
		for _, part := range r.c.all {
			b = part.appendTo(b)
		}
	case opCancel, opStir:
	default:
		b = r.c.appendTo(b)
	}
	for _, g := range r.granted {
		w := g.w
		part := command{op: opLock, owner: w.owner, rng: w.rng, mode: w.mode, id: w.id, spare: w.spare, now: r.c.now}
		b = part.appendTo(b)
	}
	return b
}

func (c *command) appendTo(b []byte) []byte {
	b = append(b, byte(c.op))
	switch c.op {
	case opReleaseStale:
		b = binary.AppendUvarint(b, c.epoch)
	case opRevoke:
		b = binary.AppendUvarint(appendOwner(b, &c.who.Owner), uint64(c.id))
	case opLock, opReclaim:
		b = appendRange(appendOwner(b, &c.owner.Owner), c.rng)
		b = append(b, byte(c.mode))
		b = binary.AppendUvarint(b, uint64(c.id))
		b = binary.AppendUvarint(b, uint64(c.spare))
		b = binary.AppendVarint(b, c.now)
	case opUnlock:
		b = appendRange(appendOwner(b, &c.who.Owner), c.rng)
		b = binary.AppendUvarint(b, uint64(c.spare))
	case opReleaseOwner, opClose:
		b = appendOwner(b, &c.who.Owner)
	case opReleaseClient:
		b = appendString(b, c.client)
	case opOpen:
		b = append(appendOwner(b, &c.owner.Owner), byte(c.access), byte(c.deny), 0)
		if c.reclaim {
			b[len(b)-1] = 1
		}
		b = binary.AppendUvarint(b, uint64(c.id))
		b = binary.AppendVarint(b, c.now)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendOwner(b []byte, o *lock.Owner) []byte {
	b = append(b, byte(o.Semantics))
	b = appendString(b, o.Client)
	b = appendString(b, o.ID)
	b = appendString(b, o.Share)
	return binary.AppendUvarint(b, uint64(o.PID))
}

func appendRange(b []byte, r lock.Range) []byte {
	if r.IsEmpty() {
		return binary.AppendUvarint(append(b, 1), r.First())
	}
	b = binary.AppendUvarint(append(b, 0), r.First())
	return binary.AppendUvarint(b, r.Last())
}

// reader takes a record apart. The first thing that is wrong sticks.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("it ends too early")

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) owner() lock.Owner {
	o := lock.Owner{Semantics: lock.Semantics(r.byte()), Client: r.string(), ID: r.string(), Share: r.string()}
	pid := r.uvarint()
	if pid > math.MaxUint32 {
		r.fail(fmt.Errorf("process id %d", pid))
	}
	o.PID = uint32(pid)
	if err := o.Validate(); err != nil {
		r.fail(err)
	}
	return o
}

func (r *reader) rng() (out lock.Range) {
	var err error
	switch kind := r.byte(); kind {
	case 0:
		first := r.uvarint()
		out, err = lock.Bytes(first, r.uvarint())
	case 1:
		out, err = lock.SMBRange(r.uvarint(), 0)
	default:
		err = fmt.Errorf("range kind %d", kind)
	}
	if err != nil {
		r.fail(err)
	}
	return out
}

// Replay carries out a record that was read from the log. The table must not
// be in use yet. An error means that the record is not one, or that it does
// not follow from the ones before it.
//
// With window the record comes from the time while a snapshot was walked, which
// is what the table was filled with before: then a change that is in the
// snapshot already is passed over, and so is one of a file that the snapshot
// does not have, up to the first that says that nothing was held before.
func (t *Table) Replay(body []byte, window bool) error {
	r := reader{b: body}
	file, version, first, parts := r.change()
	if r.err != nil {
		return fmt.Errorf("lock record: %w", r.err)
	}
	ref := refOf(file)
	known := uint64(0)
	s := empty
	if cl := t.find(ref); cl != nil {
		s = cl.state.Load()
		known = s.version
	}
	switch {
	case window && known > 0 && version <= known:
		return nil
	case window && known == 0 && !first:
		return nil
	case version <= known:
		return fmt.Errorf("lock record of %q: version %d after version %d", file, version, known)
	case first && !s.vacant():
		return fmt.Errorf("lock record of %q, version %d: it says that nothing was held, but something is in version %d", file, version, known)
	case !first && (s.vacant() || version != known+1):
		return fmt.Errorf("lock record of %q: version %d after version %d, and not the first", file, version, known)
	}
	cl := t.cell(ref)
	s = cl.state.Load()
	was := s
	var buf [1]string
	clients := buf[:0]
	for range parts {
		c, err := t.part(&r)
		if err != nil {
			return fmt.Errorf("lock record of %q, version %d: %w", file, version, err)
		}
		var res result
		next := new(state)
		transition(next, s, c, &res)
		if res.refusal != accepted {
			return fmt.Errorf("lock record of %q, version %d: what it says cannot have happened: %w", file, version,
				t.refusal(lock.Request{File: file, Owner: c.who.Owner, Range: c.rng, Mode: c.mode}, &res))
		}
		s = next
		if c.owner != nil {
			clients = append(clients, c.owner.Client)
		}
		t.seen(max(c.id, c.spare))
	}
	if len(r.b) > 0 {
		return fmt.Errorf("lock record of %q, version %d: %d bytes too many", file, version, len(r.b))
	}
	if s == was { // no part: nothing is logged that way
		return fmt.Errorf("lock record of %q, version %d: it says nothing", file, version)
	}
	s.version = version
	cl.state.Store(s)
	sh := t.shard(cl.ref)
	sh.count(was, s)
	if s.empty() {
		t.emptied(sh, cl)
	}
	for _, client := range clients {
		t.index(cl, client)
	}
	return nil
}

// change reads what a record says before its parts.
func (r *reader) change() (file lock.FileKey, version uint64, first bool, parts uint64) {
	n := r.uvarint()
	file, parts = lock.FileKey(r.string()), r.uvarint()
	if r.err == nil {
		r.err = file.Validate()
	}
	if r.err == nil && n>>1 == 0 {
		r.err = errors.New("version 0")
	}
	return file, n >> 1, n&1 == 1, parts
}

// part reads one part of a record.
func (t *Table) part(r *reader) (*command, error) { return r.part(t.owner) }

// part reads one part of a record. intern makes an owner that stays.
func (r *reader) part(intern func(lock.Owner) *interval.Owner) (*command, error) {
	c := &command{op: op(r.byte())}
	var o lock.Owner
	switch c.op {
	case opReleaseStale:
		c.epoch = r.uvarint()
	case opRevoke:
		o, c.id = r.owner(), r.id()
	case opLock, opReclaim:
		o, c.rng, c.mode = r.owner(), r.rng(), r.mode()
		c.id, c.spare, c.now = r.id(), r.id(), r.time()
	case opUnlock:
		o, c.rng, c.spare = r.owner(), r.rng(), lock.ID(r.uvarint())
	case opReleaseOwner, opClose:
		o = r.owner()
	case opReleaseClient:
		c.client = r.string()
	case opReleaseFile:
	case opOpen:
		o, c.access, c.deny = r.owner(), r.access(), r.access()
		c.reclaim, c.id, c.now = r.bool(), r.id(), r.time()
	default:
		r.fail(fmt.Errorf("unknown operation %d", c.op))
	}
	if r.err == nil && c.op != opReleaseClient && c.op != opReleaseFile && c.op != opReleaseStale {
		r.err = c.rng.ValidFor(o.Semantics)
		c.who = interval.Probe(o)
		if c.op == opLock || c.op == opReclaim || c.op == opOpen {
			c.owner = intern(o)
		}
	}
	return c, r.err
}

func (r *reader) mode() lock.Mode {
	m := lock.Mode(r.byte())
	if m != lock.Shared && m != lock.Exclusive {
		r.fail(fmt.Errorf("mode %d", m))
	}
	return m
}

func (r *reader) access() lock.Access {
	a := lock.Access(r.byte())
	if err := a.Validate("Access"); err != nil {
		r.fail(err)
	}
	return a
}

func (r *reader) bool() bool {
	b := r.byte()
	if b > 1 {
		r.fail(fmt.Errorf("%d where 0 or 1 should be", b))
	}
	return b == 1
}

func (r *reader) id() lock.ID {
	id := lock.ID(r.uvarint())
	if id == 0 {
		r.fail(errors.New("an id is 0"))
	}
	return id
}

func (r *reader) time() int64 {
	now := r.varint()
	if now < 0 || now > interval.MaxSince {
		r.fail(fmt.Errorf("time %d", now))
	}
	return now
}
