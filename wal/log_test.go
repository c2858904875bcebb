package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"weak"

	"pgregory.net/rapid"

	"sneck/lock"
)

// Invariants 2 and 4: any groups, segment sizes and reopenings; the mirror of
// tidwall/wal's rule for new segments is held against the directory after every
// group commit.
func TestRoundTrip(t *testing.T) {
	base := t.TempDir()
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		var want []string
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			var got []string
			var dirSyncs int
			l := mustOpen(t, dir, Options{
				SegmentSize: rapid.IntRange(1, 400).Draw(t, "segment size"),
				Replay: func(e Entry) error {
					got = append(got, string(e.Body))
					return nil
				},
				seam: seam{
					maxPayload: rapid.SampledFrom([]int{0, 1, 60, 200}).Draw(t, "max payload"),
					syncDir:    func(string) error { dirSyncs++; return nil },
				},
			})
			if !slices.Equal(got, want) {
				t.Fatalf("replayed %q, want %q", got, want)
			}
			dirSyncs = 0
			before := segmentCount(t, dir)
			for range rapid.IntRange(0, 6).Draw(t, "groups") {
				var bodies []string
				for range rapid.IntRange(1, 4).Draw(t, "records") {
					bodies = append(bodies, fmt.Sprintf("%d%s", len(want)+len(bodies), strings.Repeat("x", rapid.IntRange(0, 150).Draw(t, "size"))))
				}
				was := segmentCount(t, dir)
				seen := dirSyncs
				group(t, l, bodies...)
				want = append(want, bodies...)
				if now := segmentCount(t, dir); now != int(l.Stats().Segments) {
					t.Fatalf("%d segments, counted %d", now, l.Stats().Segments)
				} else if (now > was) != (dirSyncs > seen) {
					t.Fatalf("%d new segments, %d directory syncs", now-was, dirSyncs-seen)
				}
			}
			if got := l.Stats(); got.DirSyncs != uint64(dirSyncs) || (dirSyncs == 0) != (segmentCount(t, dir) == before) {
				t.Fatalf("%d directory syncs, counted %d", dirSyncs, got.DirSyncs)
			}
			mustClose(t, l)
			got, sum, err := inspect(dir)
			if err != nil || !slices.Equal(got, want) || sum.Records != uint64(len(want)) || sum.TornTail != nil {
				t.Fatalf("Read gives %q, %+v, %v; want %q", got, sum, err, want)
			}
			if st := l.Stats(); st.Bytes != sum.Bytes || int(st.Segments) != sum.Segments {
				t.Fatalf("counted %+v, read %+v", st, sum)
			}
		}
	})
}

func segmentCount(t tb, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(generationDir(dir))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return len(entries)
}

// Invariant 1: the goroutine that made the predecessor is suspended between
// publishing and submitting it.
func TestPredecessorOfSuspendedSubmitter(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	a := l.NewRecord(nil, KindFile, text("a"))
	b := l.NewRecord(a, KindFile, text("b"))
	c := l.NewRecord(b, KindFile, text("c"))
	submit(l, c)
	<-c.Done()
	for _, r := range []*Record{a, b, c} {
		select {
		case <-r.Done():
		default:
			t.Fatal("a predecessor of a complete record is not complete")
		}
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
	}
	before := l.Stats()
	submit(l, b) // they wake up
	submit(l, a)
	submit(l, a)
	d := l.NewRecord(c, KindFile, text("d"))
	if d.prev != nil {
		t.Error("a durable predecessor was linked")
	}
	l.NewRecord(d, KindFile, text("dropped"))
	submit(l, d)
	<-d.Done()
	if got := l.Stats(); got.Records != before.Records+1 || got.Frames != before.Frames+1 {
		t.Errorf("before %+v, after %+v: want one record more", before, got)
	}
	mustClose(t, l)
	mustReplay(t, dir, "a", "b", "c", "d")
}

// Invariant 1: the predecessor is in the queue, but on top of its successor,
// and once more while the writer is busy with it.
func TestPredecessorSubmittedLate(t *testing.T) {
	dir := t.TempDir()
	g := newGate()
	l := mustOpen(t, dir, Options{seam: seam{sync: g.sync}})
	first := l.NewRecord(nil, KindFile, text("first"))
	submit(l, first)
	<-g.entered
	a := l.NewRecord(first, KindFile, text("a"))
	b := l.NewRecord(a, KindFile, text("b"))
	c := l.NewRecord(b, KindFile, text("c"))
	submit(l, b)
	submit(l, a)
	g.release <- nil
	<-g.entered // a and b are written, not durable
	if b.complete() {
		t.Error("complete before its sync")
	}
	submit(l, c)
	g.release <- nil
	<-g.entered
	g.release <- nil
	<-c.Done()
	mustClose(t, l)
	mustReplay(t, dir, "first", "a", "b", "c")
	if st := l.Stats(); st.Records != 4 || st.Syncs != 3 || st.Frames != 3 {
		t.Errorf("%+v: want 4 records in 3 frames with 3 syncs", st)
	}
}

// Invariant 1: the suspended goroutine wakes up while its record, written for
// the sake of a successor, is being synced. Nothing is left to write.
func TestPredecessorSubmittedDuringSync(t *testing.T) {
	dir := t.TempDir()
	g := newGate()
	l := mustOpen(t, dir, Options{seam: seam{sync: g.sync}})
	a := l.NewRecord(nil, KindFile, text("a"))
	b := l.NewRecord(a, KindFile, text("b"))
	submit(l, b)
	<-g.entered
	submit(l, a)
	g.release <- nil
	mustClose(t, l)
	if a.Err() != nil || b.Err() != nil || !a.complete() || !b.complete() {
		t.Errorf("not durable: %v, %v", a.Err(), b.Err())
	}
	if st := l.Stats(); st.Records != 2 || st.Syncs != 1 {
		t.Errorf("%+v: want 2 records with 1 sync", st)
	}
	mustReplay(t, dir, "a", "b")
}

// Invariants 1 and 9: a chain too long for recursion, of which only the last
// record is submitted.
func TestLongChain(t *testing.T) {
	const n = 100_000
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	var r *Record
	old := make([]weak.Pointer[Record], 0, n)
	for i := range n {
		r = l.NewRecord(r, KindFile, text(fmt.Sprint(i)))
		old = append(old, weak.Make(r))
	}
	submit(l, r)
	<-r.Done()
	wantCollected(t, old[:n-1])
	runtime.KeepAlive(r)
	mustClose(t, l)
	i := 0
	if _, err := Read(dir, func(e Entry) error {
		if string(e.Body) != fmt.Sprint(i) {
			return fmt.Errorf("record %d is %q", i, e.Body)
		}
		i++
		return nil
	}); err != nil || i != n {
		t.Fatalf("%d records: %v", i, err)
	}
}

// Invariant 9: each record submitted, as the engine does, and the last one kept.
func TestHistoryIsCollectable(t *testing.T) {
	const n = 100_000
	l := mustOpen(t, t.TempDir(), Options{})
	var last *Record
	records := make([]weak.Pointer[Record], 0, n)
	bodies := make([]weak.Pointer[big], 0, n)
	for range n {
		b := new(big)
		last = l.NewRecord(last, KindFile, b)
		submit(l, last)
		records = append(records, weak.Make(last))
		bodies = append(bodies, weak.Make(b))
	}
	<-last.Done()
	// Whatever else the writer still holds, it lets go of when it has nothing
	// to do; a later record is done when it has done that.
	group(t, l, "later")
	group(t, l, "later")
	wantCollected(t, records[:n-1])
	wantCollected(t, bodies)
	runtime.KeepAlive(last)
	mustClose(t, l)
}

type big [64]byte

func (b *big) AppendTo(dst []byte) []byte { return append(dst, b[:8]...) }

func wantCollected[T any](t *testing.T, ps []weak.Pointer[T]) {
	t.Helper()
	runtime.GC()
	runtime.GC() // one more for what was allocated while the first ran
	kept := 0
	for _, p := range ps {
		if p.Value() != nil {
			kept++
		}
	}
	if kept > 0 {
		t.Fatalf("%d of %d are still reachable", kept, len(ps))
	}
}

// Invariants 1, 8 and 10: many goroutines on few chains, published with
// compare-and-swap as the engine does.
func TestConcurrentChains(t *testing.T) {
	const chains, workers, each = 8, 32, 200
	type head struct {
		r *Record
		n int
	}
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentSize: 20_000})
	var heads [chains]atomic.Pointer[head]
	for i := range heads {
		heads[i].Store(&head{})
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				c := (w + i) % chains
				var r *Record
				for {
					h := heads[c].Load()
					r = l.NewRecord(h.r, KindFile, text(fmt.Sprintf("%d %d", c, h.n)))
					if heads[c].CompareAndSwap(h, &head{r, h.n + 1}) {
						break
					}
				}
				if i%3 == 0 {
					runtime.Gosched()
				}
				submit(l, r)
				if i%5 == 0 {
					<-r.Done()
					if err := r.Err(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, l)
	bodies, _, err := replay(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var next [chains]int
	for _, b := range bodies {
		var c, n int
		if _, err := fmt.Sscan(b, &c, &n); err != nil {
			t.Fatal(err)
		}
		if n != next[c] {
			t.Fatalf("chain %d: %d where %d should be", c, n, next[c])
		}
		next[c]++
	}
	if len(bodies) != workers*each {
		t.Fatalf("%d records, want %d", len(bodies), workers*each)
	}
}

// Invariant 3.
func TestGroupCommit(t *testing.T) {
	dir := t.TempDir()
	g := newGate()
	l := mustOpen(t, dir, Options{seam: seam{sync: g.sync}})
	want := []string{"first"}
	rs := []*Record{l.NewRecord(nil, KindFile, text("first"))}
	submit(l, rs[0])
	<-g.entered
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		rs = append(rs, l.NewRecord(nil, KindFile, text(want[i+1])))
		submit(l, rs[i+1])
	}
	g.release <- nil
	<-g.entered
	for _, r := range rs[1:] {
		if r.complete() {
			t.Fatal("complete before its sync")
		}
	}
	g.release <- nil
	for _, r := range rs {
		<-r.Done()
	}
	if st := l.Stats(); st.Records != 101 || st.Frames != 2 || st.Syncs != 2 {
		t.Errorf("%+v: want 101 records in 2 frames with 2 syncs", st)
	}
	mustClose(t, l)
	mustReplay(t, dir, want...)
}

// Invariant 3: a group commit that is too large for one frame.
func TestGroupCommitOfSeveralFrames(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{seam: seam{maxPayload: 100}})
	var bodies []string
	for i := range 10 {
		bodies = append(bodies, fmt.Sprint(i, strings.Repeat("x", 40)))
	}
	bodies = append(bodies, strings.Repeat("larger than a payload", 10))
	group(t, l, bodies...)
	if st := l.Stats(); st.Records != 11 || st.Frames != 6 || st.Syncs != 1 {
		t.Errorf("%+v: want 11 records in 6 frames with 1 sync", st)
	}
	mustClose(t, l)
	mustReplay(t, dir, bodies...)
}

// Invariant 3: very many frames.
func TestGroupCommitOfTooManyFrames(t *testing.T) {
	const n = math.MaxUint16 + 10
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{seam: seam{maxPayload: 1}})
	group(t, l, make([]string, n)...)
	if st := l.Stats(); st.Records != n || st.Frames != n || st.Syncs != 1 {
		t.Errorf("%+v: want %d frames with one sync", st, n)
	}
	mustClose(t, l)
	if sum, err := Read(dir, nil); err != nil || sum.Records != n || sum.Frames != n {
		t.Errorf("%+v, %v", sum, err)
	}
}

// Invariant 2: the directory is synced before anything in a new segment is
// acknowledged, and everything that Open makes as well.
func TestDirectorySync(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	var synced []string
	var r *Record
	var done int
	o := Options{SegmentSize: 100, seam: seam{syncDir: func(d string) error {
		synced = append(synced, d)
		if r != nil && r.complete() {
			done++
		}
		return nil
	}}}
	l := mustOpen(t, dir, o)
	for _, want := range []string{top, filepath.Join(top, "a"), dir, generationDir(dir)} {
		if !slices.Contains(synced, want) {
			t.Errorf("%s was not synced by Open", want)
		}
	}
	rolls := 0
	for i := range 20 {
		synced, r = nil, nil
		before := segmentCount(t, dir)
		r = l.NewRecord(nil, KindFile, text(strings.Repeat("x", 10*i)))
		submit(l, r)
		<-r.Done()
		if after := segmentCount(t, dir); after > before {
			rolls++
			if !slices.Equal(synced, []string{generationDir(dir)}) {
				t.Errorf("after record %d: synced %q", i, synced)
			}
		} else if len(synced) != 0 {
			t.Errorf("after record %d: synced %q without a new segment", i, synced)
		}
	}
	if rolls < 10 || done != 0 {
		t.Errorf("%d new segments, %d records complete before the directory sync", rolls, done)
	}
	mustClose(t, l)
}

// Invariant 8.
func TestCloseAgainstSubmit(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		l := mustOpen(t, dir, Options{})
		const workers, each = 8, 50
		var rs [workers][each]*Record
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				var prev *Record
				for i := range each {
					prev = l.NewRecord(prev, KindFile, text(fmt.Sprintf("%d %d", w, i)))
					rs[w][i] = prev
					submit(l, prev)
				}
			})
		}
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		mustClose(t, l)
		acked := map[string]bool{}
		for w := range rs {
			lost := false
			for i, r := range rs[w] {
				<-r.Done()
				switch err := r.Err(); {
				case err == nil && lost:
					t.Fatal("a record is durable, its predecessor is not")
				case err == nil:
					acked[fmt.Sprintf("%d %d", w, i)] = true
				case errors.Is(err, lock.ErrClosed):
					lost = true
				default:
					t.Fatal(err)
				}
			}
		}
		bodies, _, err := replay(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(bodies) != len(acked) {
			t.Fatalf("%d records, %d acknowledged", len(bodies), len(acked))
		}
		for _, b := range bodies {
			if !acked[b] {
				t.Fatalf("%q was not acknowledged", b)
			}
		}
	}
}

// Invariant 8.
func TestSubmitAfterClose(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	if err := l.Err(); err != nil {
		t.Fatal(err)
	}
	pending := l.NewRecord(nil, KindFile, text("made before"))
	mustClose(t, l)
	mustClose(t, l)
	if err := l.Err(); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("Err is %v", err)
	}
	for _, r := range []*Record{pending, l.NewRecord(pending, KindFile, text("made after"))} {
		ch := r.Done()
		if r.Err() != nil {
			t.Error("an error before Done")
		}
		submit(l, r)
		<-ch
		<-r.Done()
		if err := r.Err(); !errors.Is(err, lock.ErrClosed) || errors.Is(err, lock.ErrHalted) {
			t.Errorf("Err is %v", err)
		}
	}
}

// Invariant 11.
func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	group(t, l, "a")
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open: %v", err)
	}
	group(t, l, "b")
	mustClose(t, l)
	mustReplay(t, dir, "a", "b")
}

// Invariant 12.
func TestReadChangesNothing(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{SegmentSize: 100})
	group(t, l, "a", "b")
	group(t, l, strings.Repeat("c", 100))
	group(t, l, "d")
	want := []string{"a", "b", strings.Repeat("c", 100), "d"}
	check := func(when string, torn *TornTail) {
		t.Helper()
		before := snapshot(t, dir)
		got, sum, err := inspect(dir)
		if err != nil || !slices.Equal(got, want) || !reflect.DeepEqual(sum.TornTail, torn) {
			t.Errorf("%s: %q, %+v, %v", when, got, sum, err)
		}
		if sum.Segments != segmentCount(t, dir) || sum.Frames != 3 || sum.Records != 4 {
			t.Errorf("%s: %+v", when, sum)
		}
		if !reflect.DeepEqual(before, snapshot(t, dir)) {
			t.Errorf("%s: Read changed something", when)
		}
	}
	check("open", nil)
	mustClose(t, l)
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	check("closed, without lock file", nil)
	last := segmentPath(dir, 3)
	data := get(t, last)
	put(t, last, append(slices.Clone(data), "\x64torn"...))
	check("torn", &TornTail{File: last, Offset: int64(len(data)), Bytes: 5, Reason: "an entry of 100 bytes reaches past the end of the file"})

	if _, err := Read(filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	empty := t.TempDir()
	if _, err := Read(empty, nil); !errors.Is(err, fs.ErrNotExist) || len(snapshot(t, empty)) != 1 {
		t.Errorf("no log: %v", err)
	}
	stop := errors.New("stop")
	if sum, err := Read(dir, func(Entry) error { return stop }); !errors.Is(err, stop) || sum.Records != 0 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	group(t, l, "a")
	mustClose(t, l)
	data := get(t, segmentPath(dir, 1))
	put(t, segmentPath(dir, 1), append(data, 0, 0))

	refused := errors.New("refused")
	before := segmentData(t, dir)
	_, err := Open(dir, Options{Replay: func(Entry) error { return refused }})
	if !errors.Is(err, refused) {
		t.Errorf("Replay's error: %v", err)
	}
	if !reflect.DeepEqual(before, segmentData(t, dir)) {
		t.Error("repaired although Replay failed")
	}
	if _, err := Open(dir, Options{SegmentSize: -1}); !errors.Is(err, lock.ErrInvalid) {
		t.Errorf("negative size: %v", err)
	}
	eio := errors.New("no sync")
	if _, err := Open(dir, Options{seam: seam{syncDir: func(string) error { return eio }}}); !errors.Is(err, eio) {
		t.Errorf("directory sync: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, nil)
	if _, err := Open(file, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file: %v", err)
	}
	// None of them kept the lock.
	var out strings.Builder
	l = mustOpen(t, dir, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if st := l.Stats(); st.Repaired != 2 || st.Replayed != 1 || st.Bytes != int64(len(data)) {
		t.Errorf("%+v", st)
	}
	for _, want := range []string{segmentPath(dir, 1), fmt.Sprintf("offset=%d", len(data)), "bytes=2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log output %q does not say %s", out.String(), want)
		}
	}
	mustClose(t, l)
}

// Invariant 1: whoever finds a record whose submitter is suspended in the middle
// of Submit can have it written all the same, before whatever comes later.
func TestSubmitForSuspendedSubmitter(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	a := l.NewRecord(nil, KindFile, text("a"))
	b := l.NewRecord(a, KindFile, text("b"))
	b.submitted.Store(submitting) // the other one stops here
	l.Submit(b)
	if err := l.Append(KindWalked, text("later")); err != nil {
		t.Fatal(err)
	}
	if !a.Durable() || !b.Durable() {
		t.Error("a record that was submitted for somebody else is not written")
	}
	l.Submit(b)
	before := l.Stats()
	l.push(b) // the other one goes on
	b.submitted.Store(queued)
	if err := l.Wait(b); err != nil {
		t.Fatal(err)
	}
	c := l.NewRecord(nil, KindFile, text("c"))
	c.submitted.Store(submitting)
	if err := l.Wait(c); err != nil { // it too is had written
		t.Fatal(err)
	}
	if st := l.Stats(); st.Records != before.Records+1 || st.Frames != before.Frames+1 {
		t.Errorf("%+v, then %+v", before, st)
	}
	mustClose(t, l)
	got, _, err := inspect(dir)
	if err != nil || !slices.Equal(got, []string{"a", "b", "later", "c"}) {
		t.Errorf("%q, %v", got, err)
	}
}
