package conn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sneck/lock"
)

// Everything at once: each session ends exactly once, what is over stays over, no
// limit is exceeded, and what is left at the end is consistent (invariants 1 to 4
// and 6). The changes, in the order in which goroutines happened to note them,
// make the same table again (invariant 7).
func TestConcurrent(t *testing.T) {
	adapters := map[string]Adapter{
		"nlm":  {MaxConnections: 3, TTL: 40},
		"nfs4": {MaxConnections: 2, TTL: 30, Courtesy: true},
		"smb":  {MaxConnections: 2},
	}
	names := []string{"nlm", "nfs4", "smb"}
	tb := New(adapters)
	var clock atomic.Int64
	var mu sync.Mutex // of the rest
	ends, begins := map[*Session]int{}, map[*Session]bool{}
	var log []Change
	note := func(s *Session, c Change) {
		if !s.Over() || tb.Lookup(s.Client().ID) == s {
			t.Errorf("generation %d is not over", s.Generation())
		}
		mu.Lock()
		defer mu.Unlock()
		ends[s]++
		log = append(log, c)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(g)))
			var mine []*Session
			for range 3000 {
				now := t0.Add(time.Duration(clock.Add(1)))
				i := rng.IntN(12)
				id, adapter := fmt.Sprint("client", i), names[i%3]
				switch rng.IntN(10) {
				case 0, 1, 2:
					s, c, err := tb.Connect(lock.Client{ID: id, Adapter: adapter, Addr: fmt.Sprint(rng.IntN(2))}, now)
					if err != nil {
						if !errors.Is(err, lock.ErrConnectionLimit) {
							t.Error(err)
						}
						continue
					}
					mine = append(mine, s)
					mu.Lock()
					if c.What == Began {
						if begins[s] {
							t.Errorf("generation %d began twice", s.Generation())
						}
						begins[s] = true
					}
					if !c.IsZero() {
						log = append(log, c)
					}
					mu.Unlock()
				case 3, 4, 5:
					if err := tb.Renew(id, now); err != nil && !errors.Is(err, lock.ErrUnknownClient) {
						t.Error(err)
					}
				case 6:
					if s, release, c, err := tb.Disconnect(id, now); err == nil && release {
						note(s, c)
					}
				case 7:
					over, _, changes := tb.Expire(now)
					for i, s := range over {
						note(s, changes[i])
					}
				case 8:
					if s := tb.Lookup(id); s != nil && s.Courteous() {
						if c, ended := tb.EvictCourteous(s); ended {
							note(s, c)
						}
					}
				case 9:
					if rng.IntN(4) == 0 && len(mine) > 0 {
						s := mine[rng.IntN(len(mine))]
						was := s.Over()
						c, ended := tb.Evict(s)
						if ended {
							note(s, c)
						}
						if was && ended || !s.Over() {
							t.Errorf("invariant 1: over before %v, ended %v, over %v", was, ended, s.Over())
						}
					}
					if err := tb.check(); err != nil {
						t.Error(err)
					}
					for range tb.Clients("") {
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	again := New(adapters)
	for _, c := range log {
		if err := again.Replay(c.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	}
	again.Begin(t0, 0)
	check(t, again)
	for _, tables := range [][2]*Table{{tb, again}, {again, tb}} {
		for c := range tables[0].Clients("") {
			s, u := tables[0].Lookup(c.ID), tables[1].Lookup(c.ID)
			if u == nil || u.Generation() != s.Generation() || u.Client().Addr != c.Addr {
				t.Fatalf("invariant 7: %+v, %+v", c, u)
			}
		}
	}
	for s := range begins {
		if c, ended := tb.Evict(s); ended {
			note(s, c)
		}
	}
	for s := range begins {
		if ends[s] != 1 {
			t.Errorf("invariant 1: generation %d ended %d times", s.Generation(), ends[s])
		}
	}
	if len(ends) != len(begins) {
		t.Errorf("%d began, %d ended", len(begins), len(ends))
	}
	if c, k := tb.Count(); c != 0 || k != 0 {
		t.Errorf("%d of %d are left", c, k)
	}
	check(t, tb)
}

// Invariant 5, with renewals that race with the end of the TTL: whoever was told
// that his renewal counts was not over within the TTL.
func TestRenewalCounts(t *testing.T) {
	const ttl = 3
	tb := New(map[string]Adapter{"nlm": {TTL: ttl}})
	var clock atomic.Int64
	at := func(n int64) time.Time { return t0.Add(time.Duration(n)) }
	var done atomic.Bool
	ends := map[*Session]int64{}
	var expiring, renewing sync.WaitGroup
	expiring.Go(func() {
		for !done.Load() {
			now := clock.Add(1)
			over, _, _ := tb.Expire(at(now))
			for _, s := range over {
				ends[s] = now
			}
		}
	})
	var renewed [3]map[*Session]int64
	for i := range renewed {
		renewed[i] = map[*Session]int64{}
		renewing.Go(func() {
			c := lock.Client{ID: fmt.Sprint("client", i), Adapter: "nlm"}
			for range 500 {
				now := clock.Load()
				s, _, err := tb.Connect(c, at(now)) // nobody else makes a session of c
				for n := 0; err == nil && n < 50; n++ {
					renewed[i][s] = now
					now = clock.Load()
					err = tb.Renew(c.ID, at(now))
				}
			}
		})
	}
	renewing.Wait()
	done.Store(true)
	expiring.Wait()
	if len(ends) == 0 {
		t.Fatal("nothing came to an end")
	}
	for i := range renewed {
		for s, last := range renewed[i] {
			if end, over := ends[s]; over && end < last+ttl {
				t.Fatalf("renewed at %d, it was over at %d", last, end)
			}
		}
	}
	check(t, tb)
}
