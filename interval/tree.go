package interval

import "slices"

// The fan-outs. A change copies one node per level, so the nodes are small;
// bench/ has the measurement that they come from.
const (
	maxItems = 16
	maxKids  = 8
	minItems = maxItems / 4
	minKids  = maxKids / 4
)

// node is a leaf, with items, or an inner node, with kids: never both. Its
// slices are exactly as long as they need be and are never written again.
type node struct {
	items []Item
	kids  []kid
}

// kid is one child and what its parent knows of it.
type kid struct {
	node
	key key     // the smallest below
	sum summary // not in the owner index, which is never asked for conflicts
}

func (o order) kidOf(n node) kid {
	k := kid{node: n, key: o.smallest(&n)}
	if o == byOwner {
		return k
	}
	for i := range n.kids {
		k.sum.merge(&n.kids[i].sum)
	}
	for i := range n.items {
		k.sum.add(&n.items[i])
	}
	return k
}

// find is the place of the first item whose key is not less than k, and
// whether it is k.
func (o order) find(items []Item, k *key) (int, bool) {
	lo, hi := 0, len(items)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		mk := o.key(&items[m])
		switch c := mk.compare(k); {
		case c == 0:
			return m, true
		case c < 0:
			lo = m + 1
		default:
			hi = m
		}
	}
	return lo, false
}

// below is the child that k belongs under.
func below(kids []kid, k *key) int {
	i := len(kids) - 1
	for i > 0 && kids[i].key.compare(k) > 0 {
		i--
	}
	return i
}

// with is the sorted items with it.
func (o order) with(items []Item, it *Item) []Item {
	k := o.key(it)
	i, found := o.find(items, &k)
	if found {
		panic("interval: an item with this key is there already (invariant 2)")
	}
	return withInserted(items, i, *it)
}

func withInserted[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

func without[T any](s []T, i int) []T {
	out := make([]T, len(s)-1)
	copy(out, s[:i])
	copy(out[i:], s[i+1:])
	return out
}

// insert adds it below n. If n became too large it comes back in two.
func (o order) insert(n node, it *Item, k *key) (left, right node) {
	if n.kids == nil {
		items := o.with(n.items, it)
		if len(items) <= maxItems {
			return node{items: items}, node{}
		}
		c := len(items) / 2
		if items[len(items)-1].id == it.id { // grown at its end: ascending ranges fill their nodes
			c = len(items) - minItems
		}
		return node{items: items[:c:c]}, node{items: slices.Clone(items[c:])}
	}
	i := below(n.kids, k)
	l, r := o.insert(n.kids[i].node, it, k)
	if r.items == nil && r.kids == nil {
		kids := slices.Clone(n.kids)
		c := &kids[i]
		c.node = l
		if k.compare(&c.key) < 0 {
			c.key = *k
		}
		if o == byRange {
			c.sum.add(it)
		}
		return node{kids: kids}, node{}
	}
	kids := withInserted(n.kids, i+1, o.kidOf(r))
	kids[i] = o.kidOf(l)
	if len(kids) <= maxKids {
		return node{kids: kids}, node{}
	}
	c := len(kids) / 2
	if i+1 == len(kids)-1 {
		c = len(kids) - minKids
	}
	return node{kids: kids[:c:c]}, node{kids: slices.Clone(kids[c:])}
}

// remove takes the item with key k out from below n; false if it is not there.
func (o order) remove(n node, it *Item, k *key) (node, bool) {
	if n.kids == nil {
		i, found := o.find(n.items, k)
		if !found {
			return n, false
		}
		return node{items: without(n.items, i)}, true
	}
	i := below(n.kids, k)
	old := &n.kids[i]
	c, found := o.remove(old.node, it, k)
	if !found {
		return n, false
	}
	if c.small() && len(n.kids) > 1 {
		return o.refill(n, i, c), true
	}
	kids := slices.Clone(n.kids)
	if o == byOwner || old.sum.misses(it) {
		kids[i].node = c
		if *k == old.key {
			kids[i].key = o.smallest(&c)
		}
	} else {
		kids[i] = o.kidOf(c)
	}
	return node{kids: kids}, true
}

// smallest is the smallest key below n.
func (o order) smallest(n *node) key {
	if n.kids != nil {
		return n.kids[0].key
	}
	return o.key(&n.items[0])
}

func (n *node) small() bool {
	if n.kids != nil {
		return len(n.kids) < minKids
	}
	return len(n.items) < minItems
}

// refill puts c, which has become too small, in place i of n, together with
// what it needs from a neighbour, or merged with that neighbour.
func (o order) refill(n node, i int, c node) node {
	j := i + 1 // the right one of the pair
	l, r := c, node{}
	if j < len(n.kids) {
		r = n.kids[j].node
	} else {
		j = i
		l, r = n.kids[i-1].node, c
	}
	both := node{}
	var most int
	if c.kids != nil {
		both.kids, most = slices.Concat(l.kids, r.kids), maxKids
	} else {
		both.items, most = slices.Concat(l.items, r.items), maxItems
	}
	if size := len(both.kids) + len(both.items); size > most {
		half := size / 2
		kids := slices.Clone(n.kids)
		if both.kids != nil {
			l, r = node{kids: both.kids[:half:half]}, node{kids: both.kids[half:]}
		} else {
			l, r = node{items: both.items[:half:half]}, node{items: both.items[half:]}
		}
		kids[j-1], kids[j] = o.kidOf(l), o.kidOf(r)
		return node{kids: kids}
	}
	kids := without(n.kids, j)
	kids[j-1] = o.kidOf(both)
	return node{kids: kids}
}

// build makes a tree of sorted items.
func (o order) build(items []Item) node {
	if len(items) <= maxItems {
		return node{items: items}
	}
	var level []kid
	for part := range chunks(items, maxItems) {
		level = append(level, o.kidOf(node{items: part}))
	}
	for len(level) > maxKids {
		var up []kid
		for part := range chunks(level, maxKids) {
			up = append(up, o.kidOf(node{kids: part}))
		}
		level = up
	}
	return node{kids: level}
}

// chunks yields s in pieces of nearly equal length, none longer than most.
func chunks[T any](s []T, most int) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for n := (len(s) + most - 1) / most; n > 0; n-- {
			c := (len(s) + n - 1) / n
			if !yield(s[:c:c]) {
				return
			}
			s = s[c:]
		}
	}
}

// from visits the items whose key is not less than k, in order, until f
// returns false. It reports whether f never did.
func (o order) from(n *node, k *key, f func(*Item) bool) bool {
	if n.kids == nil {
		i, _ := o.find(n.items, k)
		for ; i < len(n.items); i++ {
			if !f(&n.items[i]) {
				return false
			}
		}
		return true
	}
	for i := below(n.kids, k); i < len(n.kids); i++ {
		if !o.from(&n.kids[i].node, k, f) {
			return false
		}
	}
	return true
}
