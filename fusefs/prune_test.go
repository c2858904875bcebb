package fusefs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"sneck"
)

// namesOnly is a passthrough on a kernel before 6.18.
type namesOnly struct{ *passthrough }

func (p namesOnly) Init(server *fuse.Server) {
	p.pruner.forget = func(all []candidate) { forgetNames(server, all) }
}

// Invariant 9: a tree with many more files than may be open can be walked, and what is in
// use meanwhile stays as it is.
func TestMoreFilesThanDescriptors(t *testing.T) {
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and /dev/fuse: ", err)
	}
	for name, wrap := range map[string]func(*passthrough) fuse.RawFileSystem{
		"by node":      func(p *passthrough) fuse.RawFileSystem { return p },
		"by name only": func(p *passthrough) fuse.RawFileSystem { return namesOnly{p} },
	} {
		t.Run(name, func(t *testing.T) { walkMany(t, wrap) })
	}
}

func walkMany(t *testing.T, wrap func(*passthrough) fuse.RawFileSystem) {
	const many, most = 3000, 400
	src, mnt := t.TempDir(), t.TempDir()
	for i := range many {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := sneck.Open(sneck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p, err := newPassthrough(Options{Source: src, Client: "c", Manager: m, MaxNodes: most})
	if err != nil {
		t.Fatal(err)
	}
	server, err := fuse.NewServer(wrap(p), mnt, &fuse.MountOptions{DirectMountStrict: true, FsName: "sneck", Name: fsType, EnableLocks: true})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	used, err := os.OpenFile(filepath.Join(mnt, "7"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	worst := 0
	for range 2 {
		n := 0
		err := filepath.WalkDir(mnt, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			n++
			worst = max(worst, p.nodes.len())
			_, err = e.Info()
			return err
		})
		if err != nil || n != many {
			t.Fatalf("%d files: %v", n, err)
		}
	}
	if worst > most {
		t.Errorf("%d nodes at once, want at most %d", worst, most)
	}
	if _, err := used.WriteAt([]byte("y"), 0); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", used.Fd())); err != nil || to != filepath.Join(mnt, "7") {
		t.Errorf("the file in use is called %q, %v", to, err)
	}
	if got, err := os.ReadFile(filepath.Join(src, "7")); err != nil || string(got) != "y" {
		t.Errorf("%q, %v", got, err)
	}
}
