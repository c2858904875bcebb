// Package fusefs mounts a folder with the Linux kernel as a client of a lock
// manager: a pass-through file system whose fcntl(2) and flock(2) locks go to
// a [sneck.Manager]. Everything else goes straight to the source folder.
//
// It speaks the raw FUSE protocol, because close-time release needs the lock
// owner that the kernel sends along with FLUSH.
//
// Invariants:
//
//  1. Nodes are inodes, not paths: a node is keyed by device and inode number
//     and holds an O_PATH descriptor, so that the number cannot be reused while
//     the node is known. A NodeID is never used for a second inode. Renamed,
//     hard-linked and unlinked files stay what they are.
//  2. A file's key is device, inode and generation, never a path or a NodeID:
//     hard links share locks. flock(2) has a key of its own per inode, so that
//     it and fcntl(2) never conflict.
//  3. An owner is the kernel's lock owner value within the client of this
//     mount. The process id is kept with it for F_GETLK and is no identity.
//  4. An interrupted wait leaves no waiter and no lock. Only a request that may
//     wait heeds an interrupt: an unlock never does and is never refused.
//  5. FLUSH drops the fcntl locks of the owner it names on that file, and
//     nothing else.
//  6. RELEASE drops what was locked through that open file, but never what an
//     owner has since locked through another one that is still open.
//  7. A lock request still under way while its open file is released leaves no
//     lock behind.
//  8. A blocked request occupies a goroutine and nothing that other requests
//     need.
//  9. The kernel is asked to forget files before they take all descriptors; what
//     is in use stays.
//  10. Every error of the lock manager has one errno, in one table.
//
// The package talks to Linux only. New files get their mode from the caller,
// whose umask the kernel has already applied: a process that serves mounts
// should itself have umask 0.
package fusefs
