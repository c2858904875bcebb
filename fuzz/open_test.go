package fuzz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
	"sneck/wal"
)

var bg = context.Background()

// opens opens a log that may be anything. It must be refused with an error that
// says where and why, or give a table in which nothing conflicts and nothing is
// confirmed, which can be used, of which all can be reclaimed, and which is the
// same after another start.
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
	held, reserved, known := locks(m), shares(m), clients(m.Clients(""))
	if seen := unconfirmed(locks(snap)); !reflect.DeepEqual(seen, held) {
		t.Fatalf("held %v, Inspect saw %v", held, seen)
	}
	if seen := shares(snap); !reflect.DeepEqual(seen, reserved) {
		t.Fatalf("reserved %v, Inspect saw %v", reserved, seen)
	}
	if seen := clients(snap.Clients()); !reflect.DeepEqual(seen, known) {
		t.Fatalf("known %v, Inspect saw %v", known, seen)
	}
	if g := m.Grace(); g.Unconfirmed != len(held)+len(reserved) || g.Active != (g.Unconfirmed > 0) {
		t.Fatalf("%+v, with %v and %v", g, held, reserved)
	}
	compatible(t, held)
	// Of the first file half is reclaimed, so that a checkpoint has both, of the
	// others all.
	for i, h := range held {
		if h.File == held[0].File && i%2 == 0 {
			continue
		}
		got, err := m.TryLock(bg, lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true})
		if err != nil || got.Unconfirmed || got.Epoch != m.Epoch() || !covers(got, h) {
			t.Fatalf("%+v, reclaimed as %+v, %v", h, got, err)
		}
	}
	for i, sh := range reserved {
		sh.Reclaim = true
		if i%2 == 1 {
			sh.Access &= lock.Read
		}
		if err := m.OpenShare(bg, sh); err != nil && m.Grace().Active {
			t.Fatalf("%+v: %v", sh, err)
		}
	}
	if now := shares(m); !reflect.DeepEqual(now, reserved) {
		t.Fatalf("reclaimed %v, reserved %v", now, reserved)
	}
	compatible(t, locks(m))
	// Whoever comes now is granted, or told of what is in the way.
	whole := lock.WholeFile()
	for _, f := range []lock.FileKey{"file", "other"} {
		_, err := m.TryLock(bg, lock.Request{File: f, Owner: lock.Owner{Client: "c", ID: "later", Semantics: lock.POSIX}, Range: whole, Mode: lock.Shared})
		var g *lock.GraceError
		var c *lock.ConflictError
		switch {
		case err == nil:
		case errors.As(err, &g) && g.Holder.Unconfirmed && g.Holder.File == f && slices.Contains(locks(m), g.Holder):
		case errors.As(err, &c) && !c.Holder.Unconfirmed && c.Holder.File == f && slices.Contains(locks(m), c.Holder):
		default:
			t.Fatal(err)
		}
	}
	if err := m.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	m = again(t, o, m)
	// What was reclaimed once can be reclaimed again. The others lose it.
	before, kept := locks(m), 0
	for i, h := range before {
		if i%3 == 0 {
			if _, err := m.TryLock(bg, lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true}); err != nil {
				t.Fatalf("%+v, reclaimed again: %v", h, err)
			}
			kept++
		}
	}
	if err := m.EndGrace(bg); err != nil {
		t.Fatal(err)
	}
	now := locks(m)
	for _, h := range now {
		if h.Unconfirmed || h.Epoch != m.Epoch() {
			t.Fatalf("after grace: %+v", h)
		}
	}
	if left := shares(m); len(now) > kept || len(now) == 0 && kept > 0 || len(left) > 0 {
		t.Fatalf("after grace %v and %v; %d were reclaimed of %v", now, left, kept, before)
	}
	m = again(t, o, m)
	if seen := clients(m.Clients("")); !reflect.DeepEqual(seen, known) {
		t.Fatalf("known %v, once %v", seen, known)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// again starts the server anew. All is as it was, and unconfirmed.
func again(t *testing.T, o sneck.Options, m *sneck.Manager) *sneck.Manager {
	held, reserved, epoch := unconfirmed(locks(m)), shares(m), m.Epoch()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := sneck.Open(o)
	if err != nil {
		t.Fatalf("opened again: %v", err)
	}
	if now := locks(m); !reflect.DeepEqual(now, held) || m.Epoch() <= epoch {
		t.Fatalf("epoch %d holds %v, epoch %d held %v", m.Epoch(), now, epoch, held)
	}
	if now := shares(m); !reflect.DeepEqual(now, reserved) {
		t.Fatalf("epoch %d reserves %v, epoch %d reserved %v", m.Epoch(), now, epoch, reserved)
	}
	return m
}

// covers reports whether got is h, or more that has merged with it.
func covers(got, h lock.Held) bool {
	return got.Owner.Same(h.Owner) && got.Mode == h.Mode && (got.Range == h.Range ||
		h.Owner.Semantics != lock.SMB && got.Range.First() <= h.Range.First() && got.Range.Last() >= h.Range.Last())
}

func locks(m interface {
	Locks(lock.Filter) iter.Seq[lock.Held]
}) []lock.Held {
	return slices.SortedFunc(m.Locks(lock.Filter{}), func(a, b lock.Held) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.ID, b.ID))
	})
}

// unconfirmed are the locks as they are after a restart.
func unconfirmed(hs []lock.Held) []lock.Held {
	for i := range hs {
		hs[i].Unconfirmed = true
	}
	return hs
}

func shares(m interface {
	Shares(lock.Filter) iter.Seq[lock.Share]
}) []lock.Share {
	return slices.SortedStableFunc(m.Shares(lock.Filter{}), func(a, b lock.Share) int { return cmp.Compare(a.File, b.File) })
}

// clients are the clients without what a log does not have.
func clients(seq iter.Seq[lock.Client]) (cs []lock.Client) {
	for c := range seq {
		c.LastSeen, c.Locks = time.Time{}, 0
		cs = append(cs, c)
	}
	return cs
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
	with := golden(f, "clients")
	f.Add([]byte(nil), with[log2], with[checkpoint])
	f.Add([]byte(nil), with[log2][:len(with[log2])*2/3], with[checkpoint])
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

// goldenRecords are the bodies of the records of a golden log.
func goldenRecords(f *testing.F, name string) (states, changes, clients [][]byte) {
	_, err := wal.Read(filepath.Join("..", "testdata", "log-v1", name), func(e wal.Entry) error {
		body := slices.Clone(e.Body)
		switch e.Kind {
		case wal.KindState:
			states = append(states, body)
		case wal.KindFile:
			changes = append(changes, body)
		case wal.KindClient:
			clients = append(clients, body)
		}
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	return states, changes, clients
}

// Arbitrary client records in intact frames: two of a checkpoint, one while it is
// walked, and one after it.
func FuzzOpenClients(f *testing.F) {
	_, _, bodies := goldenRecords(f, "clients")
	for i, b := range bodies {
		next := bodies[(i+1)%len(bodies)]
		f.Add(b, next, bodies[(i+2)%len(bodies)], bodies[(i+3)%len(bodies)])
		f.Add(b, []byte(nil), next, b)
		f.Add([]byte(nil), []byte(nil), b, next)
	}
	f.Fuzz(func(t *testing.T, a, b, during, after []byte) {
		opens(t, written(t, wal.KindClient, wal.KindClient, a, b, during, after))
	})
}

// written is the directory of a log of these records, those that have any bytes.
func written(t *testing.T, snapshot, change wal.Kind, a, b, during, after []byte) string {
	dir := t.TempDir()
	var l *wal.Log
	l, err := wal.Open(dir, wal.Options{Durability: wal.None, Snapshot: func(emit func(wal.Kind, wal.Body) error) error {
		for _, b := range [][]byte{a, b} {
			if len(b) > 0 {
				if err := emit(snapshot, raw(b)); err != nil {
					return err
				}
			}
		}
		if len(during) > 0 {
			return l.Append(change, raw(during))
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(a)+len(b) > 0 {
		err = l.Checkpoint(bg)
	}
	if err == nil && len(after) > 0 {
		err = l.Append(change, raw(after))
	}
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(fmt.Errorf("writing: %w", err))
	}
	return dir
}

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
	states, changes, _ := goldenRecords(f, "clients")
	for i, b := range changes { // as if each followed the checkpoint
		f.Add(states[0], states[1], b, changes[(i+1)%len(changes)])
		f.Add(states[i%2], []byte(nil), changes[0], b)
	}
	f.Add([]byte(nil), []byte(nil), bodies[1][0], bodies[1][1])
	for i := range bodies[2] {
		f.Add(bodies[0][0], bodies[0][i%len(bodies[0])], bodies[2][i], bodies[2][(i+1)%len(bodies[2])])
	}
	for i := range bodies[1] {
		f.Add(bodies[0][i%len(bodies[0])], []byte(nil), bodies[1][i], bodies[1][(i+1)%len(bodies[1])])
	}
	f.Fuzz(func(t *testing.T, stateA, stateB, during, after []byte) {
		opens(t, written(t, wal.KindState, wal.KindFile, stateA, stateB, during, after))
	})
}
