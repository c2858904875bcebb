package shard

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sneck/interval"
	"sneck/lock"
)

// What a description says is all that the record says.
func TestDescribeChange(t *testing.T) {
	a, b := interval.NewOwner(lock.Owner{Client: "c\x00", ID: "a\xff", Semantics: lock.POSIX, Share: "s", PID: 7}), interval.NewOwner(own("c", "b", lock.SMB))
	at, _ := lock.SMBRange(5, 0)
	lockA := &command{op: opLock, owner: a, rng: span(0, 9), mode: lock.Exclusive, id: 5<<interval.EpochShift | 5, spare: 6, now: 1}
	lockB := &command{op: opLock, owner: b, rng: at, mode: lock.Shared, id: 7, spare: 8, now: 2}
	partA := Part{Op: Lock, Owner: a.Owner, Range: span(0, 9), Mode: lock.Exclusive, ID: lockA.id, Spare: 6, Since: time.UnixMicro(1)}
	partB := Part{Op: Lock, Owner: b.Owner, Range: at, Mode: lock.Shared, ID: 7, Spare: 8, Since: time.UnixMicro(2)}
	for _, tc := range []struct {
		c    command
		want []Part
		text string
	}{
		{*lockA, []Part{partA}, "lock"},
		{command{op: opAll, all: []*command{lockA, lockB}}, []Part{partA, partB}, "lock lock"},
		{command{op: opUnlock, who: *a, rng: span(1, 2), spare: 9}, []Part{{Op: Unlock, Owner: a.Owner, Range: span(1, 2), Spare: 9}}, "unlock"},
		{command{op: opReleaseOwner, who: *b}, []Part{{Op: ReleaseOwner, Owner: b.Owner}}, "release owner"},
		{command{op: opReleaseClient, client: "x"}, []Part{{Op: ReleaseClient, Client: "x"}}, "release client"},
		{command{op: opReleaseFile}, []Part{{Op: ReleaseFile}}, "release file"},
		{command{op: opReclaim, owner: a, rng: span(3, 4), mode: lock.Shared, id: 11, spare: 12, now: 3},
			[]Part{{Op: Reclaim, Owner: a.Owner, Range: span(3, 4), Mode: lock.Shared, ID: 11, Spare: 12, Since: time.UnixMicro(3)}}, "reclaim"},
		{command{op: opOpen, owner: b, access: lock.Read | lock.Write, deny: lock.Delete, id: 13, now: 4},
			[]Part{{Op: OpenShare, Owner: b.Owner, Access: lock.Read | lock.Write, Deny: lock.Delete, ID: 13, Since: time.UnixMicro(4)}}, "open share"},
		{command{op: opOpen, owner: b, deny: lock.Read, reclaim: true, id: 14, now: 5},
			[]Part{{Op: OpenShare, Owner: b.Owner, Deny: lock.Read, Reclaim: true, ID: 14, Since: time.UnixMicro(5)}}, "open share"},
		{command{op: opClose, who: *a}, []Part{{Op: CloseShare, Owner: a.Owner}}, "close share"},
		{command{op: opReleaseStale, epoch: 9}, []Part{{Op: ReleaseUnconfirmed, Epoch: 9}}, "release unconfirmed"},
		{command{op: opRevoke, who: *b, id: 15}, []Part{{Op: Revoke, Owner: b.Owner, ID: 15}}, "revoke"},
		{command{op: opReleaseOwner, who: *b}, []Part{{Op: ReleaseOwner, Owner: b.Owner}, partA}, "release owner lock"}, // and a grant
	} {
		r := record{file: "f", version: 3, first: true, c: tc.c}
		if strings.HasSuffix(tc.text, " lock") && tc.c.op != opAll {
			r.c.now = lockA.now
			r.granted = []grant{{w: &waiter{owner: a, rng: lockA.rng, mode: lockA.mode, id: lockA.id, spare: lockA.spare}}}
		}
		got, err := DescribeChange(r.AppendTo(nil))
		want := Change{File: "f", Version: 3, First: true, Parts: tc.want}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || !slices.Equal(got.Parts, want.Parts) {
			t.Errorf("%s: %+v, %v; want %+v", tc.text, got, err, want)
		}
		var ops []string
		for _, p := range got.Parts {
			ops = append(ops, p.Op.String())
		}
		if strings.Join(ops, " ") != tc.text {
			t.Errorf("%q, want %q", ops, tc.text)
		}
	}
	if EpochOf(lockA.id) != 5 {
		t.Errorf("epoch %d", EpochOf(lockA.id))
	}
	for _, body := range [][]byte{
		nil, {1}, {2, 1}, {0, 1, 'g', 0}, {2, 1, 'g', 0}, {2, 0, 0}, {5, 1, 'g', 1, 99},
		append((&record{file: "g", version: 2, c: *lockA}).AppendTo(nil), 0),
	} {
		if got, err := DescribeChange(body); err == nil {
			t.Errorf("% x is %+v", body, got)
		}
	}
}

// A table's snapshot, described, is the table; and what Replay takes can be
// described.
func TestDescribeWhatATableWrites(t *testing.T) {
	j := new(memJournal)
	tb := newTable(j)
	for i := range uint64(40) {
		sem := []lock.Semantics{lock.POSIX, lock.OFD, lock.SMB}[i%3]
		_, err := tb.TryLock(lock.Request{File: lock.FileKey(fmt.Sprint(i % 4)), Owner: own("c", fmt.Sprint(i%5), sem), Range: span(i*3, i*3+2), Mode: lock.Exclusive}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tb.Unlock("0", own("c", "0", lock.POSIX), span(0, 1)); err != nil {
		t.Fatal(err)
	}
	for i, access := range []lock.Access{lock.Read, lock.Write, 0} {
		s := lock.Share{File: lock.FileKey(fmt.Sprint(2 * i)), Owner: own("c", fmt.Sprint("opens ", i), lock.SMB), Access: access, Deny: lock.Delete} // file 4 has no locks
		if err := tb.OpenShare(s, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range j.log {
		c, err := DescribeChange(b)
		if err != nil || c.Version == 0 || len(c.Parts) == 0 {
			t.Errorf("%+v, %v", c, err)
		}
	}
	var got []lock.Held
	var reserved []lock.Share
	err := tb.Snapshot(func(b Body) error {
		s, err := DescribeState(b.AppendTo(nil))
		got = append(got, s.Locks...)
		for _, sh := range s.Shares {
			reserved = append(reserved, lock.Share{File: s.File, Owner: sh.Owner, Access: sh.Access, Deny: sh.Deny})
			if sh.ID == 0 || sh.Epoch != tb.epoch || sh.OldAccess|sh.OldDeny != 0 || time.Since(sh.Since) < 0 || time.Since(sh.Since) > time.Minute {
				t.Errorf("%+v", sh)
			}
		}
		return err
	})
	want := slices.Collect(tb.Locks(lock.Filter{}))
	byID := func(x, y lock.Held) int { return int(x.ID) - int(y.ID) }
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v\nwant %v", got, err, want)
	}
	if want := slices.Collect(tb.Shares(lock.Filter{})); len(reserved) != 3 || !slices.Equal(reserved, want) {
		t.Errorf("%v, want %v", reserved, want)
	}
}

// Of a share reservation that is reclaimed in part the rest is told apart.
func TestDescribeShareOfTwoEpochs(t *testing.T) {
	o := interval.NewOwner(own("c", "o", lock.SMB))
	id := lock.ID(3)<<interval.EpochShift | 4
	s := &state{version: 2, opens: &opens{list: []share{{owner: o, id: id, since: 6, access: lock.Read, deny: lock.Write, oldAccess: lock.Write, oldDeny: lock.Delete}}}}
	got, err := DescribeState((&stateBody{file: "f", s: s}).AppendTo(nil))
	want := []ShareState{{Owner: o.Owner, ID: id, Epoch: 3, Since: time.UnixMicro(6), Access: lock.Read, Deny: lock.Write, OldAccess: lock.Write, OldDeny: lock.Delete}}
	if err != nil || got.File != "f" || got.Version != 2 || len(got.Locks) != 0 || !slices.Equal(got.Shares, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Nothing panics, and whatever a table takes can be described.
func TestDescribeArbitraryBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(rt, "body")
		if rapid.Bool().Draw(rt, "plausible") {
			b = (&stateBody{file: "f", s: &state{version: 1}}).AppendTo(nil)
			b = append(b, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(rt, "more")...)
		}
		before := bytes.Clone(b)
		_, cerr := DescribeChange(b)
		_, serr := DescribeState(b)
		if New(1).Replay(b, false) == nil && cerr != nil {
			rt.Fatalf("replayed, but: %v", cerr)
		}
		if New(1).Restore(b) == nil && serr != nil {
			rt.Fatalf("restored, but: %v", serr)
		}
		if !bytes.Equal(b, before) {
			rt.Fatal("the body was changed")
		}
	})
}
