package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// smallLog is a log of a few frames in one segment: its bytes, where each frame
// ends, and what is in the log up to there.
func smallLog() (data []byte, ends []int, bodies [][]string) {
	var all []string
	ends, bodies = []int{0}, [][]string{nil}
	for i, g := range [][]string{{"a"}, {"b", "c"}, {""}, {strings.Repeat("long", 40)}, {"d", "e", "f"}} {
		data = append(data, entry(uint64(i+1), 0, g...)...)
		all = append(all, g...)
		ends = append(ends, len(data))
		bodies = append(bodies, slices.Clone(all))
	}
	return data, ends, bodies
}

// The table in the package comment, byte by byte.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{seam: seam{maxPayload: 1}})
	r := l.NewRecord(nil, KindEpoch, text("e"))
	s := l.NewRecord(r, KindFile, text("file"))
	submit(l, s)
	<-s.Done()
	mustClose(t, l)
	want := "2f" + // size 47
		"89534e4b 01 00 0000 0100000000000000 0100000000000000 00000000 01000000 03000000" +
		"01 01 65" +
		"%016x" +
		"32" + // size 50
		"89534e4b 01 00 0000 0200000000000000 0100000000000000 01000000 01000000 06000000" +
		"04 02 66696c65" +
		"%016x"
	got := get(t, segmentPath(dir, 1))
	sum := func(b []byte) uint64 {
		return binary.BigEndian.Uint64(binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(b)))
	}
	want = fmt.Sprintf(strings.ReplaceAll(want, " ", ""), sum(got[1:40]), sum(got[49:91]))
	if hex.EncodeToString(got) != want {
		t.Errorf("segment is\n%x, want\n%s", got, want)
	}
	names := map[string]bool{}
	for path := range snapshot(t, dir) {
		names[strings.TrimPrefix(path, dir)] = true
	}
	if !reflect.DeepEqual(names, map[string]bool{
		"": true, "/LOCK": true, "/log-0000000000000001": true, "/log-0000000000000001/00000000000000000001": true,
	}) {
		t.Errorf("directory is %v", names)
	}
}

// Invariants 4 and 5: cut at every byte, the log is exactly its whole frames,
// and goes on from there.
func TestCutAtEveryByte(t *testing.T) {
	data, ends, bodies := smallLog()
	dir := logOf(t, nil)
	for n := range len(data) + 1 {
		put(t, segmentPath(dir, 1), data[:n])
		i, found := slices.BinarySearch(ends, n)
		if !found {
			i--
		}
		var got []string
		l := mustOpen(t, dir, Options{Replay: func(e Entry) error { got = append(got, string(e.Body)); return nil }})
		if !slices.Equal(got, bodies[i]) {
			t.Fatalf("cut at %d: %q, want %q", n, got, bodies[i])
		}
		if st := l.Stats(); st.Repaired != int64(n-ends[i]) || st.Bytes != int64(ends[i]) {
			t.Fatalf("cut at %d: %+v", n, st)
		}
		group(t, l, "more")
		mustClose(t, l)
		if got, sum, err := inspect(dir); err != nil || sum.TornTail != nil || !slices.Equal(got, append(slices.Clone(bodies[i]), "more")) {
			t.Fatalf("cut at %d and gone on: %q, %+v, %v", n, got, sum, err)
		}
	}
}

// Invariants 4 and 5: with any bit wrong, the log is refused unless that is in
// the last frame of the last segment, which then is a torn tail.
func TestFlipEveryBit(t *testing.T) {
	data, ends, bodies := smallLog()
	last := len(ends) - 2
	later := entry(uint64(last+2), 0, "later")
	dir := logOf(t, nil)
	for pos := range data {
		for bit := range 8 {
			flipped := slices.Clone(data)
			flipped[pos] ^= 1 << bit
			for _, segs := range []int{1, 2} {
				put(t, segmentPath(dir, 1), flipped)
				if segs == 2 {
					put(t, segmentPath(dir, uint64(last+2)), later)
				}
				before := segmentData(t, dir)
				got, sum, err := inspect(dir)
				if bit == pos%8 { // Open judges as Read does; it costs a few syncs
					opened, st, oerr := replay(dir, Options{})
					if (err == nil) != (oerr == nil) || !slices.Equal(got, opened) || oerr == nil && st.Repaired == 0 {
						t.Fatalf("bit %d of byte %d, %d segments: Read %q, %v; Open %q, %v", bit, pos, segs, got, err, opened, oerr)
					}
					if oerr != nil && !reflect.DeepEqual(before, segmentData(t, dir)) {
						t.Fatalf("bit %d of byte %d, %d segments: refused, but changed", bit, pos, segs)
					}
				}
				frame, found := slices.BinarySearch(ends, pos)
				if !found {
					frame--
				}
				if segs == 1 && frame == last {
					if err != nil || !slices.Equal(got, bodies[last]) || sum.TornTail == nil || sum.TornTail.Offset != int64(ends[last]) {
						t.Fatalf("bit %d of byte %d: %q, %+v, %v; want a torn tail", bit, pos, got, sum, err)
					}
				} else {
					wantDamage(t, err, segmentPath(dir, 1), int64(ends[frame]))
				}
				_ = os.Remove(segmentPath(dir, uint64(last+2)))
			}
		}
	}
}

// Invariant 5: what a crash can leave behind the last whole frame.
func TestTornTails(t *testing.T) {
	data, _, bodies := smallLog()
	all := bodies[len(bodies)-1]
	next := uint64(len(bodies))
	inner := entry(next+1, 0, "a client chose an owner that looks like a frame")
	torn := entry(next, 0, "x", string(inner), "y")
	for name, tail := range map[string][]byte{
		"zeros":                     make([]byte, 5000),
		"one zero":                  {0},
		"garbage":                   bytes.Repeat([]byte("garbage \x89SNK\x01\x00\x00\x00"), 100),
		"endless size":              bytes.Repeat([]byte{0xff}, 100),
		"size cut off":              {0x85},
		"size not the shortest":     {0xa0, 0x80, 0x00},
		"largest size":              append(appendUvarint(nil, 1<<63), data...)[:60],
		"frame with a frame inside": torn[:len(torn)-1],
		"an old frame":              append([]byte{0, 0}, data[:len(entry(1, 0, "a"))]...),
		"a frame from elsewhere":    append([]byte{0, 0}, entry(1<<40, 0, "a")...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := logOf(t, map[uint64][]byte{1: append(slices.Clone(data), tail...)})
			if st := mustReplay(t, dir, all...); st.Repaired != int64(len(tail)) {
				t.Errorf("%d bytes cut, want %d", st.Repaired, len(tail))
			}
			if !bytes.Equal(get(t, segmentPath(dir, 1)), data) {
				t.Error("the segment is not what was before the tail")
			}
			mustReplay(t, dir, all...)
		})
	}
}

// Invariant 5: the frames of a group commit are not synced one by one, so the
// disk may have the later ones and not the first. That is torn; a frame of a
// later group commit makes it damage.
func TestTornGroupOfSeveralFrames(t *testing.T) {
	whole := entry(1, 0, "a")
	f2, f3, f4 := entry(2, 0, "b"), entry(3, 1, "c"), entry(4, 2, "d")
	bad := func(b []byte) []byte { return make([]byte, len(b)) }
	cat := func(bs ...[]byte) []byte { return slices.Concat(bs...) }

	dir := logOf(t, map[uint64][]byte{1: cat(whole, bad(f2), f3, bad(f4))})
	mustReplay(t, dir, "a")
	dir = logOf(t, map[uint64][]byte{1: cat(whole, f2, bad(f3), f4)})
	mustReplay(t, dir, "a", "b")

	later := entry(5, 0, "e")
	for i, data := range [][]byte{
		cat(whole, bad(f2), f3, f4, later),
		cat(whole, bad(f2), bad(f3), bad(f4), later),
	} {
		dir = logOf(t, map[uint64][]byte{1: data})
		_, _, err := replay(dir, Options{})
		wantDamage(t, err, segmentPath(dir, 1), int64(len(whole)))
		if !bytes.Equal(get(t, segmentPath(dir, 1)), data) {
			t.Errorf("%d: refused, but changed", i)
		}
	}
	dir = logOf(t, map[uint64][]byte{1: cat(whole, bad(f2), f3), 4: f4})
	_, _, err := replay(dir, Options{})
	wantDamage(t, err, segmentPath(dir, 1), int64(len(whole)))
}

// Invariant 5: frames that are intact but cannot be what was written there.
func TestInconsistentFrames(t *testing.T) {
	a := entry(1, 0, "a")
	short := func(count uint32, payload ...byte) []byte {
		return withSize(header{index: 2, generation: generation}.seal(append(room(nil), payload...), count))
	}
	lied := slices.Clone(short(1, 0, 2)[1:])
	lied[offPayload]++
	for name, b := range map[string][]byte{
		"index repeated":      a,
		"index skipped":       entry(3, 0, "c"),
		"part of nothing":     entry(2, 2, "b"),
		"record cut off":      short(1, 5, 2, 'b'),
		"record without kind": short(1, 0),
		"too few records":     short(2, 0, 2),
		"too many records":    short(1, 0, 2, 0, 2),
		"size of the payload": withSize(resealed(lied)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := logOf(t, map[uint64][]byte{1: append(slices.Clone(a), b...)})
			before := segmentData(t, dir)
			_, _, err := replay(dir, Options{})
			wantDamage(t, err, segmentPath(dir, 1), int64(len(a)))
			if !reflect.DeepEqual(before, segmentData(t, dir)) {
				t.Error("refused, but changed")
			}
		})
	}
	dir := logOf(t, map[uint64][]byte{1: entry(1, 1, "a")})
	_, _, err := replay(dir, Options{})
	wantDamage(t, err, segmentPath(dir, 1), 0)
}

// resealed is a frame with its checksum made right.
func resealed(frame []byte) []byte {
	end := len(frame) - checksumSize
	return binary.LittleEndian.AppendUint64(frame[:end:end], xxhash.Sum64(frame[:end]))
}

// Invariant 6.
func TestOtherVersions(t *testing.T) {
	a, b := entry(1, 0, "a"), entry(2, 0, "b")
	with := func(off int, v byte) []byte {
		f := slices.Clone(b[1:])
		f[off] = v
		return withSize(resealed(f))
	}
	for name, tc := range map[string]struct {
		data []byte
		want VersionError
	}{
		"version 2": {with(offVersion, 2), VersionError{Version: 2}},
		"version 0": {with(offVersion, 0), VersionError{}},
		"flags":     {with(offFlags, 0x80), VersionError{Version: 1, Flags: 0x80}},
		"kind":      {with(headerSize+1, 9), VersionError{Version: 1, Kind: 9}},
		"kind 0":    {with(headerSize+1, 0), VersionError{Version: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(data []byte) {
				t.Helper()
				dir := logOf(t, map[uint64][]byte{1: data})
				tc.want.File, tc.want.Offset = segmentPath(dir, 1), int64(len(a))
				for _, open := range []func() error{
					func() error { _, _, err := replay(dir, Options{}); return err },
					func() error { _, _, err := inspect(dir); return err },
				} {
					var v *VersionError
					if err := open(); !errors.As(err, &v) || *v != tc.want {
						t.Errorf("%v, want %v", err, &tc.want)
					}
				}
				if !bytes.Equal(get(t, segmentPath(dir, 1)), data) {
					t.Error("refused, but changed")
				}
			}
			check(slices.Concat(a, tc.data))
			check(slices.Concat(a, tc.data, entry(3, 0, "c")))
			check(slices.Concat(a, tc.data, make([]byte, 100)))
		})
	}
	// Behind a bad spot, a frame of another version is no torn tail either.
	f := slices.Clone(entry(3, 0, "c")[1:])
	f[offVersion] = 2
	dir := logOf(t, map[uint64][]byte{1: slices.Concat(a, make([]byte, 50), withSize(resealed(f)))})
	_, _, err := replay(dir, Options{})
	wantDamage(t, err, segmentPath(dir, 1), int64(len(a)))
}

// Invariant 5: segments that are missing, misplaced or do not belong there.
func TestSegments(t *testing.T) {
	segs := func() map[uint64][]byte {
		return map[uint64][]byte{
			1: slices.Concat(entry(1, 0, "a"), entry(2, 0, "b")),
			3: entry(3, 0, "c"),
			4: slices.Concat(entry(4, 0, "d"), entry(5, 0, "e")),
			6: {},
		}
	}
	mustReplay(t, logOf(t, segs()), "a", "b", "c", "d", "e")
	for _, tc := range []struct {
		name   string
		change func(m map[uint64][]byte)
		index  uint64
		offset int64
	}{
		{"first missing", func(m map[uint64][]byte) { delete(m, 1) }, 1, 0},
		{"middle missing", func(m map[uint64][]byte) { delete(m, 3) }, 3, 0},
		{"last but an empty one missing", func(m map[uint64][]byte) { delete(m, 4) }, 4, 0},
		{"middle empty", func(m map[uint64][]byte) { m[3] = nil }, 3, 0},
		{"middle cut at a frame", func(m map[uint64][]byte) { m[4] = entry(4, 0, "d") }, 5, 0},
		{"middle cut in a frame", func(m map[uint64][]byte) { m[3] = m[3][:20] }, 3, 0},
		{"middle with zeros", func(m map[uint64][]byte) { m[3] = append(m[3], 0) }, 3, int64(len(entry(3, 0, "c")))},
		{"middle too long", func(m map[uint64][]byte) { m[3] = append(m[3], entry(4, 0, "d")...) }, 4, 0},
		{"swapped", func(m map[uint64][]byte) { m[3], m[4] = m[4], m[3] }, 3, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := segs()
			tc.change(m)
			dir := logOf(t, m)
			before := segmentData(t, dir)
			_, _, err := replay(dir, Options{})
			wantDamage(t, err, segmentPath(dir, tc.index), tc.offset)
			_, _, err = inspect(dir)
			wantDamage(t, err, segmentPath(dir, tc.index), tc.offset)
			if !reflect.DeepEqual(before, segmentData(t, dir)) {
				t.Error("refused, but changed")
			}
		})
	}
	for _, name := range []string{
		segmentName(3) + ".START", segmentName(3) + ".END", segmentName(3) + ".TEMP", "notes", segmentName(0), "3",
	} {
		t.Run(name, func(t *testing.T) {
			dir := logOf(t, segs())
			path := filepath.Join(generationDir(dir), name)
			put(t, path, entry(3, 0, "c"))
			before := segmentData(t, dir)
			_, _, err := replay(dir, Options{})
			wantDamage(t, err, path, 0)
			if !reflect.DeepEqual(before, segmentData(t, dir)) {
				t.Error("refused, but changed")
			}
		})
	}
	for _, name := range []string{"log-1", generationName(generation) + ".old", checkpointName(1), checkpointName(1) + ".old", "checkpoint-2" + temporarySuffix} {
		t.Run(name, func(t *testing.T) {
			dir := logOf(t, segs())
			path := filepath.Join(dir, name)
			if err := os.Mkdir(path, dirPerm); err != nil {
				t.Fatal(err)
			}
			_, _, err := replay(dir, Options{})
			wantDamage(t, err, path, 0)
		})
	}
}

// Invariant 4: a crash right after a new segment was begun, and right before.
func TestCrashAroundNewSegment(t *testing.T) {
	full := slices.Concat(entry(1, 0, "a"), entry(2, 0, "b"))
	for _, segmentSize := range []int{len(full), len(full) - 1, 1, 0} {
		for _, segs := range []map[uint64][]byte{{1: full}, {1: full, 3: nil}, {1: full, 3: {0, 0, 0}}} {
			dir := logOf(t, segs)
			l := mustOpen(t, dir, Options{SegmentSize: segmentSize})
			group(t, l, "c")
			group(t, l, "d")
			if n := segmentCount(t, dir); n != int(l.Stats().Segments) {
				t.Errorf("%d segments, counted %d", n, l.Stats().Segments)
			}
			mustClose(t, l)
			mustReplay(t, dir, "a", "b", "c", "d")
		}
	}
	// And before the first one was.
	dir := filepath.Join(t.TempDir(), "log")
	for range 2 {
		if err := os.MkdirAll(generationDir(dir), dirPerm); err != nil {
			t.Fatal(err)
		}
		mustReplay(t, dir)
	}
}
