package conn

import (
	"fmt"
	"testing"
	"time"

	"sneck/lock"
)

var t0 = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// sec is n seconds after t0.
func sec(n int) time.Time { return t0.Add(time.Duration(n) * time.Second) }

// failer is a test, of rapid or not.
type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// check holds a table against the invariants of the package. It may be called
// while the table is used.
func check(t failer, tb *Table) {
	t.Helper()
	if err := tb.check(); err != nil {
		t.Fatalf("%v", err)
	}
}

func (t *Table) check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	queued, connected, known := 0, 0, 0
	by := map[*adapter]int{}
	var err error
	bad := func(s *Session, format string, args ...any) {
		err = fmt.Errorf("generation %d of %q: %s", s.generation, s.record.Load().ID, fmt.Sprintf(format, args...))
	}
	t.sessions.Range(func(id, v any) bool {
		s := v.(*Session)
		known++
		v0 := s.pulse.Load()
		state := min(v0, alive)
		switch {
		case id != s.record.Load().ID:
			bad(s, "it is found as %q", id)
		case state == over:
			bad(s, "invariant 2: it is over and found")
		case state == alive && s.gone || state == disconnected && !s.gone:
			bad(s, "invariant 1: state %d, gone %v", state, s.gone)
		case s.generation == 0 || s.generation > s.seq || s.seq > t.seq:
			bad(s, "invariant 6: generation %d, change %d of %d", s.generation, s.seq, t.seq)
		}
		if state == alive {
			connected++
			by[s.adapter]++
		}
		deadline, has := s.deadline(v0)
		if s.queued {
			queued++
			if u, ok := t.deadlines.Get(s); !ok || u != s {
				bad(s, "invariant 3: it is not in the tree")
			}
		}
		if s.queued != has || has && s.filed > deadline {
			bad(s, "invariant 3: in the tree %v, under %d; deadline %v, at %d", s.queued, s.filed, has, deadline)
		}
		return err == nil
	})
	switch {
	case err != nil:
		return err
	case queued != t.deadlines.Len():
		return fmt.Errorf("invariant 3: %d sessions, %d in the tree", queued, t.deadlines.Len())
	case connected != t.connected || known != t.known:
		return fmt.Errorf("invariant 4: %d connected of %d known, counted as %d of %d", connected, known, t.connected, t.known)
	}
	for _, a := range t.adapters {
		if a.connected != by[a] || a.MaxConnections > 0 && a.connected > a.MaxConnections {
			return fmt.Errorf("invariant 4: %d connected, counted as %d, of %d", by[a], a.connected, a.MaxConnections)
		}
	}
	return nil
}

func connect(t testing.TB, tb *Table, c lock.Client, now time.Time) *Session {
	t.Helper()
	s, _, err := tb.Connect(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
