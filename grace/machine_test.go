package grace

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sneck/lock"
)

var t0 = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// model is the machine as naively as can be: it remembers everything that was
// called, and works out from that how things stand.
type model struct {
	start       time.Time
	period      time.Duration
	expected    []string
	complete    []string
	unconfirmed int
	over        bool
	reason      Reason
}

func (m *model) active() bool { return !m.over }

func (m *model) sorted(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}

// settle ends the model for the reason, if that holds; true if it did.
func (m *model) settle(holds bool, r Reason) bool {
	if m.over || !holds {
		return false
	}
	m.over, m.reason = true, r
	return true
}

func (m *model) allComplete() bool {
	for _, c := range m.expected {
		if !slices.Contains(m.complete, c) {
			return false
		}
	}
	return len(m.expected) > 0
}

// Invariants 1 to 5.
func TestAgainstModel(t *testing.T) {
	names := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"})
	rapid.Check(t, func(rt *rapid.T) {
		now := t0
		mo := &model{
			start: now, period: time.Duration(rapid.IntRange(-1, 20).Draw(rt, "period")) * time.Second,
			expected: rapid.SliceOfN(names, 0, 4).Draw(rt, "expected"), unconfirmed: rapid.IntRange(-1, 5).Draw(rt, "unconfirmed"),
		}
		m := Start(now, mo.period, mo.expected, mo.unconfirmed)
		mo.over = mo.period <= 0 || mo.unconfirmed <= 0
		began := !mo.over
		mo.unconfirmed = max(mo.unconfirmed, 0)
		ends := 0
		for range rapid.IntRange(0, 30).Draw(rt, "steps") {
			var got, want bool
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0, 1, 2, 3:
				c := names.Draw(rt, "client")
				if mo.active() {
					mo.complete = append(mo.complete, c)
				}
				got, want = m.Complete(c), slices.Contains(mo.expected, c) && mo.settle(mo.allComplete(), Completed)
			case 4, 5, 6:
				mo.unconfirmed = rapid.IntRange(0, 3).Draw(rt, "left")
				got, want = m.Unconfirmed(mo.unconfirmed), mo.settle(mo.unconfirmed == 0, Reclaimed)
			case 7, 8:
				now = now.Add(time.Duration(rapid.IntRange(-2, 5).Draw(rt, "passed")) * time.Second)
				got, want = m.Tick(now), mo.settle(now.Sub(mo.start) >= mo.period, Expired)
			case 9:
				got, want = m.End(), mo.settle(true, Ended)
			}
			if got {
				ends++
			}
			if got != want || m.Active() != mo.active() || m.Reason() != mo.reason {
				rt.Fatalf("ended %v, active %v, %v; want %v, %v, %v", got, m.Active(), m.Reason(), want, mo.active(), mo.reason)
			}
			c := names.Draw(rt, "who reclaims")
			var wantErr error
			if !mo.active() {
				wantErr = lock.ErrNoGrace
			} else if slices.Contains(mo.complete, c) {
				wantErr = lock.ErrReclaimBad
			}
			if err := m.MayReclaim(c); !errors.Is(err, wantErr) {
				rt.Fatalf("may %q reclaim: %v, want %v", c, err, wantErr)
			}
			s := m.Status(now)
			if s.Active != mo.active() || s.Unconfirmed != mo.unconfirmed || !slices.Equal(s.Expected, mo.sorted(mo.expected)) || !slices.Equal(s.Complete, mo.sorted(mo.complete)) {
				rt.Fatalf("%+v of %+v", s, mo)
			}
			remaining, deadline := time.Duration(0), time.Time{}
			if mo.active() {
				deadline = mo.start.Add(mo.period)
				remaining = max(mo.period-now.Sub(mo.start), 0)
			}
			if s.Remaining != remaining || !m.Deadline().Equal(deadline) {
				rt.Fatalf("%v until %v, want %v until %v", s.Remaining, m.Deadline(), remaining, deadline)
			}
		}
		if active := m.Active(); ends > 1 || ends == 1 && active || began && ends == 0 && !active || !began && (active || ends > 0) {
			rt.Fatalf("it ended %d times; active at the begin %v, at the end %v", ends, began, active)
		}
	})
}

// Invariant 2: each way to end, and its name in the log.
func TestReasons(t *testing.T) {
	for want, f := range map[string]func(*Machine) bool{
		"reclaimed": func(m *Machine) bool { return m.Unconfirmed(0) },
		"complete":  func(m *Machine) bool { return m.Complete("a") || m.Complete("b") },
		"expired":   func(m *Machine) bool { return m.Tick(t0.Add(time.Minute)) },
		"ended":     (*Machine).End,
	} {
		m := Start(t0, time.Minute, []string{"a", "b"}, 3)
		if m.Tick(t0.Add(time.Minute-1)) || m.Reason().String() != "not ended" {
			t.Fatalf("%s: it has ended before", want)
		}
		if !f(m) || m.Reason().String() != want {
			t.Errorf("%s: %v", want, m.Reason())
		}
		if f(m) || m.Complete("a") || m.Unconfirmed(0) || m.Tick(t0.Add(time.Hour)) || m.End() {
			t.Errorf("%s: it ends again", want)
		}
	}
	if s := Reason(9).String(); s != "Reason(9)" {
		t.Error(s)
	}
}

// Invariant 3: what somebody unknown says does not end the grace of locks whose
// clients nobody has named.
func TestNobodyExpected(t *testing.T) {
	m := Start(t0, time.Minute, nil, 1)
	if m.Complete("x") || !m.Active() {
		t.Fatal("it ended")
	}
	if err := m.MayReclaim("x"); !errors.Is(err, lock.ErrReclaimBad) {
		t.Fatal(err)
	}
	if !m.Unconfirmed(0) {
		t.Fatal("it did not end")
	}
}

// Invariant 4: a client that is complete stays so, and the others go on.
func TestReclaimAfterComplete(t *testing.T) {
	m := Start(t0, time.Minute, []string{"a", "b"}, 2)
	if m.Complete("a") || m.Complete("a") {
		t.Fatal("it ended while b is not complete")
	}
	if err := m.MayReclaim("a"); !errors.Is(err, lock.ErrReclaimBad) {
		t.Fatal(err)
	}
	if err := m.MayReclaim("b"); err != nil {
		t.Fatal(err)
	}
	if !m.Complete("b") {
		t.Fatal("it goes on")
	}
	for _, c := range []string{"a", "b", "c"} {
		if err := m.MayReclaim(c); !errors.Is(err, lock.ErrNoGrace) || errors.Is(err, lock.ErrReclaimBad) {
			t.Fatal(err)
		}
	}
}

// Invariant 5.
func TestNoGrace(t *testing.T) {
	for _, c := range []struct {
		period      time.Duration
		unconfirmed int
	}{{0, 1}, {-time.Second, 1}, {time.Minute, 0}, {time.Minute, -1}} {
		m := Start(t0, c.period, []string{"a"}, c.unconfirmed)
		if m.Active() || m.Complete("a") || m.Unconfirmed(0) || m.Tick(t0.Add(time.Hour)) || m.End() || m.Reason() != NotEnded {
			t.Errorf("%+v: there is grace, or it ends", c)
		}
	}
}

// What Status returns is the caller's.
func TestStatusIsACopy(t *testing.T) {
	expected := []string{"b", "a", "b"}
	m := Start(t0, time.Minute, expected, 1)
	m.Complete("b")
	expected[0] = "z"
	s := m.Status(t0)
	s.Expected[0], s.Complete[0] = "x", "y"
	if got := fmt.Sprint(m.Status(t0.Add(time.Hour))); got != "{true 0s [a b] [b] 1}" {
		t.Fatal(got)
	}
}

// A step of the wall clock changes nothing where times have a monotonic reading.
func TestMonotonic(t *testing.T) {
	now := time.Now()
	m := Start(now, time.Minute, nil, 1)
	if got := m.Deadline().Sub(now); got != time.Minute {
		t.Fatal(got)
	}
	if wall := m.Deadline().Round(0); wall == m.Deadline() {
		t.Fatal("the deadline has no monotonic reading")
	}
}

// Very long periods do not wrap.
func TestLongPeriod(t *testing.T) {
	m := Start(t0, 1<<63-1, nil, 1)
	if m.Tick(t0.Add(1000*time.Hour)) || m.Status(t0).Remaining <= 0 {
		t.Fatal(m.Status(t0))
	}
}
