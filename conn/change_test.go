package conn

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sneck/lock"
)

func genChange(rt *rapid.T) Change {
	c := Change{What: What(rapid.IntRange(int(Began), int(Mark)).Draw(rt, "what")), Seq: rapid.Uint64Range(2, math.MaxInt64).Draw(rt, "seq")}
	if c.What == Mark {
		return c
	}
	c.Generation = rapid.Uint64Range(1, c.Seq-1).Draw(rt, "generation")
	if c.What == Began {
		c.Generation = c.Seq
	}
	c.Client.ID = rapid.StringN(1, -1, 100).Draw(rt, "id")
	if c.What != Ended {
		c.Client.Adapter, c.Client.Addr = rapid.String().Draw(rt, "adapter"), rapid.String().Draw(rt, "addr")
		c.Client.TTL = time.Duration(rapid.Int64Min(0).Draw(rt, "ttl"))
	}
	return c
}

// What a change says comes back the same; less or more of it is refused.
func TestChangeRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := genChange(rt)
		before := []byte("before")
		b := c.AppendTo(slices.Clone(before))[len(before):]
		if got, err := ParseChange(b); err != nil || got != c {
			rt.Fatalf("wrote %+v, read %+v, %v", c, got, err)
		}
		if got, err := ParseChange(b[:rapid.IntRange(0, len(b)-1).Draw(rt, "cut")]); err == nil {
			rt.Fatalf("cut off: %+v", got)
		}
		if got, err := ParseChange(append(b, 0)); err == nil {
			rt.Fatalf("too long: %+v", got)
		}
	})
}

// Bytes on disk are read by later versions too.
func TestChangeBytes(t *testing.T) {
	a := lock.Client{ID: "a", Adapter: "nlm", Addr: "::1", TTL: 300}
	for _, tc := range []struct {
		c    Change
		want string
	}{
		{Change{What: Began, Seq: 7, Generation: 7, Client: a}, "\x01\x07\x07\x01a\x03nlm\x03::1\xac\x02"},
		{Change{What: Updated, Seq: 200, Generation: 7, Client: a}, "\x02\xc8\x01\x07\x01a\x03nlm\x03::1\xac\x02"},
		{Change{What: Ended, Seq: 9, Generation: 7, Client: lock.Client{ID: "a"}}, "\x03\x09\x07\x01a"},
		{Change{What: Mark, Seq: 9}, "\x04\x09"},
	} {
		if got := string(tc.c.AppendTo(nil)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.c.What, got, tc.want)
		}
	}
}

// Invariant 7: what cannot have been written is refused, with the reason, and
// leaves the table as it was.
func TestReplayRefuses(t *testing.T) {
	of := func(what What, seq, generation uint64, id string) Change {
		c := Change{What: what, Seq: seq, Generation: generation, Client: lock.Client{ID: id, Adapter: "nlm"}}
		if what == Ended {
			c.Client.Adapter = ""
		}
		return c
	}
	with := func(c Change, f func(*Change)) Change { f(&c); return c }
	long := strings.Repeat("x", lock.MaxOwnerField+1)
	tb := New(nil)
	for _, c := range []Change{
		of(Began, 3, 3, "a"), of(Updated, 5, 3, "a"), of(Ended, 8, 3, "a"), of(Began, 10, 10, "a"), of(Began, 11, 11, "b"), of(Ended, 12, 11, "b"), of(Began, 13, 13, "c"), of(Updated, 16, 14, "d"),
	} {
		if err := tb.Replay(c.AppendTo(nil)); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	bodies := map[string][]byte{
		"ends too early":                    {},
		"of kind nothing":                   {0, 1},
		"of kind What(9)":                   {9, 1},
		"1 bytes too many":                  append(of(Mark, 9, 0, "").AppendTo(nil), 0),
		"number 0":                          {byte(Mark), 0},
		"number 9223372036854775808":        of(Mark, 1<<63, 0, "").AppendTo(nil),
		"a time of 18446744073709551615 ns": with(of(Began, 20, 20, "a"), func(c *Change) { c.Client.TTL = -1 }).AppendTo(nil),
	}
	for want, c := range map[string]Change{
		"it is empty": of(Began, 20, 20, ""),
		"Client.ID":   of(Began, 20, 20, long),
		"Client.Addr": with(of(Began, 20, 20, "z"), func(c *Change) { c.Client.Addr = long }),
		"number 20 says that generation 19 began":                                of(Began, 20, 19, "z"),
		"number 20 says that generation 20 updated":                              of(Updated, 20, 20, "z"),
		"number 20 says that generation 0 ended":                                 of(Ended, 20, 0, "z"),
		"there are two changes of number 10":                                     of(Began, 10, 10, "a"),
		"generation 3 updated by number 20, after generation 10 began by number": of(Updated, 20, 3, "a"),
		"generation 9 updated by number 15, when generation 14 had begun":        of(Updated, 15, 9, "d"),
		"generation 11 ended by number 12, and updated by number 20":             of(Updated, 20, 11, "b"),
		`generation 13 is of adapter "nlm" and of adapter "smb"`:                 of(Updated, 20, 13, "c"),
	} {
		if strings.HasPrefix(want, "there are two") {
			c.Client.Addr = "another"
		}
		if strings.HasPrefix(want, "generation 13") {
			c.Client.Adapter = "smb"
		}
		bodies[want] = c.AppendTo(nil)
	}
	before, seq := len(tb.past.clients), tb.seq
	for want, body := range bodies {
		if err := tb.Replay(body); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		if len(tb.past.clients) != before || tb.seq != seq {
			t.Fatalf("%q: it has changed the table", want)
		}
	}
	if err := tb.Snapshot(nil); err == nil {
		t.Error("a snapshot of what is not complete")
	}
	tb.Begin(t0, 0)
	if err := tb.Replay(of(Began, 20, 20, "z").AppendTo(nil)); err == nil {
		t.Error("it replays what is in use")
	}
	if a, b, c := tb.Lookup("a"), tb.Lookup("b"), tb.Lookup("c"); a.Generation() != 10 || b != nil || c.Generation() != 13 {
		t.Errorf("a %+v, b %+v, c %+v", a, b, c)
	}
}

// Arbitrary bytes are refused or understood; nothing panics.
func TestReplayOfArbitraryBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tb := New(modelAdapters)
		for range rapid.IntRange(1, 5).Draw(rt, "records") {
			b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "body")
			if rapid.Bool().Draw(rt, "plausible") {
				b = genChange(rt).AppendTo(nil)
				if i := rapid.IntRange(-1, len(b)-1).Draw(rt, "flip"); i >= 0 {
					b[i] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
				}
			}
			_ = tb.Replay(b)
		}
		tb.Begin(t0, time.Second)
		check(rt, tb)
		tb.Expire(sec(1000))
		check(rt, tb)
	})
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte("\x01\x07\x07\x01a\x03nlm\x03::1\xac\x02"), []byte("\x03\x09\x07\x01a"))
	f.Add([]byte("\x02\xc8\x01\x07\x01a\x03nlm\x03::1\xac\x02"), []byte("\x04\x09"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tb := New(nil)
		for _, body := range [][]byte{a, b, a} {
			c, err := ParseChange(body)
			if err == nil {
				if again, err := ParseChange(c.AppendTo(nil)); err != nil || again != c {
					t.Fatalf("%+v is read as %+v, %v", c, again, err)
				}
			}
			if e := tb.Replay(body); err != nil && e == nil {
				t.Fatal(err)
			}
		}
		tb.Begin(t0, 0)
		check(t, tb)
	})
}

// A snapshot that cannot be written stops, and says why.
func TestSnapshotStops(t *testing.T) {
	tb := New(nil)
	if err := tb.Snapshot(func(Change) error { return errors.New("there is nothing") }); err != nil {
		t.Fatal(err)
	}
	connect(t, tb, lock.Client{ID: "b"}, t0)
	connect(t, tb, lock.Client{ID: "a"}, t0)
	full := errors.New("the disk is full")
	var got []What
	err := tb.Snapshot(func(c Change) error {
		if got = append(got, c.What); len(got) == 2 {
			return full
		}
		return nil
	})
	if err != full || !reflect.DeepEqual(got, []What{Began, Began}) {
		t.Fatal(err, got)
	}
}
