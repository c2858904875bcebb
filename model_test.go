package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"sneck"
	"sneck/lock"
)

// model is a lock table of one file with 12 bytes that is too slow and too
// simple to be wrong: what a POSIX or OFD owner holds is a mode per byte, what
// an SMB owner holds is a list. It knows no ranges, only bytes; the ranges of
// its table are the runs of bytes of one mode.
type model struct {
	file  lock.FileKey
	base  uint64 // of the first byte
	bytes map[lock.Owner]*[cells]lock.Mode
	stack map[lock.Owner][]entry // oldest first
	line  []waits
}

const cells = 12

// place is some of the 12 bytes, or the zero-length range before byte first.
type place struct {
	first, last int
	zero        bool
}

type entry struct {
	owner lock.Owner
	place place
	mode  lock.Mode
}

type waits struct {
	entry
	id   lock.ID
	came int // grows with each that comes, to whatever file
}

func newModel(base uint64) *model {
	return &model{file: file, base: base, bytes: make(map[lock.Owner]*[cells]lock.Mode), stack: make(map[lock.Owner][]entry)}
}

// clone is a copy that changes on its own.
func (md *model) clone() *model {
	c := newModel(md.base)
	c.file = md.file
	for o, b := range md.bytes {
		b := *b
		c.bytes[o] = &b
	}
	for o, st := range md.stack {
		c.stack[o] = slices.Clone(st)
	}
	c.line = slices.Clone(md.line)
	return c
}

// rng is where the place is in the file. From 0 on, the last byte of the model
// stands for all the rest of the file.
func (md *model) rng(p place) lock.Range {
	switch {
	case p.zero:
		return at(md.base + uint64(p.first))
	case md.base == 0 && p.last == cells-1:
		return span(uint64(p.first), eof)
	}
	return span(md.base+uint64(p.first), md.base+uint64(p.last))
}

func (p place) has(i int) bool { return !p.zero && p.first <= i && i <= p.last }

func (p place) overlaps(q place) bool {
	switch {
	case p.zero && q.zero:
		return false
	case p.zero:
		return q.has(p.first-1) && q.has(p.first)
	case q.zero:
		return q.overlaps(p)
	}
	for i := range cells {
		if p.has(i) && q.has(i) {
			return true
		}
	}
	return false
}

func (md *model) of(o lock.Owner) (es []entry) {
	if o.Semantics == lock.SMB {
		return md.stack[o]
	}
	b := md.bytes[o]
	if b == nil {
		return nil
	}
	for i := 0; i < cells; i++ {
		first := i
		for i+1 < cells && b[i+1] == b[first] {
			i++
		}
		if b[first] != 0 {
			es = append(es, entry{o, place{first, i, false}, b[first]})
		}
	}
	return es
}

func (md *model) all() (es []entry) {
	for o := range md.bytes {
		es = append(es, md.of(o)...)
	}
	for o := range md.stack {
		es = append(es, md.of(o)...)
	}
	return es
}

func (md *model) facts() []fact {
	var fs []fact
	for _, e := range md.all() {
		fs = append(fs, md.fact(e))
	}
	slices.SortFunc(fs, compareFacts)
	return fs
}

func (md *model) fact(e entry) fact { return fact{md.file, e.owner, md.rng(e.place), e.mode} }

// inTheWay is every lock that keeps e out.
func (md *model) inTheWay(e entry) (es []entry) {
	for _, h := range md.all() {
		own := h.owner == e.owner && (e.owner.Semantics != lock.SMB || e.mode == s)
		if !own && (h.mode == x || e.mode == x) && h.place.overlaps(e.place) {
			es = append(es, h)
		}
	}
	return es
}

func (md *model) denies(e entry, write bool) (es []entry) {
	if e.place.zero {
		return nil
	}
	for _, h := range md.all() {
		mandatory := h.owner.Semantics == lock.SMB || e.owner.Semantics == lock.SMB
		if mandatory && h.place.overlaps(e.place) && (h.mode == x && h.owner != e.owner || h.mode == s && write) {
			es = append(es, h)
		}
	}
	return es
}

func (md *model) set(o lock.Owner, p place, mode lock.Mode) {
	b := md.bytes[o]
	if b == nil {
		b = new([cells]lock.Mode)
		md.bytes[o] = b
	}
	for i := range cells {
		if p.has(i) {
			b[i] = mode
		}
	}
}

func (md *model) grant(e entry) {
	if e.owner.Semantics == lock.SMB {
		md.stack[e.owner] = append(md.stack[e.owner], e)
	} else {
		md.set(e.owner, e.place, e.mode)
	}
}

func (md *model) unlock(o lock.Owner, p place) bool {
	if o.Semantics != lock.SMB {
		md.set(o, p, 0)
		return true
	}
	for _, mode := range []lock.Mode{x, s} {
		for i, e := range md.stack[o] {
			if e.place == p && e.mode == mode {
				md.stack[o] = slices.Delete(slices.Clone(md.stack[o]), i, i+1)
				return true
			}
		}
	}
	return false
}

func (md *model) holdsAll(o lock.Owner, p place) bool {
	for i := range cells {
		if p.has(i) && (md.bytes[o] == nil || md.bytes[o][i] == 0) {
			return false
		}
	}
	return true
}

// rivals reports whether e and w are not for both of their owners at a time.
func rivals(e, w entry) bool {
	return e.owner != w.owner && (e.mode == x || w.mode == x) && e.place.overlaps(w.place)
}

// blocks reports whether something that o holds keeps w out.
func (md *model) blocks(o lock.Owner, w entry) bool {
	return slices.ContainsFunc(md.of(o), func(h entry) bool {
		return h.place.overlaps(w.place) && (h.mode == x || w.mode == x)
	})
}

// waitsFor reports whether the k-th in line waits for o, be it for the turn of
// another who does.
func (md *model) waitsFor(o lock.Owner, line []waits, k int) bool {
	if md.blocks(o, line[k].entry) {
		return true
	}
	for j := range k {
		if rivals(line[k].entry, line[j].entry) && !md.blocks(line[k].owner, line[j].entry) && md.waitsFor(o, line, j) {
			return true
		}
	}
	return false
}

// behind reports whether e has to stay behind the k-th of those before it: but
// not if that one waits for e's own owner.
func (md *model) behind(e entry, earlier []waits, k int) bool {
	return rivals(e, earlier[k].entry) && !md.waitsFor(e.owner, earlier, k)
}

func (md *model) mayGo(e entry, earlier []waits) bool {
	for k := range earlier {
		if md.behind(e, earlier, k) {
			return false
		}
	}
	return len(md.inTheWay(e)) == 0
}

// handOver grants whoever can go, always the first one in line.
func (md *model) handOver() (granted []lock.ID) {
	for i := 0; i < len(md.line); i++ {
		if w := md.line[i]; md.mayGo(w.entry, md.line[:i]) {
			md.line = slices.Delete(slices.Clone(md.line), i, i+1)
			md.grant(w.entry)
			granted = append(granted, w.id)
			i = -1
		}
	}
	return granted
}

// release lets go of the locks and waiters of all owners that match.
func (md *model) release(match func(lock.Owner) bool) (locks int) {
	for o := range md.bytes {
		if match(o) {
			locks += len(md.of(o))
			delete(md.bytes, o)
		}
	}
	for o := range md.stack {
		if match(o) {
			locks += len(md.of(o))
			delete(md.stack, o)
		}
	}
	md.line = slices.DeleteFunc(slices.Clone(md.line), func(w waits) bool { return match(w.owner) })
	return locks
}

// The owners of the model tests: two of each semantics, of two clients, and
// all six with the same ID but for one.
var modelOwners = func() (os []lock.Owner) {
	for _, sem := range allSemantics {
		os = append(os, lock.Owner{Client: "c", ID: "1", Semantics: sem}, lock.Owner{Client: "d", ID: "1", Semantics: sem})
	}
	return append(os, lock.Owner{Client: "c", ID: "2", Semantics: lock.POSIX})
}()

var (
	anyOwner = rapid.SampledFrom(modelOwners)
	anyMode  = rapid.SampledFrom([]lock.Mode{s, x})
	anyBase  = rapid.SampledFrom([]uint64{0, 1000, 1<<63 - 6, eof - cells + 1})
)

func anyPlace(t *rapid.T, o lock.Owner) place {
	if o.Semantics == lock.SMB && rapid.IntRange(0, 4).Draw(t, "zero") == 0 {
		return place{first: rapid.IntRange(0, cells-1).Draw(t, "at"), zero: true}
	}
	first := rapid.IntRange(0, cells-1).Draw(t, "first")
	return place{first: first, last: rapid.IntRange(first, cells-1).Draw(t, "last")}
}

func anyEntry(t *rapid.T) entry {
	o := anyOwner.Draw(t, "owner")
	return entry{o, anyPlace(t, o), anyMode.Draw(t, "mode")}
}

func (md *model) ask(e entry) lock.Request { return ask(e.owner, e.mode, md.rng(e.place)) }

// sameHolder fails unless h is the lock among those that begins first; found
// is whether there should be one at all.
func (md *model) sameHolder(t *rapid.T, what string, among []entry, h lock.Held, found bool) {
	t.Helper()
	if found != (len(among) > 0) {
		t.Fatalf("%s: found %v, %+v; want one of %+v", what, found, h, among)
	}
	first := uint64(eof)
	is := false
	for _, e := range among {
		first = min(first, md.rng(e.place).First())
		is = is || md.fact(e) == factOf(h)
	}
	if found && (!is || h.Range.First() != first || h.ID == 0) {
		t.Fatalf("%s: %+v is not the first of %+v", what, h, among)
	}
}

func (md *model) same(t *rapid.T, m *sneck.Manager) {
	t.Helper()
	hs := table(m, lock.Filter{File: file})
	if got, want := facts(hs), md.facts(); !slices.Equal(got, want) {
		t.Fatalf("the table has\n\t%v\nwant\n\t%v", got, want)
	}
	compatible(t, hs)
	if st := m.Stats(); st.Locks != len(hs) || st.Waiters != len(md.line) || (st.Files == 1) != (len(hs)+len(md.line) > 0) {
		t.Fatalf("%+v, with %d locks and %d in line", st, len(hs), len(md.line))
	}
}

// Random calls of POSIX, OFD and SMB owners give the answers, and the table,
// that 12 bytes give which are looked at one by one: from 0 with the rest of
// the file as one of them, in the middle, across 2^63 and up to 2^64-1.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := mustOpen(t, "")
		defer func() { _ = m.Close() }()
		md := newModel(anyBase.Draw(t, "base"))
		ended, cancel := context.WithCancel(bg)
		cancel() // with it, Lock and Upgrade do not wait

		// granted checks a call that locks, made on the table, against md.
		granted := func(t *rapid.T, e entry, h lock.Held, err error, waitFor error) {
			t.Helper()
			if hits := md.inTheWay(e); len(hits) > 0 {
				if waitFor != nil {
					mustBe(t, err, waitFor)
					return
				}
				var conflict *lock.ConflictError
				if !errors.As(err, &conflict) || conflict.Request != md.ask(e) {
					t.Fatalf("%+v, %v; want a ConflictError", h, err)
				}
				md.sameHolder(t, "denial", hits, conflict.Holder, true)
				return
			}
			if err != nil {
				t.Fatalf("%v; nothing is in the way", err)
			}
			md.grant(e)
			i := slices.IndexFunc(md.of(e.owner), func(f entry) bool {
				if e.owner.Semantics == lock.SMB {
					return f.place == e.place && f.mode == e.mode
				}
				return f.place.has(e.place.first)
			})
			if factOf(h) != md.fact(md.of(e.owner)[i]) || !slices.Contains(table(m, lock.Filter{}), h) {
				t.Fatalf("got %+v, want %+v as in the table", h, md.of(e.owner)[i])
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { md.same(t, m) },
			"TryLock": func(t *rapid.T) {
				e := anyEntry(t)
				h, err := m.TryLock(bg, md.ask(e))
				granted(t, e, h, err, nil)
			},
			"Lock": func(t *rapid.T) {
				e := anyEntry(t)
				h, err := m.Lock(ended, md.ask(e))
				granted(t, e, h, err, context.Canceled)
			},
			"Upgrade": func(t *rapid.T) {
				e := anyEntry(t)
				e.mode = x
				h, err := m.Upgrade(ended, file, e.owner, md.rng(e.place))
				switch {
				case e.owner.Semantics == lock.SMB:
					mustBe(t, err, lock.ErrInvalid)
				case !md.holdsAll(e.owner, e.place):
					mustBe(t, err, lock.ErrNotFound)
				default:
					granted(t, e, h, err, context.Canceled)
				}
			},
			"TryLockAll": func(t *rapid.T) {
				var es []entry
				var rs []lock.Request
				for range rapid.IntRange(1, 4).Draw(t, "requests") {
					es = append(es, anyEntry(t))
					rs = append(rs, md.ask(es[len(es)-1]))
				}
				hs, err := m.TryLockAll(bg, rs)
				after := md.clone()
				for i, e := range es {
					if hits := after.inTheWay(e); len(hits) > 0 {
						var conflict *lock.ConflictError
						if !errors.As(err, &conflict) || conflict.Request != rs[i] || hs != nil {
							t.Fatalf("%+v, %v; request %d should be refused", hs, err, i)
						}
						after.sameHolder(t, "denial", hits, conflict.Holder, true)
						return // md is as it was
					}
					after.grant(e)
				}
				if err != nil || len(hs) != len(es) {
					t.Fatalf("%+v, %v", hs, err)
				}
				md = after
			},
			"Unlock": func(t *rapid.T) {
				e := anyEntry(t)
				err := m.Unlock(bg, file, e.owner, md.rng(e.place))
				if md.unlock(e.owner, e.place) {
					mustBe(t, err, nil)
				} else {
					mustBe(t, err, lock.ErrNotFound)
				}
			},
			"Unlock of what is held": func(t *rapid.T) {
				held := table(m, lock.Filter{}) // in an order that does not vary
				if len(held) == 0 {
					t.Skip()
				}
				h := rapid.SampledFrom(held).Draw(t, "held")
				mustUnlock(t, m, h.Owner, h.Range)
				for _, e := range md.all() {
					if md.fact(e) == factOf(h) {
						md.unlock(e.owner, e.place)
						break
					}
				}
			},
			"Test": func(t *rapid.T) {
				e := anyEntry(t)
				hits := slices.DeleteFunc(md.inTheWay(e), func(h entry) bool { return h.owner == e.owner })
				h, found := m.Test(md.ask(e))
				md.sameHolder(t, "Test", hits, h, found)
			},
			"CheckIO": func(t *rapid.T) {
				o, write := anyOwner.Draw(t, "owner"), rapid.Bool().Draw(t, "write")
				p := anyPlace(t, smb("any")) // zero-length I/O is everybody's
				h, found := m.CheckIO(file, o, md.rng(p), write)
				md.sameHolder(t, "CheckIO", md.denies(entry{owner: o, place: p}, write), h, found)
			},
			"HasOwner": func(t *rapid.T) {
				o := anyOwner.Draw(t, "owner")
				if got, want := m.HasOwner(file, o), len(md.of(o)) > 0; got != want {
					t.Fatalf("HasOwner(%s): %v", o, got)
				}
			},
			"ReleaseOwner": func(t *rapid.T) {
				o := anyOwner.Draw(t, "owner")
				n, err := m.ReleaseOwner(bg, file, o)
				mustRelease(t, md.release(func(p lock.Owner) bool { return p == o }))(n, err)
			},
			"ReleaseClient": func(t *rapid.T) {
				if rapid.IntRange(0, 2).Draw(t, "really") > 0 {
					t.Skip() // or the table is always empty
				}
				c := rapid.SampledFrom([]string{"c", "d", "e"}).Draw(t, "client")
				n, err := m.ReleaseClient(bg, c)
				mustRelease(t, md.release(func(p lock.Owner) bool { return p.Client == c }))(n, err)
			},
			"ReleaseFile": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "really") > 0 {
					t.Skip()
				}
				n, err := m.ReleaseFile(bg, file)
				mustRelease(t, md.release(func(lock.Owner) bool { return true }))(n, err)
			},
		})
	})
}

// The same with a line: who is granted, and when, is what the 12 bytes give if
// after every call the first in line who can go is let go, as long as there is
// one. Nobody is ever left in line without anybody to wait for, or to wait for
// himself; and who is refused would have.
func TestModelOfTheLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			m := mustOpen(t, "")
			defer func() { _ = m.Close() }()
			md := newModel(anyBase.Draw(t, "base"))
			done := make(map[lock.ID]*queue)
			var past []*queue // whose done must not be called again
			came := 0
			// settle goes on until nobody can go and nobody waits for himself.
			settle := func(t *rapid.T, end error, gone ...lock.ID) {
				t.Helper()
				granted := md.handOver()
				synctest.Wait()
				told := make(map[lock.ID]*lock.DeadlockError)
				for id, q := range done {
					var d *lock.DeadlockError
					if q.ended.Load() && errors.As(q.err, &d) {
						told[id] = d
					}
				}
				err := world{md}.explain(told, nil, nil, func(after world, _, more []lock.ID) bool {
					for id, q := range done {
						if !slices.Contains(gone, id) && (q.ended.Load() && q.err == nil) != (slices.Contains(granted, id) || slices.Contains(more, id)) {
							return false
						}
					}
					md, granted = after[0], append(granted, more...)
					return true
				})
				if err != nil {
					t.Fatalf("%v\ngranted: %d", err, granted)
				}
				for id := range told {
					done[id].fails(t, lock.ErrDeadlock)
					past = append(past, done[id])
					delete(done, id)
				}
				for _, id := range granted {
					h := done[id].holds(t)
					if h.ID != id && h.Owner.Semantics == lock.SMB {
						t.Fatalf("waiter %d became %+v", id, h)
					}
				}
				for _, id := range gone {
					done[id].fails(t, end)
				}
				for _, id := range append(granted, gone...) {
					past = append(past, done[id])
					delete(done, id)
				}
				for id, q := range done {
					if q.ended.Load() {
						t.Fatalf("waiter %d got %+v, %v out of turn", id, q.held, q.err)
					}
				}
				for _, q := range past {
					mustEqual(t, "calls of done", q.calls.Load(), int32(1))
				}
			}
			t.Repeat(map[string]func(*rapid.T){
				"": func(t *rapid.T) {
					md.same(t, m)
					ws := slices.Collect(m.Waiters(lock.Filter{}))
					if len(ws) != len(md.line) {
						t.Fatalf("in line: %+v, want %+v", ws, md.line)
					}
					for i, w := range md.line {
						if ws[i].ID != w.id || ws[i].Request != md.ask(w.entry) || len(ws[i].Blockers) == 0 {
							t.Fatalf("in place %d: %+v, want %+v with blockers", i, ws[i], w)
						}
						want := make(map[lock.Owner]bool)
						for _, h := range md.inTheWay(w.entry) {
							want[h.owner] = true
						}
						for k, v := range md.line[:i] {
							if md.behind(w.entry, md.line[:i], k) {
								want[v.owner] = true
							}
						}
						for _, o := range ws[i].Blockers {
							if !want[o] {
								t.Fatalf("%+v does not wait for %s", ws[i], o)
							}
							delete(want, o)
						}
						if len(want) > 0 {
							t.Fatalf("%+v waits for %v too", ws[i], want)
						}
					}
				},
				"Enqueue": func(t *rapid.T) {
					e := anyEntry(t)
					q := enqueue(t, m, e.owner, e.mode, md.rng(e.place))
					done[q.id] = q
					came++
					md.line = append(md.line, waits{e, q.id, came})
					if n := len(md.line) - 1; !md.mayGo(e, md.line[:n]) {
						settle(t, nil)
						return
					}
					// It goes first, and then whom it let in.
					md.line = md.line[:len(md.line)-1]
					md.grant(e)
					q.holds(t)
					past = append(past, q)
					delete(done, q.id)
					settle(t, nil)
				},
				"Cancel": func(t *rapid.T) {
					if len(md.line) == 0 {
						t.Skip()
					}
					i := rapid.IntRange(0, len(md.line)-1).Draw(t, "place")
					id := md.line[i].id
					if !m.Cancel(id) {
						t.Fatalf("%d is not in line", id)
					}
					md.line = slices.Delete(slices.Clone(md.line), i, i+1)
					settle(t, lock.ErrCanceled, id)
					if m.Cancel(id) {
						t.Fatalf("%d was cancelled twice", id)
					}
				},
				"TryLock": func(t *rapid.T) {
					e := anyEntry(t)
					_, err := m.TryLock(bg, md.ask(e))
					if len(md.inTheWay(e)) > 0 {
						mustBe(t, err, lock.ErrConflict)
					} else {
						mustBe(t, err, nil)
						md.grant(e)
					}
					settle(t, nil)
				},
				"TryLockAll": func(t *rapid.T) {
					e, f := anyEntry(t), anyEntry(t)
					_, err := m.TryLockAll(bg, []lock.Request{md.ask(e), md.ask(f)})
					after := md.clone()
					fits := len(after.inTheWay(e)) == 0
					after.grant(e)
					if fits = fits && len(after.inTheWay(f)) == 0; fits {
						after.grant(f)
						md = after
						mustBe(t, err, nil)
					} else {
						mustBe(t, err, lock.ErrConflict)
					}
					settle(t, nil)
				},
				"Unlock": func(t *rapid.T) {
					held := table(m, lock.Filter{})
					if len(held) == 0 {
						t.Skip()
					}
					h := rapid.SampledFrom(held).Draw(t, "held")
					e := md.find(factOf(h))
					p := e.place
					if !p.zero && e.owner.Semantics != lock.SMB {
						p.first = rapid.IntRange(p.first, p.last).Draw(t, "first")
						p.last = rapid.IntRange(p.first, p.last).Draw(t, "last")
					}
					mustUnlock(t, m, e.owner, md.rng(p))
					md.unlock(e.owner, p)
					settle(t, nil)
				},
				"ReleaseOwner": func(t *rapid.T) {
					o := anyOwner.Draw(t, "owner")
					gone := md.lineOf(func(p lock.Owner) bool { return p == o })
					n, err := m.ReleaseOwner(bg, file, o)
					mustRelease(t, md.release(func(p lock.Owner) bool { return p == o }))(n, err)
					settle(t, lock.ErrReleased, gone...)
				},
				"ReleaseClient": func(t *rapid.T) {
					if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
						t.Skip()
					}
					c := rapid.SampledFrom([]string{"c", "d"}).Draw(t, "client")
					gone := md.lineOf(func(p lock.Owner) bool { return p.Client == c })
					n, err := m.ReleaseClient(bg, c)
					mustRelease(t, md.release(func(p lock.Owner) bool { return p.Client == c }))(n, err)
					settle(t, lock.ErrReleased, gone...)
				},
			})
			mustClose(t, m)
			synctest.Wait()
			for _, q := range done {
				q.fails(t, lock.ErrClosed)
			}
		})
	})
}

func (md *model) find(f fact) entry {
	for _, e := range md.all() {
		if md.fact(e) == f {
			return e
		}
	}
	panic(fmt.Sprint("the model does not hold ", f))
}

func (md *model) lineOf(match func(lock.Owner) bool) (ids []lock.ID) {
	for _, w := range md.line {
		if match(w.owner) {
			ids = append(ids, w.id)
		}
	}
	return ids
}
