package sneck_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"sneck"
	"sneck/conn"
	"sneck/lock"
	"sneck/wal"
)

// spot is a place in the segments of a log.
type spot struct {
	generation, segment uint64
	offset              int64
}

func (p spot) before(q spot) bool {
	if p.generation != q.generation {
		return p.generation < q.generation
	}
	if p.segment != q.segment {
		return p.segment < q.segment
	}
	return p.offset < q.offset
}

func segmentOf(dir string, p spot) string {
	return filepath.Join(dir, fmt.Sprintf("log-%016d", p.generation), fmt.Sprintf("%020d", p.segment))
}

func checkpointOf(dir string, generation uint64) string {
	return filepath.Join(dir, fmt.Sprintf("checkpoint-%016d", generation))
}

// diary is a log directory and all that was ever held in it.
type diary struct {
	dir  string
	ends []spot   // where the log ended after each call
	held [][]fact // what was held then

	durability sneck.Durability
}

// keep makes a log of some calls, checkpoints (-1 among the steps; -2 with calls
// at the same time; -3 one that fails, which leaves the log in a new generation)
// and restarts (0), after which all is reclaimed: n calls, for a step n.
func keep(t testing.TB, rnd *rand.Rand, steps ...int) *diary {
	t.Helper()
	d := &diary{dir: filepath.Join(t.TempDir(), "log")}
	m := d.open(t)
	d.note(t, m, spot{1, 1, 0})
	for _, step := range steps {
		switch step {
		case 0:
			mustClose(t, m)
			m = d.open(t)
		case -1:
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
			d.note(t, m, spot{m.Stats().Log.Generation, 1, 0})
		case -2:
			done := make(chan error, 1)
			go func() { done <- m.Checkpoint(bg) }()
			for range 40 {
				d.call(t, m, rnd)
				d.note(t, m, spot{}) // somewhere
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if step == -3 {
			generation := m.Stats().Log.Generation + 1
			inTheWay := checkpointOf(d.dir, generation) + ".tmp"
			if err := os.MkdirAll(inTheWay, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := m.Checkpoint(bg); err == nil {
				t.Fatal("a checkpoint in spite of a directory in its place")
			}
			if err := os.RemoveAll(inTheWay); err != nil {
				t.Fatal(err)
			}
			d.note(t, m, spot{generation, 1, 0})
		}
		for range step {
			d.call(t, m, rnd)
			d.note(t, m, d.end(t))
		}
	}
	mustClose(t, m)
	return d
}

func (d *diary) open(t testing.TB) *sneck.Manager {
	t.Helper()
	m := begin(t, d.dir, func(o *sneck.Options) { o.SegmentSize, o.CheckpointAfter, o.Durability = 2<<10, -1, d.durability })
	mustEqual(t, "what is held is unconfirmed", table(m, lock.Filter{}), marked(table(m, lock.Filter{}), true))
	was := everything(m)
	if err := reclaimAll(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "all is reclaimed", everything(m), was)
	return m
}

func (d *diary) note(t testing.TB, m *sneck.Manager, end spot) {
	d.ends = append(d.ends, end)
	d.held = append(d.held, everything(m))
}

// call changes something.
func (d *diary) call(t testing.TB, m *sneck.Manager, rnd *rand.Rand) {
	t.Helper()
	o := lock.Owner{Client: fmt.Sprint("client ", rnd.IntN(4)), ID: fmt.Sprint(rnd.IntN(3), "\x00\xff"), Semantics: allSemantics[rnd.IntN(3)]}
	f := lock.FileKey(fmt.Sprint("file ", rnd.IntN(12)))
	first := rnd.Uint64N(60)
	r := lock.Request{File: f, Owner: o, Range: span(first, first+rnd.Uint64N(20)), Mode: lock.Mode(1 + rnd.IntN(2))}
	session := lock.Client{ID: fmt.Sprint("session ", rnd.IntN(5), "\x00\xff"), Adapter: "nfs4", Addr: fmt.Sprint("10.0.0.", rnd.IntN(3)), TTL: time.Duration(rnd.IntN(2)) * time.Hour}
	var err error
	switch rnd.IntN(18) {
	case 10, 11:
		err = m.OpenShare(bg, lock.Share{File: f, Owner: o, Access: lock.Access(rnd.IntN(8)), Deny: lock.Access(rnd.IntN(8) & rnd.IntN(8))})
	case 12:
		err = m.CloseShare(bg, f, o)
	case 13:
		for h := range m.Locks(lock.Filter{File: f}) {
			err = m.Revoke(bg, h.ID, "a test")
			break
		}
	case 14, 15:
		err = m.Connect(bg, session)
	case 16: // without a TTL it is over
		if err = m.Disconnect(bg, session.ID); errors.Is(err, lock.ErrUnknownClient) {
			err = nil
		}
	case 0:
		_, err = m.ReleaseOwner(bg, f, o)
	case 1:
		_, err = m.ReleaseFile(bg, f)
	case 2, 3:
		err = m.Unlock(bg, f, o, r.Range)
	default:
		_, err = m.TryLock(bg, r)
	}
	if err != nil && !errors.Is(err, lock.ErrConflict) && !errors.Is(err, lock.ErrNotFound) {
		t.Fatal(err)
	}
}

// end is where the log ends.
func (d *diary) end(t testing.TB) (end spot) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(d.dir, "log-*"))
	last := logs[len(logs)-1]
	segs, _ := filepath.Glob(filepath.Join(last, "*"))
	for name, into := range map[string]*uint64{"log-" + filepath.Base(last)[4:]: &end.generation, "log-" + filepath.Base(segs[len(segs)-1]): &end.segment} {
		if _, err := fmt.Sscanf(name, "log-%d", into); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(segs[len(segs)-1])
	if err != nil {
		t.Fatal(err)
	}
	end.offset = fi.Size()
	return end
}

// upTo is what was held when the log was no longer than up to p.
func (d *diary) upTo(p spot) []fact {
	i := 0
	for k, end := range d.ends {
		if !p.before(end) {
			i = k
		}
	}
	return d.held[i]
}

// last is what was held at the end.
func (d *diary) last() []fact { return d.held[len(d.held)-1] }

func ofFile(fs []fact, f lock.FileKey) (out []fact) {
	for _, h := range fs {
		if h.File == f {
			out = append(out, h)
		}
	}
	return out
}

func filesOf(fs []fact) map[lock.FileKey]bool {
	out := map[lock.FileKey]bool{}
	for _, h := range fs {
		out[h.File] = true
	}
	return out
}

// justified reports whether each file is as it once was.
func (d *diary) justified(got []fact) error {
	for f := range filesOf(got) {
		was := slices.ContainsFunc(d.held, func(held []fact) bool { return slices.Equal(ofFile(held, f), ofFile(got, f)) })
		if !was {
			return fmt.Errorf("%q was never held like this: %v", f, ofFile(got, f))
		}
	}
	return nil
}

// partOf reports whether each file is as it was last, or has nothing.
func (d *diary) partOf(got []fact) error {
	for f := range filesOf(got) {
		if !slices.Equal(ofFile(got, f), ofFile(d.last(), f)) {
			return fmt.Errorf("%q is not held like this: %v", f, ofFile(got, f))
		}
	}
	return nil
}

// tree is everything below a directory: modes, times and bytes.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		what := fmt.Sprint(fi.ModTime())
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d bytes %x", len(data), xxhash.Sum64(data))
		case fi.Mode()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		}
		m[name] = fmt.Sprint(fi.Mode(), " ", what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mustBeTree fails unless a directory is as it was.
func mustBeTree(t testing.TB, what string, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %s is %.200q, want %.200q", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s: there is %s %.200q", what, name, got[name])
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// repaired runs through a repair of a damaged log: Verify names file, Repair
// says what it would do and changes nothing, then does it, keeps what was there,
// and is done. It returns what Open holds then, and leaves the log closed.
func (d *diary) repaired(t testing.TB, file string) (got []fact, planned sneck.RepairReport) {
	t.Helper()
	before := tree(t, d.dir)
	v, err := sneck.Verify(d.dir, nil)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	if v.Held != nil || !slices.ContainsFunc(v.Damage, func(x sneck.LogDamage) bool { return x.File == file }) {
		t.Fatalf("Verify does not name %s: %+v", file, v.Damage)
	}
	var damaged *wal.DamageError
	if _, err := sneck.Open(sneck.Options{Dir: d.dir}); !errors.As(err, &damaged) || !strings.Contains(err.Error(), "sneck log") {
		t.Fatalf("Open: %v", err)
	}
	planned, err = sneck.Repair(d.dir, false, nil)
	if err != nil || len(planned.Steps) == 0 || planned.Copy != "" {
		t.Fatalf("Repair would do %+v, %v", planned, err)
	}
	mustBeTree(t, "the directory after a plan", d.dir, before)

	r, err := sneck.Repair(d.dir, true, nil)
	if err != nil {
		t.Fatalf("Repair: %v", err)
	}
	if _, had := before["LOCK"]; !had { // Open above has made one
		t.Fatal("no lock file")
	}
	mustEqual(t, "the steps", r.Steps, planned.Steps)
	if r.Lost.Changes != planned.Lost.Changes || r.Lost.States != planned.Lost.States || r.Lost.Files != planned.Lost.Files || r.Lost.Clients != planned.Lost.Clients {
		t.Fatalf("lost are %+v, planned %+v", r.Lost, planned.Lost)
	}
	mustBeTree(t, "the copy", r.Copy, before)
	if err := os.RemoveAll(r.Copy); err != nil {
		t.Fatal(err)
	}
	got = everything(r.Held)
	mustEqual(t, "what was planned to be held", everything(planned.Held), got)
	if planned.Held.Epoch != r.Held.Epoch {
		t.Fatalf("epoch %d, planned %d", r.Held.Epoch, planned.Held.Epoch)
	}

	after := tree(t, d.dir)
	again, err := sneck.Repair(d.dir, true, nil)
	if err != nil || len(again.Steps) > 0 || again.Copy != "" {
		t.Fatalf("a second repair would do %+v, %v", again.Steps, err)
	}
	if v, err := sneck.Verify(d.dir, nil); err != nil || v.Held == nil || len(v.Damage) > 0 {
		t.Fatalf("Verify after the repair: %+v, %v", v, err)
	}
	mustBeTree(t, "the directory after a second repair", d.dir, after)

	m := d.open(t)
	mustEqual(t, "what Open holds", everything(m), got)
	if m.Epoch() != r.Held.Epoch+1 {
		t.Fatalf("epoch %d after %d", m.Epoch(), r.Held.Epoch)
	}
	// It can be used, and what is done is kept.
	for i := range 20 {
		req := ask(posix(fmt.Sprint("later ", i)), x, span(uint64(1000+i), uint64(1000+i)))
		req.File = lock.FileKey(fmt.Sprint("file ", i))
		if _, err := m.TryLock(bg, req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.ReleaseFile(bg, "file 3"); err != nil {
		t.Fatal(err)
	}
	for i := range 6 { // of clients too, whose numbers may have gone
		mustBe(t, m.Connect(bg, lock.Client{ID: fmt.Sprint("session ", i, "\x00\xff"), Adapter: "nfs4", Addr: "later"}), nil)
	}
	mustBe(t, m.Disconnect(bg, "session 5\x00\xff"), nil)
	want := everything(m)
	mustClose(t, m)
	m = d.open(t)
	mustEqual(t, "what is held after it was used", everything(m), want)
	if err := m.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	mustClose(t, m)
	if v, err := sneck.Verify(d.dir, nil); err != nil || v.Held == nil {
		t.Fatalf("Verify after it was used: %+v, %v", v, err)
	}
	return got, planned
}

// large is a log with a checkpoint of many frames: n locks, most of them in it.
func large(t testing.TB, n int) *diary {
	t.Helper()
	d := &diary{dir: filepath.Join(t.TempDir(), "log"), durability: sneck.None}
	m, err := sneck.Open(sneck.Options{Dir: d.dir, CheckpointAfter: -1, Durability: sneck.None})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if i == n*9/10 {
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
		}
		r := ask(posix(strings.Repeat(fmt.Sprint(i, "."), 500)), x, span(uint64(i), uint64(i)))
		r.File = lock.FileKey(fmt.Sprint("file ", i*7%n/2))
		if _, err := m.TryLock(bg, r); err != nil {
			t.Fatal(err)
		}
	}
	d.note(t, m, spot{})
	mustClose(t, m)
	return d
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// copied is a diary of its own with the same log.
func (d *diary) copied(t testing.TB) *diary {
	t.Helper()
	c := *d
	c.dir = filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(c.dir, os.DirFS(d.dir)); err != nil {
		t.Fatal(err)
	}
	return &c
}

func flip(t testing.TB, path string, off int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[off] ^= 0x10
	if err := os.WriteFile(path, data, 0); err != nil {
		t.Fatal(err)
	}
}

// Every kind of damage to a log: what is left is what was held before.
func TestRepairLog(t *testing.T) {
	base := keep(t, newRand(t), 120, 0, 60, -1, 200, 0, 150)
	segs, _ := filepath.Glob(filepath.Join(base.dir, "log-0000000000000002", "*"))
	if len(segs) < 5 {
		t.Fatalf("only %d segments", len(segs))
	}
	var second spot
	second.generation = 2
	if _, err := fmt.Sscanf(filepath.Base(segs[1]), "%d", &second.segment); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(t *testing.T, d *diary) (file string, at spot){
		"flip": func(t *testing.T, d *diary) (string, spot) {
			at := second
			at.offset = 777
			flip(t, segmentOf(d.dir, at), at.offset)
			return segmentOf(d.dir, at), at
		},
		"flip in the first byte": func(t *testing.T, d *diary) (string, spot) {
			flip(t, segmentOf(d.dir, spot{2, 1, 0}), 0)
			return segmentOf(d.dir, spot{2, 1, 0}), spot{2, 1, 0}
		},
		"several": func(t *testing.T, d *diary) (string, spot) {
			at := second
			for at.offset = 1500; at.offset > 300; at.offset -= 200 {
				flip(t, segmentOf(d.dir, at), at.offset)
			}
			at.offset += 200
			return segmentOf(d.dir, at), at
		},
		"cut": func(t *testing.T, d *diary) (string, spot) {
			at := second
			at.offset = 500
			for slices.Contains(d.ends, at) { // it would look as if a segment were missing
				at.offset--
			}
			if err := os.Truncate(segmentOf(d.dir, at), at.offset); err != nil {
				t.Fatal(err)
			}
			return segmentOf(d.dir, at), at
		},
		"emptied": func(t *testing.T, d *diary) (string, spot) {
			if err := os.Truncate(segmentOf(d.dir, second), 0); err != nil {
				t.Fatal(err)
			}
			return segmentOf(d.dir, second), second
		},
		"segment missing": func(t *testing.T, d *diary) (string, spot) {
			if err := os.Remove(segmentOf(d.dir, second)); err != nil {
				t.Fatal(err)
			}
			return segmentOf(d.dir, second), second
		},
		"first segment missing": func(t *testing.T, d *diary) (string, spot) {
			if err := os.Remove(segmentOf(d.dir, spot{2, 1, 0})); err != nil {
				t.Fatal(err)
			}
			return segmentOf(d.dir, spot{2, 1, 0}), spot{2, 1, 0}
		},
		"zeros": func(t *testing.T, d *diary) (string, spot) {
			if err := os.WriteFile(segmentOf(d.dir, second), make([]byte, 2048), 0); err != nil {
				t.Fatal(err)
			}
			return segmentOf(d.dir, second), second
		},
		"log missing": func(t *testing.T, d *diary) (string, spot) {
			log := filepath.Join(d.dir, "log-0000000000000002")
			if err := os.RemoveAll(log); err != nil {
				t.Fatal(err)
			}
			return log, spot{2, 1, 0}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := base.copied(t)
			file, at := damage(t, d)
			got, _ := d.repaired(t, file)
			mustEqual(t, "what is held", got, d.upTo(at))
		})
	}
}

// Generations behind damage go with it.
func TestRepairGenerations(t *testing.T) {
	third := keep(t, newRand(t), 100, -3, 60, -3, 60)
	if _, err := os.Stat(segmentOf(third.dir, spot{3, 1, 0})); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(t *testing.T, d *diary) (file string, at spot){
		"flip in the first": func(t *testing.T, d *diary) (string, spot) {
			flip(t, segmentOf(d.dir, spot{1, 1, 0}), 1000)
			return segmentOf(d.dir, spot{1, 1, 0}), spot{1, 1, 1000}
		},
		"flip in the second": func(t *testing.T, d *diary) (string, spot) {
			flip(t, segmentOf(d.dir, spot{2, 1, 0}), 1000)
			return segmentOf(d.dir, spot{2, 1, 0}), spot{2, 1, 1000}
		},
		"the second missing": func(t *testing.T, d *diary) (string, spot) {
			log := filepath.Dir(segmentOf(d.dir, spot{2, 1, 0}))
			if err := os.RemoveAll(log); err != nil {
				t.Fatal(err)
			}
			return log, spot{2, 1, 0}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := third.copied(t)
			file, at := damage(t, d)
			got, _ := d.repaired(t, file)
			mustEqual(t, "what is held", got, d.upTo(at))
		})
	}
	t.Run("the first missing", func(t *testing.T) {
		d := third.copied(t)
		if err := os.RemoveAll(filepath.Dir(segmentOf(d.dir, spot{1, 1, 0}))); err != nil {
			t.Fatal(err)
		}
		got, _ := d.repaired(t, checkpointOf(d.dir, 2))
		if err := d.partOf(got); err != nil {
			t.Fatal(err)
		}
	})
}

// Damage to a checkpoint costs the files whose records are damaged.
func TestRepairCheckpoint(t *testing.T) {
	base := keep(t, newRand(t), 200, -1, 30, 0, 30)
	whole, err := os.ReadFile(checkpointOf(base.dir, 2))
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(t *testing.T, path string) error{
		"missing": func(t *testing.T, path string) error { return os.Remove(path) },
		"empty":   func(t *testing.T, path string) error { return os.Truncate(path, 0) },
		"zeros":   func(t *testing.T, path string) error { return os.WriteFile(path, make([]byte, len(whole)), 0) },
		"cut":     func(t *testing.T, path string) error { return os.Truncate(path, int64(len(whole)/2)) },
		"no end":  func(t *testing.T, path string) error { return os.Truncate(path, int64(len(whole)-1)) },
		"too long": func(t *testing.T, path string) error {
			return os.WriteFile(path, append(whole[:len(whole):len(whole)], 1), 0)
		},
		"flip": func(t *testing.T, path string) error { flip(t, path, int64(len(whole)/3)); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := base.copied(t)
			path := checkpointOf(d.dir, 2)
			if err := damage(t, path); err != nil {
				t.Fatal(err)
			}
			got, _ := d.repaired(t, path)
			if err := d.partOf(got); err != nil {
				t.Fatal(err)
			}
			if name == "too long" || name == "no end" {
				mustEqual(t, "what is held", got, d.last())
			}
		})
	}
	t.Run("of many frames", func(t *testing.T) {
		rnd := newRand(t)
		base := large(t, 400)
		path := checkpointOf(base.dir, 2)
		size := fileSize(t, path)
		for range 5 {
			d := base.copied(t)
			path := checkpointOf(d.dir, 2)
			for range 1 + rnd.IntN(2) {
				flip(t, path, rnd.Int64N(size))
			}
			got, _ := d.repaired(t, path)
			if err := d.partOf(got); err != nil {
				t.Fatal(err)
			}
			if len(got) < 100 || len(got) == len(d.last()) {
				t.Errorf("%d locks are left of %d", len(got), len(d.last()))
			}
		}
	})
	t.Run("with its log", func(t *testing.T) {
		d := base.copied(t)
		path := checkpointOf(d.dir, 2)
		if err := errors.Join(os.Truncate(path, int64(len(whole)-1)), os.RemoveAll(filepath.Dir(segmentOf(d.dir, spot{2, 1, 0})))); err != nil {
			t.Fatal(err)
		}
		got, _ := d.repaired(t, path)
		mustEqual(t, "what is held", got, d.upTo(spot{2, 1, 0}))
	})
}

// A client record that is none, or that does not follow from those before it, is
// damage as that of a file is: in a log it goes with all that is behind it, in a
// checkpoint alone.
func TestRepairClients(t *testing.T) {
	c := lock.Client{ID: "session", Adapter: "nfs4", Addr: "a", TTL: time.Hour}
	record := func(what conn.What, seq, generation uint64, c lock.Client) raw {
		return conn.Change{What: what, Seq: seq, Generation: generation, Client: c}.AppendTo(nil)
	}
	other := c
	other.Adapter = "smb"
	good := record(conn.Began, 5, 5, c)
	for name, bad := range map[string]raw{
		"empty":                    {},
		"unknown":                  {9, 7},
		"cut":                      good[:len(good)-1],
		"too long":                 append(slices.Clone(good), 0),
		"without an id":            record(conn.Began, 7, 7, lock.Client{}),
		"a generation to come":     record(conn.Updated, 7, 8, c),
		"the same number again":    record(conn.Began, 5, 5, other),
		"of another adapter":       record(conn.Updated, 7, 5, other),
		"after a later generation": record(conn.Updated, 7, 4, c),
	} {
		after := record(conn.Began, 9, 9, lock.Client{ID: "later", Adapter: "nfs4"})
		for _, inCheckpoint := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", in a checkpoint ", inCheckpoint), func(t *testing.T) {
				d := &diary{dir: filepath.Join(t.TempDir(), "log")}
				file, left := segmentOf(d.dir, spot{1, 1, 0}), 1
				var l *wal.Log
				l, err := wal.Open(d.dir, wal.Options{Snapshot: func(emit func(wal.Kind, wal.Body) error) error {
					return errors.Join(emit(wal.KindClient, good), emit(wal.KindClient, bad), emit(wal.KindClient, after))
				}})
				if err != nil {
					t.Fatal(err)
				}
				if inCheckpoint {
					file, left = checkpointOf(d.dir, 2), 2
					err = l.Checkpoint(bg)
				} else {
					err = errors.Join(l.Append(wal.KindClient, good), l.Append(wal.KindClient, bad), l.Append(wal.KindClient, after))
				}
				if err = errors.Join(err, l.Close()); err != nil {
					t.Fatal(err)
				}
				var damaged *wal.DamageError
				if _, err := sneck.Open(sneck.Options{Dir: d.dir}); !errors.As(err, &damaged) || damaged.File != file || !errors.Is(err, wal.ErrRecord) || !strings.Contains(err.Error(), "client record") {
					t.Fatalf("Open: %v", err)
				}
				unreadable := 0
				if _, err := sneck.Records(d.dir, nil, func(r sneck.LogRecord) error {
					if r.Err != nil {
						unreadable++
					}
					return nil
				}); err != nil || unreadable > 1 || unreadable == 0 && len(bad) < len(good)-1 {
					t.Errorf("Records: %d cannot be read, %v", unreadable, err)
				}
				got, planned := d.repaired(t, file)
				if len(got) != left || got[len(got)-1].File != "client session" {
					t.Errorf("there are %v", got)
				}
				lost := 3 - left - unreadable
				if planned.Lost.Clients != lost || planned.Lost.Changes+planned.Lost.States+planned.Lost.Files != 0 {
					t.Errorf("lost are %+v, want %d of clients", planned.Lost, lost)
				}
			})
		}
	}
}

// What does not belong in a log goes, and into the copy; nothing is lost.
func TestRepairStrangers(t *testing.T) {
	base := keep(t, newRand(t), 60, -1, 60)
	for name, put := range map[string]func(path string) error{
		"log-1":                                  func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
		"log-0000000000000009":                   func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
		"checkpoint-0000000000000009":            func(p string) error { return os.MkdirAll(filepath.Join(p, "a", "b"), 0o700) },
		"checkpoint-2.tmp":                       func(p string) error { return os.Symlink("/nowhere", p) },
		"log-0000000000000002/notes":             func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"log-0000000000000002/.START":            func(p string) error { return os.Symlink("../..", p) },
		"log-0000000000000002/00000000000000100": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			d := base.copied(t)
			path := filepath.Join(d.dir, name)
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			got, _ := d.repaired(t, path)
			mustEqual(t, "what is held", got, d.last())
		})
	}
	t.Run("in the place of its log", func(t *testing.T) {
		d := base.copied(t)
		log := filepath.Dir(segmentOf(d.dir, spot{2, 1, 0}))
		if err := errors.Join(os.RemoveAll(log), os.WriteFile(log, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		got, _ := d.repaired(t, log)
		mustEqual(t, "what is held", got, d.upTo(spot{2, 1, 0}))
	})
	t.Run("in the place of the checkpoint", func(t *testing.T) {
		d := base.copied(t)
		path := checkpointOf(d.dir, 2)
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		got, _ := d.repaired(t, path)
		if err := d.partOf(got); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("that cannot be copied", func(t *testing.T) {
		d := base.copied(t)
		pipe := filepath.Join(d.dir, "log-0000000000000002", "pipe")
		if err := mkfifo(pipe); err != nil {
			t.Fatal(err)
		}
		before := tree(t, d.dir)
		if _, err := sneck.Repair(d.dir, true, nil); err == nil || !strings.Contains(err.Error(), pipe) {
			t.Errorf("Repair: %v", err)
		}
		mustBeTree(t, "the directory", d.dir, before)
		if copies, _ := filepath.Glob(d.dir + ".*"); len(copies) > 0 {
			t.Errorf("there is %v", copies)
		}
	})
}

// Whatever happens to a log, a repair makes it one that can be opened, and what
// it holds then was held once.
func TestRepairRandom(t *testing.T) {
	rnd := newRand(t)
	for range 3 {
		failed := []int{0, -3, -3}
		base := keep(t, rnd, 100+rnd.IntN(100), failed[rnd.IntN(3)], 50+rnd.IntN(100), -1, failed[rnd.IntN(3)], rnd.IntN(100), 0, rnd.IntN(100), -2, rnd.IntN(60), failed[rnd.IntN(3)], rnd.IntN(60))
		for range 12 {
			d := base.copied(t)
			var what []string
			for range 1 + rnd.IntN(4) {
				what = append(what, mangle(t, rnd, d.dir))
			}
			v, err := sneck.Verify(d.dir, nil)
			if errors.Is(err, fs.ErrNotExist) && noLogLeft(t, d.dir) {
				continue
			}
			if err != nil {
				t.Fatalf("%v: Verify: %v", what, err)
			}
			if v.Held != nil { // only its tail is torn
				m := d.open(t)
				if err := d.justified(everything(m)); err != nil {
					t.Fatalf("%v: %v", what, err)
				}
				mustClose(t, m)
				continue
			}
			got, r := d.repaired(t, v.Damage[0].File)
			if err := d.justified(got); err != nil {
				t.Fatalf("%v, %+v: %v", what, r.Steps, err)
			}
		}
	}
}

// noLogLeft reports whether there is nothing in a directory that could be a part
// of a log.
func noLogLeft(t testing.TB, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "log-") || strings.HasPrefix(e.Name(), "checkpoint-")
	})
}

// mangle damages something in a log directory, and says what.
func mangle(t testing.TB, rnd *rand.Rand, dir string) string {
	t.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "LOCK" {
			fi, _ := e.Info()
			sizes[path] = fi.Size()
		}
		return err
	})
	paths := slices.Sorted(maps.Keys(sizes))
	if err != nil || len(paths) == 0 {
		return "nothing"
	}
	path := paths[rnd.IntN(len(paths))]
	size := sizes[path]
	off := rnd.Int64N(max(1, size))
	name := fmt.Sprint(strings.TrimPrefix(path, dir), " ", off)
	how := rnd.IntN(12)
	if size == 0 {
		how = 0
	}
	switch how {
	case 0:
		if dir := filepath.Dir(path); rnd.IntN(4) == 0 && strings.Contains(filepath.Base(dir), "log-") {
			return "remove " + dir + fmt.Sprint(os.RemoveAll(dir))
		}
		return "remove " + name + fmt.Sprint(os.Remove(path))
	case 1, 2:
		return "cut " + name + fmt.Sprint(os.Truncate(path, off))
	case 3, 4:
		data, _ := os.ReadFile(path)
		clear(data[off:min(size, off+rnd.Int64N(300))])
		return "clear " + name + fmt.Sprint(os.WriteFile(path, data, 0))
	case 5: // bytes are missing in the middle
		data, _ := os.ReadFile(path)
		return "take out " + name + fmt.Sprint(os.WriteFile(path, append(data[:off:off], data[min(size, off+rnd.Int64N(200)):]...), 0))
	case 6:
		return "stranger " + name + fmt.Sprint(os.WriteFile(path+".old", []byte("x"), 0o600))
	default:
		flip(t, path, off)
		return "flip " + name
	}
}

// What another version wrote is not repaired.
func TestRepairRefusesOtherVersions(t *testing.T) {
	d := keep(t, newRand(t), 20)
	path := segmentOf(d.dir, spot{1, 1, 0})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	future := otherVersion(data)
	if err := os.WriteFile(path, append(data, future...), 0); err != nil {
		t.Fatal(err)
	}
	before := tree(t, d.dir)
	for _, write := range []bool{false, true} {
		var v *wal.VersionError
		if _, err := sneck.Repair(d.dir, write, nil); !errors.As(err, &v) {
			t.Errorf("Repair: %v", err)
		}
	}
	// And not when it comes behind damage.
	flip(t, path, 50)
	var v *wal.VersionError
	if _, err := sneck.Repair(d.dir, true, nil); !errors.As(err, &v) {
		t.Errorf("Repair behind damage: %v", err)
	}
	flip(t, path, 50)
	if !reflect.DeepEqual(keysOf(tree(t, d.dir)), keysOf(before)) {
		t.Error("the directory has changed")
	}
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// A log in use is verified and compacted by nobody else than its user.
func TestLogToolsInUse(t *testing.T) {
	d := keep(t, newRand(t), 30)
	m := d.open(t)
	defer m.Close()
	for _, write := range []bool{false, true} {
		if _, err := sneck.Repair(d.dir, write, nil); !errors.Is(err, wal.ErrInUse) {
			t.Errorf("Repair: %v", err)
		}
	}
	if _, err := sneck.Compact(d.dir, nil, nil); !errors.Is(err, wal.ErrInUse) {
		t.Errorf("Compact: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 30 {
			if err := m.Checkpoint(bg); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		v, err := sneck.Verify(d.dir, nil)
		if err != nil || v.Held == nil || !slices.Equal(everything(v.Held), d.last()) {
			t.Fatalf("Verify: %+v, %v", v.Damage, err)
		}
	}
}

// Compact makes a log smaller, and keeps what is held.
func TestCompact(t *testing.T) {
	d := keep(t, newRand(t), 300, 0, 10)
	if _, err := sneck.Compact(d.dir+"x", nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Compact of nothing: %v", err)
	}
	if _, err := os.Stat(d.dir + "x"); err == nil {
		t.Error("it made a log")
	}
	// Some of it was reclaimed, some of it was not.
	m := begin(t, d.dir, nil)
	for i, h := range table(m, lock.Filter{}) {
		if i%2 == 0 {
			mustReclaimOn(t, m, h)
		}
	}
	left := m.Grace().Unconfirmed
	mustClose(t, m)
	before, err := sneck.Inspect(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	held, reserved := table(before, lock.Filter{}), shares(before)
	mustEqual(t, "what is held", everything(before), d.last())
	if left == 0 || left == len(held)+len(reserved) || len(reserved) == 0 || len(slices.Collect(before.Clients())) == 0 {
		t.Fatalf("%d locks, %d shares, of which %d were not reclaimed", len(held), len(reserved), left)
	}
	files := 0
	for f := range filesOf(d.last()) {
		if !strings.HasPrefix(string(f), "client ") {
			files++
		}
	}

	c, err := sneck.Compact(d.dir, nil, nil)
	if err != nil || c.After >= c.Before || c.Epoch != before.Epoch+1 || c.Locks != len(held) || c.Files != files {
		t.Errorf("Compact: %+v, %v", c, err)
	}
	size, err := wal.Size(d.dir)
	if err != nil || size != c.After {
		t.Errorf("%d bytes, it says %+v", size, c)
	}
	// Nothing is released, nothing is confirmed, and nothing has another id.
	after, err := sneck.Inspect(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the table", table(after, lock.Filter{}), held)
	mustEqual(t, "all", everything(after), d.last())
	m = reopened(t, d.dir, c.Epoch, held, shares(after)...)
	mustReclaimAll(t, m)
	mustEqual(t, "what is held", everything(m), d.last())
	mustClose(t, m)
}

// mustReclaimOn reclaims h as it was.
func mustReclaimOn(t tb, m *sneck.Manager, h lock.Held) {
	t.Helper()
	got, err := m.TryLock(bg, lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true})
	if err != nil || factOf(got) != factOf(h) || got.Unconfirmed || got.Epoch != m.Epoch() {
		t.Fatalf("%+v was reclaimed as %+v, %v", h, got, err)
	}
}

// A grace period that no owner can take part in does not end while a log is made
// smaller, however long that takes.
func TestCompactTakesLong(t *testing.T) {
	dir := t.TempDir()
	m := begin(t, dir, nil)
	mustTry(t, m, posix("a"), x, span(0, 9))
	mustTry(t, m, smb("b"), x, span(10, 19))
	mustShare(t, m, smb("b"), lock.Read, lock.Write)
	mustBe(t, m.Connect(bg, lock.Client{ID: posix("a").Client, Adapter: "nfs4", TTL: time.Second}), nil)
	mustBe(t, m.Connect(bg, lock.Client{ID: smb("b").Client, Adapter: "smb"}), nil)
	mustClose(t, m)
	before, err := sneck.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		slow := slog.New(sleepy{slog.DiscardHandler})
		if _, err := sneck.Compact(dir, nil, slow); err != nil {
			t.Fatal(err)
		}
	})
	after, err := sneck.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the table", table(after, lock.Filter{}), table(before, lock.Filter{}))
	mustEqual(t, "all", everything(after), everything(before))
	if len(everything(after)) != 5 {
		t.Errorf("%v", everything(after))
	}
}

// sleepy is a logger that takes an hour for each line.
type sleepy struct{ slog.Handler }

func (s sleepy) Enabled(context.Context, slog.Level) bool { return true }

func (s sleepy) Handle(context.Context, slog.Record) error {
	time.Sleep(time.Hour)
	return nil
}

// Records gives every record, and what they say leads to what is held.
func TestRecords(t *testing.T) {
	d := keep(t, newRand(t), 100, -1, 50)
	kinds := map[string]int{} // "checkpoint client" and so on of the checkpoint
	held := 0
	last := int64(-1)
	sum, err := sneck.Records(d.dir, func(done, total int64) {
		if done < last || done > total {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
	}, func(r sneck.LogRecord) error {
		where := ""
		if strings.HasPrefix(filepath.Base(r.Entry.File), "checkpoint-") {
			where = "checkpoint "
		}
		kinds[where+r.Kind.String()]++
		if r.Err != nil || (r.Change != nil) != (r.Kind == wal.KindFile) || (r.State != nil) != (r.Kind == wal.KindState) || (r.Client != nil) != (r.Kind == wal.KindClient) {
			t.Errorf("%+v", r)
		}
		switch {
		case r.State != nil:
			held += len(r.State.Locks) + len(r.State.Shares)
		case where != "" && r.Client != nil:
			kinds[r.Client.What.String()]++
			if r.Client.What != conn.Mark {
				held++
			}
		}
		return nil
	})
	if err != nil || uint64(kinds["file"]+kinds["client"]+kinds["walked"]) != sum.Records || kinds["client"] == 0 || kinds["walked"] != 1 ||
		kinds["checkpoint begin"] != 1 || kinds["checkpoint epoch"] != 1 || kinds["checkpoint state"] == 0 || kinds["checkpoint client"] == 0 || kinds["mark"] != 1 {
		t.Errorf("%v, %+v, %v", kinds, sum, err)
	}
	if want := len(d.upTo(spot{2, 1, 0})); held != want {
		t.Errorf("the checkpoint has %d locks, shares and clients, want %d", held, want)
	}
	if last <= 0 {
		t.Error("nobody was told how far it was")
	}
}

// An epoch that was cut out does not come again: its ids may be known.
func TestRepairKeepsEpoch(t *testing.T) {
	d := keep(t, newRand(t), 40, 0, 40, 0, 40, 0, 40)
	flip(t, segmentOf(d.dir, spot{1, 1, 0}), 1000)
	_, r := d.repaired(t, segmentOf(d.dir, spot{1, 1, 0}))
	if r.Held.Epoch != 4 {
		t.Errorf("epoch %d", r.Held.Epoch)
	}
	// Nor if only the id of a lock that is passed over knows of it.
	d = &diary{dir: filepath.Join(t.TempDir(), "log")}
	for life := range 4 {
		m := d.open(t)
		if life == 3 {
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
		}
		mustTry(t, m, posix("a"), x, span(uint64(life*10), uint64(life*10)))
		mustClose(t, m)
	}
	path := checkpointOf(d.dir, 2)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if got, r := d.repaired(t, path); r.Held.Epoch != 4 || len(got) > 0 {
		t.Errorf("epoch %d, %v", r.Held.Epoch, got)
	}
	// Or that of an open, of what was reclaimed, or the end of a grace period.
	for name, last := range map[string]func(t *testing.T, m *sneck.Manager){
		"open":    func(t *testing.T, m *sneck.Manager) { mustShare(t, m, smb("b"), lock.Write, 0) },
		"reclaim": func(t *testing.T, m *sneck.Manager) { mustReclaim(t, m, posix("a"), x, span(0, 9)) },
		"end":     func(t *testing.T, m *sneck.Manager) { mustBe(t, m.EndGrace(bg), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			d := &diary{dir: filepath.Join(t.TempDir(), "log")}
			for life := range 4 {
				m := begin(t, d.dir, nil)
				if life == 0 {
					mustTry(t, m, posix("a"), x, span(0, 9))
					mustShare(t, m, smb("b"), lock.Read, 0)
				}
				if life == 3 {
					mustBe(t, m.Checkpoint(bg), nil)
					last(t, m)
				}
				mustClose(t, m)
			}
			path := checkpointOf(d.dir, 2)
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			if got, r := d.repaired(t, path); r.Held.Epoch != 4 || len(got) > 0 {
				t.Errorf("epoch %d, %v", r.Held.Epoch, got)
			}
		})
	}
	// And so it does when the checkpoint has nothing of it but an open.
	d = &diary{dir: filepath.Join(t.TempDir(), "log")}
	l, err := wal.Open(d.dir, wal.Options{Snapshot: func(emit func(wal.Kind, wal.Body) error) error {
		return emit(wal.KindState, openState)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Checkpoint(bg), l.Close()); err != nil {
		t.Fatal(err)
	}

	path = checkpointOf(d.dir, 2)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, append(whole, 1)) // what it has is written again
	if got, r := d.repaired(t, path); r.Held.Epoch != 4 || len(got) != 1 {
		t.Errorf("epoch %d, %v", r.Held.Epoch, got)
	}
}

// openState is the record of a file on which there is one share reservation, of
// epoch 4.
var openState = raw(append(append([]byte{2, 4}, "file"...), 1, byte(lock.SMB), 1, 'c', 1, 'i', 0, 0, 0, // one owner, no locks
	1, 0, byte(lock.Read), 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 2))

// otherVersion is the first entry of a segment, of a later format.
func otherVersion(segment []byte) []byte {
	size, k := binary.Uvarint(segment)
	entry := slices.Clone(segment[:k+int(size)])
	entry[k+4] = 2
	sum := len(entry) - 8
	binary.LittleEndian.PutUint64(entry[sum:], xxhash.Sum64(entry[k:sum]))
	return entry
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
