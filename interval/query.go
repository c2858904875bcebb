package interval

// Who are the modes that a query looks for.
type Who uint8

const (
	Exclusives Who = 1 << iota
	Shareds
	Everyone = Exclusives | Shareds
)

// query asks for the first item in [a,b] of modes who that is not except's.
type query struct {
	a, b    uint64
	except  *Owner // nil: nobody is excepted
	who     Who
	visited int // nodes looked at, for the test of the bound
}

// reaches reports whether an item below, wanted by its mode and owner, has a
// last byte of a or more. It may begin past b.
func (q *query) reaches(s *summary) bool {
	if q.who&Exclusives != 0 {
		if last, ok := s.exclusive.without(q.except); ok && last >= q.a {
			return true
		}
	}
	if q.who&Shareds != 0 {
		if last, ok := s.shared.without(q.except); ok && last >= q.a {
			return true
		}
	}
	return false
}

func (q *query) hit(it *Item) bool {
	if it.first > q.b || it.last < q.a || it.inert() {
		return false
	}
	if it.Exclusive() {
		if q.who&Exclusives == 0 {
			return false
		}
	} else if q.who&Shareds == 0 {
		return false
	}
	return q.except == nil || !it.owner.Is(q.except)
}

// first is the first wanted item below n. Because a summary is exact, the
// leftmost child that reaches a has the item with the smallest first byte of
// all that reach a; if that one begins past b, so do all others. One path.
func (q *query) first(n *node) *Item {
	for {
		q.visited++
		if n.kids == nil {
			for i := range n.items {
				if n.items[i].first > q.b {
					return nil
				}
				if q.hit(&n.items[i]) {
					return &n.items[i]
				}
			}
			return nil
		}
		var next *node
		for i := range n.kids {
			k := &n.kids[i]
			if k.key.first > q.b {
				return nil
			}
			if q.reaches(&k.sum) {
				next = &k.node
				break
			}
		}
		if next == nil {
			return nil
		}
		n = next
	}
}

// after is the first wanted item below n whose key is greater than k.
func (q *query) after(n *node, k *key) *Item {
	q.visited++
	if n.kids == nil {
		i, found := byRange.find(n.items, k)
		if found {
			i++
		}
		for ; i < len(n.items) && n.items[i].first <= q.b; i++ {
			if q.hit(&n.items[i]) {
				return &n.items[i]
			}
		}
		return nil
	}
	i := below(n.kids, k)
	if q.reaches(&n.kids[i].sum) {
		if it := q.after(&n.kids[i].node, k); it != nil {
			return it
		}
	}
	for i++; i < len(n.kids) && n.kids[i].key.first <= q.b; i++ {
		if q.reaches(&n.kids[i].sum) {
			return q.first(&n.kids[i].node)
		}
	}
	return nil
}
