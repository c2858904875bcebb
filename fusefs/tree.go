package fusefs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Mknod makes a file, fifo, socket or device.
func (p *passthrough) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	kind := in.Mode & unix.S_IFMT
	if kind == 0 {
		kind = unix.S_IFREG
	}
	return p.make(in.NodeId, in.Caller, name, kind, out, func(dir int) error {
		return unix.Mknodat(dir, name, in.Mode, int(in.Rdev))
	})
}

// Mkdir makes a folder.
func (p *passthrough) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return p.make(in.NodeId, in.Caller, name, unix.S_IFDIR, out, func(dir int) error {
		return unix.Mkdirat(dir, name, in.Mode&0o7777)
	})
}

// Symlink makes a symbolic link.
func (p *passthrough) Symlink(cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return p.make(in.NodeId, in.Caller, name, unix.S_IFLNK, out, func(dir int) error {
		return unix.Symlinkat(target, dir, name)
	})
}

// make makes name in folder parent with f, something of that kind (S_IFDIR, ...),
// and gives it to the caller. If that fails, name is removed again.
func (p *passthrough) make(parent uint64, caller fuse.Caller, name string, kind uint32, out *fuse.EntryOut, f func(dir int) error) fuse.Status {
	dir, ok := p.nodes.get(parent)
	if !ok {
		return stale
	}
	removeFlags := 0
	if kind == unix.S_IFDIR {
		removeFlags = unix.AT_REMOVEDIR
	}
	began := time.Now()
	if err := f(dir.fd); err != nil {
		return status(err)
	}
	var st syscall.Stat_t
	n, err := p.find(dir, name, &st)
	if err != nil {
		_ = unix.Unlinkat(dir.fd, name, removeFlags) // why it could not be found counts
		return status(err)
	}
	if p.asRoot && !justMade(n.fd, &st, kind, began) {
		p.nodes.drop(n, 1)
		return stale
	}
	if err := p.give(dir, n, caller, &st); err != nil {
		p.nodes.drop(n, 1)
		_ = unix.Unlinkat(dir.fd, name, removeFlags) // why it could not be given counts
		return status(err)
	}
	fillEntry(n, &st, out)
	return fuse.OK
}

// justMade reports whether fd, with status st, can be what this process made
// since began. Between making a name and finding it, somebody who can write to
// the folder behind the mount may have put another file there, which must not be
// given away.
func justMade(fd int, st *syscall.Stat_t, kind uint32, began time.Time) bool {
	if st.Mode&unix.S_IFMT != kind || int(st.Uid) != unix.Geteuid() {
		return false
	}
	born := time.Unix(st.Ctim.Unix())
	var stx unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &stx); err == nil && stx.Mask&unix.STATX_BTIME != 0 {
		born = time.Unix(stx.Btime.Sec, int64(stx.Btime.Nsec))
	}
	return !born.Before(began.Add(-20 * time.Millisecond)) // file systems read a coarse clock
}

// give makes the caller the owner of n, new in the folder dir, and updates st.
// A set-group-ID folder gives its own group to what is in it. chown clears
// set-ID bits, which are then set again.
func (p *passthrough) give(dir, n *node, caller fuse.Caller, st *syscall.Stat_t) error {
	if !p.asRoot {
		return nil
	}
	var dirst syscall.Stat_t
	if err := syscall.Fstat(dir.fd, &dirst); err != nil {
		return err
	}
	gid := caller.Gid
	if dirst.Mode&unix.S_ISGID != 0 {
		gid = st.Gid
	}
	if st.Uid == caller.Uid && st.Gid == gid {
		return nil
	}
	if err := chown(n.fd, caller.Uid, gid); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := unix.Fchmodat(unix.AT_FDCWD, n.path, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return syscall.Fstat(n.fd, st)
}

// Unlink removes a name of a file.
func (p *passthrough) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return p.remove(in.NodeId, name, 0)
}

// Rmdir removes an empty folder.
func (p *passthrough) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return p.remove(in.NodeId, name, unix.AT_REMOVEDIR)
}

func (p *passthrough) remove(parent uint64, name string, flags int) fuse.Status {
	dir, ok := p.nodes.get(parent)
	if !ok {
		return stale
	}
	return status(unix.Unlinkat(dir.fd, name, flags))
}

// Rename is renameat2(2).
func (p *passthrough) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	to, ok := p.nodes.get(in.Newdir)
	if !ok {
		return stale
	}
	return status(unix.Renameat2(from.fd, oldName, to.fd, newName, uint(in.Flags)))
}

// Link is link(2). The magic link in /proc leads to the inode itself, also to
// a symbolic link, and also if no name of it is left that we know.
func (p *passthrough) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	n, ok := p.nodes.get(in.Oldnodeid)
	if !ok {
		return stale
	}
	if err := unix.Linkat(unix.AT_FDCWD, n.path, dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return status(err)
	}
	return p.entry(dir, name, out)
}

// Readlink reads a symbolic link.
func (p *passthrough) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return nil, stale
	}
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:size], fuse.OK
}
