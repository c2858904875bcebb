package fusefs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// handle is one open file or folder: what the kernel calls fh.
type handle struct {
	fd   int
	node *node

	fcntl handleLocks // guarded by node.fcntl
	flock handleLocks // guarded by node.flock

	dir *dirState // nil for files
}

// dirState is how far an open folder was read.
type dirState struct {
	mu      sync.Mutex
	stream  fs.DirStream
	offset  uint64         // of the last entry that was delivered
	pending *fuse.DirEntry // read, but did not fit into the last answer
}

// handles is the table of everything open. Ids are never reused.
type handles struct {
	mu   sync.RWMutex
	byID map[uint64]*handle
	last uint64
}

func (t *handles) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[uint64]*handle)
	}
	t.last++
	t.byID[t.last] = h
	return t.last
}

func (t *handles) get(id uint64) (*handle, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	h, ok := t.byID[id]
	return h, ok
}

func (t *handles) remove(id uint64) (*handle, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.byID[id]
	delete(t.byID, id)
	return h, ok
}

func (t *handles) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// closeAll closes every descriptor: the mount is gone.
func (t *handles) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.byID {
		unix.Close(h.fd)
	}
	clear(t.byID)
}
