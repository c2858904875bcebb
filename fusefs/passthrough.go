package fusefs

import (
	"errors"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"sneck"
)

// cacheFor is how long the kernel may believe names and attributes. Changes
// through the mount are seen at once; this bounds those made behind its back.
const cacheFor = time.Second

// passthrough answers the kernel. With default_permissions the kernel checks
// access itself and sends no ACCESS.
type passthrough struct {
	fuse.RawFileSystem // ENOSYS for what is not here

	name    string // of the source: shown with each lock
	client  string
	manager *sneck.Manager
	log     *slog.Logger
	asRoot  bool // new files can be given to the caller

	nodes   *nodes
	handles handles
	pruner  pruner
}

var _ fuse.RawFileSystem = (*passthrough)(nil)

func (p *passthrough) String() string { return fsType }

// Init comes before the first request.
func (p *passthrough) Init(server *fuse.Server) { p.pruner.forget = forgetter(server) }

// OnUnmount closes what is still open; no request comes any more.
func (p *passthrough) OnUnmount() {
	p.pruner.wait()
	p.handles.closeAll()
	p.nodes.closeAll()
}

func status(err error) fuse.Status { return fuse.Status(fs.ToErrno(err)) }

// again calls f until a signal no longer interrupts it.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// find opens name in the folder dir and returns its node, with one more
// reference, and attributes.
func (p *passthrough) find(dir *node, name string, st *syscall.Stat_t) (*node, error) {
	if name == ".." && dir.id == fuse.FUSE_ROOT_ID {
		name = "." // nothing above the source can be reached
	}
	fd, err := openat(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Fstat(fd, st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p.adopt(fd, st, dir, name), nil
}

func (p *passthrough) adopt(fd int, st *syscall.Stat_t, dir *node, name string) *node {
	defer p.pruner.grown()
	return p.nodes.adopt(fd, st, dir.id, name)
}

// entry finds name in the folder dir for an answer to the kernel.
func (p *passthrough) entry(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	var st syscall.Stat_t
	n, err := p.find(dir, name, &st)
	if err != nil {
		return status(err)
	}
	fillEntry(n, &st, out)
	return fuse.OK
}

func fillEntry(n *node, st *syscall.Stat_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1 // NodeIDs are never reused
	out.SetEntryTimeout(cacheFor)
	out.SetAttrTimeout(cacheFor)
	out.Attr.FromStat(st)
}

// Lookup finds a name.
func (p *passthrough) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, ok := p.nodes.get(header.NodeId)
	if !ok {
		return stale
	}
	p.pruner.makeRoom()
	return p.entry(dir, name, out)
}

// stale answers a request for a node or handle that is not known.
const stale = fuse.Status(unix.ESTALE)

// Forget gives back lookups.
func (p *passthrough) Forget(nodeid, nlookup uint64) {
	if n, ok := p.nodes.get(nodeid); ok {
		p.nodes.drop(n, nlookup)
	}
}

// GetAttr is stat(2) and fstat(2).
func (p *passthrough) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	return n.attr(out)
}

func (n *node) attr(out *fuse.AttrOut) fuse.Status {
	var st syscall.Stat_t
	if err := syscall.Fstat(n.fd, &st); err != nil {
		return status(err)
	}
	out.SetTimeout(cacheFor)
	out.Attr.FromStat(&st)
	return fuse.OK
}

// SetAttr is chown(2), chmod(2), truncate(2) and utimensat(2). The owner comes
// first: changing it clears the set-user-ID bits that the mode may set.
func (p *passthrough) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	if err := p.setAttr(n, in); err != nil {
		return status(err)
	}
	return n.attr(out)
}

func (p *passthrough) setAttr(n *node, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if setUID || setGID {
		if err := chown(n.fd, uid, gid); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := unix.Fchmodat(unix.AT_FDCWD, n.path, mode, 0); err != nil {
			return err
		}
	}
	if size, ok := in.GetSize(); ok {
		if err := p.truncate(n, in, int64(size)); err != nil {
			return err
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		ts := []unix.Timespec{
			timespec(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
			timespec(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, n.path, ts, 0)
	}
	return nil
}

// truncate prefers the open file: it may write though the mode says no.
func (p *passthrough) truncate(n *node, in *fuse.SetAttrIn, size int64) error {
	if fh, ok := in.GetFh(); ok {
		if h, ok := p.handles.get(fh); ok {
			return again(func() error { return unix.Ftruncate(h.fd, size) })
		}
	}
	return again(func() error { return unix.Truncate(n.path, size) })
}

// chown changes owner and group of the O_PATH descriptor fd; ^0 leaves one as
// it is.
func chown(fd int, uid, gid uint32) error {
	return unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH)
}

func timespec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	ts := unix.NsecToTimespec(int64(nsec))
	ts.Sec = int64(sec)
	return ts
}

// StatFs is statfs(2).
func (p *passthrough) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(n.fd, &st); err != nil {
		return status(err)
	}
	out.FromStatfsT(&st)
	return fuse.OK
}

// newPassthrough serves the folder source.
func newPassthrough(o Options) (*passthrough, error) {
	fd, err := openat(unix.AT_FDCWD, o.Source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: o.Source, Err: err}
	}
	table, err := newNodes(fd)
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: o.Source, Err: err}
	}
	p := &passthrough{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		name:          shareName(o.Source),
		client:        o.Client,
		manager:       o.Manager,
		log:           o.Logger,
		asRoot:        os.Geteuid() == 0,
		nodes:         table,
	}
	p.pruner.nodes, p.pruner.most = table, o.MaxNodes
	if p.pruner.most <= 0 {
		p.pruner.most = defaultMaxNodes()
	}
	return p, nil
}
