package crashfs

import (
	"cmp"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// server answers the kernel. The kernel knows only ids that it got from here,
// and has checked what it knows to be impossible: a request to unlink a
// directory does not come. An operation is in the history before its answer
// goes out.
type server struct {
	fuse.RawFileSystem // ENOSYS for what is not here
	*FS
}

func (s *server) String() string { return "crashfs" }

// Lookup finds a name.
func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[in.NodeId].children[name]
	if !ok {
		return fuse.ENOENT
	}
	fill(n, out)
	return fuse.OK
}

// fill leaves the timeouts 0: the kernel must ask again for everything.
func fill(n *inode, out *fuse.EntryOut) {
	out.NodeId = n.id
	n.attr(&out.Attr)
}

// GetAttr is stat(2).
func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[in.NodeId].attr(&out.Attr)
	return fuse.OK
}

// SetAttr is truncate(2), and open(2) with O_TRUNC. It accepts and ignores
// whatever else can be set.
func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if size, ok := in.GetSize(); ok {
		if errno := s.truncate(n, size); errno != 0 {
			return fuse.Status(errno)
		}
	}
	n.attr(&out.Attr)
	return fuse.OK
}

func (s *server) truncate(n *inode, size uint64) syscall.Errno {
	if size > maxSize {
		return unix.EFBIG
	}
	errno := s.attempt(entry{Op: Op{Kind: Truncate, Path: n.path(), Size: int(size)}, inode: n.id})
	if errno == 0 {
		n.content.resize(int(size))
		n.changed = time.Now()
	}
	return errno
}

// Open opens a file. Its data is cached nowhere, and nothing is asked when a
// descriptor is closed: the kernel does that while it starts a program, when
// this process cannot answer.
func (s *server) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// Create makes a file and opens it.
func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if code := s.add(Create, in.NodeId, name, unix.S_IFREG|in.Mode&0o7777, &out.EntryOut); !code.Ok() {
		return code
	}
	return s.Open(nil, nil, &out.OpenOut)
}

// Mkdir makes a directory.
func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return s.add(Mkdir, in.NodeId, name, unix.S_IFDIR|in.Mode&0o7777, out)
}

func (s *server) add(kind Kind, in uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[in]
	if _, ok := dir.children[name]; ok {
		return fuse.Status(unix.ESTALE) // it has just come: the kernel looks again
	}
	if dir.removed {
		return fuse.ENOENT
	}
	n := newInode(rootID+uint64(len(s.nodes)), mode)
	op := Op{Kind: kind, Path: path.Join(dir.path(), name)}
	if errno := s.attempt(entry{Op: op, inode: dir.id, child: n.id}); errno != 0 {
		return fuse.Status(errno)
	}
	s.nodes[n.id] = n
	dir.put(name, n)
	fill(n, out)
	return fuse.OK
}

// Read reads.
func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.nodes[in.NodeId].content
	data = data[min(in.Offset, uint64(len(data))):]
	return fuse.ReadResultData(buf[:copy(buf, data)]), fuse.OK
}

// Write writes, also for who appends: the kernel knows where the end is. Who
// asked for it when he opened the file gets a sync as well.
func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[in.NodeId]
	if in.Offset > maxSize || in.Offset+uint64(len(data)) > maxSize {
		return 0, fuse.Status(unix.EFBIG)
	}
	written, errno := s.write(n, int(in.Offset), data)
	if errno == 0 && in.Flags&unix.O_DSYNC != 0 { // O_SYNC includes it
		errno = s.sync(Sync, n)
	}
	return uint32(written), fuse.Status(errno)
}

func (s *server) write(n *inode, offset int, data []byte) (int, syscall.Errno) {
	e := entry{Op: Op{Kind: Write, Path: n.path(), Offset: int64(offset), Size: len(data)}, inode: n.id}
	if half := len(data) / 2; half > 0 && s.cutShort() {
		e.Size, e.data = half, slices.Clone(data[:half])
		s.history = append(s.history, e)
	} else {
		e.data = slices.Clone(data) // the request's buffer is used again
		if errno := s.attempt(e); errno != 0 {
			return 0, errno
		}
	}
	n.content.write(offset, e.data)
	n.changed = time.Now()
	return e.Size, 0
}

// Fsync is fsync(2) and fdatasync(2) of a file.
func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.sync(Sync, s.nodes[in.NodeId]))
}

// FsyncDir is fsync(2) and fdatasync(2) of a directory.
func (s *server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.sync(SyncDir, s.nodes[in.NodeId]))
}

func (s *server) sync(kind Kind, n *inode) syscall.Errno {
	return s.attempt(entry{Op: Op{Kind: kind, Path: n.path()}, inode: n.id})
}

// Unlink removes a file.
func (s *server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(Unlink, in.NodeId, name)
}

// Rmdir removes an empty directory.
func (s *server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(Rmdir, in.NodeId, name)
}

func (s *server) remove(kind Kind, in uint64, name string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[in]
	n, ok := dir.children[name]
	switch {
	case !ok:
		return fuse.ENOENT
	case len(n.children) > 0:
		return fuse.Status(unix.ENOTEMPTY)
	}
	if errno := s.attempt(entry{Op: Op{Kind: kind, Path: n.path()}, inode: dir.id, child: n.id}); errno != 0 {
		return fuse.Status(errno)
	}
	dir.remove(n)
	return fuse.OK
}

// Rename renames within a directory, also over an existing name.
func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[in.NodeId]
	n, ok := dir.children[from]
	replaced := dir.children[to]
	switch {
	case in.Newdir != in.NodeId:
		return fuse.Status(unix.EXDEV)
	case in.Flags != 0: // an exchange, or to no existing name
		return fuse.EINVAL
	case !ok:
		return fuse.ENOENT
	case replaced != nil && len(replaced.children) > 0:
		return fuse.Status(unix.ENOTEMPTY)
	}
	op := Op{Kind: Rename, Path: n.path(), To: path.Join(dir.path(), to)}
	if errno := s.attempt(entry{Op: op, inode: dir.id, child: n.id}); errno != 0 {
		return fuse.Status(errno)
	}
	dir.remove(replaced)
	delete(dir.children, from)
	dir.put(to, n)
	return fuse.OK
}

// OpenDir opens a directory.
func (s *server) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

// ReadDir lists a directory in the order of its inodes' ids, each of which is
// also the position behind it: a listing goes on where it was whatever has
// changed meanwhile.
func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*inode
	for _, n := range s.nodes[in.NodeId].children {
		if n.id > in.Offset {
			rest = append(rest, n)
		}
	}
	slices.SortFunc(rest, func(a, b *inode) int { return cmp.Compare(a.id, b.id) })
	for _, n := range rest {
		if !out.AddDirEntry(fuse.DirEntry{Name: n.name, Mode: n.mode, Ino: n.id, Off: n.id}) {
			break
		}
	}
	return fuse.OK
}
