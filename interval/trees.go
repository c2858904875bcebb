package interval

import (
	"math"
	"slices"
)

const (
	// indexFrom is the number of items from which a set has an owner index.
	// Below it, looking at every item costs less than keeping a second tree.
	// The index goes when the set has shrunk to half of that, so that nobody
	// can make it come and go with one lock.
	indexFrom = 128
	// maxLoose is how many changes wait beside the trees.
	maxLoose = 8
)

// trees holds more than a few items: those of the trees without the stale
// ones, and the fresh ones.
//
// To copy a path of both trees for every change would make a lock that comes
// and goes on a file with many others cost some kilobytes of garbage. So
// changes gather beside the trees first, and most locks have gone again before
// the trees hear of them:
//
//	      ┌ fresh  [3,5]#9 [70,71]#8      sorted, at most maxLoose
//	Set ──┤ stale  [40,49]#7              sorted, at most maxLoose
//	      └ trees  [0,9]#1 ... [40,49]#7 ... [90,99]#2
//
// Every question is answered from all three.
type trees struct {
	n      int // items
	main   node
	owners *node  // the owner index of main, or nil
	fresh  []Item // not in the trees yet
	stale  []Item // in the trees still
}

func (t *trees) insert(it Item) *trees {
	out := *t
	out.n++
	out.fresh = byRange.with(t.fresh, &it)
	return out.settleIfMany()
}

func (t *trees) delete(it Item) *trees {
	out := *t
	out.n--
	k := byRange.key(&it)
	if i, found := byRange.find(t.fresh, &k); found {
		out.fresh = without(t.fresh, i)
		return &out
	}
	out.stale = byRange.with(t.stale, &it)
	return out.settleIfMany()
}

func (t *trees) settleIfMany() *trees {
	if len(t.fresh) > maxLoose || len(t.stale) > maxLoose {
		t.settle()
	}
	return t
}

// settle brings all changes into the trees. t must not be published yet.
func (t *trees) settle() {
	indexed := t.owners != nil && t.n > indexFrom/2
	if !indexed {
		t.owners = nil
	}
	for i := range t.stale {
		t.main = byRange.shrink(t.main, &t.stale[i])
		if indexed {
			owners := byOwner.shrink(*t.owners, &t.stale[i])
			t.owners = &owners
		}
	}
	for i := range t.fresh {
		t.main = byRange.grow(t.main, &t.fresh[i])
		if indexed {
			owners := byOwner.grow(*t.owners, &t.fresh[i])
			t.owners = &owners
		}
	}
	t.fresh, t.stale = nil, nil
	if !indexed && t.n >= indexFrom {
		t.index()
	}
}

func (o order) grow(n node, it *Item) node {
	if n.kids == nil && n.items == nil {
		return node{items: []Item{*it}}
	}
	k := o.key(it)
	l, r := o.insert(n, it, &k)
	if r.items == nil && r.kids == nil {
		return l
	}
	return node{kids: []kid{o.kidOf(l), o.kidOf(r)}}
}

func (o order) shrink(n node, it *Item) node {
	k := o.key(it)
	n, found := o.remove(n, it, &k)
	if !found {
		panic("interval: the item is not there")
	}
	for len(n.kids) == 1 {
		n = n.kids[0].node
	}
	if len(n.items) == 0 && n.kids == nil {
		return node{}
	}
	return n
}

func (t *trees) index() {
	items := make([]Item, 0, t.n)
	var zero key
	byRange.from(&t.main, &zero, func(it *Item) bool {
		items = append(items, *it)
		return true
	})
	slices.SortFunc(items, func(x, y Item) int {
		kx, ky := byOwner.key(&x), byOwner.key(&y)
		return kx.compare(&ky)
	})
	owners := byOwner.build(items)
	t.owners = &owners
}

func (t *trees) isStale(it *Item) bool {
	for i := range t.stale {
		if t.stale[i].id == it.id && t.stale[i].first == it.first && t.stale[i].last == it.last {
			return true
		}
	}
	return false
}

// first is the first item that q wants.
func (t *trees) first(q *query) *Item {
	old := q.first(&t.main)
	for old != nil && t.isStale(old) {
		k := byRange.key(old)
		old = q.after(&t.main, &k)
	}
	for i := range t.fresh {
		it := &t.fresh[i]
		if old != nil && it.first > old.first || it.first > q.b {
			break
		}
		if q.hit(it) {
			if old == nil || it.first < old.first {
				return it
			}
			k, l := byRange.key(it), byRange.key(old)
			if k.compare(&l) < 0 {
				return it
			}
		}
	}
	return old
}

// merger visits what a walk through a tree yields by range, without the stale
// items, and the fresh items that are wanted in between.
type merger struct {
	t     *trees
	done  bool   // the visitor has returned false
	fresh int    // the next fresh item
	owner *Owner // of the fresh items wanted; nil: all, whatever else is set
	from  key    // from where on
	a, b  uint64 // with a byte in [a,b]
}

func (m *merger) wants(it *Item) bool {
	if m.owner == nil {
		return true
	}
	k := byRange.key(it)
	return it.first <= m.b && it.last >= m.a && k.compare(&m.from) >= 0 && it.owner.Is(m.owner)
}

// old visits an item of the tree, after the fresh ones before it.
func (m *merger) old(it *Item, f func(*Item) bool) bool {
	if m.t.isStale(it) {
		return true
	}
	if m.fresh < len(m.t.fresh) {
		k := byRange.key(it)
		m.until(&k, f)
	}
	m.done = m.done || !f(it)
	return !m.done
}

// until visits the fresh items before k; nil: all that are left.
func (m *merger) until(k *key, f func(*Item) bool) {
	for ; !m.done && m.fresh < len(m.t.fresh); m.fresh++ {
		it := &m.t.fresh[m.fresh]
		if k != nil {
			if fk := byRange.key(it); fk.compare(k) > 0 {
				return
			}
		}
		if m.wants(it) {
			m.done = !f(it)
		}
	}
}

func (t *trees) each(f func(*Item) bool) {
	m := merger{t: t}
	byRange.from(&t.main, &key{}, func(it *Item) bool { return m.old(it, f) })
	m.until(nil, f)
}

// of visits o's items from k on.
func (t *trees) of(o *Owner, k key, f func(*Item) bool) {
	m := merger{t: t, owner: o, from: k, b: math.MaxUint64}
	if t.owners == nil {
		byRange.from(&t.main, &k, func(it *Item) bool { return !it.owner.Is(o) || m.old(it, f) })
	} else {
		k.hash = o.hashed()
		byOwner.from(t.owners, &k, func(it *Item) bool {
			return it.owner.hash == k.hash && (!it.owner.Is(o) || m.old(it, f))
		})
	}
	m.until(nil, f)
}

func (t *trees) ofClient(client string, f func(*Item) bool) {
	if t.owners == nil {
		t.each(func(it *Item) bool { return it.owner.Client != client || f(it) })
		return
	}
	for i := range t.fresh {
		if t.fresh[i].owner.Client == client && !f(&t.fresh[i]) {
			return
		}
	}
	h := clientHash(client)
	byOwner.from(t.owners, &key{hash: h}, func(it *Item) bool {
		return it.owner.hash&^0xffffffff == h && (it.owner.Client != client || t.isStale(it) || f(it))
	})
}

// in visits all items with a byte in [a,b].
func (t *trees) in(a, b uint64, f func(*Item) bool) {
	g := func(it *Item) bool { return it.first > b || it.last < a || it.inert() || f(it) }
	m := merger{t: t}
	overlapping(&t.main, a, b, func(it *Item) bool { return m.old(it, g) })
	m.until(nil, g)
}

// ofIn visits o's items, which do not overlap each other, that have a byte in
// [a,b].
func (t *trees) ofIn(o *Owner, a, b uint64, f func(*Item) bool) {
	m := merger{t: t, owner: o, a: a, b: b}
	if t.owners == nil {
		overlapping(&t.main, a, b, func(it *Item) bool { return !it.owner.Is(o) || m.old(it, f) })
	} else {
		// The last of o's items that begin at or before a may reach into
		// [a,b]; the ones before it end before it begins.
		hash := o.hashed()
		start := key{hash: hash, first: a}
		if it := byOwner.before(t.owners, &key{hash: hash, first: a, last: math.MaxUint64, id: math.MaxUint64}, o); it != nil {
			start = byOwner.key(it)
		}
		byOwner.from(t.owners, &start, func(it *Item) bool {
			if it.owner.hash != hash || it.first > b {
				return false
			}
			return it.last < a || !it.owner.Is(o) || m.old(it, f)
		})
	}
	m.until(nil, f)
}

// before is o's last item whose key is not greater than k, if any. Items of
// other owners with the same hash are passed over.
func (ord order) before(n *node, k *key, o *Owner) *Item {
	if n.kids == nil {
		for i := len(n.items) - 1; i >= 0; i-- {
			it := &n.items[i]
			if ik := ord.key(it); ik.compare(k) <= 0 {
				if ik.hash != k.hash {
					return nil
				}
				if it.owner.Is(o) {
					return it
				}
			}
		}
		return nil
	}
	for i := below(n.kids, k); i >= 0; i-- {
		if it := ord.before(&n.kids[i].node, k, o); it != nil {
			return it
		}
		if n.kids[i].key.hash < k.hash {
			return nil
		}
	}
	return nil
}

// overlapping visits every item below n that has a byte in [a,b], in order.
func overlapping(n *node, a, b uint64, f func(*Item) bool) bool {
	if n.kids == nil {
		for i := range n.items {
			it := &n.items[i]
			if it.first > b {
				return true
			}
			if it.last >= a && !it.inert() && !f(it) {
				return false
			}
		}
		return true
	}
	q := query{a: a, who: Everyone}
	for i := range n.kids {
		k := &n.kids[i]
		if k.key.first > b {
			return true
		}
		if q.reaches(&k.sum) && !overlapping(&k.node, a, b, f) {
			return false
		}
	}
	return true
}
