package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sneck/lock"
)

// Invariants 7 and 8, for each operation that can fail.
func TestHalt(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		name string
		seam func(fail *bool) seam
	}{
		{"write", func(fail *bool) seam {
			return seam{write: func(uint64, []byte) error { return when(*fail, boom) }}
		}},
		{"sync", func(fail *bool) seam {
			return seam{sync: func() error { return when(*fail, boom) }}
		}},
		{"directory sync", func(fail *bool) seam {
			return seam{syncDir: func(string) error { return when(*fail, boom) }}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			var fail bool // handed to the writer by Submit
			halts := make(chan error, 2)
			l := mustOpen(t, dir, Options{SegmentSize: 1, OnHalt: func(err error) { halts <- err }, seam: tc.seam(&fail)})
			group(t, l, "kept")
			fail = true
			a := l.NewRecord(nil, KindFile, text("a"))
			b := l.NewRecord(a, KindFile, text("b"))
			c := l.NewRecord(b, KindFile, text("c"))
			d := l.NewRecord(c, KindFile, text("d"))
			e := l.NewRecord(nil, KindFile, text("e"))
			submit(l, b)
			<-b.Done()
			submit(l, d)
			<-d.Done()
			submit(l, e)
			for _, r := range []*Record{a, b, c, d, e} {
				<-r.Done()
				if err := r.Err(); !errors.Is(err, lock.ErrHalted) || !errors.Is(err, boom) || !strings.Contains(err.Error(), dir) {
					t.Errorf("record: %v", err)
				}
				if r.prev != nil || r.body != nil {
					t.Error("a failed record keeps others reachable")
				}
			}
			submit(l, a)
			submit(l, c)
			if err := <-halts; !errors.Is(err, lock.ErrHalted) || !errors.Is(err, boom) {
				t.Errorf("OnHalt: %v", err)
			}
			before := segmentData(t, dir)
			if err := l.Err(); !errors.Is(err, lock.ErrHalted) || !errors.Is(err, boom) {
				t.Errorf("Err: %v", err)
			}
			if err := l.Close(); !errors.Is(err, lock.ErrHalted) {
				t.Errorf("Close: %v", err)
			}
			if !reflect.DeepEqual(before, segmentData(t, dir)) {
				t.Error("Close wrote")
			}
			f := l.NewRecord(nil, KindFile, text("f"))
			submit(l, f)
			<-f.Done()
			if err := f.Err(); !errors.Is(err, lock.ErrHalted) {
				t.Errorf("after Close: %v", err)
			}
			if len(halts) != 0 {
				t.Error("OnHalt was called twice")
			}
			got, _, err := replay(dir, Options{})
			if err != nil || len(got) == 0 || !slices.Equal(got, []string{"kept", "a", "b"}[:len(got)]) {
				t.Errorf("reopen: %q, %v", got, err)
			}
		})
	}
}

func when(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

// Invariants 7 and 8: records that were queued while the failing sync ran.
func TestHaltWithQueue(t *testing.T) {
	dir := t.TempDir()
	g := newGate()
	l := mustOpen(t, dir, Options{seam: seam{sync: g.sync}})
	a := l.NewRecord(nil, KindFile, text("a"))
	submit(l, a)
	<-g.entered
	var rs []*Record
	for i := range 50 {
		rs = append(rs, l.NewRecord(a, KindFile, text(fmt.Sprint(i))))
		submit(l, rs[i])
	}
	g.release <- syscall.EIO
	for _, r := range append(rs, a) {
		<-r.Done()
		if err := r.Err(); !errors.Is(err, lock.ErrHalted) || !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
	}
	if st := l.Stats(); st.Records != 0 || st.Syncs != 0 || st.Frames != 0 || st.Bytes != 0 {
		t.Errorf("%+v: nothing was made durable", st)
	}
	if err := l.Close(); !errors.Is(err, lock.ErrHalted) {
		t.Errorf("Close: %v", err)
	}
}

// Invariants 4 and 7: a group commit of several frames fails as a whole, also
// if some of them were written.
func TestHaltBetweenFrames(t *testing.T) {
	boom := errors.New("boom")
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{seam: seam{maxPayload: 1, write: func(index uint64, _ []byte) error {
		return when(index == 3, boom)
	}}})
	var rs []*Record
	var r *Record
	for i := range 5 {
		r = l.NewRecord(r, KindFile, text(fmt.Sprint(i)))
		rs = append(rs, r)
	}
	submit(l, r)
	for _, r := range rs {
		<-r.Done()
		if err := r.Err(); !errors.Is(err, boom) {
			t.Errorf("record: %v", err)
		}
	}
	if st := l.Stats(); st.Records != 0 || st.Frames != 0 {
		t.Errorf("%+v: nothing was made durable", st)
	}
	_ = l.Close() // halted
	mustReplay(t, dir, "0", "1")
}

// Invariants 6 and 7: what could not be read back is not written.
func TestUnwritableRecord(t *testing.T) {
	for name, kind := range map[string]Kind{"too large": KindFile, "unknown kind": 77} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{seam: seam{maxRecord: 100}})
			group(t, l, strings.Repeat("x", 100))
			size := 1
			if kind == KindFile {
				size = 101
			}
			r := l.NewRecord(nil, kind, text(strings.Repeat("x", size)))
			submit(l, r)
			<-r.Done()
			if err := r.Err(); !errors.Is(err, lock.ErrHalted) {
				t.Errorf("record: %v", err)
			}
			_ = l.Close() // halted
			mustReplay(t, dir, strings.Repeat("x", 100))
		})
	}
}

// Invariants 4 and 7 on a disk that is really full: it fills up in a write, or
// about when a new segment is begun.
func TestFullDisk(t *testing.T) {
	for _, size := range []int{0, 50_000} {
		t.Run(fmt.Sprint("segment size ", size), func(t *testing.T) {
			mnt := t.TempDir()
			if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=512k"); err != nil {
				t.Skipf("mounting a tmpfs of 512 KiB needs root: %v", err)
			}
			t.Cleanup(func() {
				// The halted log's segment is closed by the garbage collector only.
				if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			fillDisk(t, filepath.Join(mnt, "log"), Options{SegmentSize: size})
		})
	}
}

func fillDisk(t *testing.T, dir string, o Options) {
	l := mustOpen(t, dir, o)
	var acked []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				b := fmt.Sprint(w, " ", i, strings.Repeat("x", 2000))
				r := l.NewRecord(nil, KindFile, text(b))
				submit(l, r)
				<-r.Done()
				if err := r.Err(); err != nil {
					if !errors.Is(err, lock.ErrHalted) || !errors.Is(err, syscall.ENOSPC) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				acked = append(acked, b)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close: %v", err)
	}
	got, _, err := replay(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, b := range got {
		have[b] = true
	}
	for _, b := range acked {
		if !have[b] {
			t.Fatalf("acknowledged %.10q is lost", b)
		}
	}
	if len(acked) < 50 || len(got) > len(acked)+4 {
		t.Errorf("%d acknowledged, %d found", len(acked), len(got))
	}
}
