package crashfs

import (
	"fmt"
	"syscall"
)

// Kind is what an entry of the history is about.
type Kind uint8

// The kinds of entries.
const (
	Create   Kind = iota + 1 // a new file
	Mkdir                    // a new directory
	Write                    // data of a file
	Truncate                 // the size of a file, also by O_TRUNC
	Sync                     // of a file
	SyncDir                  // of a directory
	Rename                   // within a directory
	Unlink                   // a file's entry is removed
	Rmdir                    // a directory's entry is removed
	Marked                   // no operation, but a call of [FS.Mark]
)

var kindNames = [...]string{
	Create: "create", Mkdir: "mkdir", Write: "write", Truncate: "truncate", Sync: "sync",
	SyncDir: "sync dir", Rename: "rename", Unlink: "unlink", Rmdir: "rmdir", Marked: "mark",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Op is one entry of the history. Paths are relative to the mount point, as
// they were at the time; a file that was removed while open keeps its last one.
type Op struct {
	Kind   Kind
	Path   string        // "." is the root
	To     string        // the new path, for Rename
	Offset int64         // for Write
	Size   int           // of the data for Write, of the file for Truncate
	Mark   any           // for Marked
	Err    syscall.Errno // not 0: a [Fault] made it fail, and it changed nothing
}

func (o Op) String() string {
	s := o.Kind.String() + " "
	switch o.Kind {
	case Marked:
		s += fmt.Sprint(o.Mark)
	case Write:
		s += fmt.Sprintf("%s [%d,+%d)", o.Path, o.Offset, o.Size)
	case Truncate:
		s += fmt.Sprintf("%s to %d", o.Path, o.Size)
	case Rename:
		s += o.Path + " -> " + o.To
	default:
		s += o.Path
	}
	if o.Err != 0 {
		s += ": " + o.Err.Error()
	}
	return s
}

// entry is an entry of the history with what images are made of. It never
// changes.
type entry struct {
	Op
	inode uint64 // what a sync would make it durable: the file, or the directory with the entry
	child uint64 // what the directory's entry refers to
	data  []byte // for Write
}
