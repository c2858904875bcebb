package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	lockName         = "LOCK"
	generationPrefix = "log-"
	generation       = 1

	dirPerm  = 0o750
	filePerm = 0o640
)

func generationName(n uint64) string { return fmt.Sprintf("%s%016d", generationPrefix, n) }

func segmentName(index uint64) string { return fmt.Sprintf("%020d", index) }

// segment is one segment file: the index of its first frame is its name.
type segment struct {
	path  string
	index uint64
}

// findGeneration is the path of the one generation in dir, and whether it is
// there. Others are refused: which of several holds the truth is not to be
// guessed.
func findGeneration(dir string) (path string, found bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", false, err
	}
	want := generationName(generation)
	for _, e := range entries {
		switch name := e.Name(); {
		case name == want && e.IsDir():
			found = true
		case strings.HasPrefix(name, generationPrefix):
			return "", false, &DamageError{File: filepath.Join(dir, name), Reason: "not a generation of the log that this program knows; expected only " + want}
		}
	}
	return filepath.Join(dir, want), found, nil
}

// listSegments lists the segments of a generation in order. Whatever is not a
// segment is refused: tidwall/wal takes files named .START and .END for the
// remains of a truncation, which this package never does, and deletes segments
// because of them.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir) // sorted by name: by index
	if err != nil {
		return nil, err
	}
	segs := make([]segment, 0, len(entries))
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		index, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || index == 0 || segmentName(index) != e.Name() || !e.Type().IsRegular() {
			return nil, &DamageError{File: path, Reason: "not a segment of the log: it does not belong here"}
		}
		segs = append(segs, segment{path: path, index: index})
	}
	return segs, nil
}

// lockDir takes the lock file of dir. The lock goes when the file is closed,
// also by the end of the process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close() // nothing was written to it
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s is locked by another open log", ErrInUse, path)
	}
	return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
}

// mkdirSynced makes a directory and its missing parents, each durable before
// anything is made in it.
func mkdirSynced(dir string, syncDir func(string) error) error {
	err := os.Mkdir(dir, dirPerm)
	if errors.Is(err, fs.ErrNotExist) {
		if err = mkdirSynced(filepath.Dir(dir), syncDir); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirPerm)
	}
	if errors.Is(err, fs.ErrExist) {
		fi, serr := os.Stat(dir)
		if serr != nil {
			return serr
		}
		if fi.IsDir() {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// syncPath syncs a file or directory by name.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
