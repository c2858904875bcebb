package wal

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// laterFrame looks behind the bad entry at off, where frame number index
// should be, for an intact frame that a torn write does not explain: one written
// after a later sync. A frame says how many frames before it were written
// since the last sync; one that was written after a sync which covered the bad
// entry proves that it was once good.
func laterFrame(data []byte, off int, generation, index uint64) (at int, found uint64, ok bool) {
	pos := off + 1
	// Bodies hold bytes that clients chose, and a client may choose what looks
	// like a frame: what lies inside of a write that was begun is not looked at.
	if n, ok := headerExtent(data[off:], header{generation: generation, index: index}); ok {
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
		default: // of the same sync as the bad one: neither was on disk for certain
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
// anything is read. Earlier segments were synced before the next one was made.
func settle(y *layout, c chain) error {
	for i := len(c.logs) - 1; i >= 0; i-- {
		dir := y.log(c.logs[i])
		segs, err := listSegments(dir)
		if err != nil {
			return err
		}
		if len(segs) == 0 {
			continue
		}
		if err := settleFile(segs[len(segs)-1].path); err != nil {
			return err
		}
		if size, err := sizeOf(dir); err != nil || size > 0 {
			return err
		}
	}
	return nil
}

func settleFile(path string) error {
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
