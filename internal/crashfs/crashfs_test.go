package crashfs

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted is a mount with helpers that end the test if they fail. Names are
// relative to the mount point.
type mounted struct {
	*FS
	t testing.TB
}

func mount(t testing.TB) *mounted {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	f, err := Mount(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return &mounted{f, t}
}

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mounted) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// open opens or makes a file until the end of the test.
func (m *mounted) open(name string, flags int) *os.File {
	m.t.Helper()
	f, err := os.OpenFile(m.path(name), flags|os.O_CREATE|os.O_RDWR, 0o600)
	m.must(err)
	m.t.Cleanup(func() { f.Close() })
	return f
}

func (m *mounted) write(name string, offset int64, data string) {
	m.t.Helper()
	f := m.open(name, 0)
	_, err := f.WriteAt([]byte(data), offset)
	m.must(err)
	m.must(f.Close())
}

func (m *mounted) truncate(name string, size int64) {
	m.t.Helper()
	m.must(os.Truncate(m.path(name), size))
}

func (m *mounted) sync(names ...string) {
	m.t.Helper()
	for _, name := range names {
		m.must(syncPath(m.path(name)))
	}
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (m *mounted) mkdir(name string)      { m.t.Helper(); m.must(os.Mkdir(m.path(name), 0o700)) }
func (m *mounted) remove(name string)     { m.t.Helper(); m.must(os.Remove(m.path(name))) }
func (m *mounted) rename(from, to string) { m.t.Helper(); m.must(os.Rename(m.path(from), m.path(to))) }
func (m *mounted) now(p Policy) tree      { return treeOf(m.Image(m.Len(), p, nil)) }
func (m *mounted) shown() tree            { m.t.Helper(); return treeIn(m.t, m.dir) }
func (m *mounted) want(what string, p Policy, want tree) {
	m.t.Helper()
	same(m.t, what, m.now(p), want)
}

// tree is files with their content by path. Directories end in a slash.
type tree map[string]string

func treeOf(im *Image) tree {
	tr := make(tree)
	for _, f := range im.files {
		if f.dir {
			tr[f.path+"/"] = ""
		} else {
			tr[f.path] = string(f.data)
		}
	}
	return tr
}

func treeIn(t testing.TB, dir string) tree {
	t.Helper()
	tr := make(tree)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			tr[name+"/"] = ""
			return nil
		}
		data, err := os.ReadFile(path)
		if fi, serr := d.Info(); serr != nil || fi.Size() != int64(len(data)) {
			t.Errorf("%s: %d bytes, stat says %v, %v", path, len(data), fi, serr)
		}
		tr[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func same(t testing.TB, what string, got, want tree) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// programs is what an ordinary program does, step by step.
var programs = []struct {
	name string
	do   func(dir string) error
}{
	{"mkdirall", func(d string) error { return os.MkdirAll(d+"/a/b/c", 0o750) }},
	{"writefile", func(d string) error { return os.WriteFile(d+"/a/f", []byte("hello, world"), 0o640) }},
	{"overwrite", func(d string) error { return os.WriteFile(d+"/a/f", []byte("bye"), 0o640) }},
	{"excl of an existing file", func(d string) error {
		_, err := os.OpenFile(d+"/a/f", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
		return err
	}},
	{"missing file", func(d string) error { _, err := os.Open(d + "/a/none"); return err }},
	{"missing directory", func(d string) error { return os.WriteFile(d+"/none/f", nil, 0o640) }},
	{"append", func(d string) error {
		f, err := os.OpenFile(d+"/a/f", os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(" and hello")
		return errors.Join(err, f.Sync(), f.Close())
	}},
	{"seek, write, read", func(d string) error {
		f, err := os.OpenFile(d+"/a/b/g", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString("0123456789"); err != nil {
			return err
		}
		if _, err := f.Seek(2000, 0); err != nil {
			return err
		}
		if _, err := f.WriteString("far"); err != nil {
			return err
		}
		got := make([]byte, 4)
		if _, err := f.ReadAt(got, 3); err != nil || string(got) != "3456" {
			return errors.Join(errors.New("read "+string(got)), err)
		}
		if n, err := f.ReadAt(got, 2001); n != 2 {
			return errors.Join(errors.New("read behind the end"), err)
		}
		return f.Truncate(1000)
	}},
	{"grow again: zeros", func(d string) error { return os.Truncate(d+"/a/b/g", 2500) }},
	{"large", func(d string) error {
		return os.WriteFile(d+"/large", bytes.Repeat([]byte("0123456789abcdef"), 100_000), 0o640)
	}},
	{"rename", func(d string) error { return os.Rename(d+"/a/f", d+"/a/h") }},
	{"rename over", func(d string) error {
		return errors.Join(os.WriteFile(d+"/a/i", []byte("new"), 0o640), os.Rename(d+"/a/i", d+"/a/h"))
	}},
	{"rename to itself", func(d string) error { return os.Rename(d+"/a/h", d+"/a/h") }},
	{"rename a directory", func(d string) error { return os.Rename(d+"/a/b", d+"/a/e") }},
	{"rename over a directory that is not empty", func(d string) error {
		return errors.Join(os.Mkdir(d+"/a/x", 0o750), os.Rename(d+"/a/x", d+"/a/e"))
	}},
	{"remove a directory that is not empty", func(d string) error { return syscall.Rmdir(d + "/a") }},
	{"remove", func(d string) error { return os.Remove(d + "/a/h") }},
	{"remove an open file", func(d string) error {
		f, err := os.Create(d + "/gone")
		if err != nil {
			return err
		}
		defer f.Close()
		if err := os.Remove(d + "/gone"); err != nil {
			return err
		}
		if _, err := f.WriteString("unseen"); err != nil {
			return err
		}
		got := make([]byte, 6)
		if _, err := f.ReadAt(got, 0); err != nil || string(got) != "unseen" {
			return errors.Join(errors.New("read "+string(got)), err)
		}
		return f.Sync()
	}},
	{"many files", func(d string) error {
		if err := os.Mkdir(d+"/many", 0o750); err != nil {
			return err
		}
		for i := range 100 {
			name := strings.Repeat("n", 100) + string(rune('A'+i/26)) + string(rune('a'+i%26))
			if err := os.WriteFile(d+"/many/"+name, []byte(name), 0o640); err != nil {
				return err
			}
		}
		return syncPath(d + "/many")
	}},
	{"remove all", func(d string) error { return os.RemoveAll(d + "/many") }},
	{"chmod", func(d string) error { return os.Chmod(d+"/large", 0o600) }},
	{"fadvise", func(d string) error {
		f, err := os.Open(d + "/large")
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	}},
}

// Every step does to the mount what it does to a plain directory, and the
// images with everything kept say so too, also long after.
func TestLikeAPlainDirectory(t *testing.T) {
	m, plain := mount(t), t.TempDir()
	type shot struct {
		at    int
		shown tree
	}
	var shots []shot
	for _, p := range programs {
		var errno, want syscall.Errno
		err, wantErr := p.do(m.dir), p.do(plain)
		errors.As(err, &errno)
		errors.As(wantErr, &want)
		if (err == nil) != (wantErr == nil) || errno != want {
			t.Errorf("%s: %v, on a plain directory %v", p.name, err, wantErr)
		}
		s := shot{m.Len(), m.shown()}
		same(t, p.name, s.shown, treeIn(t, plain))
		shots = append(shots, s)
	}
	if err := m.Unmount(); err != nil {
		t.Error(err)
	}
	for i, s := range shots {
		im := m.Image(s.at, Kept, nil)
		same(t, "image after "+programs[i].name, treeOf(im), s.shown)
		dir := filepath.Join(t.TempDir(), "new")
		if err := im.WriteTo(dir); err != nil {
			t.Fatal(err)
		}
		same(t, "image on disk after "+programs[i].name, treeIn(t, dir), s.shown)
	}
}

func TestHistory(t *testing.T) {
	m := mount(t)
	m.mkdir("d")
	f := m.open("d/f", 0)
	f.WriteString("abc")
	f.WriteString("defg")
	m.Mark("written")
	f.Sync()
	m.open("d/f", os.O_TRUNC)
	m.rename("d/f", "d/g")
	m.rename("d", "e")
	m.sync("e")
	f.Truncate(1)
	m.Inject(Fault{Errno: unix.ENOSPC})
	m.removeFails("e/g", unix.ENOSPC)
	m.remove("e/g")
	f.WriteString("h")
	m.remove("e")
	var got []string
	for _, o := range m.History() {
		got = append(got, o.String())
	}
	want := []string{
		"mkdir d", "create d/f", "write d/f [0,+3)", "write d/f [3,+4)", "mark written", "sync d/f",
		"truncate d/f to 0", "rename d/f -> d/g", "rename d -> e", "sync dir e", "truncate e/g to 1",
		"unlink e/g: no space left on device", "unlink e/g", "write e/g [7,+1)", "rmdir e",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if m.Len() != len(want) {
		t.Errorf("length %d", m.Len())
	}
}

// removeFails removes in vain.
func (m *mounted) removeFails(name string, want error) {
	m.t.Helper()
	if err := syscall.Unlink(m.path(name)); !errors.Is(err, want) {
		m.t.Errorf("unlink: %v", err)
	}
}

// The locks are the kernel's own.
func TestFlock(t *testing.T) {
	m := mount(t)
	f, g := m.open("f", 0), m.open("f", 0)
	m.must(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err := unix.Flock(int(g.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Error(err)
	}
	m.must(f.Close())
	m.must(unix.Flock(int(g.Fd()), unix.LOCK_EX))
}

func TestRenameIntoAnotherDirectory(t *testing.T) {
	m := mount(t)
	m.mkdir("d")
	m.write("f", 0, "x")
	if err := os.Rename(m.path("f"), m.path("d/f")); !errors.Is(err, unix.EXDEV) {
		t.Error(err)
	}
}

// A write(2) stays one write, and a mark is where it was made, whoever else is
// busy.
func TestConcurrent(t *testing.T) {
	m := mount(t)
	const writers, writes = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			name := string(rune('a' + w))
			f, err := os.Create(m.path(name))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := range writes {
				_, err := f.Write(bytes.Repeat([]byte(name), 10_000+i))
				if err := errors.Join(err, f.Sync()); err != nil {
					t.Error(err)
				}
				m.Mark(name)
				if i%10 == 0 {
					m.Image(m.Len(), Random, seeded(uint64(i)))
				}
			}
		})
	}
	wg.Wait()
	written, synced, marked := make(map[string]int), make(map[string]int), make(map[string]int)
	for _, o := range m.History() {
		switch o.Kind {
		case Write:
			if o.Size != 10_000+written[o.Path] {
				t.Errorf("write number %d: %v", written[o.Path], o)
			}
			written[o.Path]++
		case Sync:
			synced[o.Path]++
		case Marked:
			name := o.Mark.(string)
			marked[name]++
			if marked[name] != written[name] || marked[name] != synced[name] {
				t.Errorf("mark %d of %s after %d writes, %d syncs", marked[name], name, written[name], synced[name])
			}
		}
	}
}

// A write(2) that one request can carry arrives as it was made, a larger one in
// pieces.
func TestLargeWrite(t *testing.T) {
	m := mount(t)
	f := m.open("f", 0)
	for _, size := range []int{maxWrite - os.Getpagesize(), 3 * maxWrite} {
		n, total := m.Len(), 0
		_, err := f.Write(make([]byte, size))
		m.must(err)
		pieces := m.History()[n:]
		for _, o := range pieces {
			total += o.Size
		}
		if total != size || (len(pieces) == 1) != (size < maxWrite) {
			t.Errorf("%d bytes: %v", size, pieces)
		}
	}
}

// An unmounted file system that was in use is gone from the tree nevertheless.
func TestUnmountBusy(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	m, err := Mount(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(m.dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmount: %v", err)
	}
	same(t, "below", treeIn(t, m.dir), tree{})
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
	f.Close()
	<-m.served
	same(t, "image", treeOf(m.Image(m.Len(), Kept, nil)), tree{"f": "x"})
}
