package fusefs

import (
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"sneck/lock"
)

// node is one inode of the source that the kernel knows (invariant 1).
type node struct {
	id   uint64 // NodeID
	ino  inode
	fd   int    // O_PATH, O_NOFOLLOW
	path string // /proc/self/fd/N of fd: for calls that take no O_PATH descriptor

	// Guarded by nodes.mu.
	refs uint64 // the kernel's lookups and our open handles
	open int    // our open handles
	seen seen   // for the pruner

	keyOnce sync.Once
	fileKey lock.FileKey

	fcntl holders
	flock holders
}

// inode is what the source's file system calls a file.
type inode struct{ dev, ino uint64 }

// key names the inode for the lock manager (invariant 2). fd is a descriptor
// of the inode that was opened for I/O: an O_PATH one knows no ioctl.
func (n *node) key(fd int) lock.FileKey {
	n.keyOnce.Do(func() { n.fileKey = keyOf(n.ino, fd) })
	return n.fileKey
}

// KeyOf is the key under which a mount has the fcntl(2) locks of the file that is
// open at fd: what another server of the same source has to call it, when both
// share a Manager, so that they see each other's locks. fd is a descriptor of the
// file in the source, opened for I/O: neither one of the mount, which is another
// file system, nor an O_PATH one, which is EBADF.
//
// The key stays the file's, and its hard links', for as long as the file exists;
// also when the source is mounted anew, as long as its device number stays the
// same. flock(2) has another key, so that it is in nobody's way.
func KeyOf(fd int) (lock.FileKey, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_PATH != 0 {
		err = unix.EBADF
	}
	var st syscall.Stat_t
	if err == nil {
		err = syscall.Fstat(fd, &st)
	}
	if err != nil {
		return "", fmt.Errorf("key of the file at descriptor %d: %w", fd, err)
	}
	return keyOf(inodeOf(&st), fd), nil
}

// keyOf is the key of the inode that is open at fd.
func keyOf(i inode, fd int) lock.FileKey { return fileKey(i, generation(fd)) }

func fileKey(i inode, generation uint32) lock.FileKey {
	return lock.FileKey(fmt.Sprintf("%d:%d/%d/%d", unix.Major(i.dev), unix.Minor(i.dev), i.ino, generation))
}

// flockKey is the key of the flock(2) locks of the file with key k.
func flockKey(k lock.FileKey) lock.FileKey { return k + "/flock" }

// generation is the inode's generation number, 0 where the file system has
// none to tell.
func generation(fd int) uint32 {
	// FS_IOC_GETVERSION. Its type says long; most file systems write an int.
	const request = 2<<30 | unsafe.Sizeof(uintptr(0))<<16 | 'v'<<8 | 1
	v, err := unix.IoctlGetInt(fd, uint(request))
	if err != nil {
		return 0
	}
	return uint32(v) ^ uint32(uint64(v)>>32) // whichever half was written
}

// nodes is the table of all inodes that the kernel knows.
type nodes struct {
	mu      sync.RWMutex
	byID    map[uint64]*node
	byInode map[inode]*node
	lastID  uint64
	clock   uint64 // counts lookups
}

// seen is when and under which name a node was last looked up.
type seen struct {
	at     uint64 // nodes.clock
	parent uint64
	name   string
	folder bool
}

// newNodes makes a table with the folder open at fd as its root, which is
// never forgotten.
func newNodes(fd int) (*nodes, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, err
	}
	t := &nodes{byID: make(map[uint64]*node), byInode: make(map[inode]*node), lastID: fuse.FUSE_ROOT_ID - 1}
	t.add(fd, inodeOf(&st))
	return t, nil
}

func inodeOf(st *syscall.Stat_t) inode { return inode{dev: st.Dev, ino: st.Ino} }

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// get finds the node that the kernel calls id. The kernel forgets no node
// while it has a request for it under way.
func (t *nodes) get(id uint64) (*node, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n, ok := t.byID[id]
	return n, ok
}

// add needs mu, except in newNodes.
func (t *nodes) add(fd int, i inode) *node {
	t.lastID++
	n := &node{id: t.lastID, ino: i, fd: fd, path: procPath(fd), refs: 1}
	t.byID[n.id], t.byInode[i] = n, n
	return n
}

// adopt returns the node of the inode open at the O_PATH descriptor fd, which
// it takes over, with one more reference. It was found as name in the folder
// parent.
func (t *nodes) adopt(fd int, st *syscall.Stat_t, parent uint64, name string) *node {
	i := inodeOf(st)
	t.mu.Lock()
	n, known := t.byInode[i]
	if known {
		n.refs++
	} else {
		n = t.add(fd, i)
	}
	t.clock++
	n.seen = seen{at: t.clock, parent: parent, name: name, folder: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	t.mu.Unlock()
	if known {
		unix.Close(fd)
	}
	return n
}

func (t *nodes) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// hold takes one more reference of n for an open handle: RELEASE is
// asynchronous and may come after the kernel has forgotten the node.
func (t *nodes) hold(n *node) {
	t.mu.Lock()
	n.refs++
	n.open++
	t.mu.Unlock()
}

// letGo gives back what hold took.
func (t *nodes) letGo(n *node) {
	t.mu.Lock()
	n.open--
	t.mu.Unlock()
	t.drop(n, 1)
}

// drop gives back count references of n.
func (t *nodes) drop(n *node, count uint64) {
	t.mu.Lock()
	n.refs -= min(count, n.refs)
	gone := n.refs == 0 && n.id != fuse.FUSE_ROOT_ID
	if gone {
		delete(t.byID, n.id)
		delete(t.byInode, n.ino)
	}
	t.mu.Unlock()
	if gone {
		unix.Close(n.fd)
	}
}

// closeAll closes every descriptor: the mount is gone.
func (t *nodes) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.byID {
		unix.Close(n.fd)
	}
	clear(t.byID)
	clear(t.byInode)
}
