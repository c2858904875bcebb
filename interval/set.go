package interval

import (
	"slices"

	"sneck/lock"
)

// indexFrom is the number of items from which a set has an owner index. Below
// it, looking at every item costs less than keeping a second tree. The index
// goes when the set has shrunk to half of that, so that nobody can make it
// come and go with one lock.
const indexFrom = 128

// Set is an immutable set of items. The zero Set is empty. One item is kept
// inside the Set, a few in one sorted array, more in a tree.
type Set struct {
	one  Item   // the only item, if one.owner is set
	few  []Item // 2 to maxItems items
	many *trees
}

// trees holds more than a few items.
type trees struct {
	n      int
	main   node
	owners *node // the owner index, or nil
}

// Len is the number of items.
func (s *Set) Len() int {
	switch {
	case s.one.owner != nil:
		return 1
	case s.many != nil:
		return s.many.n
	}
	return len(s.few)
}

func fromSmall(items []Item) Set {
	switch len(items) {
	case 0:
		return Set{}
	case 1:
		return Set{one: items[0]}
	}
	return Set{few: items}
}

// Insert is s with it. No item of s may have its id.
func (s *Set) Insert(it Item) Set {
	k := byRange.key(&it)
	switch {
	case s.many != nil:
		t := &trees{n: s.many.n + 1, main: byRange.grow(s.many.main, &it, &k)}
		if s.many.owners != nil {
			ok := byOwner.key(&it)
			owners := byOwner.grow(*s.many.owners, &it, &ok)
			t.owners = &owners
		} else if t.n >= indexFrom {
			t.index()
		}
		return Set{many: t}
	case s.one.owner != nil:
		if ok := byRange.key(&s.one); ok.compare(&k) < 0 {
			return Set{few: []Item{s.one, it}}
		}
		return Set{few: []Item{it, s.one}}
	case s.few == nil:
		return Set{one: it}
	}
	i, _ := byRange.find(s.few, &k)
	items := withInserted(s.few, i, it)
	if len(items) <= maxItems {
		return Set{few: items}
	}
	return Set{many: &trees{n: len(items), main: byRange.build(items)}}
}

func (o order) grow(n node, it *Item, k *key) node {
	l, r := o.insert(n, it, k)
	if r.items == nil && r.kids == nil {
		return l
	}
	return node{kids: []kid{o.kidOf(l), o.kidOf(r)}}
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

// Delete is s without it, which must be one of its items.
func (s *Set) Delete(it Item) Set {
	k := byRange.key(&it)
	if s.many == nil {
		if s.one.owner != nil {
			if s.one.id != it.id {
				panic("interval: the item is not there")
			}
			return Set{}
		}
		i, found := byRange.find(s.few, &k)
		if !found {
			panic("interval: the item is not there")
		}
		if len(s.few) == 2 {
			return Set{one: s.few[1-i]}
		}
		return Set{few: without(s.few, i)}
	}
	t := &trees{n: s.many.n - 1, main: byRange.shrink(s.many.main, &k)}
	if t.main.kids == nil { // few again
		return fromSmall(t.main.items)
	}
	if s.many.owners != nil && t.n > indexFrom/2 {
		ok := byOwner.key(&it)
		owners := byOwner.shrink(*s.many.owners, &ok)
		t.owners = &owners
	}
	return Set{many: t}
}

func (o order) shrink(n node, k *key) node {
	n, found := o.remove(n, k)
	if !found {
		panic("interval: the item is not there")
	}
	for len(n.kids) == 1 {
		n = n.kids[0].node
	}
	return n
}

// span turns a range into the bounds that the arithmetic of items knows; false
// for a range that overlaps nothing.
func span(r lock.Range) (a, b uint64, ok bool) {
	if r.IsEmpty() {
		return r.First(), r.First() - 1, r.First() > 0
	}
	return r.First(), r.Last(), true
}

// First is the first item that overlaps r, is of the modes who, and does not
// belong to except; nil if there is none. except nil excepts nobody. The item
// is part of the set and must not be changed.
func (s *Set) First(r lock.Range, who Who, except *Owner) *Item {
	a, b, ok := span(r)
	if !ok {
		return nil
	}
	q := query{a: a, b: b, who: who, except: except}
	switch {
	case s.many != nil:
		return q.first(&s.many.main)
	case s.one.owner != nil:
		if q.hit(&s.one) {
			return &s.one
		}
		return nil
	}
	for i := range s.few {
		if q.hit(&s.few[i]) {
			return &s.few[i]
		}
	}
	return nil
}

// Only is the item of a set that has just one.
func (s *Set) Only() (Item, bool) { return s.one, s.one.owner != nil }

// At visits o's items whose range is exactly r, oldest first, until f returns
// false.
func (s *Set) At(o *Owner, r lock.Range, f func(*Item) bool) {
	probe := NewItem(o, r, lock.Shared, 0, 0)
	at := func(it *Item) bool { return !it.owner.Is(o) || it.Range() != r || f(it) }
	if s.many == nil {
		s.Each(at)
		return
	}
	tree, ord := &s.many.main, byRange
	if s.many.owners != nil {
		tree, ord = s.many.owners, byOwner
	}
	k := ord.key(&probe)
	ord.from(tree, &k, func(it *Item) bool {
		return it.first == probe.first && it.last == probe.last && (ord == byRange || it.owner.hash == o.hash) && at(it)
	})
}

// Each visits all items in order of (first, last, id) until f returns false.
func (s *Set) Each(f func(*Item) bool) {
	switch {
	case s.many != nil:
		var zero key
		byRange.from(&s.many.main, &zero, f)
	case s.one.owner != nil:
		it := s.one // a copy, so that the Set may live on a stack
		f(&it)
	default:
		for i := range s.few {
			if !f(&s.few[i]) {
				return
			}
		}
	}
}

// Of visits o's items in order of (first, last, id) until f returns false.
func (s *Set) Of(o *Owner, f func(*Item) bool) {
	if s.many != nil && s.many.owners != nil {
		byOwner.from(s.many.owners, &key{hash: o.hash}, func(it *Item) bool {
			return it.owner.hash == o.hash && (!it.owner.Is(o) || f(it))
		})
		return
	}
	s.Each(func(it *Item) bool { return !it.owner.Is(o) || f(it) })
}

// OfClient visits the items of all owners of a client until f returns false,
// in an order of its own.
func (s *Set) OfClient(client string, f func(*Item) bool) {
	if s.many != nil && s.many.owners != nil {
		h := clientHash(client)
		byOwner.from(s.many.owners, &key{hash: h}, func(it *Item) bool {
			return it.owner.hash&^0xffffffff == h && (it.owner.Client != client || f(it))
		})
		return
	}
	s.Each(func(it *Item) bool { return it.owner.Client != client || f(it) })
}

// OfIn visits o's items that have a byte in [a,b], in order, until f returns
// false. It asks of o's items that they do not overlap each other, as POSIX
// ranges don't; then it costs O(log n) and the items that it visits.
func (s *Set) OfIn(o *Owner, a, b uint64, f func(*Item) bool) {
	in := func(it *Item) bool { return it.first <= b && it.last >= a && it.owner.Is(o) }
	switch {
	case s.many != nil && s.many.owners != nil:
		// The last of o's items that begin at or before a may reach into
		// [a,b]; the ones before it end before it begins.
		start := key{hash: o.hash, first: a, last: a}
		if it := byOwner.before(s.many.owners, &key{hash: o.hash, first: a, last: ^uint64(0), id: ^lock.ID(0)}, o); it != nil {
			start = byOwner.key(it)
		}
		byOwner.from(s.many.owners, &start, func(it *Item) bool {
			if it.owner.hash != o.hash || it.first > b {
				return false
			}
			return !in(it) || f(it)
		})
	case s.many != nil:
		overlapping(&s.many.main, a, b, func(it *Item) bool { return !in(it) || f(it) })
	case s.one.owner != nil:
		if it := s.one; in(&it) {
			f(&it)
		}
	default:
		for i := range s.few {
			if in(&s.few[i]) && !f(&s.few[i]) {
				return
			}
		}
	}
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

// Cut is s with the bytes of r taken away from o, whose items must not overlap
// each other, and whether that changed anything. What is left of an item keeps
// its id; of an item that is cut in the middle, the right part gets the id
// spare.
func (s *Set) Cut(o *Owner, r lock.Range, spare lock.ID) (Set, bool) {
	a, b := r.First(), r.Last()
	var buf [4]Item
	hit := buf[:0]
	s.OfIn(o, a, b, func(it *Item) bool {
		hit = append(hit, *it)
		return true
	})
	if len(hit) == 0 {
		return *s, false
	}
	out := *s
	for _, it := range hit {
		out = out.Delete(it)
		left := it.first < a
		if left {
			out = out.Insert(it.with(it.first, a-1, 0))
		}
		if it.last > b {
			id := lock.ID(0)
			if left {
				id = spare
			}
			out = out.Insert(it.with(b+1, it.last, id))
		}
	}
	return out, true
}
