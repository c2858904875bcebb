package fusefs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sneck/fusefs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Fatalf("%s: %q, %v; want %q", path, got, err, want)
	}
}

// Invariant 1: names come and go, files stay what they are.
func TestTree(t *testing.T) {
	x := mountScratch(t)
	must(t, os.MkdirAll(x.path("a/b"), 0o755))
	must(t, os.WriteFile(x.path("a/b/f"), []byte("one"), 0o640))
	wantFile(t, filepath.Join(x.src, "a/b/f"), "one")
	must(t, os.Link(x.path("a/b/f"), x.path("link")))
	f, err := os.Stat(x.path("a/b/f"))
	must(t, err)
	l, err := os.Stat(x.path("link"))
	must(t, err)
	if !os.SameFile(f, l) || l.Sys().(*syscall.Stat_t).Nlink != 2 || l.Mode() != 0o640 {
		t.Errorf("hard link: %+v", l.Sys())
	}
	must(t, os.Rename(x.path("a/b"), x.path("c")))
	wantFile(t, x.path("c/f"), "one")
	if err := os.Remove(x.path("c")); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("rmdir of a folder that is not empty: %v", err)
	}
	must(t, os.WriteFile(x.path("g"), []byte("two"), 0o600))
	if err := unix.Renameat2(unix.AT_FDCWD, x.path("g"), unix.AT_FDCWD, x.path("link"), unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Errorf("RENAME_NOREPLACE: %v", err)
	}
	must(t, unix.Renameat2(unix.AT_FDCWD, x.path("g"), unix.AT_FDCWD, x.path("link"), unix.RENAME_EXCHANGE))
	wantFile(t, x.path("g"), "one")
	wantFile(t, x.path("link"), "two")

	must(t, os.Symlink("c/f", x.path("sym")))
	if to, err := os.Readlink(x.path("sym")); err != nil || to != "c/f" {
		t.Errorf("readlink: %q, %v", to, err)
	}
	wantFile(t, x.path("sym"), "one")
	must(t, os.Link(x.path("sym"), x.path("sym2"))) // of the link itself
	if st, err := os.Lstat(x.path("sym2")); err != nil || st.Mode().Type() != fs.ModeSymlink {
		t.Errorf("hard link of a symbolic link: %v, %v", st, err)
	}
	must(t, unix.Mkfifo(x.path("fifo"), 0o600))
	if st, err := os.Lstat(x.path("fifo")); err != nil || st.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("fifo: %v, %v", st, err)
	}
	must(t, os.RemoveAll(x.path("c")))
	if _, err := os.Stat(filepath.Join(x.src, "c")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed, but: %v", err)
	}
	if _, err := os.OpenFile(x.path("g"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("O_EXCL: %v", err)
	}
}

// Invariant 1: a file without a name, whose inode number is wanted by others.
func TestUnlinkedWhileOpen(t *testing.T) {
	x := mountScratch(t)
	f, err := os.Create(x.path("f"))
	must(t, err)
	defer f.Close()
	must(t, os.Remove(x.path("f")))
	for i := range 20 {
		must(t, os.WriteFile(x.path(fmt.Sprint("other", i)), []byte("other"), 0o600))
	}
	if _, err := f.WriteString("still here"); err != nil {
		t.Fatal(err)
	}
	must(t, f.Truncate(5))
	must(t, f.Chmod(0o600))
	buf := make([]byte, 10)
	if n, err := f.ReadAt(buf, 0); n != 5 || string(buf[:n]) != "still" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	st, err := f.Stat()
	must(t, err)
	if sys := st.Sys().(*syscall.Stat_t); sys.Nlink != 0 || sys.Size != 5 {
		t.Errorf("%+v", sys)
	}
}

func TestReadDirMany(t *testing.T) {
	x := mountScratch(t)
	const many = 1500
	want := make(map[string]bool)
	for i := range many {
		name := fmt.Sprintf("file-with-a-rather-long-name-%04d", i)
		want[name] = true
		must(t, os.WriteFile(filepath.Join(x.src, name), nil, 0o600))
	}
	d, err := os.Open(x.dir)
	must(t, err)
	defer d.Close()
	for round := range 2 { // the second after a rewind
		got := make(map[string]bool)
		for {
			names, err := d.Readdirnames(37)
			for _, n := range names {
				if got[n] || !want[n] {
					t.Fatalf("round %d: %s twice, or not there", round, n)
				}
				got[n] = true
			}
			if err != nil {
				break
			}
		}
		if len(got) != many {
			t.Fatalf("round %d: %d names", round, len(got))
		}
		_, err := d.Seek(0, 0)
		must(t, err)
	}
	entries, err := os.ReadDir(x.dir)
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() {
			t.Fatalf("%s: %v, %v", e.Name(), info, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	x := mountScratch(t)
	f := x.path("f")
	must(t, os.WriteFile(f, []byte("0123456789"), 0o600))
	must(t, os.Truncate(f, 4))
	wantFile(t, f, "0123")
	must(t, os.Truncate(f, 6))
	wantFile(t, f, "0123\x00\x00")
	must(t, os.WriteFile(f, []byte("new"), 0o600)) // O_TRUNC
	wantFile(t, f, "new")
	must(t, os.Chmod(f, 0o711|fs.ModeSetuid))
	when := time.Unix(1234567890, 123456789)
	must(t, os.Chtimes(f, when.Add(time.Hour), when))
	for _, path := range []string{f, filepath.Join(x.src, "f")} {
		st, err := os.Stat(path)
		must(t, err)
		sys := st.Sys().(*syscall.Stat_t)
		if sys.Mode != unix.S_IFREG|0o4711 || !st.ModTime().Equal(when) || sys.Atim.Sec != when.Unix()+3600 {
			t.Errorf("%s: %+v", path, sys)
		}
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
	st, err := os.Stat(f)
	must(t, err)
	if time.Since(st.ModTime()) > time.Hour || st.Sys().(*syscall.Stat_t).Atim.Sec != when.Unix()+3600 {
		t.Errorf("UTIME_NOW, UTIME_OMIT: %+v", st.Sys())
	}
	var v unix.Statfs_t
	must(t, unix.Statfs(x.dir, &v))
	if v.Blocks == 0 || v.Namelen == 0 {
		t.Errorf("statfs: %+v", v)
	}
}

func TestXattr(t *testing.T) {
	x := mountScratch(t)
	f := x.path("f")
	must(t, os.WriteFile(f, nil, 0o600))
	if err := unix.Setxattr(f, "user.a", []byte("value"), 0); errors.Is(err, unix.ENOTSUP) {
		t.Skip("the folder for temporary files has no user attributes")
	} else {
		must(t, err)
	}
	if err := unix.Setxattr(f, "user.a", nil, unix.XATTR_CREATE); err != unix.EEXIST {
		t.Errorf("XATTR_CREATE: %v", err)
	}
	buf := make([]byte, 100)
	n, err := unix.Getxattr(f, "user.a", buf)
	if err != nil || string(buf[:n]) != "value" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	if n, err = unix.Getxattr(f, "user.a", nil); n != 5 || err != nil {
		t.Errorf("size: %d, %v", n, err)
	}
	if _, err = unix.Getxattr(f, "user.a", buf[:2]); err != unix.ERANGE {
		t.Errorf("too small: %v", err)
	}
	n, err = unix.Listxattr(f, buf)
	if err != nil || !strings.Contains(string(buf[:n]), "user.a\x00") {
		t.Errorf("list: %q, %v", buf[:max(n, 0)], err)
	}
	must(t, unix.Removexattr(f, "user.a"))
	if _, err = unix.Getxattr(f, "user.a", buf); err != unix.ENODATA {
		t.Errorf("removed: %v", err)
	}
}

func TestDataCalls(t *testing.T) {
	x := mountScratch(t)
	f, err := os.Create(x.path("f"))
	must(t, err)
	defer f.Close()
	g, err := os.Create(x.path("g"))
	must(t, err)
	defer g.Close()
	_, err = f.WriteAt([]byte("data"), 1<<20)
	must(t, err)
	if off, err := f.Seek(0, unix.SEEK_DATA); err != nil || off == 0 || off > 1<<20 {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	from, to := int64(1<<20), int64(2)
	if n, err := unix.CopyFileRange(int(f.Fd()), &from, int(g.Fd()), &to, 4, 0); n != 4 || err != nil {
		t.Errorf("copy_file_range: %d, %v", n, err)
	}
	wantFile(t, x.path("g"), "\x00\x00data")
	must(t, unix.Fallocate(int(g.Fd()), 0, 0, 100))
	if st, err := g.Stat(); err != nil || st.Size() != 100 {
		t.Errorf("fallocate: %v, %v", st, err)
	}
	must(t, f.Sync())
	must(t, unix.Fdatasync(int(f.Fd())))
	d, err := os.Open(x.dir)
	must(t, err)
	defer d.Close()
	must(t, d.Sync())
}

// Appends of several open files do not overwrite each other, and a dirty page
// of a mapping is written where it belongs, not appended.
func TestAppendAndMmap(t *testing.T) {
	x := mountScratch(t)
	x.script(`
		A open $f rw,creat,append -> ok 3
		B open $f rw,append -> ok 3
		A write 3 aaaa -> ok
		B write 3 bbbb -> ok
		A write 3 cccc -> ok
		A pread 3 0 100 -> ok aaaabbbbcccc
		A mmapwrite 3 2 XX -> ok
		B mmapread 3 0 12 -> ok aaXXbbbbcccc
		B pread 3 0 100 -> ok aaXXbbbbcccc
		B mmapwrite 3 4 YY -> ok
		A pread 3 0 100 -> ok aaXXYYbbcccc
		B write 3 dd -> ok
		A pread 3 0 100 -> ok aaXXYYbbccccdd`)
	wantFile(t, filepath.Join(x.src, "f"), "aaXXYYbbccccdd")
}

// New files belong to who makes them, as on any file system.
func TestOwnership(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	x := mountScratch(t)
	must(t, os.Chmod(filepath.Dir(x.dir), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(x.dir)), 0o755))
	must(t, os.Mkdir(x.path("open"), 0))
	must(t, os.Chmod(x.path("open"), 0o777))
	must(t, os.Mkdir(x.path("sgid"), 0))
	must(t, os.Chown(x.path("sgid"), 0, 4321))
	must(t, os.Chmod(x.path("sgid"), 0o777|fs.ModeSetgid))
	must(t, os.WriteFile(x.path("secret"), []byte("root only"), 0o600))
	as := func(script string) (string, error) {
		cmd := exec.Command("/bin/sh", "-c", script, "sh", x.dir)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := as(`cd "$1" && umask 027 && cd open && echo x >f && mkdir d && ln -s f s && mkfifo p &&
		cd ../sgid && echo x >f && mkdir d`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range []struct {
		path string
		mode uint32
		gid  uint32
	}{
		{"open/f", unix.S_IFREG | 0o640, 1234},
		{"open/d", unix.S_IFDIR | 0o750, 1234},
		{"open/s", unix.S_IFLNK | 0o777, 1234},
		{"open/p", unix.S_IFIFO | 0o640, 1234},
		{"sgid/f", unix.S_IFREG | 0o640, 4321},
		{"sgid/d", unix.S_IFDIR | unix.S_ISGID | 0o750, 4321},
	} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(x.src, c.path), &st))
		if st.Mode != c.mode || st.Uid != 1234 || st.Gid != c.gid {
			t.Errorf("%s: mode %o, owner %d:%d; want %o, 1234:%d", c.path, st.Mode, st.Uid, st.Gid, c.mode, c.gid)
		}
	}
	for _, denied := range []string{`cat "$1/secret"`, `echo x >>"$1/secret"`, `echo x >"$1/new"`, `rm -f "$1/secret"`} {
		if out, err := as(denied); err == nil {
			t.Errorf("%s: allowed: %s", denied, out)
		}
	}
}

// What cannot be mounted is refused with a reason.
func TestMountRefused(t *testing.T) {
	x := mountScratch(t)
	base := t.TempDir()
	file := filepath.Join(base, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Mkdir(filepath.Join(base, "sub"), 0o755))
	for _, c := range []struct {
		name, source, mountPoint string
		want                     error
	}{
		{"no source", filepath.Join(base, "none"), base, fs.ErrNotExist},
		{"source is a file", file, base, fusefs.ErrNotFolder},
		{"no mount point", base, filepath.Join(base, "none"), fs.ErrNotExist},
		{"mount point is a file", base, file, fusefs.ErrNotFolder},
		{"nested", base, filepath.Join(base, "sub"), fusefs.ErrNested},
		{"mounted already", base, x.dir, fusefs.ErrAlreadyMounted},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := fusefs.Mount(fusefs.Options{Source: c.source, MountPoint: c.mountPoint, Client: "c", Manager: x.m})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if s != nil {
				must(t, s.Unmount())
			}
		})
	}
}

// A folder can be hidden behind a mount of itself.
func TestMountOnItself(t *testing.T) {
	x := mountScratch(t) // for its manager
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	s, err := fusefs.Mount(fusefs.Options{Source: dir, MountPoint: dir, Client: "itself", Manager: x.m})
	must(t, err)
	t.Cleanup(func() { must(t, s.Unmount()) }) // once more is fine
	wantFile(t, filepath.Join(dir, "f"), "x")
	p := x.probe("A")
	fd := p.Open(filepath.Join(dir, "f"), "rw")
	p.OK("setlk %d w 0 1", fd)
	if err := s.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmount while in use: %v", err)
	}
	p.OK("close %d", fd)
	must(t, s.Unmount())
}
