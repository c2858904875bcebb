package shard

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sneck/interval"
	"sneck/lock"
)

func genOwner(rt *rapid.T) lock.Owner {
	return lock.Owner{
		Client: rapid.String().Draw(rt, "client"), ID: string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "id")),
		Semantics: lock.Semantics(rapid.IntRange(1, 3).Draw(rt, "semantics")),
		Share:     rapid.String().Draw(rt, "share"), PID: rapid.Uint32().Draw(rt, "pid"),
	}
}

// What a part says comes back the same.
func TestRecordPartsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := rapid.Uint64().Draw(rt, "first")
		c := &command{
			op: op(rapid.IntRange(int(opLock), int(opReleaseFile)).Draw(rt, "op")), rng: span(a, rapid.Uint64Min(a).Draw(rt, "last")),
			mode: lock.Mode(rapid.IntRange(1, 2).Draw(rt, "mode")), id: lock.ID(rapid.Uint64Min(1).Draw(rt, "id")),
			spare: lock.ID(rapid.Uint64Min(1).Draw(rt, "spare")), now: rapid.Int64Range(0, interval.MaxSince).Draw(rt, "now"),
			owner: interval.NewOwner(genOwner(rt)), client: rapid.String().Draw(rt, "client"),
		}
		if c.owner.Semantics == lock.SMB && rapid.Bool().Draw(rt, "zero") {
			c.rng, _ = lock.SMBRange(a, 0)
		}
		c.who = *c.owner
		body := c.appendTo(nil)
		r := reader{b: body}
		got, err := New(1).part(&r)
		if err != nil || len(r.b) > 0 {
			rt.Fatalf("%v, %d bytes left", err, len(r.b))
		}
		if again := got.appendTo(nil); !bytes.Equal(again, body) {
			rt.Fatalf("wrote % x, read it and wrote % x", body, again)
		}
		if got.op == opLock && (got.rng != c.rng || got.mode != c.mode || got.owner.Owner != c.owner.Owner || got.now != c.now) {
			rt.Fatalf("wrote %+v, read %+v", c, got)
		}
	})
}

// Arbitrary bytes are refused or understood; a table is never left with a
// conflict in it, and nothing panics.
func TestReplayOfArbitraryBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tb := New(1)
		for range rapid.IntRange(1, 4).Draw(rt, "records") {
			b := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(rt, "body")
			if rapid.Bool().Draw(rt, "plausible") {
				c := command{op: opLock, owner: interval.NewOwner(genOwner(rt)), rng: span(0, 9), mode: lock.Exclusive, id: 1, spare: 2}
				b = (&record{file: "f", version: rapid.Uint64Range(0, 3).Draw(rt, "version"), first: rapid.Bool().Draw(rt, "first"), c: c}).AppendTo(nil)
				if i := rapid.IntRange(-1, len(b)-1).Draw(rt, "flip"); i >= 0 {
					b[i] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
				}
			}
			_ = tb.Replay(b, rapid.Bool().Draw(rt, "window"))
		}
		checkAll(rt, tb)
	})
}

// What cannot have been written is refused, with the file and the reason, and
// leaves the table as it was.
func TestReplayRefuses(t *testing.T) {
	a, b := interval.NewOwner(own("c", "a", lock.POSIX)), interval.NewOwner(own("c", "b", lock.SMB))
	locked := command{op: opLock, owner: a, rng: span(0, 9), mode: lock.Exclusive, id: 5, spare: 6, now: 1}
	other := locked
	other.owner = b
	unlock := command{op: opUnlock, who: *b, rng: span(0, 9)}
	for _, tc := range []struct {
		name, want string
		body       []byte
	}{
		{"older version", "version 1 after version 1", (&record{file: "f", version: 1, c: unlock}).AppendTo(nil)},
		{"conflict", "holds exclusive on [0,9]", (&record{file: "f", version: 2, c: other}).AppendTo(nil)},
		{"unlock of nothing", "no such lock", (&record{file: "f", version: 2, c: unlock}).AppendTo(nil)},
		{"no file", "File: it is empty", (&record{version: 2, c: locked}).AppendTo(nil)},
		{"gap", "version 3 after version 1", (&record{file: "f", version: 3, c: unlock}).AppendTo(nil)},
		{"first of what is held", "nothing was held", (&record{file: "f", version: 2, first: true, c: locked}).AppendTo(nil)},
		{"not the first of a file", "version 2 after version 0", (&record{file: "g", version: 2, c: locked}).AppendTo(nil)},
		{"no version", "version 0", (&record{file: "g", first: true, c: locked}).AppendTo(nil)},
		{"more bytes", "1 bytes too many", append((&record{file: "g", version: 2, first: true, c: locked}).AppendTo(nil), 0)},
		{"nothing", "it says nothing", (&record{file: "g", version: 2, first: true, c: command{op: opCancel}}).AppendTo(nil)},
		{"unknown operation", "unknown operation 99", []byte{5, 1, 'g', 1, 99}},
		{"short", "ends too early", []byte{2, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tb := New(1)
			if err := tb.Replay((&record{file: "f", version: 1, first: true, c: locked}).AppendTo(nil), false); err != nil {
				t.Fatal(err)
			}
			before := dump(tb)
			err := tb.Replay(tc.body, false)
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

// A record with the grants that it led to replays without anybody in line.
func TestReplayOfGrants(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	h := own("c", "h", lock.POSIX)
	hold(t, tb, h, span(0, 99))
	got := make(chan error, 20)
	var last lock.ID
	for i := range uint64(10) {
		id, err := tb.Enqueue(lock.Request{File: "f", Owner: own("d", fmt.Sprint(i), lock.OFD), Range: span(i*10, i*10+9), Mode: lock.Exclusive},
			nil, func(_ lock.Held, err error) { got <- err })
		if err != nil {
			t.Fatal(err)
		}
		last = id
	}
	records := len(j.log)
	if err := tb.Unlock("f", h, span(0, 49)); err != nil { // grants the first five
		t.Fatal(err)
	}
	if n := len(j.log) - records; n != 1 {
		t.Fatalf("an unlock and its grants are %d records", n)
	}
	for range 5 {
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
	if !tb.Cancel(last) { // leaves the line, which is not logged
		t.Fatal("not cancelled")
	}
	if len(j.log)-records != 1 {
		t.Fatal("a cancelled wait was logged")
	}
	if got, want := dump(j.replayed(t)), dump2(tb); got != want {
		t.Fatalf("the log says\n%s\nthe table\n%s", got, want)
	}
}

// dump2 is dump without the line, which the log does not know.
func dump2(t *Table) string {
	held, _, _ := strings.Cut(dump(t), " waits for ")
	return held[:max(0, strings.LastIndexByte(held, '\n'))]
}
