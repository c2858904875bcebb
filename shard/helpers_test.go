package shard

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"sneck/interval"
	"sneck/lock"
)

// memJournal keeps records in memory, with the order that the contract asks
// for: a record's predecessor first, handed in or not.
type memJournal struct {
	mu  sync.Mutex
	log [][]byte
}

type memTicket struct {
	prev    *memTicket
	body    Body
	written bool
	done    chan struct{}
}

func (t *memTicket) Durable() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (j *memJournal) Record(after Ticket, b Body) Ticket {
	prev, _ := after.(*memTicket)
	return &memTicket{prev: prev, body: b, done: make(chan struct{})}
}

func (j *memJournal) Submit(t Ticket) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.write(t.(*memTicket))
}

func (j *memJournal) Wait(t Ticket) error {
	<-t.(*memTicket).done
	return nil
}

func (j *memJournal) write(t *memTicket) {
	if t == nil || t.written {
		return
	}
	j.write(t.prev)
	t.written = true
	j.log = append(j.log, t.body.AppendTo(nil))
	t.prev = nil
	close(t.done)
}

// replayed is a table made from the log.
func (j *memJournal) replayed(t testing.TB) *Table {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	out := New(1)
	for i, b := range j.log {
		if err := out.Replay(b, false); err != nil {
			t.Fatalf("record %d of %d: %v", i, len(j.log), err)
		}
	}
	return out
}

func newTable(j Journal) *Table {
	t := New(1)
	t.Begin(1, j)
	return t
}

func own(client, id string, s lock.Semantics) lock.Owner {
	return lock.Owner{Client: client, ID: id, Semantics: s}
}

func span(first, last uint64) lock.Range {
	r, err := lock.Bytes(first, last)
	if err != nil {
		panic(err)
	}
	return r
}

// dump prints a table, sorted, one line a lock or waiter.
func dump(t *Table) string {
	var out []string
	for h := range t.Locks(lock.Filter{}) {
		out = append(out, fmt.Sprintf("%q %v %v %v #%d since %d", h.File, h.Owner, h.Range, h.Mode, h.ID, h.Since.UnixMicro()))
	}
	for s := range t.Shares(lock.Filter{}) {
		out = append(out, fmt.Sprintf("%q %v has it open for %v and denies %v", s.File, s.Owner, s.Access, s.Deny))
	}
	slices.Sort(out)
	for w := range t.Waiters(lock.Filter{}) {
		out = append(out, fmt.Sprintf("%q %v waits for %v %v #%d", w.Request.File, w.Request.Owner, w.Request.Range, w.Request.Mode, w.ID))
	}
	return strings.Join(out, "\n")
}

// failer is a test, of rapid or not.
type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// check holds the state of one file against the invariants of the package.
func check(t failer, s *state) {
	t.Helper()
	var items []interval.Item
	ids := map[lock.ID]bool{}
	s.each(func(it *interval.Item) bool {
		if ids[it.ID()] {
			t.Fatalf("two locks have the id %d", it.ID())
		}
		ids[it.ID()] = true
		items = append(items, *it)
		return true
	})
	if len(items) != s.locks() {
		t.Fatalf("%d items, counted as %d", len(items), s.locks())
	}
	for i := range items {
		for k := range i {
			x, y := &items[i], &items[k]
			same := x.Owner().Is(y.Owner())
			// A merge of two ranges may enclose a zero-length one between them.
			zero := x.Range().IsEmpty() || y.Range().IsEmpty()
			if !same && !zero && x.Mode().Conflicts(y.Mode()) && x.Range().Overlaps(y.Range()) {
				t.Fatalf("invariant 2: %v %v %v and %v %v %v", x.Owner(), x.Mode(), x.Range(), y.Owner(), y.Mode(), y.Range())
			}
			if same && x.Owner().Semantics != lock.SMB && x.Range().Overlaps(y.Range()) {
				t.Fatalf("a POSIX owner's ranges overlap: %v and %v", x.Range(), y.Range())
			}
			if same && x.Owner().Semantics != lock.SMB && x.Mode() == y.Mode() &&
				(y.Last()+1 == x.First() || x.Last()+1 == y.First()) && x.First() > 0 && y.First() > 0 {
				t.Fatalf("a POSIX owner's ranges are not merged: %v and %v", x.Range(), y.Range())
			}
		}
	}
	for i, sh := range s.shares() {
		for _, other := range s.shares()[:i] {
			a, d := sh.all()
			b, e := other.all()
			if sh.owner.Is(other.owner) || a&e != 0 || b&d != 0 {
				t.Fatalf("share modes: %+v and %+v", sh, other)
			}
		}
	}
	for i, w := range s.queue {
		if s.conflict(w.owner, w.rng, w.mode) == nil && !s.anyBehind(w, s.queue[:i]) {
			t.Fatalf("invariant 3: %v could have %v %v", w.owner, w.mode, w.rng)
		}
		if i > 0 && s.queue[i-1].id >= w.id {
			t.Fatalf("the line is not in ticket order")
		}
	}
}

// checkAll checks every file of a table and its counters.
func checkAll(t failer, tb *Table) {
	t.Helper()
	locks, files, waiters, shares := 0, 0, 0, 0
	for i := range tb.shards {
		tb.shards[i].cells.Range(func(_ fileRef, c *cell) bool {
			s := c.state.Load()
			check(t, s)
			locks += s.locks()
			waiters += len(s.queue)
			shares += len(s.shares())
			if !s.empty() {
				files++
			}
			return true
		})
	}
	if st := tb.Stats(); st.Locks != locks || st.Files != files || st.Waiters != waiters || st.Shares != shares {
		t.Fatalf("counted %d locks, %d files, %d waiters; Stats say %+v", locks, files, waiters, st)
	}
}
