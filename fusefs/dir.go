package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// OpenDir opens a folder.
func (p *passthrough) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	fd, err := openat(unix.AT_FDCWD, n.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return status(err)
	}
	stream, errno := fs.NewLoopbackDirStreamFd(fd)
	if errno != 0 {
		unix.Close(fd)
		return fuse.Status(errno)
	}
	p.nodes.hold(n)
	out.Fh = p.handles.add(&handle{fd: fd, node: n, dir: &dirState{stream: stream}})
	return fuse.OK
}

// ReadDir lists names.
func (p *passthrough) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return p.readDir(in, func(_ *node, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists names and looks each of them up.
func (p *passthrough) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return p.readDir(in, func(dir *node, e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		// Else NodeId 0: the name alone, to be looked up when needed.
		if p.pruner.crowded() {
			return true
		}
		var st syscall.Stat_t
		n, err := p.find(dir, e.Name, &st)
		if err != nil {
			return true
		}
		fillEntry(n, &st, entry)
		out.FixMode(st.Mode)
		return true
	})
}

// readDir gives add one entry after the other from in.Offset on until it
// refuses one, which comes first in the next answer.
func (p *passthrough) readDir(in *fuse.ReadIn, add func(*node, fuse.DirEntry) bool) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok || h.dir == nil {
		return fuse.EBADF
	}
	d := h.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.Offset != d.offset {
		d.pending = nil
		if errno := d.stream.(fs.FileSeekdirer).Seekdir(context.Background(), in.Offset); errno != 0 {
			return fuse.Status(errno)
		}
		d.offset = in.Offset
	}
	for {
		if d.pending == nil {
			if !d.stream.HasNext() {
				return fuse.OK
			}
			e, errno := d.stream.Next()
			if errno != 0 {
				return fuse.Status(errno)
			}
			d.pending = &e
		}
		if !add(h.node, *d.pending) {
			return fuse.OK
		}
		d.offset, d.pending = d.pending.Off, nil
	}
}

// FsyncDir is fsync(2) of a folder.
func (p *passthrough) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	return status(fsync(h.fd, in.FsyncFlags))
}

// ReleaseDir closes a folder.
func (p *passthrough) ReleaseDir(in *fuse.ReleaseIn) {
	h, ok := p.handles.remove(in.Fh)
	if !ok {
		return
	}
	unix.Close(h.fd)
	p.nodes.letGo(h.node)
}
