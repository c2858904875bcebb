package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"sneck/lock"
)

// register is the smallest thing that a log can be kept of: numbers under names.
// A record sets one; a snapshot has them all.
type register struct {
	mu     sync.Mutex
	values map[string]string
	during func(i int) // called before the i-th state is emitted
}

func newRegister() *register { return &register{values: map[string]string{}} }

// replay takes records: "name=value".
func (g *register) replay(e Entry) error {
	switch e.Kind {
	case KindBegin:
		g.values = map[string]string{}
	case KindFile, KindState:
		name, value, ok := strings.Cut(string(e.Body), "=")
		if !ok {
			return fmt.Errorf("%w: %q", ErrRecord, e.Body)
		}
		g.values[name] = value
	}
	return nil
}

func (g *register) snapshot(emit func(Kind, Body) error) error {
	g.mu.Lock()
	var states []string
	for k, v := range g.values {
		states = append(states, k+"="+v)
	}
	g.mu.Unlock()
	slices.Sort(states)
	for i, s := range states {
		if g.during != nil {
			g.during(i)
		}
		if err := emit(KindState, text(s)); err != nil {
			return err
		}
	}
	return nil
}

// set sets a value and waits until that is durable.
func (g *register) set(t tb, l *Log, name, value string) {
	t.Helper()
	g.mu.Lock()
	r := l.NewRecord(nil, KindFile, text(name+"="+value))
	g.values[name] = value
	l.Submit(r)
	g.mu.Unlock()
	if err := l.Wait(r); err != nil {
		t.Fatalf("%s=%s: %v", name, value, err)
	}
}

// open opens the log of a register.
func (g *register) open(t tb, dir string, o Options) *Log {
	t.Helper()
	o.Replay, o.Snapshot = g.replay, g.snapshot
	return mustOpen(t, dir, o)
}

// reopened is what a log says.
func reopened(t tb, dir string) (map[string]string, Stats) {
	t.Helper()
	g := newRegister()
	l := g.open(t, dir, Options{})
	st := l.Stats()
	mustClose(t, l)
	return g.values, st
}

func mustCheckpoint(t tb, l *Log) {
	t.Helper()
	if err := l.Checkpoint(context.Background()); err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
}

// names is what is in a directory.
func names(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("%s has %q, want %q", dir, got, want)
	}
}

func copied(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func wantValues(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	if got, _ := reopened(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("the log says %v, want %v", got, want)
	}
}

// Invariant 13: a checkpoint takes the place of the log before it.
func TestCheckpoint(t *testing.T) {
	for _, d := range []Durability{Sync, Interval, None} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			dir := t.TempDir()
			g := newRegister()
			l := g.open(t, dir, Options{Durability: d, SegmentSize: 200})
			for life := range 3 {
				for i := range 100 {
					g.set(t, l, fmt.Sprint("n", i%10), fmt.Sprint(life, " ", i))
				}
				mustCheckpoint(t, l)
				n := uint64(life + 2)
				wantNames(t, dir, lockName, checkpointName(n), generationName(n))
				for i := range 10 {
					g.set(t, l, fmt.Sprint("m", i), fmt.Sprint(life))
				}
			}
			st := l.Stats()
			if st.Generation != 4 || st.Checkpoints != 3 || st.FailedCheckpoints != 0 || st.CheckpointTime <= 0 {
				t.Errorf("%+v", st)
			}
			mustClose(t, l)
			if size := dirSize(t, dir); size != st.CheckpointBytes+l.Stats().Bytes {
				t.Errorf("%d bytes on disk, counted %d and %d", size, st.CheckpointBytes, l.Stats().Bytes)
			}
			values, st := reopened(t, dir)
			if fmt.Sprint(values) != fmt.Sprint(g.values) {
				t.Errorf("the log says %v, want %v", values, g.values)
			}
			if st.Replayed > 40 {
				t.Errorf("%d records replayed", st.Replayed)
			}
		})
	}
}

func dirSize(t testing.TB, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		size += fi.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// Invariant 13: at whatever moment of a checkpoint it dies, the log is whole.
func TestCrashDuringCheckpoint(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	var images []string
	var wants []map[string]string
	image := func() {
		want := map[string]string{}
		for k, v := range g.values {
			want[k] = v
		}
		images, wants = append(images, copied(t, dir)), append(wants, want)
	}
	l := g.open(t, dir, Options{SegmentSize: 300, seam: seam{syncDir: func(string) error {
		image()
		return nil
	}}})
	for round := range 3 {
		for i := range 20 {
			g.set(t, l, fmt.Sprint("n", i), fmt.Sprint(round))
		}
		g.during = func(i int) {
			g.set(t, l, fmt.Sprint("n", 19-i), fmt.Sprint(round, " during ", i))
			g.set(t, l, fmt.Sprint("new", round), fmt.Sprint(i))
			image()
		}
		mustCheckpoint(t, l)
		image()
	}
	mustClose(t, l)
	incomplete := 0
	for i, dir := range images {
		if slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.HasSuffix(n, temporarySuffix) }) {
			incomplete++
		}
		wantValues(t, dir, wants[i])
		wantValues(t, dir, wants[i])
		if slices.ContainsFunc(names(t, dir), func(n string) bool { return strings.HasSuffix(n, temporarySuffix) }) {
			t.Errorf("%d: %v is left", i, names(t, dir))
		}
	}
	if incomplete < 30 {
		t.Errorf("%d of %d images have a checkpoint that is not complete", incomplete, len(images))
	}
}

// A checkpoint comes by itself when the log is large, and no sooner; its size
// puts off the next one.
func TestCheckpointBySize(t *testing.T) {
	for after, want := range map[int64]bool{10_000: true, 1 << 40: false, -1: false} {
		dir := t.TempDir()
		g := newRegister()
		l := g.open(t, dir, Options{SegmentSize: 1000, CheckpointAfter: after, Durability: None})
		most := int64(0)
		for i := range 2000 {
			g.set(t, l, fmt.Sprint("n", i%10), strings.Repeat("x", 90))
			most = max(most, l.Stats().Bytes)
		}
		<-l.checkpoint // whatever is under way is over
		l.checkpoint <- struct{}{}
		st := l.Stats()
		if (st.Checkpoints > 0) != want || st.FailedCheckpoints > 0 {
			t.Errorf("after %d: %+v", after, st)
		}
		mustClose(t, l)
		wantValues(t, dir, g.values)
	}
}

// One checkpoint at a time, whoever asks; each has what was there when it was
// asked for.
func TestCheckpointsAtOnce(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{SegmentSize: 1000})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 30 {
				g.set(t, l, fmt.Sprint("n", w), fmt.Sprint(i))
				if i%10 == 0 {
					mustCheckpoint(t, l)
				}
			}
		})
	}
	wg.Wait()
	if st := l.Stats(); st.Checkpoints != 12 {
		t.Errorf("%+v", st)
	}
	mustClose(t, l)
	wantValues(t, dir, g.values)
}

// A checkpoint that is not written leaves the log as it was, and the next one
// is.
func TestCheckpointFails(t *testing.T) {
	boom := errors.New("boom")
	ctx, cancel := context.WithCancel(context.Background())
	var failing atomic.Bool
	for name, tc := range map[string]struct {
		ctx   context.Context
		want  error
		o     Options
		begin func(g *register, dir string) (end func())
	}{
		"context": {ctx: ctx, want: context.Canceled, begin: func(g *register, _ string) func() {
			g.during = func(i int) {
				if i == 2 {
					cancel()
				}
			}
			return func() {}
		}},
		"directory": {want: boom, o: Options{seam: seam{syncDir: func(string) error { return when(failing.Load(), boom) }}}, begin: func(*register, string) func() {
			failing.Store(true)
			return func() { failing.Store(false) }
		}},
		"a file in the way": {want: syscall.EISDIR, begin: func(_ *register, dir string) func() {
			path := filepath.Join(dir, checkpointName(2)+temporarySuffix)
			_ = os.Mkdir(path, dirPerm)
			return func() { _ = os.Remove(path) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := newRegister()
			l := g.open(t, dir, tc.o)
			for i := range 10 {
				g.set(t, l, fmt.Sprint("n", i), "a")
			}
			if tc.ctx == nil {
				tc.ctx = context.Background()
			}
			end := tc.begin(g, dir)
			if err := l.Checkpoint(tc.ctx); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			end()
			g.during = nil
			if st := l.Stats(); st.Checkpoints != 0 || (st.FailedCheckpoints != 0) != (tc.ctx.Err() == nil) {
				t.Errorf("%+v", st)
			}
			g.set(t, l, "n1", "b")
			wantValues(t, copied(t, dir), g.values)
			mustCheckpoint(t, l)
			g.set(t, l, "n2", "c")
			if n := len(names(t, dir)); n != 3 {
				t.Errorf("%q", names(t, dir))
			}
			mustClose(t, l)
			wantValues(t, dir, g.values)
		})
	}
	if l := mustOpen(t, t.TempDir(), Options{}); !errors.Is(l.Checkpoint(context.Background()), lock.ErrInvalid) {
		t.Error("a checkpoint without a snapshot")
	} else {
		mustClose(t, l)
	}
}

// A log that halts or is closed during a checkpoint gives it up.
func TestCheckpointEndsWithTheLog(t *testing.T) {
	boom := errors.New("boom")
	for _, halts := range []bool{true, false} {
		dir := t.TempDir()
		g := newRegister()
		var fail atomic.Bool
		l := g.open(t, dir, Options{seam: seam{sync: func() error { return when(fail.Load(), boom) }}})
		for i := range 10 {
			g.set(t, l, fmt.Sprint("n", i), "a")
		}
		closed := make(chan error, 1)
		g.during = func(i int) {
			if i != 3 {
				return
			}
			if halts {
				fail.Store(true)
				if err := l.Append(KindFile, text("n1=lost")); !errors.Is(err, lock.ErrHalted) {
					t.Error(err)
				}
				return
			}
			go func() { closed <- l.Close() }()
			<-l.stopping
		}
		err := l.Checkpoint(context.Background())
		if halts {
			if !errors.Is(err, lock.ErrHalted) || !errors.Is(err, boom) {
				t.Errorf("got %v", err)
			}
			if err := l.Close(); !errors.Is(err, lock.ErrHalted) {
				t.Error(err)
			}
		} else {
			if !errors.Is(err, lock.ErrClosed) {
				t.Errorf("got %v", err)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if err := l.Checkpoint(context.Background()); !errors.Is(err, lock.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		got, _ := reopened(t, dir)
		if got["n1"] == "lost" {
			got["n1"] = "a" // it may be there: nobody was told that it is not
		}
		if fmt.Sprint(got) != fmt.Sprint(g.values) {
			t.Errorf("the log says %v, want %v", got, g.values)
		}
	}
}

// Invariant 5: whatever is wrong with a checkpoint is damage, and is named.
func TestDamagedCheckpoint(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{})
	for i := range 10 {
		g.set(t, l, fmt.Sprint("n", i), "a")
	}
	mustCheckpoint(t, l)
	g.set(t, l, "n3", "b")
	mustClose(t, l)
	path := filepath.Join(dir, checkpointName(2))
	whole := get(t, path)
	refused := func(what string) {
		t.Helper()
		before := snapshot(t, dir)
		for _, open := range []func() error{
			func() error { _, err := Open(dir, Options{Replay: newRegister().replay}); return err },
			func() error { _, err := Read(dir, newRegister().replay); return err },
		} {
			var d *DamageError
			if err := open(); !errors.As(err, &d) || d.File != path || d.Offset > int64(len(whole)) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		after := snapshot(t, dir)
		for p, s := range before {
			if after[p].data != s.data {
				t.Fatalf("%s: %s has changed", what, p)
			}
		}
	}
	for n := range whole {
		put(t, path, whole[:n])
		refused(fmt.Sprint("cut at ", n))
		flipped := slices.Clone(whole)
		flipped[n] ^= 1 << (n % 8)
		put(t, path, flipped)
		refused(fmt.Sprint("flipped at ", n))
	}
	put(t, path, append(slices.Clone(whole), 0))
	refused("a zero behind it")
	put(t, path, append(slices.Clone(whole), whole...))
	refused("twice")
	put(t, path, get(t, filepath.Join(dir, generationName(2), segmentName(1))))
	refused("a log")
	put(t, path, whole)
	wantValues(t, dir, g.values)

	// A checkpoint in the place of a log is not one either.
	seg := filepath.Join(dir, generationName(2), segmentName(1))
	old := get(t, seg)
	put(t, seg, whole)
	_, err := Open(dir, Options{Replay: newRegister().replay})
	wantDamage(t, err, seg, 0)
	// Nor is the log of another generation.
	put(t, seg, bytes.ReplaceAll(entry(1, 0, "n1=z"), nil, nil))
	_, err = Open(dir, Options{Replay: newRegister().replay})
	wantDamage(t, err, seg, 0)
	put(t, seg, old)
	wantValues(t, dir, g.values)
}

// What is missing is named; what a crash can leave is not missed.
func TestGenerations(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{})
	g.set(t, l, "n", "1")
	mustCheckpoint(t, l)
	g.set(t, l, "n", "2")
	g.during = func(int) { _ = l.Err(); panic("given up") }
	func() {
		defer func() { _ = recover() }()
		_ = l.Checkpoint(context.Background())
	}()
	g.set(t, l, "n", "3")
	mustClose(t, l)
	wantNames(t, dir, lockName, checkpointName(2), checkpointName(3)+temporarySuffix, generationName(2), generationName(3))

	for _, tc := range []struct {
		name   string
		change func(dir string)
		file   string // that the damage is in; "": none
		want   string
	}{
		{"nothing", func(string) {}, "", "3"},
		{"checkpoint", func(dir string) { remove(t, dir, checkpointName(2)) }, checkpointName(2), ""},
		{"log of the checkpoint", func(dir string) { remove(t, dir, generationName(2)) }, generationName(2), ""},
		{"both logs", func(dir string) { remove(t, dir, generationName(2)); remove(t, dir, generationName(3)) }, generationName(2), ""},
		{"the last log", func(dir string) { remove(t, dir, generationName(3)) }, "", "2"},
		{"the last log has nothing in it", func(dir string) { put(t, filepath.Join(dir, generationName(3), segmentName(1)), nil) }, "", "2"},
		{"the last log has no segment", func(dir string) { remove(t, dir, filepath.Join(generationName(3), segmentName(1))) }, "", "2"},
		{"an older log that was being removed", func(dir string) {
			mkdir(t, dir, generationName(1))
			put(t, filepath.Join(dir, generationName(1), segmentName(7)), []byte("rest"))
		}, "", "3"},
		{"an older checkpoint", func(dir string) { put(t, filepath.Join(dir, checkpointName(1)), []byte("old")) }, "", "3"},
		{"a torn log with an empty one after it", func(dir string) {
			put(t, filepath.Join(dir, generationName(3), segmentName(1)), []byte("torn"))
			mkdir(t, dir, generationName(4))
		}, "", "2"},
		{"a log torn before the last", func(dir string) {
			p := filepath.Join(dir, generationName(2), segmentName(1))
			put(t, p, append(get(t, p), "torn"...))
		}, filepath.Join(generationName(2), segmentName(1)), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := copied(t, dir)
			tc.change(dir)
			if tc.file != "" {
				_, err := Open(dir, Options{Replay: newRegister().replay})
				var d *DamageError
				if !errors.As(err, &d) || d.File != filepath.Join(dir, tc.file) || !strings.Contains(err.Error(), "sneck log repair") {
					t.Fatalf("got %v, want damage in %s", err, tc.file)
				}
				return
			}
			wantValues(t, dir, map[string]string{"n": tc.want})
			// It goes on from there.
			g := newRegister()
			l := g.open(t, dir, Options{})
			g.set(t, l, "more", "x")
			mustCheckpoint(t, l)
			g.set(t, l, "more", "y")
			mustClose(t, l)
			if n := names(t, dir); len(n) != 3 {
				t.Errorf("left: %q", n)
			}
			wantValues(t, dir, map[string]string{"n": tc.want, "more": "y"})
		})
	}
}

func remove(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), dirPerm); err != nil {
		t.Fatal(err)
	}
}

// Invariant 12: reading a log on which checkpoints are made shows what was there
// at some time, or says that it has changed.
func TestReadWhileCheckpointing(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{SegmentSize: 500, Durability: None})
	for i := range 10 {
		g.set(t, l, fmt.Sprint("n", i), "0")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 60 {
			for k := range 20 {
				g.set(t, l, fmt.Sprint("n", k%10), fmt.Sprint(i))
			}
			mustCheckpoint(t, l)
		}
	}()
	read, changed := 0, 0
	for {
		select {
		case <-done:
			t.Logf("read %d times, changed %d times", read, changed)
			mustClose(t, l)
			return
		default:
		}
		now := newRegister()
		_, err := Read(dir, now.replay)
		switch {
		case errors.Is(err, ErrChanged):
			changed++
		case err != nil:
			t.Fatal(err)
		case len(now.values) != 10:
			t.Fatalf("read %v", now.values)
		default:
			read++
		}
	}
}

// With Interval a record is acknowledged before it is written, and written and
// synced in time without anybody asking for more; Close writes what is left.
func TestInterval(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Durability: Interval, SyncInterval: 1 << 40})
	r := l.NewRecord(nil, KindFile, text("a"))
	l.Submit(r)
	if err := l.Wait(r); err != nil || r.Durable() {
		t.Fatalf("%v, durable %v", err, r.Durable())
	}
	for i := range writeFrom {
		r = l.NewRecord(r, KindFile, text(fmt.Sprint(i)))
		l.Submit(r)
		if err := l.Wait(r); err != nil {
			t.Fatal(err)
		}
		if i == writeFrom/2 && l.Stats().Records > 0 {
			t.Error("written before there was a reason to")
		}
	}
	for l.Stats().Records == 0 { // so many that they were written without waiting
		runtime.Gosched()
	}
	r = l.NewRecord(r, KindFile, text("last"))
	l.Submit(r)
	if err := l.Wait(r); err != nil || r.Durable() {
		t.Fatalf("%v, durable %v", err, r.Durable())
	}
	mustClose(t, l)
	if !r.Durable() {
		t.Error("Close left a record in memory")
	}
	if got, sum, err := inspect(dir); err != nil || len(got) != writeFrom+2 || got[writeFrom+1] != "last" {
		t.Errorf("%d records, %+v, %v", len(got), sum, err)
	}

	l = mustOpen(t, dir, Options{Durability: Interval, SyncInterval: 1})
	r = l.NewRecord(nil, KindFile, text("b"))
	l.Submit(r)
	<-r.Done() // nobody waits for it in Log.Wait
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	mustClose(t, l)
}

// On a disk that does not keep up, Interval does not take more and more into
// memory.
func TestIntervalIsBounded(t *testing.T) {
	g := newGate()
	l := mustOpen(t, t.TempDir(), Options{Durability: Interval, seam: seam{sync: g.sync}})
	first := l.NewRecord(nil, KindFile, text("a"))
	submit(l, first)
	<-g.entered
	var r *Record
	for i := range mostBuffered + 100 {
		r = l.NewRecord(nil, KindFile, text(""))
		l.Submit(r)
		if i < mostBuffered-10 {
			if err := l.Wait(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	waited := make(chan error)
	go func() { waited <- l.Wait(r) }()
	select {
	case <-waited:
		t.Error("it was acknowledged")
	case g.release <- nil:
	}
	<-g.entered
	g.release <- nil
	if err := <-waited; err != nil || !r.Durable() {
		t.Errorf("%v, durable %v", err, r.Durable())
	}
	go func() {
		for range g.entered {
			g.release <- nil
		}
	}()
	mustClose(t, l)
}

// With None nothing is synced but what has to be: new segments, generations and
// checkpoints, and what Append adds.
func TestNone(t *testing.T) {
	dir := t.TempDir()
	var syncs atomic.Int32
	g := newRegister()
	l := g.open(t, dir, Options{Durability: None, seam: seam{sync: func() error { syncs.Add(1); return nil }}})
	for i := range 100 {
		g.set(t, l, fmt.Sprint("n", i), "a")
		if i%10 == 0 {
			wantValues(t, copied(t, dir), g.values) // written, all the same
		}
	}
	if n := syncs.Load(); n != 0 || l.Stats().Syncs != 0 || l.Stats().Records != 100 {
		t.Errorf("%d syncs, %+v", n, l.Stats())
	}
	if err := l.Append(KindFile, text("n1=b")); err != nil || syncs.Load() != 1 {
		t.Errorf("%v, %d syncs", err, syncs.Load())
	}
	mustClose(t, l)
	// Every frame since the last sync may be torn, whatever follows it.
	segment := filepath.Join(dir, generationName(1), segmentName(1))
	data := get(t, segment)
	_, n, _ := decodeEntry(data)
	data[n+10] ^= 1
	put(t, segment, data)
	if got, st := reopened(t, dir); len(got) != 1 || st.Repaired != int64(len(data)-n) {
		t.Errorf("%v, %+v", got, st)
	}
}

// Invariant 5: a frame says how many frames precede it since the last sync, and
// beginning a segment is one.
func TestPartsCountFromTheLastSync(t *testing.T) {
	dir := t.TempDir()
	some := func(l *Log, n int) {
		for range n {
			r := l.NewRecord(nil, KindFile, text(strings.Repeat("x", 20)))
			l.Submit(r)
			if err := l.Wait(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := mustOpen(t, dir, Options{Durability: None, SegmentSize: 1000})
	some(l, 25)
	mustClose(t, l)
	// With a smaller limit the segment is full before the next frame comes.
	l = mustOpen(t, dir, Options{Durability: None, SegmentSize: 300})
	some(l, 17)
	if err := l.Append(KindFile, text("synced")); err != nil {
		t.Fatal(err)
	}
	some(l, 2)
	mustClose(t, l)
	var parts []string
	segs, err := listSegments(generationDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, seg := range segs {
		var in []string
		for data := get(t, seg.path); len(data) > 0; {
			f, n, bad := decodeEntry(data)
			if bad != nil {
				t.Fatal(bad.reason)
			}
			in = append(in, fmt.Sprint(f.part))
			data = data[n:]
		}
		parts = append(parts, strings.Join(in, " "))
	}
	want := []string{
		"0 1 2 3 4 5 6 7 8 9 10 11 12 13 14", "0 1 2 3 4 5 6 7 8 9",
		"0 1 2 3 4", "0 1 2 3 4", "0 1 2 3 4", "0 1 2 0 1", "",
	}
	if !slices.Equal(parts, want) {
		t.Errorf("%q, want %q", parts, want)
	}
}

// The log says where a checkpoint's walk was over.
func TestWalkedIsLogged(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{})
	g.set(t, l, "n", "1")
	g.during = func(int) { g.set(t, l, "n", "2") }
	mustCheckpoint(t, l)
	g.set(t, l, "n", "3")
	mustClose(t, l)
	var got []string
	if _, err := Read(dir, func(e Entry) error {
		got = append(got, fmt.Sprint(e.Kind, " ", e.Generation))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"begin 2", "state 2", "file 2", "walked 2", "file 2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Close gives up a checkpoint that waits for its last record while somebody else
// is in a sync.
func TestCloseWhileCheckpointWaits(t *testing.T) {
	g := newRegister()
	at := newGate()
	var hold atomic.Bool
	l := g.open(t, t.TempDir(), Options{seam: seam{sync: func() error {
		if hold.CompareAndSwap(true, false) {
			return at.sync()
		}
		return nil
	}}})
	g.set(t, l, "n", "1")
	other := make(chan error, 1)
	g.during = func(int) {
		hold.Store(true)
		go func() { other <- l.Append(KindFile, text("m=1")) }()
		<-at.entered
	}
	written := make(chan error, 1)
	go func() { written <- l.Checkpoint(context.Background()) }()
	for l.queue.Load() == nil { // until it has queued "walked"
		runtime.Gosched()
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	<-l.stopping
	for range 1000 {
		runtime.Gosched()
	}
	at.release <- nil
	for _, ch := range []chan error{closed, other} {
		if err := <-ch; err != nil {
			t.Error(err)
		}
	}
	if err := <-written; err != nil && !errors.Is(err, lock.ErrClosed) {
		t.Error(err)
	}
}

// With Interval, what is acknowledged while Close is under way is in the log.
func TestIntervalAgainstClose(t *testing.T) {
	dir := t.TempDir()
	at := newGate()
	var hold atomic.Bool
	l := mustOpen(t, dir, Options{Durability: Interval, SyncInterval: 1 << 40, seam: seam{sync: func() error {
		if hold.CompareAndSwap(true, false) {
			return at.sync()
		}
		return nil
	}}})
	if err := l.Wait(l.NewRecord(nil, KindFile, text("a"))); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	<-at.entered
	if err := l.Wait(l.NewRecord(nil, KindFile, text("b"))); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("acknowledged too late to be written: %v", err)
	}
	at.release <- nil
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got, _, err := inspect(dir); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Invariant 5: a checkpoint whose log has lost the record that ends its walk is
// damage: its files are of different times.
func TestWalkIsMissing(t *testing.T) {
	dir := t.TempDir()
	g := newRegister()
	l := g.open(t, dir, Options{})
	for i := range 5 {
		g.set(t, l, fmt.Sprint("n", i), "1")
	}
	g.during = func(i int) { g.set(t, l, fmt.Sprint("n", i), "2") }
	mustCheckpoint(t, l)
	g.during = nil
	g.set(t, l, "n0", "3")
	mustClose(t, l)
	segment := filepath.Join(dir, generationName(2), segmentName(1))
	whole := get(t, segment)
	ends, walked := []int{0}, 0
	for off := 0; off < len(whole); {
		f, n, bad := decodeEntry(whole[off:])
		if bad != nil {
			t.Fatal(bad.reason)
		}
		off += n
		ends = append(ends, off)
		if kind, _, _, _ := record(f.payload); kind == KindWalked {
			walked = off
		}
	}
	for n := range len(whole) + 1 {
		put(t, segment, whole[:n])
		_, err := Read(dir, newRegister().replay)
		if n < walked {
			at := 0
			for _, end := range ends {
				if end <= n {
					at = end
				}
			}
			wantDamage(t, err, segment, int64(at))
		} else if err != nil {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
	remove(t, dir, filepath.Join(generationName(2), segmentName(1)))
	_, err := Open(dir, Options{Replay: newRegister().replay})
	wantDamage(t, err, filepath.Join(dir, generationName(2)), 0)
	put(t, segment, whole)
	wantValues(t, dir, g.values)
}
