package sneck_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
	"sneck/wal"
)

// scripted is the n-th call of a script, on files 0 and 1.
func scripted(m *sneck.Manager, n int) error {
	o := []lock.Owner{posix("a"), ofd("b"), smb("c")}[n%3]
	r := ask(o, []lock.Mode{s, x}[n/3%2], span(uint64(n*7%40), uint64(n*7%40+n%9)))
	r.File = lock.FileKey(fmt.Sprint("file ", n%2))
	session := lock.Client{ID: fmt.Sprint("session ", n%4), Adapter: "nfs4", Addr: fmt.Sprint(n % 3), TTL: time.Duration(n%2) * time.Hour}
	var err error
	switch {
	case n%7 == 3:
		err = m.OpenShare(bg, lock.Share{File: r.File, Owner: o, Access: lock.Access(n / 7 % 8), Deny: lock.Access(n / 14 % 3)})
	case n%13 == 6:
		err = m.CloseShare(bg, r.File, o)
	case n%11 == 4:
		err = m.Connect(bg, session)
	case n%17 == 9: // without a TTL it is over
		if err = m.Disconnect(bg, fmt.Sprint("session ", (n-5)%4)); errors.Is(err, lock.ErrUnknownClient) {
			err = nil
		}
	case n%5 == 0:
		err = m.Unlock(bg, r.File, o, r.Range)
	case n%23 == 0:
		_, err = m.ReleaseOwner(bg, r.File, o)
	default:
		_, err = m.TryLock(bg, r)
	}
	if errors.Is(err, lock.ErrConflict) || errors.Is(err, lock.ErrNotFound) {
		return nil // it changes nothing
	}
	return err
}

// history makes a log with several segments and a checkpoint in dir, and returns
// what was held after each call that was acknowledged, the first time of all
// first. In the second life all is reclaimed first, which changes nothing in that.
func history(t *testing.T, dir string) (tables [][]fact) {
	tables = append(tables, nil)
	for life := range 2 {
		m, err := sneck.Open(sneck.Options{Dir: dir, SegmentSize: 600, CheckpointAfter: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := reclaimAll(m); err != nil {
			t.Fatal(err)
		}
		for i := range 15 + 40*life {
			if life == 1 && i == 15 {
				if err := m.Checkpoint(bg); err != nil {
					t.Fatal(err)
				}
			}
			if err := scripted(m, len(tables)); err != nil {
				t.Fatal(err)
			}
			tables = append(tables, everything(m))
		}
		mustClose(t, m)
	}
	return tables
}

// logFiles are the files of a log, in the order in which they are read.
func logFiles(t *testing.T, dir string) (paths []string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "LOCK" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths // "checkpoint-…" before "log-…"
}

// The log cut at every byte, and with a bit flipped in every byte: opening it
// gives what was held at some time, or an error that says what is wrong and
// where; never a panic, never another table. Only at its end is a log repaired.
func TestRestartDamaged(t *testing.T) {
	dir := t.TempDir()
	tables := history(t, dir)
	paths := logFiles(t, dir)
	if len(paths) < 4 || !strings.Contains(paths[0], "checkpoint-") {
		t.Fatalf("the log is %q", paths)
	}
	last := paths[len(paths)-1]
	cuts, flips, opened, refused := 0, 0, 0, 0
	// try opens what is there now, after a change to a file; shorter: it may look
	// as if a segment of the same log were missing.
	try := func(what, path string, tail, shorter bool) {
		t.Helper()
		before := content(t, dir)
		snap, ierr := sneck.Inspect(dir)
		m, err := sneck.Open(sneck.Options{Dir: dir})
		if err != nil {
			refused++
			var d *wal.DamageError
			var v *wal.VersionError
			switch {
			case errors.As(err, &d) && (d.File == path || shorter && filepath.Dir(d.File) == filepath.Dir(path)) && strings.Contains(err.Error(), "sneck log"):
			case errors.As(err, &v) && v.File == path:
			default:
				t.Fatalf("%s: %v", what, err)
			}
			if tail {
				t.Fatalf("%s: %v", what, err)
			}
			if ierr == nil || !reflect.DeepEqual(before, content(t, dir)) {
				t.Fatalf("%s: refused, but changed, or inspected without a word (%v)", what, ierr)
			}
			return
		}
		opened++
		got := everything(m)
		if !tail {
			t.Fatalf("%s: opened", what)
		}
		if !slices.ContainsFunc(tables, func(old []fact) bool { return slices.Equal(old, got) }) {
			t.Fatalf("%s: the table has\n\t%v", what, got)
		}
		mustEqual(t, what, table(m, lock.Filter{}), marked(table(snap, lock.Filter{}), true))
		mustEqual(t, what, everything(snap), got)
		n := m.Stats().Locks + m.Stats().Shares
		graceIs(t, m, n > 0, n)
		mustTry(t, m, posix("later"), x, span(1000, 1000))
		mustClose(t, m)
	}
	restore := func() (undo func()) {
		old := make(map[string][]byte)
		for _, p := range paths {
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			old[p] = data
		}
		return func() {
			for _, p := range logFiles(t, dir) {
				if _, ok := old[p]; !ok {
					if err := os.Remove(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			for p, data := range old {
				write(t, p, data)
			}
		}
	}()
	for _, path := range paths {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(dir, path)
		frames := frameStarts(whole)
		for i := range whole {
			cuts++
			write(t, path, whole[:i])
			atFrame := path != paths[0] && (i == 0 || slices.Contains(frames, i))
			try(fmt.Sprintf("%s cut at %d", name, i), path, path == last, atFrame)
			restore()
			flips++
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << (i % 8)
			write(t, path, flipped)
			inLast := path == last && i >= frames[len(frames)-1]
			try(fmt.Sprintf("%s flipped at %d", name, i), path, inLast, false)
			restore()
		}
	}
	t.Logf("%d files, %d cuts, %d flips: opened %d times, refused %d times", len(paths), cuts, flips, opened, refused)
}

// frameStarts is where the frames of an intact file begin.
func frameStarts(data []byte) (at []int) {
	for off := 0; off < len(data); {
		at = append(at, off)
		size, shift, n := 0, 0, 0
		for {
			b := data[off+n]
			size |= int(b&0x7f) << shift
			n, shift = n+1, shift+7
			if b < 0x80 {
				break
			}
		}
		off += n + size
	}
	return at
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
}

// A change that is in the log twice is refused, but for one of the time while a
// checkpoint was walked: the checkpoint may have it already.
func TestRestartRepeatedChange(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	var body []byte
	last := func(e wal.Entry) error {
		if e.Kind == wal.KindFile {
			body = slices.Clone(e.Body)
		}
		return nil
	}
	if _, err := wal.Read(dir, last); err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(dir, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Append(wal.KindFile, raw(body)), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sneck.Open(sneck.Options{Dir: dir}); !errors.As(err, new(*wal.DamageError)) || !errors.Is(err, wal.ErrRecord) {
		t.Fatal(err)
	}
}

type raw []byte

func (r raw) AppendTo(b []byte) []byte { return append(b, r...) }
