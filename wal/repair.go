package wal

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// laterFrame looks behind the bad entry at off, where frame number index
// should be, for an intact frame that a torn write does not explain: one of a
// later group commit. Group commits are written one after the other, each
// synced before the next, so such a frame proves that the bad entry was once
// good.
func laterFrame(data []byte, off int, index uint64) (at int, found uint64, ok bool) {
	pos := off + 1
	// Bodies hold bytes that clients chose, and a client may choose what looks
	// like a frame: what lies inside of a write that was begun is not looked at.
	if n, ok := headerExtent(data[off:], index); ok {
		if n >= uint64(len(data)-off) {
			return 0, 0, false
		}
		pos = off + int(n)
	}
	most := uint64(len(data) / minEntry)
	for {
		i := bytes.Index(data[pos:], []byte(magic))
		if i < 0 {
			return 0, 0, false
		}
		m := pos + i
		at, n, f, whole := frameAt(data, pos, m, index, most)
		switch {
		case !whole:
			pos = m + 1
		case f.index-uint64(f.part) > index:
			return at, f.index, true
		default: // of the same group commit as the bad one: neither was acknowledged
			pos = at + n
		}
	}
}

// frameAt decodes the entry whose frame begins with the magic at m and whose
// size begins at pos or later. The index must be one that a frame in this
// place can have: at least low, and at most most larger.
func frameAt(data []byte, pos, m int, low, most uint64) (at, n int, f frame, ok bool) {
	if len(data)-m < minFrame {
		return 0, 0, f, false
	}
	if index := binary.LittleEndian.Uint64(data[m+offIndex:]); index < low || index-low > most {
		return 0, 0, f, false
	}
	for at = m - 1; at >= pos && at >= m-binary.MaxVarintLen64; at-- {
		if _, k := uvarint(data[at:m]); k != m-at {
			continue
		}
		f, n, bad := decodeEntry(data[at:])
		if bad == nil {
			return at, n, f, true
		}
		if bad.intact {
			f.part = 0 // of another format: it may mean something else there
			return at, n, f, true
		}
	}
	return 0, 0, f, false
}

// settle makes the last segment say what the disk says. A process that was
// killed before its sync leaves data in the page cache that is not on disk yet;
// one whose sync failed leaves data there that never will be, although nobody
// is told any more. So what is cached is written, and then dropped, before
// anything is read.
func settle(dir string) error {
	segs, err := listSegments(dir)
	if err != nil || len(segs) == 0 {
		return err
	}
	path := segs[len(segs)-1].path
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written through it
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return &fs.PathError{Op: "fadvise", Path: path, Err: err}
	}
	return nil
}

// cut removes a torn tail for good.
func cut(t *TornTail) error {
	f, err := os.OpenFile(t.File, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(t.Offset)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
