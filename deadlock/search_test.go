package deadlock

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// graph says whom each node waits for.
type graph [][]int

func (g graph) next(n int, to []int) []int { return append(to, g[n]...) }

// reaches is the transitive closure, the simple way.
func (g graph) reaches() [][]bool {
	r := make([][]bool, len(g))
	for n, to := range g {
		r[n] = make([]bool, len(g))
		for _, m := range to {
			r[n][m] = true
		}
	}
	for k := range g {
		for i := range g {
			for j := range g {
				r[i][j] = r[i][j] || r[i][k] && r[k][j]
			}
		}
	}
	return r
}

func genGraph(rt *rapid.T) graph {
	n := rapid.IntRange(1, 14).Draw(rt, "nodes")
	g := make(graph, n)
	for i := range g {
		g[i] = rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 4).Draw(rt, "next") // also twice the same, and itself
	}
	return g
}

// asked counts how often each node is asked, and notes what it said.
type asked struct {
	times map[int]int
	told  map[[2]int]bool
}

func watch(next func(int, []int) []int) (*asked, func(int, []int) []int) {
	a := &asked{times: map[int]int{}, told: map[[2]int]bool{}}
	return a, func(n int, to []int) []int {
		a.times[n]++
		before := len(to)
		to = next(n, to)
		for _, m := range to[before:] {
			a.told[[2]int{n, m}] = true
		}
		return to
	}
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// check holds what a search has returned against invariants 1 and 3.
func (a *asked) check(t failer, start int, cycle []int) {
	t.Helper()
	for n, times := range a.times {
		if times > 1 {
			t.Fatalf("%d was asked %d times", n, times)
		}
	}
	if cycle == nil {
		return
	}
	if cycle[0] != start {
		t.Fatalf("the cycle %v does not begin with %d", cycle, start)
	}
	seen := map[int]bool{}
	for i, n := range cycle {
		if seen[n] {
			t.Fatalf("%d is twice in %v", n, cycle)
		}
		seen[n] = true
		if to := cycle[(i+1)%len(cycle)]; !a.told[[2]int{n, to}] {
			t.Fatalf("nobody told that %d waits for %d: %v", n, to, cycle)
		}
	}
}

// Invariants 1, 2 and 3, one search after the other with the same buffers.
func TestCycleAgainstClosure(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var s Search[int]
		for range rapid.IntRange(1, 4).Draw(rt, "graphs") {
			g := genGraph(rt)
			reaches := g.reaches()
			for start := range g {
				a, next := watch(g.next)
				cycle := s.Cycle(start, next)
				if (cycle != nil) != reaches[start][start] {
					rt.Fatalf("from %d: %v; can it reach itself: %v; %v", start, cycle, reaches[start][start], g)
				}
				a.check(rt, start, cycle)
			}
		}
	})
}

// Invariants 1, 3 and 4, in a graph that says something else whenever it is
// asked, but for one cycle that stays.
func TestChangingGraph(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(rt, "nodes")
		stays := rapid.IntRange(0, n).Draw(rt, "nodes of the cycle that stays") // 0, 1, ..., 0
		a, next := watch(func(m int, to []int) []int {
			noise := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 5).Draw(rt, "blockers")
			to = append(to, noise...)
			if m < stays {
				to = append(to, (m+1)%stays)
			}
			return to
		})
		var s Search[int]
		cycle := s.Cycle(0, next)
		a.check(rt, 0, cycle)
		if cycle == nil && stays > 0 {
			rt.Fatalf("a cycle of %d went unnoticed", stays)
		}
	})
}

func TestCycle(t *testing.T) {
	for _, c := range []struct {
		name string
		g    graph
		want []int
	}{
		{"waits for nobody", graph{{}}, nil},
		{"waits for itself", graph{{0}}, []int{0}},
		{"waits for itself and others", graph{{1, 0}, {}}, []int{0}},
		{"two", graph{{1}, {0}}, []int{0, 1}},
		{"the same blocker again and again", graph{{1, 1, 1}, {2, 1, 2}, {0, 0}}, []int{0, 1, 2}},
		{"a cycle that start is not in", graph{{1}, {2}, {1}}, nil},
		{"a self loop that start is not in", graph{{1}, {1}}, nil},
		{"a dead end first", graph{{1, 2}, {3}, {4}, {}, {0}}, []int{0, 2, 4}},
		{"a diamond", graph{{1, 2}, {3}, {3}, {0}}, []int{0, 1, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Search[int]
			if got := s.Cycle(0, c.g.next); !slices.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
		})
	}
}

// waiter is a node as callers have it.
type waiter struct {
	blockers []*waiter
	name     int
}

func nextWaiter(w *waiter, to []*waiter) []*waiter { return append(to, w.blockers...) }

// chain is n waiters, each of which waits for the next one.
func chain(n int) []*waiter {
	ws := make([]*waiter, n)
	for i := range ws {
		ws[i] = &waiter{name: i}
		if i > 0 {
			ws[i-1].blockers = []*waiter{ws[i]}
		}
	}
	return ws
}

// Invariant 5: no limit of depth.
func TestChains(t *testing.T) {
	var s Search[*waiter]
	for _, n := range []int{1, 10, 1000, 10_000, 100_000} {
		ws := chain(n)
		if got := s.Cycle(ws[0], nextWaiter); got != nil {
			t.Fatalf("a chain of %d has a cycle of %d", n, len(got))
		}
		ws[n-1].blockers = []*waiter{ws[0]}
		if got := s.Cycle(ws[0], nextWaiter); !slices.Equal(got, ws) {
			t.Fatalf("a ring of %d: a cycle of %d", n, len(got))
		}
		if got := s.Cycle(ws[n/2], nextWaiter); !slices.Equal(got, append(slices.Clone(ws[n/2:]), ws[:n/2]...)) {
			t.Fatalf("a ring of %d from its middle: a cycle of %d", n, len(got))
		}
	}
}

// Invariant 3: n nodes that all wait for each other are n² edges, not n! paths.
func TestEverybodyWaitsForEverybody(t *testing.T) {
	const n = 300
	g := make(graph, n)
	for i := range g {
		for j := 1; j < n; j++ { // nobody waits for 0
			g[i] = append(g[i], j)
		}
	}
	a, next := watch(g.next)
	var s Search[int]
	if got := s.Cycle(0, next); got != nil {
		t.Fatal(got)
	}
	a.check(t, 0, nil)
	if len(a.times) != n {
		t.Fatalf("%d of %d were asked", len(a.times), n)
	}
}

// A cycle is the caller's: the next search does not write to it.
func TestCycleIsACopy(t *testing.T) {
	var s Search[int]
	first := s.Cycle(0, graph{{1}, {0}}.next)
	s.Cycle(2, graph{{}, {}, {1, 2}}.next)
	if !slices.Equal(first, []int{0, 1}) {
		t.Fatal(first)
	}
}

// Owners may be structs; then they are compared as ==.
func TestStructNodes(t *testing.T) {
	type owner struct{ client, id string }
	a, b := owner{"c", "a"}, owner{"c", "b"}
	var s Search[owner]
	got := s.Cycle(a, func(o owner, to []owner) []owner {
		if o == a {
			return append(to, owner{"c", "b"})
		}
		return append(to, owner{"c", "a"})
	})
	if !slices.Equal(got, []owner{a, b}) {
		t.Fatal(got)
	}
}

// Invariant 5: nothing is allocated once the buffers are there.
func TestNoAllocation(t *testing.T) {
	ws := chain(10_000)
	var s Search[*waiter]
	s.Cycle(ws[0], nextWaiter)
	if n := testing.AllocsPerRun(10, func() { s.Cycle(ws[0], nextWaiter) }); n != 0 {
		t.Fatalf("%v allocations for 10,000 hops", n)
	}
	ws[len(ws)-1].blockers = ws[:1]
	if n := testing.AllocsPerRun(10, func() { s.Cycle(ws[0], nextWaiter) }); n > 1 {
		t.Fatalf("%v allocations for a cycle of 10,000", n)
	}
}

// Invariant 5: buffers are bounded and refer to no node between searches, also
// when a search was given up by a panic of next.
func TestNothingIsHeldOnTo(t *testing.T) {
	var s Search[*waiter]
	holdsNothing := func(t *testing.T) {
		t.Helper()
		for _, w := range slices.Concat(s.nodes[:cap(s.nodes)], s.told[:cap(s.told)]) {
			if w != nil {
				t.Fatalf("it still refers to node %d", w.name)
			}
		}
		if cap(s.nodes) > 2*keep || cap(s.told) > 2*keep || cap(s.path) > 2*keep || len(s.slots) > 2*keep {
			t.Fatalf("kept: %d nodes, %d told, %d steps, %d slots", cap(s.nodes), cap(s.told), cap(s.path), len(s.slots))
		}
	}
	wide := &waiter{blockers: chain(3 * keep)}
	again := &waiter{blockers: slices.Repeat(chain(1), 3*keep)} // many edges, few nodes
	for _, w := range []*waiter{chain(10)[0], chain(1000)[0], wide, chain(10)[0], again, chain(keep)[0], chain(keep + 1)[0], chain(3 * keep)[0]} {
		s.Cycle(w, nextWaiter)
		holdsNothing(t)
	}
	func() {
		defer func() { _ = recover() }()
		s.Cycle(chain(100)[0], func(w *waiter, to []*waiter) []*waiter {
			if w.name == 50 {
				panic("the caller's")
			}
			return nextWaiter(w, to)
		})
	}()
	holdsNothing(t)
	if got := s.Cycle(chain(10)[0], nextWaiter); got != nil {
		t.Fatalf("after a panic: a cycle of %d", len(got))
	}
}

// The slots of 2^32 searches ago are not taken for this one's.
func TestRoundsWrap(t *testing.T) {
	var s Search[int]
	g := graph{{1, 2}, {2}, {0}}
	for _, round := range []uint32{0, math.MaxUint32 - 1, math.MaxUint32} {
		s.round = round
		for range 4 {
			if got := s.Cycle(0, g.next); !slices.Equal(got, []int{0, 1, 2}) && !slices.Equal(got, []int{0, 2}) {
				t.Fatalf("round %d: %v", s.round, got)
			}
			if s.round == 0 {
				t.Fatal("round 0 is that of slots never used")
			}
		}
	}
}

func BenchmarkChain(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ws := chain(n)
			var s Search[*waiter]
			b.ReportAllocs()
			for b.Loop() {
				if s.Cycle(ws[0], nextWaiter) != nil {
					b.Fatal("a cycle")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/hop")
		})
	}
}
