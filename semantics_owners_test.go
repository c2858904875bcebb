package sneck_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sneck"
	"sneck/lock"
)

// POSIX, OFD (and so NLM and NFSv4) owners: a new mode replaces the overlap,
// also over a sub-range; adjacent and overlapping ranges of one owner and mode
// merge; a partial unlock splits. Source: POSIX fcntl, F_SETLK; F_UNLCK.
func TestOwnerReplaceMergeSplit(t *testing.T) {
	for _, tc := range []struct {
		name                string
		before, call, after string // call: r and w lock, u unlocks
	}{
		{"replace a sub-range, stronger", "rrrrrrrrrr", "...wwww...", "rrrwwwwrrr"},
		{"replace a sub-range, weaker", "wwwwwwwwww", "...rrrr...", "wwwrrrrwww"},
		{"replace the head", "wwwwwwwwww", "rrr.......", "rrrwwwwwww"},
		{"replace the tail", "wwwwwwwwww", ".......rrr", "wwwwwwwrrr"},
		{"replace all", "rrrrrrrrrr", "wwwwwwwwww", "wwwwwwwwww"},
		{"replace several and the gaps", "rr.ww.rr..", ".wwwwwww..", "rwwwwwww.."},
		{"replace and keep both ends", "rrwwrrwwrr", "...wwww...", "rrwwwwwwrr"},
		{"the same again", "..wwww....", "..wwww....", "..wwww...."},
		{"the same within", "..wwwwww..", "...ww.....", "..wwwwww.."},
		{"merge with the left", "rrr.......", "...rr.....", "rrrrr....."},
		{"merge with the right", ".....rrr..", "...rr.....", "...rrrrr.."},
		{"merge both", "rrr..rrr..", "...rr.....", "rrrrrrrr.."},
		{"merge what overlaps", "rrrr.rrrr.", "..rrrr....", "rrrrrrrrr."},
		{"merge many", "r.r.r.r.r.", "rrrrrrrrr.", "rrrrrrrrr."},
		{"another mode does not merge", "rrr..rrr..", "...ww.....", "rrrwwrrr.."},
		{"replacing joins neighbours", "rrrwwwrrr.", "...rrr....", "rrrrrrrrr."},
		{"replacing joins one neighbour", "rrrwwwwww.", "...rrr....", "rrrrrrwww."},
		{"a gap of one byte stays", "rrr.......", "....rr....", "rrr.rr...."},
		{"unlock the middle", "rrrrrrrrrr", "...uuuu...", "rrr....rrr"},
		{"unlock the head", "rrrrrrrrrr", "uuuu......", "....rrrrrr"},
		{"unlock the tail", "rrrrrrrrrr", "......uuuu", "rrrrrr...."},
		{"unlock all", "rrrwwwrrr.", "uuuuuuuuuu", ".........."},
		{"unlock several and the gaps", "rr.ww.rr..", ".uuuuuu...", "r......r.."},
		{"unlock a gap", "rr......rr", "..uuuuuu..", "rr......rr"},
		{"unlock one byte", "wwwwwwwwww", "....u.....", "wwww.wwwww"},
		{"unlock nothing at all", "..........", "uuuuuuuuuu", ".........."},
		{"to EOF: replace the head", "wwwwwwwwww>", "rrr.......", "rrrwwwwwww>"},
		{"to EOF: replace the tail", "wwwwwwwwww>", "......rrrr>", "wwwwwwrrrr>"},
		{"to EOF: merge", "rrrr......", "....rrrrrr>", "rrrrrrrrrr>"},
		{"to EOF: merge from below", "....rrrrrr>", ".rrr......", ".rrrrrrrrr>"},
		{"to EOF: unlock the middle", "wwwwwwwwww>", "...uuuu...", "www....www>"},
		{"to EOF: unlock the tail", "wwwwwwwwww>", ".....uuuuu>", "wwwww....."},
	} {
		for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
			t.Run(fmt.Sprint(tc.name, "/", sem), func(t *testing.T) {
				m := memory(t)
				a, b := owner(sem, "a"), owner(sem, "b")
				draw(t, m, a, tc.before)
				other := fact{file, b, span(1000, 1000), x}
				if tc.before[len(tc.before)-1] != '>' && tc.call[len(tc.call)-1] != '>' {
					mustTry(t, m, b, x, other.Range) // is not touched
				}
				apply(t, m, a, tc.call)
				if got := picture(t, m, a, 10); got != tc.after {
					t.Errorf("%s, then %s: %s, want %s", tc.before, tc.call, got, tc.after)
				}
				for _, h := range table(m, lock.Filter{Owner: &b}) {
					if factOf(h) != other {
						t.Errorf("%+v changed", h)
					}
				}
				compatible(t, table(m, lock.Filter{}))
			})
		}
	}
}

// apply makes the calls that the picture says: u unlocks, from the first u to
// the last in one call.
func apply(t tb, m *sneck.Manager, o lock.Owner, pic string) {
	t.Helper()
	draw(t, m, o, pic)
	first, last := strings.Index(pic, "u"), uint64(strings.LastIndex(pic, "u"))
	if strings.HasSuffix(pic, "u>") {
		last = eof
	}
	if first >= 0 {
		mustUnlock(t, m, o, span(uint64(first), last))
	}
}

// What a lock call returns is what is then held: the whole merged range, with
// the id that the table has.
func TestOwnerLockReturnsWhatIsHeld(t *testing.T) {
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		m := memory(t)
		a := owner(sem, "a")
		draw(t, m, a, "rrr..rrr..")
		h := mustTry(t, m, a, s, span(3, 4))
		if h.Range != span(0, 7) || h.Mode != s || h.Owner != a || h.File != file || h.Epoch != m.Epoch() || h.Since.IsZero() || h.Unconfirmed {
			t.Errorf("%+v", h)
		}
		mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{h})
		// Held already: nothing is new, the id neither.
		mustEqual(t, "the lock within", mustTry(t, m, a, s, span(2, 5)), h)
		mustEqual(t, "the same lock", mustTry(t, m, a, s, span(0, 7)), h)
		mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{h})
	}
	m := memory(t)
	h := mustTry(t, m, smb("a"), s, span(3, 4))
	mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{h})
}

// 1000 adjacent locks are one entry, in whatever order they come, and 1000 SMB
// locks stay 1000.
func TestOwnerCoalesces(t *testing.T) {
	up := make([]uint64, 1000)
	for i := range up {
		up[i] = uint64(i)
	}
	down := slices.Clone(up)
	slices.Reverse(down)
	var evenOdd []uint64
	for _, odd := range []uint64{0, 1} {
		for i := odd; i < 1000; i += 2 {
			evenOdd = append(evenOdd, i)
		}
	}
	any := slices.Clone(up)
	r := newRand(t)
	r.Shuffle(len(any), func(i, j int) { any[i], any[j] = any[j], any[i] })
	for name, order := range map[string][]uint64{"up": up, "down": down, "even, then odd": evenOdd, "shuffled": any} {
		for _, base := range []uint64{0, eof - 999} {
			t.Run(fmt.Sprintf("%s from %d", name, base), func(t *testing.T) {
				m := limited(t, sneck.Limits{LocksPerFile: -1})
				defer mustClose(t, m)
				a, b, c := posix("a"), ofd("b"), smb("c")
				for _, i := range order {
					for _, o := range []lock.Owner{a, b, c} {
						mustTry(t, m, o, s, span(base+i, base+i))
					}
				}
				all := span(base, base+999)
				mustEqual(t, "POSIX", facts(table(m, lock.Filter{Owner: &a})), []fact{{file, a, all, s}})
				mustEqual(t, "OFD", facts(table(m, lock.Filter{Owner: &b})), []fact{{file, b, all, s}})
				if n := len(table(m, lock.Filter{Owner: &c})); n != 1000 {
					t.Errorf("%d SMB locks, want 1000", n)
				}
				if n := m.Stats().Locks; n != 1002 {
					t.Errorf("Stats say %d locks, want 1002", n)
				}
			})
		}
	}
}

// A sub-range locked again leaves one mode on it, never both: other owners see
// the new one at once.
func TestOwnerRelockLeavesOneMode(t *testing.T) {
	m := memory(t)
	a, b := posix("a"), posix("b")
	draw(t, m, a, "wwwwwwwwww")
	draw(t, m, a, "...rrrr...")
	mustTry(t, m, b, s, span(3, 6))
	mustDeny(t, m, b, s, span(2, 3))
	mustDeny(t, m, b, s, span(6, 7))
	mustUnlock(t, m, b, span(3, 6))

	m = memory(t)
	draw(t, m, a, "rrrrrrrrrr")
	draw(t, m, a, "...wwww...")
	mustTry(t, m, b, s, span(0, 2))
	mustTry(t, m, b, s, span(7, 9))
	for i := uint64(3); i <= 6; i++ {
		if h := mustDeny(t, m, b, s, span(i, i)); h.Range != span(3, 6) || h.Mode != x {
			t.Errorf("byte %d is kept by %+v", i, h)
		}
	}
	// And an unlock of the sub-range leaves none.
	mustUnlock(t, m, a, span(3, 6))
	mustTry(t, m, b, x, span(3, 6))
}

// The middle unlocked, or replaced, leaves two locks with two ids, neither of
// them one that was given out for something else.
func TestOwnerSplitIDs(t *testing.T) {
	for name, cut := range map[string]string{"unlocked": "....uu....", "replaced": "....rr...."} {
		t.Run(name, func(t *testing.T) {
			m := memory(t)
			a := posix("a")
			h := mustTry(t, m, a, x, span(0, 9))
			other := mustTry(t, m, ofd("b"), x, span(1000, 1000))
			apply(t, m, a, cut)
			hs := table(m, lock.Filter{Owner: &a})
			compatible(t, append(slices.Clone(hs), other)) // no id twice
			if l, r := hs[0], hs[len(hs)-1]; l.ID == r.ID || l.Range != span(0, 3) || r.Range != span(6, 9) || !l.Since.Equal(h.Since) || !r.Since.Equal(h.Since) {
				t.Errorf("%+v", hs)
			}
			// Again and again: always another id.
			seen := map[lock.ID]bool{other.ID: true}
			mustTry(t, m, a, x, span(0, 99))
			for i := uint64(1); i < 90; i += 2 {
				mustUnlock(t, m, a, span(i, i))
			}
			for _, h := range table(m, lock.Filter{Owner: &a}) {
				if seen[h.ID] {
					t.Fatalf("id %d twice", h.ID)
				}
				seen[h.ID] = true
			}
		})
	}
}

// Every protocol conflicts with every other, in one table: all semantics of
// the holder, all of the requester, all modes, for another owner and for the
// same client and ID under other semantics, which is another owner.
// A POSIX or OFD owner never conflicts with itself.
func TestOwnerConflictMatrix(t *testing.T) {
	for _, hs := range allSemantics {
		for _, as := range allSemantics {
			for _, modes := range [][2]lock.Mode{{s, s}, {s, x}, {x, s}, {x, x}} {
				for _, name := range []string{"a", "b"} {
					holder, asker := owner(hs, "a"), owner(as, name)
					own := holder.Same(asker)
					want := modes[0].Conflicts(modes[1])
					if own {
						// Own shared may stack on own exclusive; own
						// exclusive on anything own conflicts (MS-FSA 2.1.5.8).
						want = hs == lock.SMB && modes[1] == x
					}
					t.Run(fmt.Sprintf("%s %s holds %s, %s %s asks for %s", hs, "a", modes[0], as, name, modes[1]), func(t *testing.T) {
						m := memory(t)
						h := mustTry(t, m, holder, modes[0], span(10, 19))
						before := table(m, lock.Filter{})
						for _, r := range []lock.Range{span(10, 19), span(0, 10), span(19, 30), span(12, 13), lock.WholeFile()} {
							if want {
								mustEqual(t, "the holder in the denial", mustDeny(t, m, asker, modes[1], r), h)
								mustEqual(t, "the table", table(m, lock.Filter{}), before)
							} else {
								m := memory(t)
								mustTry(t, m, holder, modes[0], span(10, 19))
								mustTry(t, m, asker, modes[1], r)
							}
							hit, found := m.Test(ask(asker, modes[1], r))
							if found != (want && !own) { // Test ignores own locks
								t.Errorf("Test of %s: %v, %+v", r, found, hit)
							}
						}
						mustTry(t, m, asker, modes[1], span(0, 9))
						mustTry(t, m, asker, modes[1], span(20, eof))
					})
				}
			}
		}
	}
}

// Owners are the same iff Client, ID and Semantics are; Share and PID are for
// display.
func TestOwnerIdentity(t *testing.T) {
	base := lock.Owner{Client: "c", ID: "i", Semantics: lock.POSIX, Share: "s", PID: 7}
	for name, tc := range map[string]struct {
		change func(*lock.Owner)
		same   bool
	}{
		"share":     {func(o *lock.Owner) { o.Share = "t" }, true},
		"no share":  {func(o *lock.Owner) { o.Share = "" }, true},
		"pid":       {func(o *lock.Owner) { o.PID = 8 }, true},
		"client":    {func(o *lock.Owner) { o.Client = "d" }, false},
		"id":        {func(o *lock.Owner) { o.ID = "j" }, false},
		"semantics": {func(o *lock.Owner) { o.Semantics = lock.OFD }, false},
		"shifted":   {func(o *lock.Owner) { o.Client, o.ID = "ci", "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory(t)
			mustTry(t, m, base, x, span(0, 9))
			o := base
			tc.change(&o)
			if got := m.HasOwner(file, o); got != tc.same {
				t.Errorf("HasOwner: %v", got)
			}
			if _, found := m.Test(ask(o, x, span(0, 9))); found == tc.same {
				t.Errorf("Test: %v", found)
			}
			mustBe(t, m.Unlock(bg, file, o, span(0, 4)), nil)
			if got := len(table(m, lock.Filter{Owner: &o})); (got == 1) != tc.same {
				t.Errorf("%d locks are its own", got)
			}
			want := span(0, 9)
			if tc.same {
				want = span(5, 9)
			}
			mustHold(t, m, fact{file, base, want, x}) // displayed as it was locked
		})
	}
}

// An adapter that needs a separate flock(2) space uses a separate FileKey:
// files know nothing of each other.
func TestOwnerFilesAreApart(t *testing.T) {
	m := memory(t)
	r := ask(posix("a"), x, lock.WholeFile())
	for _, f := range []lock.FileKey{"f", "f\x00flock", "F", "f "} {
		r.File, r.Owner = f, posix("owner of "+string(f))
		if _, err := m.TryLock(bg, r); err != nil {
			t.Fatal(err)
		}
	}
	if st := m.Stats(); st.Files != 4 || st.Locks != 4 || st.Clients != 4 {
		t.Errorf("%+v", st)
	}
	if n, err := m.ReleaseFile(bg, "f"); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n := m.Stats().Locks; n != 3 {
		t.Errorf("%d locks, want 3", n)
	}
}

// SMB handles: locks stack and never merge; an unlock needs the exact range,
// takes an exclusive one before a shared one, and one at a time.
// Source: MS-FSA 2.1.5.8, 2.1.5.9.
func TestOwnerSMBStack(t *testing.T) {
	m := memory(t)
	a, b := smb("a"), posix("b")
	r := span(10, 19)
	mustTry(t, m, a, x, r)
	first := mustTry(t, m, a, s, r)
	second := mustTry(t, m, a, s, r)
	mustTry(t, m, a, s, span(20, 29)) // adjacent: does not merge
	mustTry(t, m, a, s, span(15, 24)) // overlapping: does not merge
	mustHold(t, m,
		fact{file, a, r, x}, fact{file, a, r, s}, fact{file, a, r, s},
		fact{file, a, span(20, 29), s}, fact{file, a, span(15, 24), s})

	// Nothing but the exact range.
	before := table(m, lock.Filter{})
	for _, not := range []lock.Range{span(10, 18), span(11, 19), span(10, 20), span(9, 19), span(12, 13), span(10, 29), lock.WholeFile(), at(10), at(15)} {
		mustBe(t, m.Unlock(bg, file, a, not), lock.ErrNotFound)
	}
	mustBe(t, m.Unlock(bg, file, smb("other"), r), lock.ErrNotFound)
	mustBe(t, m.Unlock(bg, "other file", a, r), lock.ErrNotFound)
	mustEqual(t, "the table", table(m, lock.Filter{}), before)

	// The exclusive one goes first: readers of these bytes are let in then.
	mustDeny(t, m, b, s, span(10, 14))
	mustUnlock(t, m, a, r)
	mustTry(t, m, b, s, span(10, 14))
	mustUnlock(t, m, b, span(10, 14))
	// Of the shared ones the older one.
	mustUnlock(t, m, a, r)
	for _, h := range table(m, lock.Filter{}) {
		if h.ID == first.ID {
			t.Errorf("of %d and %d the younger one went", first.ID, second.ID)
		}
	}
	mustUnlock(t, m, a, r)
	mustBe(t, m.Unlock(bg, file, a, r), lock.ErrNotFound)
	mustHold(t, m, fact{file, a, span(20, 29), s}, fact{file, a, span(15, 24), s})
	mustRelease(t, 2)(m.ReleaseOwner(bg, file, a))
	mustEmpty(t, m)
}

// Own shared may stack on own exclusive; own exclusive on anything own
// conflicts, and the denial names the own lock. Source: MS-FSA 2.1.5.8.
func TestOwnerSMBExclusiveOnOwnConflicts(t *testing.T) {
	m := memory(t)
	a := smb("a")
	h := mustTry(t, m, a, s, span(10, 19))
	for _, r := range []lock.Range{span(10, 19), span(19, 19), span(0, 10), lock.WholeFile(), at(15)} {
		mustEqual(t, "the holder", mustDeny(t, m, a, x, r), h)
	}
	h = mustTry(t, m, a, x, span(20, 29))
	mustEqual(t, "the holder", mustDeny(t, m, a, x, span(20, 29)), h)
	mustTry(t, m, a, s, span(20, 29)) // shared on own exclusive stacks
	mustTry(t, m, a, s, span(25, 35))
	mustUnlock(t, m, a, span(20, 29)) // the exclusive one
	mustTry(t, m, smb("b"), s, span(20, 24))
	mustDeny(t, m, smb("b"), x, span(20, 24))
}

// Locks, by whatever filter, are each file's POSIX and OFD ranges first, then
// the SMB ones, each by first byte.
func TestOwnerFiltersAndOrder(t *testing.T) {
	m := memory(t)
	r := rand.New(rand.NewPCG(1, 2))
	var want []lock.Held
	for i := range 300 {
		o := owner(allSemantics[i%3], fmt.Sprint(i%7))
		o.Share = fmt.Sprint("share ", i%2)
		h, err := m.TryLock(bg, lock.Request{File: lock.FileKey(fmt.Sprint("f", i%5)), Owner: o, Mode: s, Range: span(uint64(2*r.IntN(10000)), uint64(20000))})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, h)
	}
	o := owner(lock.SMB, "3")
	for name, q := range map[string]lock.Filter{
		"all":              {},
		"file":             {File: "f3"},
		"client":           {Client: o.Client},
		"owner":            {Owner: &o},
		"share":            {Share: "share 1"},
		"file and client":  {File: "f3", Client: o.Client},
		"file and owner":   {File: "f1", Owner: &o},
		"client and share": {Client: o.Client, Share: "share 0"},
		"owner and client": {Owner: &o, Client: "client of 4"},
		"nobody":           {Client: "nobody"},
		"no file":          {File: "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			got := slices.Collect(m.Locks(q))
			var last lock.Held
			for i, h := range got {
				if i > 0 && h.File == last.File && (h.Owner.Semantics == lock.SMB) == (last.Owner.Semantics == lock.SMB) && h.Range.First() < last.Range.First() {
					t.Errorf("%+v comes before %+v", last, h)
				}
				if i > 0 && h.File == last.File && last.Owner.Semantics == lock.SMB && h.Owner.Semantics != lock.SMB {
					t.Errorf("SMB %+v comes before %+v", last, h)
				}
				last = h
				if !q.Match(h.File, h.Owner) {
					t.Errorf("%+v does not match", h)
				}
			}
			n := 0
			for _, h := range table(m, lock.Filter{}) {
				if q.Match(h.File, h.Owner) {
					n++
				}
			}
			if n != len(got) {
				t.Errorf("%d locks, want %d", len(got), n)
			}
			for range m.Locks(q) { // may be left
				break
			}
		})
	}
	if n := len(table(m, lock.Filter{})); n > len(want) || n != m.Stats().Locks {
		t.Errorf("%d locks of %d calls, Stats %+v", n, len(want), m.Stats())
	}
}
