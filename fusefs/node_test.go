package fusefs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"sneck/lock"
)

// Invariant 2: a file that has got the inode number of a deleted one has
// another key.
func TestKeyOfReusedInode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	keys := make(map[inode]lock.FileKey)
	for range 1000 {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		g := generation(int(f.Fd()))
		f.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if g == 0 {
			t.Skip("the file system has no generations to tell")
		}
		i, key := inodeOf(&st), fileKey(inodeOf(&st), g)
		if old, ok := keys[i]; ok {
			if old == key {
				t.Fatalf("two files have the key %q", key)
			}
			return
		}
		keys[i] = key
	}
	t.Skip("no inode number is used again here")
}

// Invariant 1: a NodeID is never used again, and a node lives exactly as long
// as somebody refers to it.
func TestNodes(t *testing.T) {
	dir := t.TempDir()
	adopt := func(table *nodes, name string) *node {
		t.Helper()
		path := filepath.Join(dir, name)
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		st := new(syscall.Stat_t)
		if err := syscall.Fstat(fd, st); err != nil {
			t.Fatal(err)
		}
		return table.adopt(fd, st, 1, name)
	}
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	table, err := newNodes(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer table.closeAll()
	root, ok := table.get(1)
	if !ok {
		t.Fatal("no root")
	}
	table.drop(root, 100)
	if _, ok := table.get(1); !ok {
		t.Error("the root was forgotten")
	}
	for _, name := range []string{"f", "g"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]bool{1: true}
	for range 3 {
		f := adopt(table, "f")
		if f2 := adopt(table, "f"); f2 != f {
			t.Fatal("one inode, two nodes")
		}
		g := adopt(table, "g")
		if f == g || seen[f.id] || seen[g.id] {
			t.Fatalf("ids %d and %d", f.id, g.id)
		}
		seen[f.id], seen[g.id] = true, true
		table.hold(f) // an open handle
		table.drop(f, 2)
		if _, ok := table.get(f.id); !ok {
			t.Error("forgotten while open")
		}
		table.letGo(f)
		table.drop(g, 1)
		for _, n := range []*node{f, g} {
			if _, ok := table.get(n.id); ok {
				t.Error("not forgotten")
			}
			var st syscall.Stat_t
			if err := syscall.Fstat(n.fd, &st); err != syscall.EBADF {
				t.Errorf("its descriptor: %v", err)
			}
		}
	}
}
