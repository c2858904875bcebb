package conn

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sneck/lock"
)

func TestConnectRefusesNonsense(t *testing.T) {
	long := strings.Repeat("x", lock.MaxOwnerField+1)
	tb := New(nil)
	for field, c := range map[string]lock.Client{
		"Client.ID":      {},
		"Client.Adapter": {ID: "a", Adapter: long},
		"Client.Addr":    {ID: "a", Addr: long},
		"Client.TTL":     {ID: "a", TTL: -1},
	} {
		_, change, err := tb.Connect(c, t0)
		var invalid *lock.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != field || !change.IsZero() {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, _, err := tb.Connect(lock.Client{ID: long}, t0); !errors.Is(err, lock.ErrInvalid) {
		t.Error(err)
	}
	if _, known := tb.Count(); known != 0 {
		t.Error("it is there")
	}
	connect(t, tb, lock.Client{ID: long[1:], Adapter: long[1:], Addr: long[1:]}, t0)
}

// Invariant 2: a client that comes back within its TTL, from another address too,
// keeps everything; what was pending does not happen.
func TestComesBackWithinTTL(t *testing.T) {
	tb := New(map[string]Adapter{"nlm": {TTL: 10 * time.Second}})
	s := connect(t, tb, lock.Client{ID: "a", Adapter: "nlm", Addr: "here"}, sec(0))
	if _, release, _, err := tb.Disconnect("a", sec(1)); release || err != nil {
		t.Fatal(release, err)
	}
	again, change, err := tb.Connect(lock.Client{ID: "a", Adapter: "nlm", Addr: "there"}, sec(10))
	if again != s || err != nil || change.What != Updated || change.Client.Addr != "there" {
		t.Fatal(again, change, err)
	}
	if over, courteous, changes := tb.Expire(sec(11)); over != nil || courteous != nil || changes != nil {
		t.Fatal("the pending release fires")
	}
	if over, _, changes := tb.Expire(sec(20)); len(over) != 1 || over[0] != s || !s.Over() || changes[0].What != Ended || changes[0].Generation != s.Generation() {
		t.Fatal(over, changes)
	}
	later := connect(t, tb, lock.Client{ID: "a", Adapter: "nlm"}, sec(20))
	if later == s || later.Generation() <= s.Generation() || !s.Over() {
		t.Fatal("invariant 6: a session that was over goes on")
	}
}

// A client without a TTL may be silent for ever, and goes at once on Disconnect,
// also where there is courtesy.
func TestWithoutTTL(t *testing.T) {
	tb := New(map[string]Adapter{"smb": {Courtesy: true, TTL: -5, MaxConnections: -5}})
	s := connect(t, tb, lock.Client{ID: "a", Adapter: "smb"}, t0)
	if at, ok := tb.Next(); ok {
		t.Fatal(at)
	}
	if over, courteous, _ := tb.Expire(t0.Add(math.MaxInt64)); over != nil || courteous != nil {
		t.Fatal("it was too silent")
	}
	got, release, change, err := tb.Disconnect("a", t0)
	if got != s || !release || change.What != Ended || err != nil || !s.Over() || tb.Lookup("a") != nil {
		t.Fatal(got, release, change, err)
	}
}

// Courtesy: the locks stay until somebody wants them, and he wins; but not after
// the client has come back.
func TestCourtesy(t *testing.T) {
	tb := New(map[string]Adapter{"nfs4": {TTL: 10 * time.Second, Courtesy: true, MaxConnections: 1}})
	a := connect(t, tb, lock.Client{ID: "a", Adapter: "nfs4"}, sec(0))
	expire := func(now time.Time) {
		t.Helper()
		if over, courteous, changes := tb.Expire(now); over != nil || len(courteous) != 1 || courteous[0] != a || changes != nil || !a.Courteous() || a.Over() || tb.Lookup("a") != a {
			t.Fatal(over, courteous, changes)
		}
	}
	expire(sec(10))
	if err := tb.Renew("a", sec(100)); err != nil || !a.Connected() {
		t.Fatal(err)
	}
	if _, ended := tb.EvictCourteous(a); ended {
		t.Fatal("it had come back")
	}
	expire(sec(110))
	connect(t, tb, lock.Client{ID: "b", Adapter: "nfs4"}, sec(110)) // a does not count any more
	if err := tb.Renew("a", sec(111)); err != nil || a.Courteous() || a.Connected() {
		t.Fatal("a is not disconnected: ", err)
	}
	if _, _, err := tb.Connect(lock.Client{ID: "a", Adapter: "nfs4"}, sec(112)); !errors.Is(err, lock.ErrConnectionLimit) {
		t.Fatal(err)
	}
	if at, ok := tb.Next(); !ok || !at.Equal(sec(120)) {
		t.Fatal(at) // b's, which is not renewed
	}
	if _, courteous, _ := tb.Expire(sec(121)); len(courteous) != 2 {
		t.Fatal(courteous)
	}
	change, ended := tb.EvictCourteous(a)
	if !ended || change.What != Ended || !a.Over() {
		t.Fatal(change, ended)
	}
	if err := tb.Renew("a", sec(122)); !errors.Is(err, lock.ErrUnknownClient) {
		t.Fatal(err)
	}
	if _, ended := tb.Evict(a); ended {
		t.Fatal("invariant 1: it ended twice")
	}
	check(t, tb)
}

// Clients with a TTL of 0 that were connected at the crash stay until grace ends.
func TestGraceOfThoseWithoutTTL(t *testing.T) {
	tb := New(nil)
	_, change, _ := tb.Connect(lock.Client{ID: "a"}, t0)
	again := New(nil)
	if err := again.Replay(change.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	if again.Lookup("a") != nil {
		t.Fatal("it is there before Begin")
	}
	again.Begin(sec(0), 90*time.Second)
	a := again.Lookup("a")
	if a.Connected() || a.Generation() != change.Generation || !a.Client().LastSeen.IsZero() {
		t.Fatalf("%+v", a.Client())
	}
	if err := again.Renew("a", sec(50)); err != nil || !a.Client().LastSeen.Equal(sec(50)) {
		t.Fatal(err)
	}
	if over, _, _ := again.Expire(sec(89)); over != nil {
		t.Fatal(over)
	}
	if over, _, _ := again.Expire(sec(90)); len(over) != 1 || over[0] != a {
		t.Fatal(over)
	}
}

// A step of the wall clock ends nobody's session, and brings nobody more time.
func TestMonotonic(t *testing.T) {
	tb := New(nil)
	now := time.Now()
	connect(t, tb, lock.Client{ID: "a", TTL: time.Minute}, now)
	at, ok := tb.Next()
	if !ok || at.Sub(now) != time.Minute || at == at.Round(0) {
		t.Fatal(at)
	}
}

// Moments that are far away do not wrap around.
func TestFarAway(t *testing.T) {
	tb := New(nil)
	a := connect(t, tb, lock.Client{ID: "a", TTL: math.MaxInt64}, t0)
	for _, now := range []time.Time{sec(1), t0.Add(math.MaxInt64 - 1), t0.AddDate(200, 0, 0), {}, t0.AddDate(-290, 0, 0)} {
		if err := tb.Renew("a", now); err != nil {
			t.Fatal(err)
		}
		if over, _, _ := tb.Expire(now); over != nil || a.Over() {
			t.Fatalf("at %v it is over", now)
		}
		check(t, tb)
	}
	if over, _, _ := tb.Expire(t0.AddDate(1000, 0, 0)); len(over) != 1 {
		t.Fatal("it is never over")
	}
	b := connect(t, tb, lock.Client{ID: "b"}, t0.AddDate(-1000, 0, 0))
	if !b.Connected() {
		t.Fatal("a moment is taken for a state")
	}
	check(t, tb)
}

// Listing stops when it is told to.
func TestClientsStops(t *testing.T) {
	tb := New(nil)
	for i := range 10 {
		connect(t, tb, lock.Client{ID: fmt.Sprint(i)}, t0)
	}
	n := 0
	for c := range tb.Clients("") {
		if c.ID != fmt.Sprint(n) {
			t.Fatal(c)
		}
		if n++; n == 3 {
			break
		}
	}
}

// Invariant 8: what every request does takes no mutex, and no memory.
func TestHotPath(t *testing.T) {
	tb := New(map[string]Adapter{"nfs4": {TTL: time.Minute}})
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("client", i))
		connect(t, tb, lock.Client{ID: names[i], Adapter: "nfs4"}, t0)
	}
	tb.mu.Lock() // whoever wants it waits for ever
	defer tb.mu.Unlock()
	i, now := 0, t0
	allocs := testing.AllocsPerRun(1000, func() {
		i, now = (i+1)%100, now.Add(1)
		s := tb.Lookup(names[i])
		if s == nil || s.Over() || s.Courteous() || tb.Renew(names[i], now) != nil || tb.Lookup("nobody") != nil {
			t.Error("it is not there")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if got := tb.Lookup(names[i]).Client().LastSeen; !got.Equal(now) {
		t.Errorf("last seen at %v, not at %v", got, now)
	}
}

func bench(b *testing.B, n int) (*Table, []string) {
	tb := New(map[string]Adapter{"nfs4": {TTL: time.Minute}})
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("client", i)
		connect(b, tb, lock.Client{ID: names[i], Adapter: "nfs4"}, t0)
	}
	b.ReportAllocs()
	return tb, names
}

func BenchmarkLookup(b *testing.B) {
	tb, names := bench(b, 1000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(names)); pb.Next(); i++ {
			if tb.Lookup(names[i%len(names)]) == nil {
				b.Error("it is not there")
			}
		}
	})
}

func BenchmarkRenew(b *testing.B) {
	tb, names := bench(b, 1000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(names)); pb.Next(); i++ {
			if tb.Renew(names[i%len(names)], t0.Add(time.Duration(i))) != nil {
				b.Error("it is not there")
			}
		}
	})
}

func BenchmarkReconnect(b *testing.B) {
	tb, names := bench(b, 10_000)
	for i := 0; b.Loop(); i++ {
		name, now := names[i%len(names)], t0.Add(time.Duration(i))
		if _, _, _, err := tb.Disconnect(name, now); err != nil {
			b.Fatal(err)
		}
		connect(b, tb, lock.Client{ID: name, Adapter: "nfs4"}, now)
	}
}

// BenchmarkExpire is the cost of a deadline that comes up and was put off.
func BenchmarkExpire(b *testing.B) {
	tb, names := bench(b, 10_000)
	now := t0
	for i := 0; b.Loop(); i++ {
		if i%len(names) == 0 {
			b.StopTimer()
			now = now.Add(30 * time.Second)
			for _, name := range names {
				if err := tb.Renew(name, now); err != nil {
					b.Fatal(err)
				}
			}
			now = now.Add(30 * time.Second)
			b.StartTimer()
			if over, _, _ := tb.Expire(now); over != nil {
				b.Fatal(over)
			}
		}
	}
}
