package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Apply copies the directory, carries out the steps, and makes sure that the
// log can be opened then. If it fails, the copy is there, unless r.Copy is "":
// then nothing was changed.
func (r *Repair) Apply() error {
	if err := r.apply(); err != nil {
		return fmt.Errorf("repair log %s: %w", r.dir, err)
	}
	return nil
}

func (r *Repair) apply() (err error) {
	if len(r.Steps) == 0 {
		return nil
	}
	fi, err := os.Stat(r.dir)
	if err != nil {
		return err
	}
	if r.Copy, err = r.copy(); err != nil {
		return err
	}
	if r.lock == nil {
		if r.lock, err = newLock(r.dir, fi); err != nil {
			return err
		}
	}
	for i := len(r.Steps) - 1; i >= 0; i-- {
		if err := r.do(r.Steps[i], fi); err != nil {
			return err
		}
		// What is removed goes before what it comes after is changed.
		if dir := filepath.Dir(r.Steps[i].File); i == 0 || filepath.Dir(r.Steps[i-1].File) != dir || r.Steps[i-1].Action != Remove {
			if err := syncPath(dir); err != nil {
				return err
			}
		}
	}
	return r.finish(fi)
}

// newLock makes the lock file of a directory that had none when the repair was
// planned, and takes it.
func newLock(dir string, like fs.FileInfo) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, filePerm)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s was made meanwhile", ErrInUse, path)
	}
	if err != nil {
		return nil, err
	}
	if err := adopt(path, like); err != nil {
		_ = f.Close() // nothing was written to it
		return nil, err
	}
	return flocked(f)
}

// do carries out a step. What it removes is not durable yet.
func (r *Repair) do(s Step, like fs.FileInfo) error {
	switch s.Action {
	case Remove:
		return os.RemoveAll(s.File)
	case CutOff:
		return cut(&TornTail{File: s.File, Offset: s.Offset})
	case MakeLog:
		if err := os.Mkdir(s.File, dirPerm); err != nil {
			return err
		}
		return adopt(s.File, like)
	case Renew, MakeCheckpoint:
		return r.checkpoint.write(r.o.Check(), like)
	}
	return fmt.Errorf("unknown step %d", s.Action)
}

// write writes the checkpoint again.
func (c *salvage) write(check func(Entry) error, like fs.FileInfo) (err error) {
	tmp := c.path + temporarySuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()      // what it has is not wanted
			_ = os.Remove(tmp) // Open removes it too
		}
	}()
	if err = adopt(tmp, like); err != nil {
		return err
	}
	w := newCheckpointWriter(f, c.generation)
	if err = c.records(check, w.addBytes); err != nil {
		return err
	}
	if err = w.end(); err != nil {
		return err
	}
	return os.Rename(tmp, c.path)
}

// finish makes sure that the log can be opened, and adds what is to be added.
func (r *Repair) finish(like fs.FileInfo) error {
	y, err := listLayout(r.dir)
	if err != nil {
		return err
	}
	c, err := y.chain()
	if err != nil || len(c.logs) == 0 {
		return err
	}
	s := scanner{fn: r.o.Check()}
	if err := s.chain(&y, c); err != nil || len(r.add) == 0 {
		return err
	}
	if t := s.sum.TornTail; t != nil {
		if err := cut(t); err != nil {
			return err
		}
	}
	dir := y.log(s.generation)
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, segmentName(s.next))
	if len(segs) > 0 {
		path, like = segs[len(segs)-1].path, nil
	}
	buf := room(nil)
	for _, a := range r.add {
		buf = appendRecord(buf, a.kind, a.body.AppendTo(nil))
	}
	buf = header{index: s.next, generation: s.generation}.seal(buf, uint32(len(r.add)))
	return appendFrame(path, buf, like)
}

// appendFrame adds a frame to a segment. like is what one that it makes is to
// be like; nil if it is there.
func appendFrame(path string, frame []byte, like fs.FileInfo) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(len(frame)))
	if _, err = f.Write(append(head[:n:n], frame...)); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil || like == nil {
		return err
	}
	if err := adopt(path, like); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

// adopt gives what root has made to whoever owns what it is like: else a server
// that is not root could not open its log any more.
func adopt(path string, like fs.FileInfo) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}
