package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The magic link in /proc leads to the inode itself; the f*xattr calls take no
// O_PATH descriptor.

// GetXAttr is getxattr(2).
func (p *passthrough) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return 0, stale
	}
	size, err := unix.Getxattr(n.path, attr, dest)
	return uint32(max(size, 0)), status(err)
}

// ListXAttr is listxattr(2).
func (p *passthrough) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return 0, stale
	}
	size, err := unix.Listxattr(n.path, dest)
	return uint32(max(size, 0)), status(err)
}

// SetXAttr is setxattr(2).
func (p *passthrough) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	return status(unix.Setxattr(n.path, attr, data, int(in.Flags)))
}

// RemoveXAttr is removexattr(2).
func (p *passthrough) RemoveXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	n, ok := p.nodes.get(in.NodeId)
	if !ok {
		return stale
	}
	return status(unix.Removexattr(n.path, attr))
}
