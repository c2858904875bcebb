package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Summary says what a pass over a log met.
type Summary struct {
	Segments int
	Frames   uint64
	Records  uint64
	Bytes    int64     // in intact frames
	TornTail *TornTail // what Open would cut, nil if nothing
}

// TornTail is the end of the last segment that a crash left incomplete.
type TornTail struct {
	File   string
	Offset int64 // of the first byte that does not belong to an intact frame
	Bytes  int64 // from there to the end of the file
	Reason string
}

// Read calls fn for each record of the log in dir, in order, and reports what
// it met. It only reads: it creates, repairs and locks nothing, so the log may
// be open elsewhere; then it sees a prefix, perhaps with a torn tail. The body
// is valid during the call only. An error of fn ends the pass.
//
// It fails as Open does: [DamageError], [VersionError].
func Read(dir string, fn func(kind Kind, body []byte) error) (Summary, error) {
	s := scanner{fn: fn}
	err := func() error {
		gen, found, err := findGeneration(dir)
		if err != nil {
			return err
		}
		if !found {
			return &fs.PathError{Op: "open", Path: gen, Err: fs.ErrNotExist}
		}
		return s.generation(gen)
	}()
	if err != nil {
		return s.sum, fmt.Errorf("read log %s: %w", dir, err)
	}
	return s.sum, nil
}

// scanner reads a generation from its first byte to its last. All reading is
// done here: tidwall/wal decodes what it finds without a check.
type scanner struct {
	fn  func(Kind, []byte) error // nil = only check
	sum Summary

	next     uint64 // index that the next frame must have
	lastPart uint16 // part of the frame before it
	tailSize int64  // bytes of the last segment up to a torn tail
	buf      []byte // the segment
}

// generation reads all segments of the directory. Nothing is changed: a torn
// tail ends up in s.sum.TornTail.
func (s *scanner) generation(dir string) error {
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	s.next = 1
	for i := 0; i < len(segs); i++ {
		if segs[i].index != s.next {
			// A listing is not of one moment: while the log grows elsewhere it may
			// have a new segment and not the one before.
			again, err := listSegments(dir)
			if err != nil {
				return err
			}
			j := slices.IndexFunc(again, func(seg segment) bool { return seg.index == s.next })
			if j < 0 || i > 0 && again[j] == segs[i-1] { // it is not there, or has nothing in it
				return s.misplaced(dir, segs[i])
			}
			segs, i = again, j
		}
		if err := s.segment(segs[i], i == len(segs)-1); err != nil {
			return err
		}
	}
	s.buf = nil
	return nil
}

// misplaced says why seg cannot come next.
func (s *scanner) misplaced(dir string, seg segment) error {
	missing := filepath.Join(dir, segmentName(s.next))
	if seg.index > s.next {
		return &DamageError{File: missing, Reason: fmt.Sprintf("the segment is missing: frame %d should be followed by frame %d, the next segment begins with %d", s.next-1, s.next, seg.index)}
	}
	return &DamageError{File: seg.path, Reason: fmt.Sprintf("the segment is named for frame %d, but the one before it ends with frame %d", seg.index, s.next-1)}
}

// segment reads one segment.
func (s *scanner) segment(seg segment, last bool) error {
	data, err := s.load(seg.path)
	if err != nil {
		return err
	}
	s.sum.Segments++
	off := 0
	for off < len(data) {
		f, n, bad := decodeEntry(data[off:])
		if bad == nil {
			if err := s.frame(seg.path, int64(off), f); err != nil {
				return err
			}
			off += n
			continue
		}
		if bad.newer {
			return &VersionError{File: seg.path, Offset: int64(off), Version: bad.ver, Flags: bad.flags}
		}
		damage := &DamageError{File: seg.path, Offset: int64(off), Reason: bad.reason}
		if !last || bad.intact {
			return damage
		}
		if at, index, found := laterFrame(data, off, s.next); found {
			damage.Reason += fmt.Sprintf("; not a torn tail, since frame %d follows intact at offset %d", index, at)
			return damage
		}
		s.sum.TornTail = &TornTail{File: seg.path, Offset: int64(off), Bytes: int64(len(data) - off), Reason: bad.reason}
		break
	}
	s.sum.Bytes += int64(off)
	s.tailSize = int64(off)
	return nil
}

// load reads a segment into the buffer that all segments share.
func (s *scanner) load(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int(fi.Size())
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	// A log that is open elsewhere may grow meanwhile, or lose its torn tail.
	n, err := io.ReadFull(f, s.buf[:size])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return s.buf[:n], nil
}

// frame takes an intact frame: checks its place and hands out its records.
func (s *scanner) frame(path string, off int64, f frame) error {
	damaged := func(format string, args ...any) error {
		return &DamageError{File: path, Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
	if f.index != s.next {
		return damaged("frame %d is where frame %d should be", f.index, s.next)
	}
	if f.part != 0 && (s.next == 1 || f.part != s.lastPart+1) {
		return damaged("frame %d says that %d frames of its group commit precede it, the frame before it says %d", f.index, f.part, s.lastPart)
	}
	rest := f.payload
	for i := range f.count {
		kind, body, more, ok := record(rest)
		if !ok {
			return damaged("frame %d: record %d of %d is malformed", f.index, i+1, f.count)
		}
		if !kind.known() {
			return &VersionError{File: path, Offset: off, Version: formatVersion, Kind: kind}
		}
		if s.fn != nil {
			if err := s.fn(kind, body); err != nil {
				return fmt.Errorf("%s at offset %d: record %d of frame %d: %w", path, off, i+1, f.index, err)
			}
		}
		rest = more
		s.sum.Records++
	}
	if len(rest) != 0 {
		return damaged("frame %d: %d bytes follow its %d records", f.index, len(rest), f.count)
	}
	s.sum.Frames++
	s.next, s.lastPart = s.next+1, f.part
	return nil
}
