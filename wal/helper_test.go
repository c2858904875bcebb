package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// text is a body for tests.
type text string

func (s text) AppendTo(dst []byte) []byte { return append(dst, s...) }

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

func mustOpen(t tb, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return l
}

func mustClose(t tb, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// submit hands a record over and has the log's goroutine write it, as if others
// were waiting for it.
func submit(l *Log, r *Record) {
	l.Submit(r)
	l.wakeWriter()
}

// group writes the bodies with one group commit and waits for it: they are one
// chain of which only the last is submitted.
func group(t tb, l *Log, bodies ...string) {
	t.Helper()
	var r *Record
	for _, b := range bodies {
		r = l.NewRecord(r, KindFile, text(b))
	}
	submit(l, r)
	<-r.Done()
	if err := r.Err(); err != nil {
		t.Fatalf("record %q: %v", bodies[len(bodies)-1], err)
	}
}

// replay opens and closes the log in dir and returns what it replayed.
func replay(dir string, o Options) (bodies []string, st Stats, err error) {
	o.Replay = func(e Entry) error {
		if e.Kind != KindFile {
			return fmt.Errorf("kind %d", e.Kind)
		}
		bodies = append(bodies, string(e.Body))
		return nil
	}
	l, err := Open(dir, o)
	if err != nil {
		return bodies, st, err
	}
	st = l.Stats()
	return bodies, st, l.Close()
}

func mustReplay(t tb, dir string, want ...string) Stats {
	t.Helper()
	got, st, err := replay(dir, Options{})
	if err != nil {
		t.Fatalf("reopen: %v", err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("reopen gives %.200q, want %.200q", got, want)
	}
	return st
}

// inspect returns what Read gives.
func inspect(dir string) (bodies []string, sum Summary, err error) {
	sum, err = Read(dir, func(e Entry) error {
		bodies = append(bodies, string(e.Body))
		return nil
	})
	return bodies, sum, err
}

const generation = 1

func generationDir(dir string) string { return filepath.Join(dir, generationName(generation)) }

func segmentPath(dir string, index uint64) string {
	return filepath.Join(generationDir(dir), segmentName(index))
}

// logOf makes a log directory with the given segments.
func logOf(t *testing.T, segments map[uint64][]byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.MkdirAll(generationDir(dir), dirPerm); err != nil {
		t.Fatal(err)
	}
	for index, data := range segments {
		put(t, segmentPath(dir, index), data)
	}
	return dir
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, filePerm); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type fileState struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
	data  string
}

// snapshot is everything below dir.
func snapshot(t *testing.T, dir string) map[string]fileState {
	t.Helper()
	m := map[string]fileState{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		s := fileState{mode: fi.Mode(), size: fi.Size(), mtime: fi.ModTime()}
		if fi.Mode().IsRegular() {
			s.data = string(get(t, path))
		}
		m[path] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// segmentData is the bytes of the segments below dir.
func segmentData(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for path, s := range snapshot(t, generationDir(dir)) {
		if s.mode.IsRegular() {
			m[path] = s.data
		}
	}
	return m
}

// entry encodes an entry as the writer does.
func entry(index uint64, part uint32, bodies ...string) []byte {
	buf := room(nil)
	for _, b := range bodies {
		buf = appendRecord(buf, KindFile, []byte(b))
	}
	return withSize(header{index: index, generation: generation, part: part}.seal(buf, uint32(len(bodies))))
}

func withSize(frame []byte) []byte {
	return append(appendUvarint(nil, uint64(len(frame))), frame...)
}

func appendUvarint(dst []byte, x uint64) []byte {
	for ; x >= 0x80; x >>= 7 {
		dst = append(dst, byte(x)|0x80)
	}
	return append(dst, byte(x))
}

func wantDamage(t *testing.T, err error, file string, offset int64) {
	t.Helper()
	var d *DamageError
	if !errors.As(err, &d) {
		t.Fatalf("error is %v, want a DamageError", err)
	}
	if d.File != file || d.Offset != offset {
		t.Fatalf("damage at %s offset %d, want %s offset %d: %v", d.File, d.Offset, file, offset, err)
	}
}

// gate lets a test hold the writer inside of a sync.
type gate struct {
	entered chan struct{}
	release chan error
}

func newGate() *gate { return &gate{entered: make(chan struct{}), release: make(chan error)} }

func (g *gate) sync() error {
	g.entered <- struct{}{}
	return <-g.release
}
