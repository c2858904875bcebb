package fuzz

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"sneck"
	"sneck/lock"
	"sneck/wal"
)

var bg = context.Background()

// opens opens a log that may be anything. It must be refused with an error that
// says where and why, or give a table in which nothing conflicts, which can be
// used, and which is the same after another start.
func opens(t *testing.T, dir string) {
	snap, ierr := sneck.Inspect(dir)
	o := sneck.Options{Dir: dir, Durability: sneck.None}
	m, err := sneck.Open(o)
	if err != nil {
		var d *wal.DamageError
		var v *wal.VersionError
		if !errors.As(err, &d) && !errors.As(err, &v) {
			t.Fatalf("Open: %v", err)
		}
		if ierr == nil {
			t.Fatalf("Open: %v, but Inspect had nothing to say", err)
		}
		return
	}
	if ierr != nil {
		t.Fatalf("opened, but Inspect: %v", ierr)
	}
	held := locks(m)
	if seen := locks(snap); !reflect.DeepEqual(seen, held) {
		t.Fatalf("held %v, Inspect saw %v", held, seen)
	}
	compatible(t, held)
	whole := lock.WholeFile()
	for _, f := range []lock.FileKey{"file", "other"} {
		_, err := m.TryLock(bg, lock.Request{File: f, Owner: lock.Owner{Client: "c", ID: "later", Semantics: lock.POSIX}, Range: whole, Mode: lock.Shared})
		if err != nil && !errors.Is(err, lock.ErrConflict) {
			t.Fatal(err)
		}
	}
	if err := m.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	held = locks(m)
	epoch := m.Epoch()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if m, err = sneck.Open(o); err != nil {
		t.Fatalf("opened again: %v", err)
	}
	if now := locks(m); !reflect.DeepEqual(now, held) || m.Epoch() <= epoch {
		t.Fatalf("epoch %d holds %v, epoch %d held %v", m.Epoch(), now, epoch, held)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func locks(m interface {
	Locks(lock.Filter) iter.Seq[lock.Held]
}) []lock.Held {
	return slices.SortedFunc(m.Locks(lock.Filter{}), func(a, b lock.Held) int {
		return int(a.ID>>1) - int(b.ID>>1)
	})
}

// compatible fails if two locks of different owners conflict.
func compatible(t *testing.T, held []lock.Held) {
	for i, a := range held {
		for _, b := range held[:i] {
			if a.File == b.File && !a.Owner.Same(b.Owner) && a.Mode.Conflicts(b.Mode) && a.Range.Overlaps(b.Range) && !a.Range.IsEmpty() && !b.Range.IsEmpty() {
				t.Fatalf("%+v and %+v", a, b)
			}
		}
	}
}

// golden is a log directory of the golden ones.
func golden(f *testing.F, name string) map[string][]byte {
	files := make(map[string][]byte)
	root := filepath.Join("..", "testdata", "log-v1", name)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		files[rel] = data
		return err
	})
	if err != nil || len(files) == 0 {
		f.Fatalf("%d files, %v", len(files), err)
	}
	return files
}

func place(t *testing.T, dir, name string, data []byte) {
	if data == nil {
		return
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
}

const (
	log1       = "log-0000000000000001/00000000000000000001"
	log2       = "log-0000000000000002/00000000000000000001"
	checkpoint = "checkpoint-0000000000000002"
)

// Arbitrary bytes as the files of a log.
func FuzzOpenFiles(f *testing.F) {
	plain, checkpointed := golden(f, "plain"), golden(f, "checkpoint")
	f.Add(plain[log1], []byte(nil), []byte(nil))
	f.Add([]byte(nil), checkpointed[log2], checkpointed[checkpoint])
	f.Add(plain[log1], checkpointed[log2], checkpointed[checkpoint])
	f.Add(plain[log1][:len(plain[log1])-5], []byte(nil), []byte(nil))
	f.Add([]byte(nil), []byte("\x2f\x89SNK"), checkpointed[checkpoint])
	f.Add(make([]byte, 100), make([]byte, 100), []byte(nil))
	f.Fuzz(func(t *testing.T, first, second, ckpt []byte) {
		dir := t.TempDir()
		place(t, dir, log1, first)
		if len(second) > 0 || len(ckpt) > 0 {
			place(t, dir, log2, second)
		}
		if len(ckpt) > 0 {
			place(t, dir, checkpoint, ckpt)
		}
		opens(t, dir)
	})
}

type raw []byte

func (r raw) AppendTo(b []byte) []byte { return append(b, r...) }

// Arbitrary records in intact frames: states of a checkpoint, changes while it is
// walked, and changes after it.
func FuzzOpenRecords(f *testing.F) {
	var bodies [3][][]byte
	for i, name := range []string{"plain", "checkpoint"} {
		_, err := wal.Read(filepath.Join("..", "testdata", "log-v1", name), func(e wal.Entry) error {
			switch e.Kind {
			case wal.KindState:
				bodies[0] = append(bodies[0], slices.Clone(e.Body))
			case wal.KindFile:
				bodies[1+i] = append(bodies[1+i], slices.Clone(e.Body))
			}
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte(nil), []byte(nil), bodies[1][0], bodies[1][1])
	for i := range bodies[2] {
		f.Add(bodies[0][0], bodies[0][i%len(bodies[0])], bodies[2][i], bodies[2][(i+1)%len(bodies[2])])
	}
	for i := range bodies[1] {
		f.Add(bodies[0][i%len(bodies[0])], []byte(nil), bodies[1][i], bodies[1][(i+1)%len(bodies[1])])
	}
	f.Fuzz(func(t *testing.T, stateA, stateB, during, after []byte) {
		dir := t.TempDir()
		var l *wal.Log
		l, err := wal.Open(dir, wal.Options{Durability: wal.None, Snapshot: func(emit func(wal.Kind, wal.Body) error) error {
			for _, b := range [][]byte{stateA, stateB} {
				if len(b) > 0 {
					if err := emit(wal.KindState, raw(b)); err != nil {
						return err
					}
				}
			}
			if len(during) > 0 {
				return l.Append(wal.KindFile, raw(during))
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if len(stateA)+len(stateB) > 0 {
			err = l.Checkpoint(bg)
		}
		if err == nil && len(after) > 0 {
			err = l.Append(wal.KindFile, raw(after))
		}
		if err = errors.Join(err, l.Close()); err != nil {
			t.Fatal(fmt.Errorf("writing: %w", err))
		}
		opens(t, dir)
	})
}
