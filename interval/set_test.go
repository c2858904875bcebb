package interval

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"github.com/google/btree"
	"pgregory.net/rapid"

	"sneck/lock"
)

func ownerOf(client, id int) *Owner {
	return NewOwner(lock.Owner{Client: fmt.Sprint("client", client), ID: fmt.Sprint(id), Semantics: lock.POSIX})
}

func rng(first, last uint64) lock.Range {
	r, err := lock.Bytes(first, last)
	if err != nil {
		panic(err)
	}
	return r
}

func modeOf(exclusive bool) lock.Mode {
	if exclusive {
		return lock.Exclusive
	}
	return lock.Shared
}

// failer is a test, of rapid or not.
type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// depthOf is the number of levels of a tree.
func depthOf(n *node) int {
	d := 1
	for n.kids != nil {
		n, d = &n.kids[0].node, d+1
	}
	return d
}

// check holds a set against the invariants of the package.
func check(t failer, s *Set) {
	t.Helper()
	if s.many == nil {
		if len(s.few) == 1 || len(s.few) > maxItems || s.one.owner != nil && s.few != nil {
			t.Fatalf("a small set with %d items beside %v", len(s.few), s.one.owner)
		}
		return
	}
	m := s.many
	if len(m.fresh) > maxLoose || len(m.stale) > maxLoose {
		t.Fatalf("invariant 6: %d fresh, %d stale", len(m.fresh), len(m.stale))
	}
	items := checkTree(t, byRange, &m.main)
	if m.n != len(items)+len(m.fresh)-len(m.stale) {
		t.Fatalf("%d in the tree, %d fresh, %d stale, counted as %d", len(items), len(m.fresh), len(m.stale), m.n)
	}
	for _, it := range m.stale {
		if !slices.Contains(items, it) {
			t.Fatalf("invariant 6: stale and not in the tree: %v", it)
		}
	}
	if m.owners != nil {
		indexed := checkTree(t, byOwner, m.owners)
		slices.SortFunc(indexed, compareItems)
		if !slices.Equal(items, indexed) {
			t.Fatalf("invariant 5: the owner index has other items than the tree")
		}
	}
}

func compareItems(x, y Item) int {
	kx, ky := byRange.key(&x), byRange.key(&y)
	return kx.compare(&ky)
}

// checkTree checks order, fill, depth, keys and summaries, and returns the
// items in order.
func checkTree(t failer, o order, root *node) (items []Item) {
	t.Helper()
	depth := depthOf(root)
	var walk func(n *node, level int)
	walk = func(n *node, level int) {
		if n.kids == nil {
			if level != depth {
				t.Fatalf("invariant 4: a leaf at depth %d of %d", level, depth)
			}
			if len(n.items) > maxItems || level > 1 && len(n.items) < minItems {
				t.Fatalf("invariant 4: a leaf of %d items", len(n.items))
			}
			items = append(items, n.items...)
			return
		}
		if len(n.kids) > maxKids || len(n.kids) < 2 || level > 1 && len(n.kids) < minKids {
			t.Fatalf("invariant 4: a node of %d children", len(n.kids))
		}
		for i := range n.kids {
			k := &n.kids[i]
			from := len(items)
			walk(&k.node, level+1)
			below := items[from:]
			if k.key != o.key(&below[0]) {
				t.Fatalf("invariant 3: key %v over %v", k.key, below[0])
			}
			if o == byRange {
				checkTop(t, &k.sum.exclusive, below, true)
				checkTop(t, &k.sum.shared, below, false)
			}
		}
	}
	walk(root, 1)
	if !slices.IsSortedFunc(items, func(x, y Item) int { kx, ky := o.key(&x), o.key(&y); return kx.compare(&ky) }) {
		t.Fatalf("invariant 2: the items are not in order")
	}
	return items
}

// checkTop: for each owner, the largest last byte of all others is as it says.
func checkTop(t failer, got *top, below []Item, exclusive bool) {
	t.Helper()
	askers := []*Owner{nil}
	for i := range below {
		askers = append(askers, below[i].owner)
	}
	for _, asker := range askers {
		want, any := uint64(0), false
		for i := range below {
			it := &below[i]
			if it.Exclusive() == exclusive && !it.inert() && (asker == nil || !it.owner.Is(asker)) {
				want, any = max(want, it.last), true
			}
		}
		if last, ok := got.without(asker); ok != any || ok && last != want {
			t.Fatalf("invariant 3: without %v it says %d, %v; it is %d, %v", asker, last, ok, want, any)
		}
	}
}

func collect(visit func(func(*Item) bool)) (out []Item) {
	visit(func(it *Item) bool { out = append(out, *it); return true })
	return out
}

// Against google/btree, which holds the same items in the same order and is
// asked by looking at all of them: owners overlap at will, as SMB's do,
// zero-length ranges and equal ranges included, with sets that grow through
// all forms and shrink again. Older versions stay as they were (invariant 1).
func TestSetAgainstBTree(t *testing.T) {
	for _, size := range []int{3, 40, 400} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { againstBTree(rt, size) })
		})
	}
}

func againstBTree(rt *rapid.T, size int) {
	owners := make([]*Owner, 6)
	for i := range owners {
		owners[i] = ownerOf(i%3, i)
	}
	if rapid.Bool().Draw(rt, "collide") { // owners that share a hash are apart
		for _, o := range owners {
			o.hash = clientHash("same") | 1
		}
	}
	collide := owners[0].hash == owners[1].hash
	base := rapid.SampledFrom([]uint64{0, math.MaxUint64 - 63}).Draw(rt, "base")
	ref := btree.NewG(8, func(x, y Item) bool { return compareItems(x, y) < 0 })
	var s Set
	type version struct {
		set   Set
		items []Item
	}
	var older []version
	id := lock.ID(1)
	draw := func() lock.Range {
		a := rapid.Uint64Range(0, 63).Draw(rt, "first")
		if rapid.IntRange(0, 9).Draw(rt, "zero") == 0 {
			r, _ := lock.SMBRange(base+a, 0)
			return r
		}
		return rng(base+a, base+rapid.Uint64Range(a, min(63, a+20)).Draw(rt, "last"))
	}
	grow := func(n int) {
		for range n {
			it := NewItem(rapid.SampledFrom(owners).Draw(rt, "owner"), draw(), modeOf(rapid.IntRange(0, 3).Draw(rt, "x") == 0), id, int64(id))
			id++
			s = s.Insert(it)
			ref.ReplaceOrInsert(it)
		}
	}
	shrink := func(n int) {
		for range min(n, s.Len()) {
			all := collect(s.Each)
			it := all[rapid.IntRange(0, len(all)-1).Draw(rt, "which")]
			s = s.Delete(it)
			ref.Delete(it)
		}
	}
	for range rapid.IntRange(1, 8).Draw(rt, "rounds") {
		if rapid.Bool().Draw(rt, "grow") {
			grow(rapid.IntRange(1, size).Draw(rt, "n"))
		} else {
			shrink(rapid.IntRange(1, size).Draw(rt, "n"))
		}
		check(rt, &s)
		want := make([]Item, 0, ref.Len())
		ref.Ascend(func(it Item) bool { want = append(want, it); return true })
		if got := collect(s.Each); !slices.Equal(got, want) || s.Len() != len(want) {
			rt.Fatalf("Len %d, Each\n%v\nwant\n%v", s.Len(), got, want)
		}
		for range 8 {
			r, except := draw(), rapid.SampledFrom(append(owners, nil)).Draw(rt, "except")
			who := Who(rapid.IntRange(1, 3).Draw(rt, "who"))
			if except != nil && rapid.Bool().Draw(rt, "probe") && !collide {
				p := Probe(except.Owner)
				except = &p
			}
			var first *Item
			for i := range want {
				it := &want[i]
				if it.Range().Overlaps(r) && (who == Everyone || it.Exclusive() == (who == Exclusives)) && (except == nil || !it.owner.Is(except)) {
					first = it
					break
				}
			}
			got := s.First(r, who, except)
			if (got == nil) != (first == nil) || got != nil && *got != *first {
				rt.Fatalf("First(%v, %d, %v) = %v, want %v of\n%v", r, who, except, got, first, want)
			}
		}
		for _, o := range owners {
			filter := func(keep func(*Item) bool) (out []Item) {
				for i := range want {
					if keep(&want[i]) {
						out = append(out, want[i])
					}
				}
				return out
			}
			mine := filter(func(it *Item) bool { return it.owner.Is(o) })
			if got := collect(func(f func(*Item) bool) { s.Of(o, f) }); !slices.Equal(got, mine) {
				rt.Fatalf("Of(%v) = %v, want %v", o, got, mine)
			}
			if len(mine) > 0 {
				r := mine[len(mine)/2].Range()
				at := filter(func(it *Item) bool { return it.owner.Is(o) && it.Range() == r })
				if got := collect(func(f func(*Item) bool) { s.At(o, r, f) }); !slices.Equal(got, at) {
					rt.Fatalf("At(%v, %v) = %v, want %v", o, r, got, at)
				}
			}
			if !collide {
				client := filter(func(it *Item) bool { return it.owner.Client == o.Client })
				got := collect(func(f func(*Item) bool) { s.OfClient(o.Client, f) })
				slices.SortFunc(got, compareItems)
				if !slices.Equal(got, client) {
					rt.Fatalf("OfClient(%s) = %v, want %v", o.Client, got, client)
				}
			}
		}
		older = append(older, version{s, want})
	}
	for _, v := range older {
		if got := collect(v.set.Each); !slices.Equal(got, v.items) {
			rt.Fatalf("invariant 1: an older version was\n%v\nand is\n%v", v.items, got)
		}
	}
}

// Against an array with a cell per byte: owners set and cut ranges that never
// overlap their own, at both ends of the range of offsets. Enough owners and
// bytes for the tree and its owner index.
func TestCutAgainstBytes(t *testing.T) {
	const size = 600
	rapid.Check(t, func(rt *rapid.T) {
		base := rapid.SampledFrom([]uint64{0, math.MaxUint64 - size + 1}).Draw(rt, "base")
		owners := []*Owner{ownerOf(0, 0), ownerOf(0, 1), ownerOf(1, 2)}
		var model [3][size]lock.Mode
		var s Set
		id := lock.ID(1)
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			a := rapid.Uint64Range(0, size-1).Draw(rt, "first")
			b := rapid.Uint64Range(a, min(size-1, a+30)).Draw(rt, "last")
			who := rapid.IntRange(0, 2).Draw(rt, "owner")
			o, r := owners[who], rng(base+a, base+b)
			before := collect(func(f func(*Item) bool) { s.Of(o, f) })
			cut, changed := s.Cut(o, r, id)
			id++
			held := slices.ContainsFunc(model[who][a:b+1], func(m lock.Mode) bool { return m != 0 })
			if changed != held {
				rt.Fatalf("Cut(%v) says %v, held: %v", r, changed, held)
			}
			s = cut
			clear(model[who][a : b+1])
			mode := lock.Mode(rapid.IntRange(0, 2).Draw(rt, "mode")) // 0: unlock
			if mode != 0 {
				s = s.Insert(NewItem(o, r, mode, id, 1))
				id++
				for i := a; i <= b; i++ {
					model[who][i] = mode
				}
			}
			check(rt, &s)
			// What is left of an item keeps its id, but for a right part.
			for _, it := range before {
				if it.last < r.First() || it.first > r.Last() {
					continue
				}
				if left := collect(func(f func(*Item) bool) { s.OfIn(o, it.first, it.first, f) }); it.first < r.First() &&
					(len(left) != 1 || left[0].id != it.id) {
					rt.Fatalf("the left part of %v is %v", it, left)
				}
			}
			x := rapid.Uint64Range(0, size-1).Draw(rt, "from")
			y := rapid.Uint64Range(x, size-1).Draw(rt, "to")
			compareBytes(rt, &s, o, model[who][x:y+1], base+x, base+y)
		}
		ids := map[lock.ID]bool{}
		s.Each(func(it *Item) bool {
			if ids[it.id] {
				rt.Fatalf("two items have the id %d", it.id)
			}
			ids[it.id] = true
			return true
		})
	})
}

// compareBytes compares what OfIn yields with the model's bytes of [a,b].
func compareBytes(t failer, s *Set, o *Owner, model []lock.Mode, a, b uint64) {
	t.Helper()
	got := make([]lock.Mode, len(model))
	prev := uint64(0)
	s.OfIn(o, a, b, func(it *Item) bool {
		if !it.owner.Is(o) || it.last < a || it.first > b || it.first < prev {
			t.Fatalf("OfIn [%d,%d] yields %v", a, b, it.Range())
		}
		prev = it.first
		for i := max(a, it.first); ; i++ {
			got[i-a] = it.Mode()
			if i == min(b, it.last) {
				break
			}
		}
		return true
	})
	if !slices.Equal(got, model) {
		t.Fatalf("[%d,%d] is\n%v\nwant\n%v", a, b, got, model)
	}
}

// Of an item that is cut, what is left keeps its id; the right part of one that
// is cut in the middle is another lock.
//
//	held   ----------     ----------     ----------     ----------
//	cut       xxxx        xxxx                 xxxx     xxxxxxxxxx
//	left   ---    ===         ------     ------
func TestCutPictures(t *testing.T) {
	o := ownerOf(0, 0)
	for _, tc := range []struct {
		cut  lock.Range
		want string
	}{
		{rng(13, 16), "[10,12]#1 [17,19]#9 "},
		{rng(10, 13), "[14,19]#1 "},
		{rng(16, 19), "[10,15]#1 "},
		{rng(10, 19), ""},
		{rng(0, 9), "[10,19]#1 "},
		{rng(20, math.MaxUint64), "[10,19]#1 "},
		{lock.WholeFile(), ""},
	} {
		for _, others := range []int{0, 1, 40, 300} {
			var s Set
			for i := range others {
				s = s.Insert(NewItem(ownerOf(1, i+1), lock.WholeFile(), lock.Shared, lock.ID(100+i), 1))
			}
			s = s.Insert(NewItem(o, rng(10, 19), lock.Shared, 1, 1))
			s, _ = s.Cut(o, tc.cut, 9)
			got := ""
			s.Of(o, func(it *Item) bool { got += fmt.Sprintf("%v#%d ", it.Range(), it.id); return true })
			if got != tc.want {
				t.Errorf("among %d, cut %v: %q, want %q", others, tc.cut, got, tc.want)
			}
			check(t, &s)
		}
	}
}

// One path from the root answers First, in every mix, the asker's own ranges
// included: counted in nodes, so that no clock is needed.
func TestFirstVisitsOnePath(t *testing.T) {
	me := ownerOf(9, 9)
	for _, n := range []int{100, 3000, 30_000} {
		N := uint64(n)
		for _, mix := range []struct {
			name string
			item func(i uint64) (*Owner, lock.Range, lock.Mode)
			ask  lock.Range
			who  Who
			hit  bool
		}{
			{"disjoint exclusives of others, between two", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				return ownerOf(0, int(i)), rng(10*i, 10*i+4), lock.Exclusive
			}, rng(10*(N/2)+5, 10*(N/2)+9), Everyone, false},
			{"disjoint exclusives, all the asker's", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				return me, rng(10*i, 10*i+4), lock.Exclusive
			}, lock.WholeFile(), Everyone, false},
			{"whole-file readers", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				return ownerOf(0, int(i)), lock.WholeFile(), lock.Shared
			}, lock.WholeFile(), Exclusives, false},
			{"whole-file readers, exclusive request", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				return ownerOf(0, int(i)), lock.WholeFile(), lock.Shared
			}, rng(7, 7), Everyone, true},
			{"staggered readers, just past the end", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				return ownerOf(0, int(i)), rng(i, i+N), lock.Shared
			}, rng(2*N, math.MaxUint64), Everyone, false},
			{"staggered readers of the asker and one other's at the start", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				if i == 0 {
					return ownerOf(0, 0), rng(0, 0), lock.Shared
				}
				return me, rng(i, i+N), lock.Shared
			}, rng(1, math.MaxUint64), Everyone, false},
			{"own exclusives between others' readers", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				if i%2 == 0 {
					return me, rng(i, i), lock.Exclusive
				}
				return ownerOf(0, int(i)), rng(i, i), lock.Shared
			}, lock.WholeFile(), Exclusives, false},
			{"one other's exclusive at the far end of readers", func(i uint64) (*Owner, lock.Range, lock.Mode) {
				if i == N-1 {
					return ownerOf(0, 0), rng(math.MaxUint64, math.MaxUint64), lock.Exclusive
				}
				return ownerOf(0, int(i)), rng(0, N+i), lock.Shared
			}, lock.WholeFile(), Exclusives, true},
		} {
			t.Run(fmt.Sprintf("%s/%d", mix.name, n), func(t *testing.T) {
				var s Set
				for i := range N {
					o, r, m := mix.item(i)
					s = s.Insert(NewItem(o, r, m, lock.ID(i+1), 1))
				}
				if hit := s.First(mix.ask, mix.who, me) != nil; hit != mix.hit {
					t.Fatalf("found: %v", hit)
				}
				depth := depthOf(&s.many.main)
				if got := s.Visited(mix.ask, mix.who, me); got > depth {
					t.Errorf("%d nodes visited, the tree is %d deep", got, depth)
				}
				// Every inner node has at least minKids children.
				if most := 2 + bits.Len(uint(n/minItems))/(bits.Len(minKids)-1); depth > most {
					t.Errorf("%d items make %d levels, at most %d expected", n, depth, most)
				}
			})
		}
	}
}

// What is stale costs one more path each, and there are few of them.
func TestFirstPassesOverStaleItems(t *testing.T) {
	var s Set
	for i := range 10_000 {
		s = s.Insert(NewItem(ownerOf(0, i), lock.WholeFile(), lock.Shared, lock.ID(i+1), 1))
	}
	s.many.settle()
	for i := range maxLoose {
		s = s.Delete(NewItem(ownerOf(0, i), lock.WholeFile(), lock.Shared, lock.ID(i+1), 1))
	}
	if got := s.First(lock.WholeFile(), Everyone, nil); got.id != maxLoose+1 {
		t.Fatalf("found %d", got.id)
	}
	depth := depthOf(&s.many.main)
	if got := s.Visited(lock.WholeFile(), Everyone, nil); got > depth*(1+2*maxLoose) {
		t.Errorf("%d nodes visited, the tree is %d deep", got, depth)
	}
}

// An owner's few ranges among many others' are found through the owner index:
// the visitor is called for them alone.
func TestOwnerIndex(t *testing.T) {
	var s Set
	me := ownerOf(9, 9)
	for i := range 5000 {
		s = s.Insert(NewItem(ownerOf(i%7, i), lock.WholeFile(), lock.Shared, lock.ID(i+1), 1))
	}
	for i := range uint64(5) {
		s = s.Insert(NewItem(me, rng(i*100, i*100+9), lock.Shared, lock.ID(6000+i), 1))
	}
	s.many.settle()
	if s.many.owners == nil {
		t.Fatal("no owner index")
	}
	looked := 0
	byOwner.from(s.many.owners, &key{hash: me.hash}, func(it *Item) bool { looked++; return it.owner.hash == me.hash })
	if looked > 6 {
		t.Errorf("looked at %d items for 5", looked)
	}
	if got := collect(func(f func(*Item) bool) { s.OfIn(me, 105, 300, f) }); len(got) != 3 {
		t.Errorf("OfIn [105,300] yields %v", got)
	}
	for _, it := range collect(s.Each)[:4980] {
		s = s.Delete(it)
	}
	s.many.settle()
	check(t, &s)
	if s.many.owners != nil {
		t.Error("the owner index has stayed")
	}
}

func TestFirstAllocatesNothing(t *testing.T) {
	for _, n := range []int{0, 1, 10, 100, 10_000} {
		var s Set
		for i := range n {
			s = s.Insert(NewItem(ownerOf(0, i), rng(uint64(i)*10, uint64(i)*10+4), lock.Exclusive, lock.ID(i+1), 1))
		}
		me := lock.Owner{Client: "c", ID: "me", Semantics: lock.POSIX}
		if got := testing.AllocsPerRun(100, func() {
			p := Probe(me)
			s.First(rng(uint64(n)*5, uint64(n)*5+9), Everyone, &p)
		}); got != 0 {
			t.Errorf("n=%d: %v allocations", n, got)
		}
	}
}
