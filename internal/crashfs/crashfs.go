package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	device = "/dev/fuse"
	rootID = fuse.FUSE_ROOT_ID

	maxWrite = 1 << 20 // what one request can carry by default
	maxSize  = 1 << 30 // of a file: it is held in memory
)

// FS is a mounted file system, and its history once it is unmounted.
type FS struct {
	dir    string
	conn   *fuse.Server
	served chan struct{} // closed after the last request

	mu      sync.Mutex
	nodes   map[uint64]*inode // by id; none is ever forgotten
	history []entry           // only ever appended to
	fault   *Fault            // counts down to when it strikes; nil if none will
}

// Available says why nothing can be mounted here; nil if something can.
func Available() error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("crashfs: %w", err)
	}
	return f.Close()
}

// Mount mounts an empty file system on dir.
func Mount(dir string) (*FS, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("crashfs: %w", err)
	}
	f := &FS{dir: dir, served: make(chan struct{}), nodes: make(map[uint64]*inode)}
	f.nodes[rootID] = newInode(rootID, unix.S_IFDIR|0o777)
	if f.conn, err = connect(&server{fuse.NewDefaultRawFileSystem(), f}, dir); err != nil {
		return nil, fmt.Errorf("crashfs: mount on %s: %w", dir, err)
	}
	go func() {
		defer close(f.served)
		f.conn.Serve()
	}()
	if err := f.conn.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("crashfs: mount on %s: %w", dir, err), f.Unmount())
	}
	return f, nil
}

// connect mounts, directly where allowed, else by fusermount3.
func connect(s *server, dir string) (*fuse.Server, error) {
	options := fuse.MountOptions{
		FsName:             "crashfs",
		Name:               "crashfs",
		MaxWrite:           maxWrite,
		DisableXAttrs:      true,
		DisableReadDirPlus: true,
	}
	if os.Geteuid() != 0 {
		return fuse.NewServer(s, dir, &options)
	}
	options.DirectMountStrict = true
	// Programs that are started must not get the descriptor of the device, which
	// is open without O_CLOEXEC for a moment: it would keep the mount alive, with
	// nobody to serve it, after the end of this process.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	conn, err := fuse.NewServer(s, dir, &options)
	if err != nil {
		return nil, err
	}
	if err := closeDevicesOnExec(); err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return conn, nil
}

func closeDevicesOnExec() error {
	const open = "/proc/self/fd"
	names, err := os.ReadDir(open)
	if err != nil {
		return err
	}
	for _, n := range names {
		target, err := os.Readlink(filepath.Join(open, n.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed since
		}
		if err != nil {
			return err
		}
		fd, err := strconv.Atoi(n.Name())
		if err != nil {
			return err
		}
		if target == device {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// Unmount unmounts the file system and waits for the end of the last request.
// It fails if the file system is still in use. It takes it out of the tree of
// directories nevertheless, and serves it until it is no longer used.
func (f *FS) Unmount() error {
	if err := f.conn.Unmount(); err != nil {
		err = fmt.Errorf("crashfs: unmount %s: %w", f.dir, err)
		return errors.Join(err, unix.Unmount(f.dir, unix.MNT_DETACH))
	}
	<-f.served
	return nil
}

// Mark puts a marker into the history: whatever has returned before is before
// it, whatever is begun after it has returned is after it.
func (f *FS) Mark(v any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history = append(f.history, entry{Op: Op{Kind: Marked, Mark: v}})
}

// Len is the number of entries in the history, operations and marks.
func (f *FS) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.history)
}

// History is a copy of the history. An operation is in it from the moment that
// it takes effect. One that fails by itself, say because a name exists already,
// is not.
func (f *FS) History() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops := make([]Op, len(f.history))
	for i, e := range f.history {
		ops[i] = e.Op
	}
	return ops
}
