package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ioFlags are the open flags for the source's descriptor.
//
// O_APPEND is left to [passthrough.Write]: a dirty page of a shared mapping is
// written through whichever handle the kernel finds, at the page's offset, and
// pwrite(2) on an O_APPEND descriptor would append it. O_DIRECT is between the
// program and this mount; the source's alignment rules are not the program's.
// O_NOFOLLOW would refuse the magic link of /proc that we open through.
func ioFlags(flags uint32) int {
	return int(flags) &^ (unix.O_APPEND | unix.O_DIRECT | unix.O_NOFOLLOW | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY)
}

// Open opens a file.
func (p *passthrough) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	fd, err := openat(unix.AT_FDCWD, n.path, ioFlags(in.Flags), 0)
	if err != nil {
		return status(err)
	}
	p.nodes.hold(n)
	out.Fh = p.handles.add(&handle{fd: fd, node: n})
	return fuse.OK
}

// Create makes and opens a file.
func (p *passthrough) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	flags := ioFlags(in.Flags) | unix.O_NOFOLLOW
	fd, err := openat(dir.fd, name, flags|unix.O_CREAT|unix.O_EXCL, in.Mode&0o7777)
	if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		// It has come there behind the kernel's back, which has not checked that
		// the caller may open it: let it look again.
		return stale
	}
	if err != nil {
		return status(err)
	}
	var st syscall.Stat_t
	n, err := p.nodeOf(fd, &st, dir, name)
	if err == nil {
		if err = p.give(dir, n, in.Caller, &st); err != nil {
			p.nodes.drop(n, 1)
		}
	}
	if err != nil {
		_ = unix.Unlinkat(dir.fd, name, 0) // why it could not be given counts
		unix.Close(fd)
		return status(err)
	}
	fillEntry(n, &st, &out.EntryOut)
	p.nodes.hold(n)
	out.Fh = p.handles.add(&handle{fd: fd, node: n})
	return fuse.OK
}

// nodeOf is find for a file that is open at fd already.
func (p *passthrough) nodeOf(fd int, st *syscall.Stat_t, dir *node, name string) (*node, error) {
	path, err := openat(unix.AT_FDCWD, procPath(fd), unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Fstat(path, st); err != nil {
		unix.Close(path)
		return nil, err
	}
	return p.adopt(path, st, dir, name), nil
}

// Read is pread(2), spliced where possible.
func (p *passthrough) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return nil, fuse.EBADF
	}
	return fuse.ReadResultFd(uintptr(h.fd), int64(in.Offset), int(in.Size)), fuse.OK
}

// Write is pwrite(2), or an atomic append for a file open with O_APPEND, but
// not for the kernel's own writing of dirty pages.
func (p *passthrough) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (written uint32, code fuse.Status) {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return 0, fuse.EBADF
	}
	appends := in.Flags&unix.O_APPEND != 0 && in.WriteFlags&fuse.WRITE_CACHE == 0
	var size int
	err := again(func() (err error) {
		if appends {
			size, err = unix.Pwritev2(h.fd, [][]byte{data}, int64(in.Offset), unix.RWF_APPEND)
		} else {
			size, err = unix.Pwrite(h.fd, data, int64(in.Offset))
		}
		return err
	})
	return uint32(max(size, 0)), status(err)
}

// Lseek is SEEK_DATA and SEEK_HOLE; the kernel does the rest.
func (p *passthrough) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	off, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// Fallocate is fallocate(2).
func (p *passthrough) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	return status(again(func() error {
		return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
	}))
}

// CopyFileRange is copy_file_range(2).
func (p *passthrough) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (written uint32, code fuse.Status) {
	from, ok := p.handles.get(in.FhIn)
	if !ok {
		return 0, fuse.EBADF
	}
	to, ok := p.handles.get(in.FhOut)
	if !ok {
		return 0, fuse.EBADF
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	size := min(in.Len, 1<<30) // the answer has 32 bits
	n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(size), int(in.Flags))
	return uint32(max(n, 0)), status(err)
}

// Fsync is fsync(2) and fdatasync(2).
func (p *passthrough) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	return status(fsync(h.fd, in.FsyncFlags))
}

func fsync(fd int, flags uint32) error {
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	if flags&dataOnly != 0 {
		return again(func() error { return unix.Fdatasync(fd) })
	}
	return again(func() error { return unix.Fsync(fd) })
}

// Flush comes at every close of a descriptor: the closing process loses its
// fcntl locks on the file, and errors of the source show up here if anywhere.
func (p *passthrough) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	code := p.flushLocks(h, in.LockOwner)
	if fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		if err := unix.Close(fd); err != nil && code.Ok() {
			return status(err)
		}
	}
	return code
}

// Release comes once, some time after the last descriptor of an open file was
// closed.
func (p *passthrough) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	h, ok := p.handles.remove(in.Fh)
	if !ok {
		return
	}
	p.releaseLocks(h)
	unix.Close(h.fd)
	p.nodes.letGo(h.node)
}
