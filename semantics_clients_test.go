package sneck_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sneck"
	"sneck/lock"
)

// with opens a Manager in memory, in a bubble.
func with(t *testing.T, o sneck.Options, f func(t *testing.T, m *sneck.Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, err := sneck.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		f(t, m)
		mustClose(t, m)
	})
}

func mustConnect(t tb, m *sneck.Manager, c lock.Client) {
	t.Helper()
	if err := m.Connect(bg, c); err != nil {
		t.Fatalf("%v", err)
	}
}

func client(o lock.Owner, ttl time.Duration) lock.Client {
	return lock.Client{ID: o.Client, Adapter: "nfs4", Addr: "10.0.0.1", TTL: ttl}
}

func clients(m *sneck.Manager) []lock.Client { return slices.Collect(m.Clients("")) }

// A client that is silent for longer than its TTL loses everything; one that
// renews does not.
func TestClientSilent(t *testing.T) {
	with(t, sneck.Options{}, func(t *testing.T, m *sneck.Manager) {
		a, b, w := posix("a"), posix("b"), smb("w")
		start := time.Now()
		mustConnect(t, m, client(a, time.Minute))
		mustConnect(t, m, client(b, time.Minute))
		held := mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, x, span(20, 29))
		mustShare(t, m, b, lock.Read, lock.Write)
		wa, wb := lockIn(bg, m, w, x, span(0, 9)), lockIn(bg, m, w, s, span(20, 20))
		mine := lockIn(bg, m, b, x, span(0, 0)) // the client's wait goes with it
		for range 5 {
			time.Sleep(30 * time.Second)
			if err := m.Renew(a.Client); err != nil {
				t.Fatal(err)
			}
		}
		wb.holds(t)
		mine.fails(t, lock.ErrReleased)
		wa.waits(t)
		mustBe(t, m.Renew(b.Client), lock.ErrUnknownClient)
		mustEqual(t, "the clients", clients(m), []lock.Client{{ID: a.Client, Adapter: "nfs4", Addr: "10.0.0.1", TTL: time.Minute, LastSeen: start.Add(150 * time.Second), Locks: 1}})
		if h, found := m.Test(ask(w, x, span(0, 9))); !found || h != held || len(shares(m)) != 0 {
			t.Errorf("%v, %+v", found, h)
		}
		time.Sleep(time.Minute - 1)
		wa.waits(t)
		time.Sleep(1)
		wa.holds(t)
	})
}

// A client that reconnects before its TTL ends keeps everything, from another
// address too; the pending release does not fire.
func TestClientReconnects(t *testing.T) {
	with(t, sneck.Options{Adapters: map[string]sneck.AdapterOptions{"nfs4": {TTL: time.Minute}}}, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		mustConnect(t, m, client(a, 0))
		held := mustTry(t, m, a, x, span(0, 9))
		w := lockIn(bg, m, posix("w"), x, span(0, 9))
		mustBe(t, m.Disconnect(bg, a.Client), nil)
		time.Sleep(59 * time.Second)
		again := client(a, 0)
		again.Addr = "10.9.9.9"
		mustConnect(t, m, again)
		for range 10 {
			time.Sleep(30 * time.Second)
			mustBe(t, m.Renew(a.Client), nil)
		}
		w.waits(t)
		mustEqual(t, "the table", table(m, lock.Filter{}), []lock.Held{held})
		if cs := clients(m); len(cs) != 1 || cs[0].Addr != "10.9.9.9" {
			t.Errorf("%+v", cs)
		}
		mustBe(t, m.Disconnect(bg, a.Client), nil)
		time.Sleep(time.Minute)
		w.holds(t)
		mustBe(t, m.Disconnect(bg, a.Client), lock.ErrUnknownClient)
	})
}

// TTL 0: at once on Disconnect, never for silence.
func TestClientWithoutTTL(t *testing.T) {
	with(t, sneck.Options{}, func(t *testing.T, m *sneck.Manager) {
		a := smb("a")
		mustConnect(t, m, client(a, 0))
		mustTry(t, m, a, x, span(0, 9))
		w := lockIn(bg, m, posix("w"), x, span(0, 9))
		time.Sleep(5 * time.Hour)
		w.waits(t)
		mustBe(t, m.Disconnect(bg, a.Client), nil)
		w.holds(t)
		if len(clients(m)) != 0 {
			t.Errorf("%+v", clients(m))
		}
		// It has to connect again. One that never did may hold locks; they stay.
		_, err := m.TryLock(bg, ask(a, x, span(0, 9)))
		mustBe(t, err, lock.ErrUnknownClient)
		mustTry(t, m, posix("stranger"), x, span(50, 59))
		time.Sleep(5 * time.Hour)
		mustHold(t, m, fact{file, posix("stranger"), span(50, 59), x}, fact{file, posix("w"), span(0, 9), x})
	})
}

// Limits of connections are per adapter; a client that is there counts once.
func TestClientConnectionLimit(t *testing.T) {
	with(t, sneck.Options{Adapters: map[string]sneck.AdapterOptions{"nfs4": {MaxConnections: 2, TTL: time.Minute}}}, func(t *testing.T, m *sneck.Manager) {
		a, b, c := client(posix("a"), 0), client(posix("b"), 0), client(posix("c"), 0)
		mustConnect(t, m, a)
		mustConnect(t, m, b)
		mustConnect(t, m, a)
		err := m.Connect(bg, c)
		mustBe(t, err, lock.ErrConnectionLimit)
		var l *lock.LimitError
		if !errors.As(err, &l) || l.Limit != 2 {
			t.Errorf("%#v", err)
		}
		other := c
		other.Adapter = "smb"
		mustConnect(t, m, other)
		if got := slices.Collect(m.Clients("nfs4")); len(got) != 2 || len(clients(m)) != 3 {
			t.Errorf("%+v", got)
		}
		mustBe(t, m.Disconnect(bg, b.ID), nil)
		c.ID = "client of d"
		mustConnect(t, m, c)
		mustBe(t, m.Connect(bg, b), lock.ErrConnectionLimit) // its place is taken; its locks are not
		mustBe(t, m.Connect(bg, lock.Client{ID: "x", TTL: -1}), lock.ErrInvalid)
	})
}

// Courtesy: with its TTL passed but nobody in conflict its locks stay until a
// conflicting request, which then wins; one that comes back before has lost
// nothing.
func TestClientCourtesy(t *testing.T) {
	adapters := map[string]sneck.AdapterOptions{"nfs4": {TTL: time.Minute, Courtesy: true}}
	a, w := posix("a"), smb("w")
	calls := map[string]func(m *sneck.Manager) error{
		"TryLock": func(m *sneck.Manager) error { _, err := m.TryLock(bg, ask(w, s, span(9, 12))); return err },
		"TryLockAll": func(m *sneck.Manager) error {
			_, err := m.TryLockAll(bg, []lock.Request{ask(w, s, span(9, 12))})
			return err
		},
		"Lock": func(m *sneck.Manager) error { _, err := m.Lock(bg, ask(w, s, span(9, 12))); return err },
		"Enqueue": func(m *sneck.Manager) error {
			told := make(chan error, 1)
			if _, err := m.Enqueue(ask(w, s, span(9, 12)), func(_ lock.Held, err error) { told <- err }); err != nil {
				return err
			}
			return <-told
		},
		"OpenShare": func(m *sneck.Manager) error { return m.OpenShare(bg, share(w, lock.Write, 0)) },
	}
	for name, call := range calls {
		for _, late := range []bool{true, false} {
			t.Run(fmt.Sprint(name, "/late=", late), func(t *testing.T) {
				with(t, sneck.Options{Adapters: adapters}, func(t *testing.T, m *sneck.Manager) {
					mustConnect(t, m, client(a, 0))
					mustTry(t, m, a, x, span(0, 9))
					mustShare(t, m, a, lock.Read, lock.Write)
					time.Sleep(time.Hour)
					mustHold(t, m, fact{file, a, span(0, 9), x})
					mustTry(t, m, w, x, span(100, 109)) // in nobody's way
					mustHold(t, m, fact{file, a, span(0, 9), x}, fact{file, w, span(100, 109), x})
					if !late {
						mustBe(t, m.Renew(a.Client), nil)
						if name != "Lock" && name != "Enqueue" {
							mustBe(t, call(m), lock.ErrConflict)
						}
						time.Sleep(30 * time.Second)
						mustBe(t, m.Renew(a.Client), nil)
						mustHold(t, m, fact{file, a, span(0, 9), x}, fact{file, w, span(100, 109), x})
						return
					}
					mustBe(t, call(m), nil)
					if slices.ContainsFunc(table(m, lock.Filter{}), func(h lock.Held) bool { return h.Owner.Same(a) }) || len(m.Grace().Expected) != 0 {
						t.Errorf("%v", table(m, lock.Filter{}))
					}
					mustBe(t, m.Renew(a.Client), lock.ErrUnknownClient)
				})
			})
		}
	}
	t.Run("somebody waits already", func(t *testing.T) {
		with(t, sneck.Options{Adapters: adapters}, func(t *testing.T, m *sneck.Manager) {
			mustConnect(t, m, client(a, 0))
			mustTry(t, m, a, x, span(0, 9))
			q := lockIn(bg, m, w, x, span(5, 5))
			time.Sleep(time.Minute - 1)
			q.waits(t)
			time.Sleep(1)
			q.holds(t)
		})
	})
}

// ReleaseClient of a connected client takes what it has and leaves it connected.
func TestClientReleased(t *testing.T) {
	with(t, sneck.Options{}, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		mustConnect(t, m, client(a, time.Minute))
		mustTry(t, m, a, x, span(0, 9))
		mustRelease(t, 1)(m.ReleaseClient(bg, a.Client))
		mustBe(t, m.Renew(a.Client), nil)
		mustTry(t, m, a, x, span(0, 9))
		time.Sleep(time.Minute)
		synctest.Wait()
		mustEmpty(t, m)
	})
}

// A request in flight while its client is released leaves nothing behind: many of
// all kinds, against Disconnect and ReleaseClient.
func TestConcurrentClientReleased(t *testing.T) {
	for _, disconnect := range []bool{true, false} {
		dir := t.TempDir()
		m := open(t, dir)
		for round := range 40 {
			c := lock.Client{ID: fmt.Sprint("c", round), Adapter: "smb"}
			mustConnect(t, m, c)
			var wg sync.WaitGroup
			var refused atomic.Int32
			stop := make(chan struct{})
			for w := range 4 {
				o := lock.Owner{Client: c.ID, ID: fmt.Sprint(w), Semantics: allSemantics[w%3]}
				wg.Go(func() {
					for i := uint64(0); ; i++ {
						r := ask(o, s, span(i%50, i%50+3))
						r.File = lock.FileKey(fmt.Sprint("file ", i%5))
						var err error
						switch i % 4 {
						case 0:
							_, err = m.TryLock(bg, r)
						case 1:
							_, err = m.TryLockAll(bg, []lock.Request{r})
						case 2:
							ctx, cancel := context.WithTimeout(bg, time.Millisecond)
							_, err = m.Lock(ctx, r)
							cancel()
						case 3:
							err = m.OpenShare(bg, lock.Share{File: r.File, Owner: o, Access: lock.Read})
						}
						if errors.Is(err, lock.ErrUnknownClient) || errors.Is(err, lock.ErrReleased) {
							refused.Add(1)
						} else if err != nil {
							t.Errorf("%v", err)
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			if disconnect {
				mustBe(t, m.Disconnect(bg, c.ID), nil)
				close(stop)
				wg.Wait()
			} else {
				for range 3 {
					if _, err := m.ReleaseClient(bg, c.ID); err != nil {
						t.Error(err)
					}
				}
				close(stop)
				wg.Wait()
				mustBe(t, m.Disconnect(bg, c.ID), nil)
			}
			hs, ss := table(m, lock.Filter{Client: c.ID}), slices.Collect(m.Shares(lock.Filter{Client: c.ID}))
			if len(hs)+len(ss) > 0 {
				t.Fatalf("left behind: %+v, %+v", hs, ss)
			}
		}
		mustClose(t, m)
	}
}

// Clients are durable: after a restart one has its TTL, and the grace period at
// least, to come back, and keeps what it reclaims.
func TestClientRestart(t *testing.T) {
	a, b := posix("a"), smb("b")
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := begin(t, dir, nil)
		mustConnect(t, m, client(a, 200*time.Second))
		mustConnect(t, m, lock.Client{ID: b.Client, Adapter: "smb", Addr: "x"})
		mustTry(t, m, a, x, span(0, 9))
		mustTry(t, m, b, x, span(20, 29))
		if err := m.Checkpoint(bg); err != nil {
			t.Fatal(err)
		}
		mustConnect(t, m, lock.Client{ID: "later", Adapter: "smb"})
		mustBe(t, m.Disconnect(bg, "later"), nil)
		mustClose(t, m)
		m = begin(t, dir, nil)
		ids := func() (ids []string) {
			for _, c := range clients(m) {
				ids = append(ids, c.ID)
			}
			return ids
		}
		mustEqual(t, "the clients", ids(), []string{a.Client, b.Client})
		mustReclaim(t, m, a, x, span(0, 9))
		mustReclaim(t, m, b, x, span(20, 29))
		graceIs(t, m, false, 0)
		time.Sleep(89 * time.Second)
		mustConnect(t, m, lock.Client{ID: b.Client, Adapter: "smb", Addr: "y"})
		time.Sleep(110 * time.Second)
		synctest.Wait()
		mustEqual(t, "the clients", ids(), []string{a.Client, b.Client})
		time.Sleep(time.Second) // a has not come back
		synctest.Wait()
		mustHold(t, m, fact{file, b, span(20, 29), x})
		mustEqual(t, "the clients", ids(), []string{b.Client})
		mustClose(t, m)
	})
}
