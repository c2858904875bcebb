package shard

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sneck/interval"
	"sneck/lock"
)

// restored is a table made from a snapshot and from the records since it began,
// walked of which came before it ended.
func restored(t failer, states, records [][]byte, walked int) *Table {
	t.Helper()
	out := New(1)
	for i, b := range states {
		if err := out.Restore(b); err != nil {
			t.Fatalf("state %d of %d: %v", i, len(states), err)
		}
	}
	for i, b := range records {
		if err := out.Replay(b, i < walked); err != nil {
			t.Fatalf("record %d of %d, %d of them in the window: %v", i, len(records), walked, err)
		}
	}
	return out
}

// randomChange is one call that may change what is held.
func randomChange(rt *rapid.T, tb *Table) {
	f := lock.FileKey(fmt.Sprint("file ", rapid.IntRange(0, 5).Draw(rt, "file")))
	o := own(fmt.Sprint("c", rapid.IntRange(0, 2).Draw(rt, "client")), fmt.Sprint(rapid.IntRange(0, 1).Draw(rt, "owner")), lock.Semantics(rapid.IntRange(1, 3).Draw(rt, "semantics")))
	first := rapid.Uint64Range(0, 30).Draw(rt, "first")
	r := span(first, first+rapid.Uint64Range(0, 10).Draw(rt, "more"))
	mode := lock.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
	if o.Semantics == lock.SMB && rapid.Bool().Draw(rt, "zero") {
		r, _ = lock.SMBRange(first, 0)
	}
	access := lock.Access(rapid.IntRange(0, 7).Draw(rt, "access"))
	deny := lock.Access(rapid.IntRange(0, 7).Draw(rt, "deny"))
	switch rapid.IntRange(0, 11).Draw(rt, "what") {
	case 10:
		_ = tb.OpenShare(lock.Share{File: f, Owner: o, Access: access, Deny: deny & lock.Access(rapid.IntRange(0, 7).Draw(rt, "fewer"))}, nil)
	case 11:
		_ = tb.CloseShare(f, o)
	case 0, 1, 2, 3:
		_, _ = tb.TryLock(lock.Request{File: f, Owner: o, Range: r, Mode: mode}, nil)
	case 4, 5:
		_ = tb.Unlock(f, o, r)
	case 6:
		_, _ = tb.ReleaseOwner(f, o)
	case 7:
		_, _ = tb.ReleaseClient(o.Client)
	case 8:
		_, _ = tb.ReleaseFile(f)
	case 9:
		tb.sweep()
	}
}

// A snapshot that is walked while everything goes on, and the records since it
// began, give the table again: at its end, and at any time after.
func TestSnapshotWhileChanging(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		j := new(memJournal)
		tb := New(rapid.SampledFrom([]int{1, 4}).Draw(rt, "shards"))
		tb.Begin(3, j)
		tb.sweeper.stop() // swept by randomChange alone
		some := func(most int) {
			for range rapid.IntRange(0, most).Draw(rt, "changes") {
				randomChange(rt, tb)
			}
		}
		some(40)
		begun := len(j.log)
		var states [][]byte
		some(10)
		err := tb.Snapshot(func(b Body) error {
			some(5)
			states = append(states, b.AppendTo(nil))
			some(5)
			return nil
		})
		if err != nil {
			rt.Fatalf("%v", err)
		}
		walked := len(j.log) - begun
		some(20)
		got := restored(rt, states, j.log[begun:], walked)
		checkAll(rt, got)
		if got, want := dump(got), dump(tb); got != want {
			rt.Fatalf("restored\n%s\nwant\n%s", got, want)
		}
		// What was restored goes on being logged, and can be replayed again.
		k := &memJournal{log: slices.Clone(j.log[begun:])}
		tb = got
		tb.Begin(4, k)
		tb.sweeper.stop()
		some(30)
		again := restored(rt, states, k.log, walked)
		if got, want := dump(again), dump(tb); got != want {
			rt.Fatalf("restored again\n%s\nwant\n%s", got, want)
		}
	})
}

// Snapshot hands in the record of a state that whoever made it has not handed in
// yet, so that it does not come after the snapshot's end.
func TestSnapshotOfASuspendedCall(t *testing.T) {
	for name, call := range map[string]func(*Table){
		"lock": func(tb *Table) { hold(t, tb, own("c", "frozen", lock.POSIX), span(20, 29)) },
		"unlock of all": func(tb *Table) {
			if err := tb.Unlock("f", own("c", "a", lock.POSIX), span(0, 9)); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := new(memJournal)
			tb := newTable(j)
			tb.sweeper.stop()
			hold(t, tb, own("c", "a", lock.POSIX), span(0, 9))
			begun := len(j.log)
			f := freezeAt(tb, StepPublished)
			done := make(chan struct{})
			go func() { call(tb); close(done) }()
			<-f.there
			var states [][]byte
			if err := tb.Snapshot(func(b Body) error { states = append(states, b.AppendTo(nil)); return nil }); err != nil {
				t.Fatal(err)
			}
			walked := len(j.log) - begun
			close(f.thaw)
			<-done
			if got, want := dump(restored(t, states, j.log[begun:], walked)), dump(tb); got != want {
				t.Fatalf("restored\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The same with real concurrency: callers on all files, the sweep, and snapshots
// one after the other.
func TestSnapshotConcurrent(t *testing.T) {
	j := new(memJournal)
	tb := New(4)
	tb.Begin(1, j)
	tb.sweeper.stop()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			o := own(fmt.Sprint("c", w%2), fmt.Sprint("o", w), lock.Semantics(w%3+1))
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				f := lock.FileKey(fmt.Sprint("file ", i*uint64(w+1)%50))
				r := span(i%7*10, i%7*10+9)
				switch i % 5 {
				case 0, 1:
					_, _ = tb.TryLock(lock.Request{File: f, Owner: o, Range: r, Mode: lock.Mode(i%2 + 1)}, nil)
				case 2:
					_ = tb.Unlock(f, o, r)
				case 3:
					_, _ = tb.ReleaseOwner(f, o)
				case 4:
					if i%1000 == 4 {
						_, _ = tb.ReleaseClient(o.Client)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				tb.sweep()
			}
		}
	})
	type snap struct {
		states        [][]byte
		begun, walked int
	}
	length := func() int {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.log)
	}
	var snaps []snap
	for i := range 30 {
		for length() < 100*i { // so that each has something to miss
			runtime.Gosched()
		}
		s := snap{begun: length()}
		if err := tb.Snapshot(func(b Body) error { s.states = append(s.states, b.AppendTo(nil)); return nil }); err != nil {
			t.Fatal(err)
		}
		s.walked = length() - s.begun
		snaps = append(snaps, s)
	}
	for length() < 3000 {
		runtime.Gosched()
	}
	close(stop)
	wg.Wait()
	want := dump(tb)
	for i, s := range snaps {
		if got := dump(restored(t, s.states, j.log[s.begun:], s.walked)); got != want {
			t.Fatalf("snapshot %d: restored\n%s\nwant\n%s", i, got, want)
		}
	}
	t.Logf("%d records, %d locks", len(j.log), tb.Stats().Locks)
}

// A state that cannot be is refused with the reason, and leaves the table as it
// was.
func TestRestoreRefuses(t *testing.T) {
	a, b := interval.NewOwner(own("c", "a", lock.POSIX)), interval.NewOwner(own("c", "b", lock.POSIX))
	z := interval.NewOwner(own("c", "z", lock.SMB))
	item := func(o *interval.Owner, first, last uint64, m lock.Mode, id lock.ID) interval.Item {
		return interval.NewItem(o, span(first, last), m, id, 7)
	}
	// encode writes what fill would not take.
	encode := func(file string, version uint64, owners []*interval.Owner, items ...interval.Item) []byte {
		out := appendString(appendUvarint(nil, version), file)
		out = appendUvarint(out, uint64(len(owners)))
		for _, o := range owners {
			out = appendOwner(out, &o.Owner)
		}
		out = appendUvarint(out, uint64(len(items)))
		for _, it := range items {
			out = appendUvarint(out, uint64(slices.Index(owners, it.Owner())))
			out = append(appendRange(out, it.Range()), byte(it.Mode()))
			out = appendUvarint(appendUvarint(out, uint64(it.ID())), it.Epoch())
			out = appendUvarint(out, uint64(it.Since())<<1)
		}
		return out
	}
	owners := []*interval.Owner{a, b, z}
	x, s := lock.Exclusive, lock.Shared
	good := encode("g", 4, owners, item(a, 0, 9, x, 1), item(b, 10, 19, s, 2), item(a, 20, 29, s, 4), item(z, 10, 12, s, 3))
	tooLate := slices.Clone(good)
	tooLate[len(tooLate)-2] = 9 // the epoch of the last item
	for _, tc := range []struct {
		name, want string
		body       []byte
	}{
		{"good", "", good},
		{"twice", "there already", encode("f", 9, owners[:1], item(a, 0, 9, x, 1))},
		{"version 0", "version 0", encode("g", 0, owners[:1], item(a, 0, 9, x, 1))},
		{"nothing", "nothing is held", encode("g", 1, owners[:1])},
		{"conflict", "exclusive", encode("g", 1, owners, item(a, 0, 9, x, 1), item(b, 5, 19, s, 2))},
		{"conflict across protocols", "exclusive", encode("g", 1, owners, item(a, 0, 9, x, 1), item(z, 5, 19, s, 2))},
		{"own overlap", "holds exclusive on [0,9] and shared on [5,19]", encode("g", 1, owners, item(a, 0, 9, x, 1), item(a, 5, 19, s, 2))},
		{"not merged", "holds shared on [0,9] and shared on [10,19]", encode("g", 1, owners, item(a, 0, 9, s, 1), item(a, 10, 19, s, 2))},
		{"exclusive stack", "exclusive locks on each other", encode("g", 1, owners, item(z, 0, 9, x, 1), item(z, 9, 19, x, 2))},
		{"shared on exclusive", "", encode("g", 1, owners, item(z, 0, 9, x, 1), item(z, 5, 19, s, 2))},
		{"same id", "two locks have the id 1", encode("g", 1, owners, item(a, 0, 9, s, 1), item(b, 10, 19, s, 1))},
		{"order", "not in order", encode("g", 1, owners, item(a, 10, 19, s, 1), item(b, 0, 9, s, 2))},
		{"SMB first", "not in order", encode("g", 1, owners, item(z, 0, 9, s, 1), item(b, 20, 29, s, 2))},
		{"no such owner", "owner 18446744073709551615 of 1", encode("g", 1, owners[:1], item(b, 0, 9, s, 1))},
		{"epoch", "was granted in epoch 9", tooLate},
		{"more bytes", "no share modes", append(slices.Clone(good), 0)},
		{"share", "", append(slices.Clone(good), 1, 0, 1, 2, 0, 0, 9, 2)},
		{"share and more", "1 bytes too many", append(slices.Clone(good), 1, 0, 1, 2, 0, 0, 9, 2, 0)},
		{"share of nobody", "owner 7 of 3", append(slices.Clone(good), 1, 7, 1, 2, 0, 0, 9, 2)},
		{"shares that exclude each other", "exclude each other", append(slices.Clone(good), 2, 0, 1, 2, 0, 0, 9, 2, 1, 2, 0, 0, 0, 10, 2)},
		{"two shares", "two share modes", append(slices.Clone(good), 2, 0, 1, 2, 0, 0, 9, 2, 0, 0, 0, 0, 0, 10, 2)},
		{"share of more than there is", "other bits", append(slices.Clone(good), 1, 0, 8, 2, 0, 0, 9, 2)},
		{"cut off", "ends too early", good[:len(good)-1]},
		{"many owners", "ends too early", appendUvarint(appendString(appendUvarint(nil, 1), "g"), 1<<60)},
		{"no file", "File: it is empty", encode("", 1, owners[:1], item(a, 0, 9, s, 1))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tb := New(1)
			if err := tb.Restore(encode("f", 1, owners[:1], item(a, 0, 9, x, 5))); err != nil {
				t.Fatal(err)
			}
			before := dump(tb)
			err := tb.Restore(tc.body)
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkAll(t, tb)
				c := tb.find(refOf("g"))
				if again := (&stateBody{file: "g", s: c.state.Load()}).AppendTo(nil); len(again) > len(tc.body) {
					t.Errorf("read % x, wrote % x", tc.body, again)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one with %q", err, tc.want)
			}
			if after := dump(tb); after != before {
				t.Errorf("was\n%s\nis\n%s", before, after)
			}
			checkAll(t, tb)
		})
	}
}

func appendUvarint(b []byte, x uint64) []byte {
	for ; x >= 0x80; x >>= 7 {
		b = append(b, byte(x)|0x80)
	}
	return append(b, byte(x))
}

// Arbitrary bytes are refused or understood; what is understood is written as
// the same bytes' meaning, and nothing that cannot be is let in.
func TestRestoreOfArbitraryBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		j := new(memJournal)
		from := newTable(j)
		for range rapid.IntRange(1, 30).Draw(rt, "changes") {
			randomChange(rt, from)
		}
		var states [][]byte
		_ = from.Snapshot(func(b Body) error { states = append(states, b.AppendTo(nil)); return nil })
		tb := New(1)
		for _, b := range states {
			for range rapid.IntRange(0, 2).Draw(rt, "flips") {
				b[rapid.IntRange(0, len(b)-1).Draw(rt, "flip")] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
			}
			if tb.Restore(b) != nil {
				continue
			}
			var again [][]byte
			tb.shards[0].cells.Range(func(r fileRef, c *cell) bool {
				again = append(again, (&stateBody{file: r.key, s: c.state.Load()}).AppendTo(nil))
				return true
			})
			one := New(1)
			for _, a := range again {
				if err := one.Restore(a); err != nil {
					rt.Fatalf("read % x, wrote % x: %v", b, a, err)
				}
				if bytes.Equal(a, b) {
					break
				}
			}
		}
		checkAll(rt, tb)
	})
}
