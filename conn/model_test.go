package conn

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sneck/lock"
)

var modelAdapters = map[string]Adapter{
	"nlm":  {MaxConnections: 2, TTL: 5 * time.Second},
	"nfs4": {MaxConnections: 2, TTL: 4 * time.Second, Courtesy: true},
	"smb":  {},
	"fuse": {Courtesy: true, MaxConnections: 1},
}

// life is a session as naively as can be.
type life struct {
	c         lock.Client // as connected with
	gen, seq  uint64
	connected bool
	courteous bool
	gone      bool // disconnected, or was before it became courteous
	deadline  time.Time
	seen      time.Time
	s         *Session
}

func (l *life) ttl() time.Duration {
	if l.c.TTL > 0 {
		return l.c.TTL
	}
	return modelAdapters[l.c.Adapter].TTL
}

// touch renews its deadline, if it has one.
func (l *life) touch(now time.Time) {
	if l.seen.Before(now) {
		l.seen = now
	}
	if ttl := l.ttl(); ttl > 0 {
		if l.connected {
			l.deadline = l.seen.Add(ttl)
		} else if d := now.Add(ttl); d.After(l.deadline) {
			l.deadline = d
		}
	} else if l.connected {
		l.deadline = time.Time{}
	}
}

// machine drives a table and a model of it.
type machine struct {
	rt    *rapid.T
	now   time.Time
	tb    *Table
	alive map[string]*life
	seq   uint64
	over  []*Session
	log   []Change
	shots [][]Change // snapshots
	since []int      // of the log, when each was taken
}

func (m *machine) count(adapter string) (n int) {
	for _, l := range m.alive {
		if l.connected && l.c.Adapter == adapter {
			n++
		}
	}
	return n
}

func (m *machine) full(adapter string) bool {
	limit := modelAdapters[adapter].MaxConnections
	return limit > 0 && m.count(adapter) >= limit
}

// logged expects c to be the next change.
func (m *machine) logged(c Change, what What, l *life) {
	m.rt.Helper()
	if what == Nothing {
		if !c.IsZero() || c != (Change{}) {
			m.rt.Fatalf("%+v is to be logged", c)
		}
		return
	}
	m.seq++
	if what == Began {
		l.gen = m.seq
	}
	l.seq = m.seq
	want := Change{What: what, Seq: m.seq, Generation: l.gen, Client: l.c}
	if what == Ended {
		want.Client = lock.Client{ID: l.c.ID}
	}
	if c != want {
		m.rt.Fatalf("%+v, want %+v", c, want)
	}
	m.log = append(m.log, c)
}

func (m *machine) ended(l *life) {
	delete(m.alive, l.c.ID)
	m.over = append(m.over, l.s)
}

var ids = []string{"a", "b", "c", "d", "e"}

func (m *machine) connect() {
	c := lock.Client{
		ID: rapid.SampledFrom(ids).Draw(m.rt, "client"), Adapter: rapid.SampledFrom([]string{"nlm", "nfs4", "smb", "fuse", "?"}).Draw(m.rt, "adapter"),
		Addr: rapid.SampledFrom([]string{"here", "there"}).Draw(m.rt, "address"), TTL: time.Duration(rapid.SampledFrom([]int{0, 0, 3, 8}).Draw(m.rt, "ttl")) * time.Second,
		LastSeen: t0, Locks: 7, // output: not looked at
	}
	l := m.alive[c.ID]
	if l != nil && rapid.IntRange(0, 5).Draw(m.rt, "another adapter") > 0 {
		c.Adapter = l.c.Adapter
	}
	s, change, err := m.tb.Connect(c, m.now)
	c.LastSeen, c.Locks = time.Time{}, 0
	if l != nil && l.c.Adapter != c.Adapter {
		if !errors.Is(err, lock.ErrInvalid) {
			m.rt.Fatalf("%q comes by %q: %v", c.ID, c.Adapter, err)
		}
		m.logged(change, Nothing, nil)
		return
	}
	if (l == nil || !l.connected) && m.full(c.Adapter) {
		var limit *lock.LimitError
		if !errors.As(err, &limit) || !errors.Is(err, lock.ErrConnectionLimit) || limit.Limit != modelAdapters[c.Adapter].MaxConnections {
			m.rt.Fatalf("%q is full: %v", c.Adapter, err)
		}
		m.logged(change, Nothing, nil)
		return
	}
	if err != nil {
		m.rt.Fatalf("%+v: %v", c, err)
	}
	what := Nothing
	switch {
	case l == nil:
		what, l = Began, &life{s: s}
		m.alive[c.ID] = l
	case l.s != s:
		m.rt.Fatalf("invariant 2: %q has another session", c.ID)
	case l.c != c:
		what = Updated
	}
	l.c, l.connected, l.courteous, l.gone = c, true, false, false
	l.touch(m.now)
	m.logged(change, what, l)
}

func (m *machine) renew() {
	id := rapid.SampledFrom(ids).Draw(m.rt, "client")
	l, err := m.alive[id], m.tb.Renew(id, m.now)
	if l == nil {
		if !errors.Is(err, lock.ErrUnknownClient) || !strings.Contains(err.Error(), id) {
			m.rt.Fatalf("%q is not there: %v", id, err)
		}
		return
	}
	if err != nil {
		m.rt.Fatalf("%q: %v", id, err)
	}
	if l.courteous {
		l.courteous, l.deadline = false, time.Time{}
		l.connected = !l.gone && !m.full(l.c.Adapter)
		l.gone = !l.connected
	}
	l.touch(m.now)
}

func (m *machine) disconnect() {
	id := rapid.SampledFrom(ids).Draw(m.rt, "client")
	l := m.alive[id]
	s, release, change, err := m.tb.Disconnect(id, m.now)
	if l == nil {
		if !errors.Is(err, lock.ErrUnknownClient) || s != nil || release {
			m.rt.Fatalf("%q is not there: %v", id, err)
		}
		return
	}
	if err != nil || s != l.s || release != (l.ttl() == 0) {
		m.rt.Fatalf("%q: %v, release %v, TTL %v", id, err, release, l.ttl())
	}
	if release {
		m.ended(l)
		m.logged(change, Ended, l)
		return
	}
	m.logged(change, Nothing, nil)
	if l.connected {
		l.connected, l.deadline = false, m.now.Add(l.ttl())
	}
	l.gone = true
}

func (m *machine) expire() {
	over, courteous, changes := m.tb.Expire(m.now)
	var late, polite []*life
	for _, l := range m.alive {
		if l.deadline.IsZero() || l.courteous || l.deadline.After(m.now) {
			continue
		}
		if modelAdapters[l.c.Adapter].Courtesy && l.ttl() > 0 {
			polite = append(polite, l)
		} else {
			late = append(late, l)
		}
	}
	if len(over) != len(late) || len(courteous) != len(polite) || len(changes) != len(late) {
		m.rt.Fatalf("%d over and %d courteous, %d changes; want %d and %d", len(over), len(courteous), len(changes), len(late), len(polite))
	}
	for _, ls := range [][]*life{late, polite} { // in the order of deadlines, then of generations
		slices.SortFunc(ls, func(l, k *life) int { return cmp.Or(l.deadline.Compare(k.deadline), cmp.Compare(l.gen, k.gen)) })
	}
	for i, l := range late {
		if over[i] != l.s {
			m.rt.Fatalf("over as number %d is %+v, want %+v", i, over[i].Client(), l.c)
		}
		m.ended(l)
		m.logged(changes[i], Ended, l)
	}
	for i, l := range polite {
		if courteous[i] != l.s {
			m.rt.Fatalf("courteous as number %d is %+v, want %+v", i, courteous[i].Client(), l.c)
		}
		l.courteous, l.connected = true, false
	}
	if next, ok := m.tb.Next(); ok && !next.After(m.now) {
		m.rt.Fatalf("at %v Expire left something to do at %v", m.now, next)
	}
}

func (m *machine) evict() {
	lives := slices.SortedFunc(maps.Values(m.alive), func(l, k *life) int { return strings.Compare(l.c.ID, k.c.ID) })
	sessions := append(slices.Clone(m.over), nil, New(nil).session(&lock.Client{ID: "a"}, new(adapter), 1))
	for _, l := range lives {
		sessions = append(sessions, l.s)
	}
	s := rapid.SampledFrom(sessions).Draw(m.rt, "session")
	i := slices.IndexFunc(lives, func(l *life) bool { return l.s == s })
	gently := rapid.Bool().Draw(m.rt, "if courteous")
	f := m.tb.Evict
	if gently {
		f = m.tb.EvictCourteous
	}
	change, ended := f(s)
	if want := i >= 0 && (!gently || lives[i].courteous); ended != want {
		m.rt.Fatalf("ended %v, want %v", ended, want)
	}
	if !ended {
		m.logged(change, Nothing, nil)
		return
	}
	m.ended(lives[i])
	m.logged(change, Ended, lives[i])
}

func (m *machine) snapshot() {
	var cs []Change
	if err := m.tb.Snapshot(func(c Change) error { cs = append(cs, c); return nil }); err != nil {
		m.rt.Fatalf("%v", err)
	}
	m.shots, m.since = append(m.shots, cs), append(m.since, len(m.log))
}

// restart gives up the table for one that the log makes: invariants 6 and 7.
func (m *machine) restart() {
	rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(m.rt, "order")))
	shuffled := func(cs []Change) []Change {
		cs = slices.Clone(cs)
		for i := range len(cs) / 2 { // some twice
			if rng.IntN(3) == 0 {
				cs = append(cs, cs[i])
			}
		}
		rng.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
		return cs
	}
	first, rest := []Change(nil), m.log
	if i := rapid.IntRange(-1, len(m.shots)-1).Draw(m.rt, "snapshot"); i >= 0 {
		first, rest = m.shots[i], nil
		for _, c := range m.log[:m.since[i]] { // on their way to the log when it was taken
			if rng.IntN(2) == 0 {
				rest = append(rest, c)
			}
		}
		rest = append(rest, m.log[m.since[i]:]...)
	}
	m.tb = New(modelAdapters)
	for _, c := range append(slices.Clone(first), shuffled(rest)...) {
		if err := m.tb.Replay(c.AppendTo(nil)); err != nil {
			m.rt.Fatalf("%+v: %v", c, err)
		}
	}
	grace := time.Duration(rapid.IntRange(-1, 4).Draw(m.rt, "grace")) * time.Second
	m.tb.Begin(m.now, grace)
	m.tb.Begin(m.now.Add(time.Hour), time.Hour) // not any more
	for id, l := range m.alive {
		l.s = m.tb.Lookup(id)
		l.connected, l.courteous, l.gone, l.seen = false, false, true, time.Time{}
		l.deadline = m.now.Add(max(grace, l.ttl(), 0))
	}
}

// compare holds the table against the model.
func (m *machine) compare() {
	rt := m.rt
	rt.Helper()
	check(rt, m.tb)
	want := map[string][]lock.Client{}
	connected, next := 0, time.Time{}
	for _, id := range ids {
		s, l := m.tb.Lookup(id), m.alive[id]
		if l == nil {
			if s != nil {
				rt.Fatalf("invariant 2: %q is found", id)
			}
			continue
		}
		if s != l.s || s == nil || s.Over() || s.Generation() != l.gen || s.Connected() != l.connected || s.Courteous() != l.courteous {
			rt.Fatalf("%q: want %+v", id, l)
		}
		c := l.c
		c.TTL, c.LastSeen = l.ttl(), l.seen
		if s.Client() != c {
			rt.Fatalf("%+v, want %+v", s.Client(), c)
		}
		want[""], want[c.Adapter] = append(want[""], c), append(want[c.Adapter], c)
		if l.connected {
			connected++
		}
		if !l.courteous && !l.deadline.IsZero() && (next.IsZero() || l.deadline.Before(next)) {
			next = l.deadline
		}
	}
	for _, a := range []string{"", "nlm", "smb", "nobody's"} {
		if got := slices.Collect(m.tb.Clients(a)); !slices.Equal(got, want[a]) {
			rt.Fatalf("clients of %q: %+v, want %+v", a, got, want[a])
		}
	}
	if c, k := m.tb.Count(); c != connected || k != len(m.alive) {
		rt.Fatalf("invariant 4: %d of %d, want %d of %d", c, k, connected, len(m.alive))
	}
	if at, ok := m.tb.Next(); ok != !next.IsZero() || ok && at.After(next) {
		rt.Fatalf("next is at %v, %v; want no later than %v", at, ok, next)
	}
	for _, s := range m.over {
		if !s.Over() || s.Connected() || s.Courteous() {
			rt.Fatalf("invariant 1: %+v was over", s.Client())
		}
	}
}

// All sequences of calls, restarts too: invariants 1 to 7.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{rt: rt, now: t0, tb: New(modelAdapters), alive: map[string]*life{}}
		step := func(f func()) func(*rapid.T) {
			return func(*rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 1, 2, 3, -1}).Draw(rt, "passed")) * time.Second)
				f()
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"connect": step(m.connect), "connect2": step(m.connect), "connect3": step(m.connect),
			"renew": step(m.renew), "renew2": step(m.renew), "disconnect": step(m.disconnect), "evict": step(m.evict),
			"expire": step(m.expire), "expire2": step(m.expire), "snapshot": step(m.snapshot), "restart": step(m.restart),
			"": func(*rapid.T) { m.compare() },
		})
	})
}

func (l *life) String() string { return fmt.Sprintf("%+v", *l) }
