package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// copySuffix and a time are what a copy is called behind the name of its
// original.
const copySuffix = ".before-repair-"

// copier copies a directory with all that is in it.
type copier struct {
	done, total int64
	progress    func(done, total int64)
}

// copy copies the directory of the log to one beside it, which must not exist,
// makes that durable, and returns its name. If it fails there is none.
func (r *Repair) copy() (_ string, err error) {
	to := r.dir + copySuffix + time.Now().UTC().Format("20060102T150405Z")
	if err := os.Mkdir(to, 0o700); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(to) // err says more
		}
	}()
	c := copier{progress: r.o.Copied}
	if c.total, err = Size(r.dir); err != nil {
		return "", err
	}
	if err = c.dir(r.dir, to); err != nil {
		return "", err
	}
	return to, syncPath(filepath.Dir(to))
}

// dir copies what is in a directory to one that is there and empty.
func (c *copier) dir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), e.Type()); err != nil {
			return err
		}
	}
	if err := likeness(from, to); err != nil {
		return err
	}
	return syncPath(to)
}

func (c *copier) entry(from, to string, mode fs.FileMode) error {
	switch {
	case mode.IsRegular():
		return c.file(from, to)
	case mode.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		return c.dir(from, to)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	return fmt.Errorf("%s is neither a file nor a directory nor a symbolic link and cannot be copied: remove it yourself", from)
}

func (c *copier) file(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // read only
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for err == nil {
		var n int64
		n, err = io.CopyN(out, in, copyPiece)
		if c.done += n; c.progress != nil {
			c.progress(c.done, c.total)
		}
	}
	if errors.Is(err, io.EOF) {
		err = likeness(from, to)
	}
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// copyPiece is how many bytes are copied between two words about it.
const copyPiece = 4 << 20

// likeness gives a copy the owner, mode and time of its original.
func likeness(from, to string) error {
	fi, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := adopt(to, fi); err != nil {
		return err
	}
	if err := os.Chmod(to, fi.Mode()); err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, fi.ModTime())
}
