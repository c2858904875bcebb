package interval

import "sneck/lock"

// Set is an immutable set of items. The zero Set is empty. One item is kept
// inside the Set, a few in one sorted array, more in a tree.
type Set struct {
	one  Item   // the only item, if one.owner is set
	few  []Item // 2 to maxItems items
	many *trees
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
	switch {
	case s.many != nil:
		return Set{many: s.many.insert(it)}
	case s.one.owner != nil:
		if ok, k := byRange.key(&s.one), byRange.key(&it); ok.compare(&k) < 0 {
			return Set{few: []Item{s.one, it}}
		}
		return Set{few: []Item{it, s.one}}
	case s.few == nil:
		return Set{one: it}
	}
	items := byRange.with(s.few, &it)
	if len(items) <= maxItems {
		return Set{few: items}
	}
	return Set{many: &trees{n: len(items), main: byRange.build(items)}}
}

// Delete is s without it, which must be one of its items.
func (s *Set) Delete(it Item) Set {
	switch {
	case s.many != nil:
		t := s.many.delete(it)
		if t.n > maxItems/2 {
			return Set{many: t}
		}
		items := make([]Item, 0, t.n)
		t.each(func(it *Item) bool { items = append(items, *it); return true })
		return fromSmall(items)
	case s.one.owner != nil:
		if s.one.id != it.id {
			panic("interval: the item is not there")
		}
		return Set{}
	}
	k := byRange.key(&it)
	i, found := byRange.find(s.few, &k)
	if !found {
		panic("interval: the item is not there")
	}
	if len(s.few) == 2 {
		return Set{one: s.few[1-i]}
	}
	return Set{few: without(s.few, i)}
}

// DeleteAll is s without the items gone, which must be of s, in any order. Many
// at a time cost less than each by itself: then what stays is put together anew.
func (s *Set) DeleteAll(gone []Item) Set {
	if len(gone) == s.Len() {
		return Set{}
	}
	if s.many == nil || len(gone) < s.many.n/64 {
		out := *s
		for _, it := range gone {
			out = out.Delete(it)
		}
		return out
	}
	ids := make(map[lock.ID]bool, len(gone))
	for i := range gone {
		ids[gone[i].id] = true
	}
	stay := make([]Item, 0, s.many.n-len(gone))
	s.Each(func(it *Item) bool {
		if !ids[it.id] {
			stay = append(stay, *it)
		}
		return true
	})
	return fromMany(stay)
}

// fromMany is a set of items that are in order. It keeps the slice.
func fromMany(items []Item) Set {
	if len(items) <= maxItems {
		return fromSmall(items)
	}
	t := &trees{n: len(items), main: byRange.build(items)}
	if t.n >= indexFrom {
		t.index()
	}
	return Set{many: t}
}

// FromSorted is the set of items that are in order of (first, last, id); false
// if they are not, or one is there twice. It keeps the slice.
func FromSorted(items []Item) (Set, bool) {
	for i := 1; i < len(items); i++ {
		if k, l := byRange.key(&items[i-1]), byRange.key(&items[i]); k.compare(&l) >= 0 {
			return Set{}, false
		}
	}
	return fromMany(items), true
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
		return s.many.first(&q)
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
	at := func(it *Item) bool { return it.Range() != r || f(it) }
	if s.many != nil {
		probe := NewItem(o, r, lock.Shared, 0, 0)
		s.many.of(o, key{first: probe.first, last: probe.last}, func(it *Item) bool {
			return it.first == probe.first && it.last == probe.last && at(it)
		})
		return
	}
	s.Of(o, at)
}

// Each visits all items in order of (first, last, id) until f returns false.
func (s *Set) Each(f func(*Item) bool) {
	switch {
	case s.many != nil:
		s.many.each(f)
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
	if s.many != nil {
		s.many.of(o, key{}, f)
		return
	}
	s.Each(func(it *Item) bool { return !it.owner.Is(o) || f(it) })
}

// OfClient visits the items of all owners of a client until f returns false,
// in an order of its own.
func (s *Set) OfClient(client string, f func(*Item) bool) {
	if s.many != nil {
		s.many.ofClient(client, f)
		return
	}
	s.Each(func(it *Item) bool { return it.owner.Client != client || f(it) })
}

// In visits all items that overlap r, in order, until f returns false.
func (s *Set) In(r lock.Range, f func(*Item) bool) {
	a, b, ok := span(r)
	if !ok {
		return
	}
	if s.many != nil {
		s.many.in(a, b, f)
		return
	}
	s.Each(func(it *Item) bool { return it.first > b || it.last < a || it.inert() || f(it) })
}

// OfIn visits o's items that have a byte in [a,b], in order, until f returns
// false. It asks of o's items that they do not overlap each other, as POSIX
// ranges don't; then it costs O(log n) and the items that it visits.
func (s *Set) OfIn(o *Owner, a, b uint64, f func(*Item) bool) {
	if s.many != nil {
		s.many.ofIn(o, a, b, f)
		return
	}
	s.Each(func(it *Item) bool {
		return it.first > b || it.last < a || !it.owner.Is(o) || f(it)
	})
}

// Cut is s with the bytes of r taken away from o, whose items must not overlap
// each other, and whether that changed anything. What is left of an item keeps
// its id; of an item that is cut in the middle, the right part gets the id
// spare.
func (s *Set) Cut(o *Owner, r lock.Range, spare lock.ID) (Set, bool) {
	a, b := r.First(), r.Last()
	if s.one.owner != nil {
		return s.cutOne(o, a, b, spare)
	}
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

// cutOne is Cut where there is only one item: most files are like that.
func (s *Set) cutOne(o *Owner, a, b uint64, spare lock.ID) (Set, bool) {
	it := &s.one
	if it.first > b || it.last < a || !it.owner.Is(o) {
		return *s, false
	}
	switch left, right := it.first < a, it.last > b; {
	case left && right:
		return Set{few: []Item{it.with(it.first, a-1, 0), it.with(b+1, it.last, spare)}}, true
	case left:
		return Set{one: it.with(it.first, a-1, 0)}, true
	case right:
		return Set{one: it.with(b+1, it.last, 0)}, true
	}
	return Set{}, true
}
