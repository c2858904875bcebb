package interval

import "sneck/lock"

// Visited is the number of nodes that First looks at for the same arguments.
func (s *Set) Visited(r lock.Range, who Who, except *Owner) int {
	a, b, ok := span(r)
	if !ok || s.many == nil {
		return 1
	}
	q := query{a: a, b: b, who: who, except: except}
	s.many.first(&q)
	return q.visited
}
