package crashfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Policy is what becomes of that which was not synced.
type Policy uint8

// The policies.
const (
	Lost   Policy = iota // all of it is gone
	Kept                 // all of it is there: what the mount shows
	Random               // each operation is there, gone or torn by itself
)

func (p Policy) String() string {
	switch p {
	case Lost:
		return "lost"
	case Kept:
		return "kept"
	case Random:
		return "random"
	}
	return fmt.Sprintf("Policy(%d)", uint8(p))
}

// Image is what a disk holds after a crash.
type Image struct {
	files []imageFile // each directory before what is in it
}

type imageFile struct {
	path string
	dir  bool
	data content // of a file; read only
}

// Image says what the disk may hold after a crash that comes after the first n
// entries of the history. It panics if there are not that many. Only Random
// uses r: the same history and the same numbers give the same image.
func (f *FS) Image(n int, p Policy, r *rand.Rand) *Image {
	f.mu.Lock()
	history := slices.Clip(f.history)[:n]
	f.mu.Unlock()

	fate := newFate(p, r)
	synced := synced(history)
	there := entriesThere(history, synced, fate)
	d := newDisk()
	for i, e := range history {
		switch {
		case e.Err != 0:
		case e.Kind == Write && synced[i]:
			d.file(e.inode).write(int(e.Offset), e.data)
		case e.Kind == Write:
			fate.write(d.file(e.inode), int(e.Offset), e.data)
		case e.Kind == Truncate:
			if synced[i] || fate.keeps() {
				d.file(e.inode).resize(e.Size)
			}
		case there[i]:
			d.change(e)
		}
	}
	im := new(Image)
	d.list(rootID, "", im)
	return im
}

// WriteTo makes the image in dir, which is empty or does not exist.
func (im *Image) WriteTo(dir string) error {
	if err := im.writeTo(dir); err != nil {
		return fmt.Errorf("crashfs: write image: %w", err)
	}
	return nil
}

func (im *Image) writeTo(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range im.files {
		name := filepath.Join(dir, f.path)
		if f.dir {
			if err := os.Mkdir(name, 0o700); err != nil {
				return err
			}
			continue
		}
		w, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = w.Write(f.data)
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// String lists the directories and the files with their sizes.
func (im *Image) String() string {
	if len(im.files) == 0 {
		return "(nothing)"
	}
	var lines []string
	for _, f := range im.files {
		if f.dir {
			lines = append(lines, f.path+"/")
		} else {
			lines = append(lines, fmt.Sprintf("%s %d", f.path, len(f.data)))
		}
	}
	return strings.Join(lines, "\n")
}

// disk is what operations that are there add up to. Which files and
// directories can be reached from the root shows at the end.
type disk struct {
	files map[uint64]*content   // by inode
	dirs  map[uint64]*directory // by inode
}

// directory is a directory on a disk. An inode has one name at most.
type directory struct {
	inodes map[string]uint64 // by name
	names  map[uint64]string // by inode
}

func newDisk() *disk {
	d := &disk{files: make(map[uint64]*content), dirs: make(map[uint64]*directory)}
	d.dir(rootID)
	return d
}

func (d *disk) file(inode uint64) *content {
	if d.files[inode] == nil {
		d.files[inode] = new(content)
	}
	return d.files[inode]
}

func (d *disk) dir(inode uint64) *directory {
	if d.dirs[inode] == nil {
		d.dirs[inode] = &directory{inodes: make(map[string]uint64), names: make(map[uint64]string)}
	}
	return d.dirs[inode]
}

// change makes a change of a directory entry.
func (d *disk) change(e entry) {
	in := d.dir(e.inode)
	switch e.Kind {
	case Create:
		in.put(path.Base(e.Path), e.child)
	case Mkdir:
		in.put(path.Base(e.Path), e.child)
		d.dir(e.child)
	case Rename:
		in.put(path.Base(e.To), e.child)
	case Unlink, Rmdir:
		in.remove(e.child)
	}
}

func (d *directory) put(name string, inode uint64) {
	d.remove(inode)
	d.remove(d.inodes[name]) // no inode is 0
	d.inodes[name], d.names[inode] = inode, name
}

func (d *directory) remove(inode uint64) {
	delete(d.inodes, d.names[inode])
	delete(d.names, inode)
}

// list adds to the image what is in a directory.
func (d *disk) list(dir uint64, at string, im *Image) {
	in := d.dirs[dir]
	for _, name := range slices.Sorted(maps.Keys(in.inodes)) {
		inode, file := in.inodes[name], imageFile{path: path.Join(at, name)}
		if d.dirs[inode] != nil {
			file.dir = true
			im.files = append(im.files, file)
			d.list(inode, file.path, im)
			continue
		}
		file.data = *d.file(inode)
		im.files = append(im.files, file)
	}
}
