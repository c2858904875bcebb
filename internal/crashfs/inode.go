package crashfs

import (
	"path"
	"slices"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// inode is a file or directory as the mount shows it.
type inode struct {
	id       uint64 // what the kernel calls it; never used for another one
	mode     uint32
	changed  time.Time
	content  content           // of a file
	children map[string]*inode // of a directory, else nil

	// Where it is, or was before it was removed.
	parent  *inode
	name    string
	removed bool
}

func newInode(id uint64, mode uint32) *inode {
	n := &inode{id: id, mode: mode, changed: time.Now()}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		n.children = make(map[string]*inode)
	}
	return n
}

// path is relative to the root, which is ".".
func (n *inode) path() string {
	if n.parent == nil {
		return "."
	}
	return path.Join(n.parent.path(), n.name)
}

// put makes name an entry of the directory n for child.
func (n *inode) put(name string, child *inode) {
	n.children[name] = child
	n.changed = time.Now()
	child.parent, child.name = n, name
}

// remove removes the entry of child, if any, from the directory n.
func (n *inode) remove(child *inode) {
	if child == nil {
		return
	}
	delete(n.children, child.name)
	n.changed = time.Now()
	child.removed = true
}

func (n *inode) attr(a *fuse.Attr) {
	a.Ino = n.id
	a.Mode = n.mode
	a.Size = uint64(len(n.content))
	a.Blocks = (a.Size + sector - 1) / sector
	a.Blksize = 4096
	a.Nlink = 1
	if n.children != nil {
		a.Nlink = 2
	}
	if n.removed {
		a.Nlink = 0
	}
	a.Uid, a.Gid = uint32(unix.Getuid()), uint32(unix.Getgid())
	a.SetTimes(&n.changed, &n.changed, &n.changed)
}

// content is the data of a file.
type content []byte

func (c *content) resize(size int) {
	old := len(*c)
	if size <= old {
		*c = (*c)[:size]
		return
	}
	*c = slices.Grow(*c, size-old)[:size]
	clear((*c)[old:]) // data from before a truncate may be there
}

func (c *content) grow(size int) { c.resize(max(size, len(*c))) }

func (c *content) write(offset int, data []byte) {
	if len(data) == 0 {
		return // it makes no hole
	}
	c.grow(offset)
	n := copy((*c)[offset:], data)
	*c = append(*c, data[n:]...)
}
