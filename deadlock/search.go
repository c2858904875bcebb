package deadlock

import "hash/maphash"

// Search is a cycle search and its buffers. The zero value is ready. It is not
// for concurrent use; a caller with many goroutines pools searches.
//
// A node must equal itself: no floating-point NaN. Small nodes, such as pointers,
// are faster than structs with strings in them.
type Search[N comparable] struct {
	nodes []N    // found so far; those that one node has led to are neighbours
	path  []step // from start to the node that is looked at
	told  []N    // what next has appended
	most  int    // the longest told of this search
	slots []slot // open addressing, a power of two, at most half full
	round uint32 // slots of other rounds are free
	seed  maphash.Seed
}

// step is a node of the path, and which of those that it has led to are still
// to be looked at. All are indices of nodes.
type step struct{ node, at, end uint32 }

// slot says where a node is in nodes.
type slot struct{ round, node uint32 }

const (
	firstSlots = 64
	keep       = 1 << 14 // nodes that buffers are kept for
)

// Cycle returns a cycle through start, as start, a, b, ...: each waits for the
// one after it, the last one for start. It is nil if there is none, and of length
// one if start waits for itself. The slice is the caller's.
//
// next appends to the slice that it is given the nodes that n waits for, all of
// them and in any order, and returns it. It may name a node more than once, and
// must not use s. It is called at most once for each node.
func (s *Search[N]) Cycle(start N, next func(n N, to []N) []N) []N {
	s.begin(start)
	defer s.end()
	for n := uint32(0); ; {
		s.told = next(s.nodes[n], s.told[:0])
		s.most = max(s.most, len(s.told))
		at := uint32(len(s.nodes))
		for _, m := range s.told {
			if m == start {
				return s.cycle(n)
			}
			s.add(m)
		}
		s.path = append(s.path, step{node: n, at: at, end: uint32(len(s.nodes))})
		var more bool
		if n, more = s.deepest(); !more {
			return nil
		}
	}
}

// deepest is the node to look at next: one that the last node of the path with
// any left has led to. The path ends with that one then.
func (s *Search[N]) deepest() (n uint32, more bool) {
	for i := len(s.path) - 1; i >= 0; i-- {
		if p := &s.path[i]; p.at < p.end {
			p.at++
			s.path = s.path[:i+1]
			return p.at - 1, true
		}
	}
	return 0, false
}

// cycle is the path and then n.
func (s *Search[N]) cycle(n uint32) []N {
	out := make([]N, 0, len(s.path)+1)
	for _, p := range s.path {
		out = append(out, s.nodes[p.node])
	}
	return append(out, s.nodes[n])
}

// add appends n to nodes unless it is there. start is not looked for: it is
// never added twice.
func (s *Search[N]) add(n N) {
	if 2*len(s.nodes) >= len(s.slots) {
		s.grow()
	}
	if p := s.slot(n); p.round != s.round {
		*p = slot{round: s.round, node: uint32(len(s.nodes))}
		s.nodes = append(s.nodes, n)
	}
}

// slot is the one that n has, or else a free one that it may have.
func (s *Search[N]) slot(n N) *slot {
	mask := uint64(len(s.slots) - 1)
	for i := maphash.Comparable(s.seed, n) & mask; ; i = (i + 1) & mask {
		if p := &s.slots[i]; p.round != s.round || s.nodes[p.node] == n {
			return p
		}
	}
}

func (s *Search[N]) grow() {
	if s.slots == nil {
		s.seed = maphash.MakeSeed()
	}
	s.slots = make([]slot, max(firstSlots, 2*len(s.slots)))
	for i, n := range s.nodes[1:] {
		*s.slot(n) = slot{round: s.round, node: uint32(i + 1)}
	}
}

// begin frees all slots by counting the round, so that a small search after a
// large one costs what is small.
func (s *Search[N]) begin(start N) {
	if s.round++; s.round == 0 {
		clear(s.slots)
		s.round = 1
	}
	s.nodes = append(s.nodes[:0], start)
}

// end lets go of the nodes, and of buffers that have become too large.
func (s *Search[N]) end() {
	if len(s.nodes) > keep || s.most > keep {
		*s = Search[N]{}
		return
	}
	clear(s.nodes)
	clear(s.told[:min(s.most, cap(s.told))])
	s.nodes, s.path, s.told, s.most = s.nodes[:0], s.path[:0], s.told[:0], 0
}
