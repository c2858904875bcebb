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
	checkpointPrefix = "checkpoint-"
	temporarySuffix  = ".tmp"

	dirPerm  = 0o750
	filePerm = 0o640
)

func generationName(n uint64) string { return fmt.Sprintf("%s%016d", generationPrefix, n) }
func checkpointName(n uint64) string { return fmt.Sprintf("%s%016d", checkpointPrefix, n) }

func segmentName(index uint64) string { return fmt.Sprintf("%020d", index) }

// numbered is the number behind the prefix, if name is written as it should be.
func numbered(name, prefix string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, prefix), 10, 64)
	return n, err == nil && n > 0 && fmt.Sprintf("%s%016d", prefix, n) == name
}

// segment is one segment file: the index of its first frame is its name.
type segment struct {
	path  string
	index uint64
}

// layout is what a log directory holds.
type layout struct {
	dir         string
	logs        []uint64 // generations that have a log, ascending
	checkpoints []uint64 // generations that have a checkpoint, ascending
	temporary   []string // checkpoints that were never finished
}

// listLayout lists a log directory. Only names that could be taken for a part
// of the log have to be exactly so.
func listLayout(dir string) (layout, error) {
	y, strange, err := looseLayout(dir)
	if err == nil && len(strange) > 0 {
		err = strange[0]
	}
	return y, err
}

// looseLayout is listLayout, but for whoever can do with what does not belong
// there: that is in a list of its own.
func looseLayout(dir string) (y layout, strange []*DamageError, err error) {
	y.dir = dir
	entries, err := os.ReadDir(dir) // sorted by name: by number
	if err != nil {
		return y, nil, err
	}
	for _, e := range entries {
		name := e.Name()
		isLog, isCheckpoint := strings.HasPrefix(name, generationPrefix), strings.HasPrefix(name, checkpointPrefix)
		n, ok := uint64(0), false
		switch {
		case isLog:
			if n, ok = numbered(name, generationPrefix); ok && e.IsDir() {
				y.logs = append(y.logs, n)
				continue
			}
		case isCheckpoint && strings.HasSuffix(name, temporarySuffix):
			if _, ok = numbered(strings.TrimSuffix(name, temporarySuffix), checkpointPrefix); ok && e.Type().IsRegular() {
				y.temporary = append(y.temporary, filepath.Join(dir, name))
				continue
			}
		case isCheckpoint:
			if n, ok = numbered(name, checkpointPrefix); ok && e.Type().IsRegular() {
				y.checkpoints = append(y.checkpoints, n)
				continue
			}
		default:
			continue
		}
		strange = append(strange, &DamageError{File: filepath.Join(dir, name), Reason: "not a part of the log: it does not belong here"})
	}
	return y, strange, nil
}

func (y *layout) log(n uint64) string        { return filepath.Join(y.dir, generationName(n)) }
func (y *layout) checkpoint(n uint64) string { return filepath.Join(y.dir, checkpointName(n)) }

// chain is what has to be read, in order: the newest checkpoint, if any, and
// the logs of its generation and of all later ones.
type chain struct {
	base uint64   // generation of the checkpoint; 0: there is none
	logs []uint64 // generations, ascending; none in a directory that is new
}

// chain finds it. A checkpoint's log is made before the checkpoint and removed
// after the next one is complete, so what is missing here was lost.
func (y *layout) chain() (c chain, err error) {
	first := uint64(1)
	if n := len(y.checkpoints); n > 0 {
		c.base = y.checkpoints[n-1]
		first = c.base
	}
	for _, n := range y.logs {
		if n >= first {
			c.logs = append(c.logs, n)
		}
	}
	want := first
	for _, n := range c.logs {
		if n != want {
			break
		}
		want++
	}
	switch {
	case want-first < uint64(len(c.logs)) && want == first && c.base == 0:
		return c, &DamageError{File: y.checkpoint(c.logs[0]), Reason: fmt.Sprintf("the checkpoint is missing, and so is the log from generation 1 to %d", c.logs[0]-1)}
	case want-first < uint64(len(c.logs)):
		return c, &DamageError{File: y.log(want), Reason: fmt.Sprintf("the log of generation %d is missing, that of generation %d is there", want, c.logs[len(c.logs)-1])}
	case c.base > 0 && len(c.logs) == 0:
		return c, &DamageError{File: y.log(c.base), Reason: fmt.Sprintf("the log of generation %d is missing, its checkpoint is there", c.base)}
	}
	return c, nil
}

// stale is what a newer checkpoint has made useless, oldest first.
func (y *layout) stale(c chain) (paths []string) {
	for _, n := range y.logs {
		if n < c.base {
			paths = append(paths, y.log(n))
		}
	}
	for _, n := range y.checkpoints {
		if n < c.base {
			paths = append(paths, y.checkpoint(n))
		}
	}
	return append(paths, y.temporary...)
}

// listSegments lists the segments of a generation in order. Whatever is not a
// segment is refused: tidwall/wal takes files named .START and .END for the
// remains of a truncation, which this package never does, and deletes segments
// because of them.
func listSegments(dir string) ([]segment, error) {
	segs, strange, err := looseSegments(dir)
	if err == nil && len(strange) > 0 {
		return nil, strange[0]
	}
	return segs, err
}

// looseSegments is listSegments with what does not belong there in a list of
// its own.
func looseSegments(dir string) (segs []segment, strange []*DamageError, err error) {
	entries, err := os.ReadDir(dir) // sorted by name: by index
	if err != nil {
		return nil, nil, err
	}
	segs = make([]segment, 0, len(entries))
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		index, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || index == 0 || segmentName(index) != e.Name() || !e.Type().IsRegular() {
			strange = append(strange, &DamageError{File: path, Reason: "not a segment of the log: it does not belong here"})
			continue
		}
		segs = append(segs, segment{path: path, index: index})
	}
	return segs, strange, nil
}

// lockDir takes the lock file of dir. The lock goes when the file is closed,
// also by the end of the process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, err
	}
	return flocked(f)
}

// flocked takes the lock of an open lock file, or closes it.
func flocked(f *os.File) (*os.File, error) {
	var err error
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
		return nil, fmt.Errorf("%w: %s is locked by another open log", ErrInUse, f.Name())
	}
	return nil, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
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
