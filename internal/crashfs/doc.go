// Package crashfs is an in-memory FUSE file system for crash tests of programs
// that open their files themselves. It records every operation that changes
// something or syncs, and says what a disk may hold if the machine had crashed
// after any of them. It can also make operations fail.
//
// # What survives a crash
//
// Write and truncate are volatile until a later successful sync of the file:
// fsync(2), fdatasync(2), or a write through a descriptor opened with O_SYNC or
// O_DSYNC.
//
// A changed directory entry (create, mkdir, rename, unlink, rmdir) is volatile
// until a later successful sync of its directory. A sync of the file does not
// help: a file whose entry is not durable may be missing although its data was
// synced. That is stricter than ext4, and what POSIX leaves open. A sync of a
// directory covers the entries in it and not the one that names it; what is in
// a lost directory is lost with it.
//
// [Lost] loses whatever is volatile, [Kept] keeps it. Under [Random] each
// volatile operation fares by itself, whatever becomes of those before and
// after it:
//
//   - A write is there, gone, torn at some byte, or there in some of its 512-byte
//     sectors only. The file may have grown for it nevertheless. What was not
//     written of a grown file is zeros.
//   - A truncate is there or gone.
//   - A change of an entry is there or gone, never half of it. A file never has
//     two names. A rename, also over an existing name, leaves the old name or
//     the new one, and a later change that takes the old name for something else
//     is not there without the rename. An unlink that is gone leaves the file
//     with what the rules above leave in it.
//
// How likely a volatile operation is kept differs from image to image, so that
// images that lack hardly anything, and ones that have hardly anything, turn up
// too.
//
// A failed sync of a file follows Linux, where the dirty data counts as clean
// afterwards: what was written stays readable through the mount, but no later
// sync makes it durable, and it may be missing from any later image, unless it is
// written again. Truncates and directory entries are metadata, which stays dirty:
// a later successful sync makes them durable.
//
// # What that can show and what not
//
// It shows what is acknowledged too early, syncs of files or directories that
// are missing or come too late, reliance on the order of unsynced writes, torn
// tails and holes that are not recognized, and failed writes and syncs that are
// taken too lightly. Some images are worse than what any one file system does:
// most of these order metadata, and keep a single sector whole.
//
// It does not show damage to what was synced, disks that lie about syncs, or
// anything about timing. After a failed sync Linux may drop the data from its
// cache, so that the file reads as it is on disk; here it never does, and
// fadvise(2) has no effect. sync(2) and syncfs(2) make nothing durable. A
// write(2) arrives as it was made up to about 1 MiB; a larger one arrives in
// pieces, each a write of its own. Modes, owners and times are in no image.
//
// # Use
//
// There are files and directories only: no links, no device files, no
// extended attributes. A rename into another directory fails with EXDEV, a
// shared mapping with ENODEV. flock(2) and fcntl(2) locks are the kernel's own.
//
// The process that serves the mount may use it, but must neither map its files
// nor start programs from it or in it: a page fault, and a process between fork
// and exec, wait for the file system in a way that the Go scheduler does not
// see. Memory is not given back: the history holds all that was ever written.
package crashfs
