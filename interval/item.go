package interval

import (
	"cmp"
	"time"

	"github.com/cespare/xxhash/v2"

	"sneck/lock"
)

// Owner is a lock owner with its hash: the client's in the upper half, so that
// all owners of a client are neighbours in the owner index. It must not be
// changed once an item points to it.
type Owner struct {
	lock.Owner
	hash uint64 // 0: not computed
}

// NewOwner is o for items to point to.
func NewOwner(o lock.Owner) *Owner { return &Owner{Owner: o, hash: Hash(o)} }

// Probe is o to ask with. It costs no hash until a set with an owner index is
// asked.
func Probe(o lock.Owner) Owner { return Owner{Owner: o} }

// hashed is o's hash.
func (o *Owner) hashed() uint64 {
	if o.hash == 0 {
		return Hash(o.Owner)
	}
	return o.hash
}

// Hash is the hash of what makes an owner the same owner: Client, ID and
// Semantics. It is never 0.
func Hash(o lock.Owner) uint64 {
	return clientHash(o.Client) | (xxhash.Sum64String(o.ID)+uint64(o.Semantics))&0xffffffff | 1
}

func clientHash(client string) uint64 { return xxhash.Sum64String(client) &^ 0xffffffff }

// Is reports whether o and p, which are not nil, are the same owner. A hash
// that was not computed says nothing.
func (o *Owner) Is(p *Owner) bool {
	return o == p || (o.hash == p.hash || o.hash == 0 || p.hash == 0) && o.same(p)
}

func (o *Owner) same(p *Owner) bool {
	return o.ID == p.ID && o.Client == p.Client && o.Semantics == p.Semantics
}

// Item is one held range.
type Item struct {
	first, last uint64 // an empty range at x > 0 is stored as first x, last x-1: what Range.Overlaps says is then plain arithmetic
	owner       *Owner
	id          lock.ID
	meta        uint64 // microseconds since 1970, epoch, flags
}

const (
	flagExclusive = 1 << iota
	flagEmpty
	flagBits = iota

	epochBits = 10
	metaBits  = flagBits + epochBits // leave 52 for the time: until 2112
)

// EpochShift: the upper bits of an id are the server epoch in which it was
// given out. A piece that is cut off gets a new id and keeps the epoch of its
// grant, as long as that is not 1024 epochs back.
const EpochShift = 46

// NewItem is the item that says: owner holds r in mode since then.
// since is in microseconds since 1970 and not negative.
func NewItem(o *Owner, r lock.Range, m lock.Mode, id lock.ID, since int64) Item {
	it := Item{first: r.First(), last: r.Last(), owner: o, id: id}
	it.meta = uint64(since)<<metaBits | uint64(id)>>EpochShift%(1<<epochBits)<<flagBits
	if m == lock.Exclusive {
		it.meta |= flagExclusive
	}
	if r.IsEmpty() {
		it.meta |= flagEmpty
		if it.first > 0 {
			it.last = it.first - 1
		}
	}
	return it
}

func (it *Item) Owner() *Owner   { return it.owner }
func (it *Item) ID() lock.ID     { return it.id }
func (it *Item) Since() int64    { return int64(it.meta >> metaBits) }
func (it *Item) Exclusive() bool { return it.meta&flagExclusive != 0 }
func (it *Item) First() uint64   { return it.first }
func (it *Item) Last() uint64    { return it.last }

// MaxSince is the last time, in microseconds since 1970, that an item can have.
const MaxSince = 1<<(64-metaBits) - 1

// In is the item, granted in another epoch than its id's.
func (it Item) In(epoch uint64) Item {
	const mask = (1<<epochBits - 1) << flagBits
	it.meta = it.meta&^mask | epoch%(1<<epochBits)<<flagBits
	return it
}

// Epoch is the server epoch in which the item was granted: the last one not
// after its id's that has the bits that were kept.
func (it *Item) Epoch() uint64 {
	e := uint64(it.id) >> EpochShift
	return e - (e-it.meta>>flagBits)%(1<<epochBits)
}

// Mode is the mode in which the range is held.
func (it *Item) Mode() lock.Mode {
	if it.Exclusive() {
		return lock.Exclusive
	}
	return lock.Shared
}

// Range is what the item's owner holds.
func (it *Item) Range() lock.Range {
	if it.meta&flagEmpty != 0 {
		r, _ := lock.SMBRange(it.first, 0) // length 0 is never refused
		return r
	}
	return bytes(it.first, it.last)
}

// bytes is [first,last] for what is known to be in order.
func bytes(first, last uint64) lock.Range {
	r, err := lock.Bytes(first, last)
	if err != nil {
		panic("interval: " + err.Error())
	}
	return r
}

// Time is when the item was granted.
func (it *Item) Time() time.Time { return time.UnixMicro(it.Since()) }

// with is the same hold on other bytes, under another id if the id is not 0.
func (it Item) with(first, last uint64, id lock.ID) Item {
	it.first, it.last = first, last
	if id != 0 {
		it.id = id
	}
	return it
}

// inert: a zero-length range at offset 0, which never conflicts with anything.
func (it *Item) inert() bool { return it.meta&flagEmpty != 0 && it.first == 0 }

// key is what items are ordered by.
type key struct {
	hash        uint64 // the owner's in the owner index, else 0
	first, last uint64
	id          lock.ID
}

func (k *key) compare(l *key) int {
	switch {
	case k.hash != l.hash:
		return cmp.Compare(k.hash, l.hash)
	case k.first != l.first:
		return cmp.Compare(k.first, l.first)
	case k.last != l.last:
		return cmp.Compare(k.last, l.last)
	}
	return cmp.Compare(k.id, l.id)
}

// order is how a tree sorts its items.
type order uint8

const (
	byRange order = iota
	byOwner
)

func (o order) key(it *Item) key {
	k := key{first: it.first, last: it.last, id: it.id}
	if o == byOwner {
		k.hash = it.owner.hash // items' owners have theirs
	}
	return k
}

// top holds the largest last byte of some items and the largest one of any
// other owner than the first one's. owner nil: there are no items; other = 0
// with rest false: there is only one owner.
type top struct {
	last  uint64
	owner *Owner
	other uint64
	rest  bool // other is valid
}

// without is the largest last byte of owners other than o; o nil: of all.
func (t *top) without(o *Owner) (uint64, bool) {
	if t.owner == nil {
		return 0, false
	}
	if o == nil || !t.owner.Is(o) {
		return t.last, true
	}
	return t.other, t.rest
}

// misses reports whether t says the same without an item of o that ends at last.
func (t *top) misses(last uint64, o *Owner) bool {
	if t.owner.Is(o) {
		return last < t.last
	}
	return last < t.other
}

func (t *top) add(last uint64, o *Owner) {
	switch {
	case t.owner == nil:
		t.last, t.owner = last, o
	case t.owner.Is(o):
		t.last = max(t.last, last)
	case last > t.last:
		t.other, t.rest = t.last, true
		t.last, t.owner = last, o
	default:
		t.other, t.rest = max(t.other, last), true
	}
}

func (t *top) merge(u *top) {
	if u.owner == nil {
		return
	}
	// u.other belongs to some owner that is not u.owner. If that is t.owner,
	// it must not count as another's; t.last covers it unless it is larger,
	// and then u.last is larger still and takes the first place.
	if t.owner == nil {
		*t = *u
		return
	}
	if t.owner.Is(u.owner) {
		t.last = max(t.last, u.last)
		if u.rest {
			t.other, t.rest = max(t.other, u.other), true
		}
		return
	}
	hi, lo := *t, u
	if u.last > t.last {
		hi, lo = *u, t
	}
	// The best of the others: hi's own runner-up and lo's first, which is
	// another owner than hi's. lo's runner-up is smaller than lo's first.
	if !hi.rest || lo.last > hi.other {
		hi.other, hi.rest = lo.last, true
	}
	*t = hi
}

// summary is what a parent knows of the items below a child.
type summary struct {
	exclusive, shared top
}

func (s *summary) add(it *Item) {
	switch {
	case it.inert():
	case it.Exclusive():
		s.exclusive.add(it.last, it.owner)
	default:
		s.shared.add(it.last, it.owner)
	}
}

// misses reports whether s says the same without it.
func (s *summary) misses(it *Item) bool {
	if it.inert() {
		return true
	}
	if it.Exclusive() {
		return s.exclusive.misses(it.last, it.owner)
	}
	return s.shared.misses(it.last, it.owner)
}

func (s *summary) merge(t *summary) {
	s.exclusive.merge(&t.exclusive)
	s.shared.merge(&t.shared)
}
