package wal

import (
	"bufio"
	"encoding/binary"
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
	Generation  uint64 // of the last log
	Base        uint64 // generation of the checkpoint that the pass began with; 0: from the very beginning
	Generations int    // logs read
	Segments    int
	Frames      uint64 // in segments
	Records     uint64 // in segments
	Bytes       int64  // in intact frames of segments
	Checkpoint  CheckpointSummary
	TornTail    *TornTail // what Open would cut, nil if nothing
	Stale       []string  // what a checkpoint has made useless and Open would remove
}

// CheckpointSummary says what a pass met in a checkpoint.
type CheckpointSummary struct {
	Frames  uint64
	Records uint64
	Bytes   int64
}

// TornTail is the end of the last segment that a crash left incomplete.
type TornTail struct {
	File   string
	Offset int64 // of the first byte that does not belong to an intact frame
	Bytes  int64 // from there to the end of the file
	Reason string
}

// Entry is one record that a pass meets, and where it is.
type Entry struct {
	File       string // segment or checkpoint
	Offset     int64  // of the frame's entry
	Generation uint64
	Frame      uint64
	Kind       Kind
	Body       []byte // valid during the call only
}

// ErrChanged says that a checkpoint has replaced what was being read. Reading
// again will do.
var ErrChanged = errors.New("a checkpoint has replaced the log that was being read")

// Read calls fn for each record of the log in dir, in order, and reports what
// it met. It only reads: it creates, repairs and locks nothing, so the log may
// be open elsewhere; then it sees a prefix, perhaps with a torn tail, or fails
// with [ErrChanged]. An error of fn ends the pass.
//
// It fails as Open does: [DamageError], [VersionError].
func Read(dir string, fn func(Entry) error) (Summary, error) {
	s := scanner{fn: fn}
	err := func() error {
		y, c, err := find(dir)
		if err != nil {
			return err
		}
		if len(c.logs) == 0 {
			return &fs.PathError{Op: "open", Path: y.log(1), Err: fs.ErrNotExist}
		}
		s.sum.Stale = y.stale(c)
		if err = s.chain(&y, c); err == nil {
			return nil
		}
		// Was it there, and went while it was read?
		if _, now, lerr := find(dir); lerr == nil && now.base != c.base {
			return ErrChanged
		}
		return err
	}()
	if err != nil {
		return s.sum, fmt.Errorf("read log %s: %w", dir, err)
	}
	return s.sum, nil
}

// find lists a directory. A listing is not of one moment: what a checkpoint
// that goes on meanwhile makes and removes may be half in it, so what looks
// wrong is looked at again.
func find(dir string) (y layout, c chain, err error) {
	for range 10 {
		if y, err = listLayout(dir); err != nil {
			return y, c, err
		}
		if c, err = y.chain(); err == nil {
			break
		}
	}
	return y, c, err
}

// scanner reads what a chain names, from its first byte to its last. All
// reading is done here: tidwall/wal decodes what it finds without a check.
type scanner struct {
	fn  func(Entry) error // nil = only check
	sum Summary

	generation uint64   // that is being read
	next       uint64   // index that the next frame must have
	lastPart   uint32   // part of the frame before it
	tailSize   int64    // bytes of the last segment up to a torn tail
	logBytes   int64    // bytes of the last log
	logSegs    int      // segments of the last log
	empty      []uint64 // logs that were made and never written to
	buf        []byte   // a segment or frame
	walked     bool     // the log of the base says that its checkpoint was read up
	cut        bool     // the checkpoint says that a repair has cut something out
}

// chain reads a checkpoint and the logs after it. Nothing is changed: a torn
// tail ends up in s.sum.TornTail.
func (s *scanner) chain(y *layout, c chain) error {
	s.sum.Base = c.base
	if c.base > 0 {
		if err := s.checkpoint(y.checkpoint(c.base), c.base); err != nil {
			return err
		}
	}
	logs := c.logs
	for len(logs) > 1 {
		n := logs[len(logs)-1]
		size, err := sizeOf(y.log(n))
		if err != nil {
			return err
		}
		if size > 0 {
			break
		}
		s.empty = append(s.empty, n)
		logs = logs[:len(logs)-1]
	}
	for i, n := range logs {
		if err := s.log(y.log(n), n, i == len(logs)-1); err != nil {
			return err
		}
	}
	s.buf = nil
	return s.complete(y)
}

// complete reports whether the log of the checkpoint's generation has the record
// that ends its walk. It was durable before the checkpoint got its name; without it
// the log has lost its end, and the files in the checkpoint are of different times.
func (s *scanner) complete(y *layout) error {
	if s.sum.Base == 0 || s.walked || s.cut {
		return nil
	}
	d := &DamageError{File: y.log(s.sum.Base), Reason: "the log ends before the record that ends the walk of its checkpoint: its end is lost"}
	segs, err := listSegments(d.File)
	if err != nil || len(segs) == 0 {
		return d
	}
	d.File = segs[len(segs)-1].path
	if t := s.sum.TornTail; t != nil && t.File == d.File {
		d.Offset = t.Offset
	} else if fi, err := os.Stat(d.File); err == nil {
		d.Offset = fi.Size()
	}
	return d
}

// sizeOf is how many bytes a generation's segments have.
func sizeOf(dir string) (size int64, err error) {
	segs, err := listSegments(dir)
	if err != nil {
		return 0, err
	}
	for _, seg := range segs {
		fi, err := os.Stat(seg.path)
		if err != nil {
			return 0, err
		}
		size += fi.Size()
	}
	return size, nil
}

// log reads all segments of a generation.
func (s *scanner) log(dir string, generation uint64, last bool) error {
	segs, err := listSegments(dir)
	if err != nil {
		return err
	}
	s.begin(generation)
	for i := 0; i < len(segs); i++ {
		if segs[i].index != s.next {
			// While the log grows elsewhere, a listing may have a new segment and
			// not the one before.
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
		if err := s.segment(segs[i], last && i == len(segs)-1); err != nil {
			return err
		}
	}
	return nil
}

// begin prepares for the segments of a generation.
func (s *scanner) begin(generation uint64) {
	s.generation, s.next, s.lastPart = generation, 1, 0
	s.logBytes, s.logSegs, s.tailSize = 0, 0, 0
	s.sum.Generation = generation
	s.sum.Generations++
}

// misplaced says why seg cannot come next.
func (s *scanner) misplaced(dir string, seg segment) *DamageError {
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
	s.logSegs++
	off := 0
	for off < len(data) {
		f, n, bad := decodeEntry(data[off:])
		if bad == nil {
			if err := s.logFrame(seg.path, int64(off), f); err != nil {
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
		if at, index, found := laterFrame(data, off, s.generation, s.next); found {
			damage.Reason += fmt.Sprintf("; not a torn tail, since frame %d follows intact at offset %d", index, at)
			return damage
		}
		s.sum.TornTail = &TornTail{File: seg.path, Offset: int64(off), Bytes: int64(len(data) - off), Reason: bad.reason}
		break
	}
	s.sum.Bytes += int64(off)
	s.logBytes += int64(off)
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
	s.buf = sized(s.buf, size)
	// A log that is open elsewhere may grow meanwhile, or lose its torn tail.
	n, err := io.ReadFull(f, s.buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return s.buf[:n], nil
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// logFrame takes an intact frame of a segment: checks its place and hands out
// its records.
func (s *scanner) logFrame(path string, off int64, f frame) error {
	if f.part != 0 && (s.next == 1 || f.part != s.lastPart+1) {
		return &DamageError{File: path, Offset: off, Reason: fmt.Sprintf("frame %d says that %d frames since the last sync precede it, the frame before it says %d", f.index, f.part, s.lastPart)}
	}
	if err := s.frame(path, off, f, false); err != nil {
		return err
	}
	s.sum.Frames++
	s.sum.Records += uint64(f.count)
	s.lastPart = f.part
	return nil
}

// frame takes an intact frame.
func (s *scanner) frame(path string, off int64, f frame, checkpoint bool) error {
	damaged := func(format string, args ...any) error {
		return &DamageError{File: path, Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case f.checkpoint != checkpoint:
		return damaged("a frame of a checkpoint in a log, or the other way round")
	case f.generation != s.generation:
		return damaged("the frame is of generation %d, not %d", f.generation, s.generation)
	case f.index != s.next:
		return damaged("frame %d is where frame %d should be", f.index, s.next)
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
		if !kind.fits(checkpoint) {
			return damaged("frame %d: record %d of %d is of kind %s, which does not belong here", f.index, i+1, f.count, kind)
		}
		s.cut = s.cut || kind == KindCut
		s.walked = s.walked || kind == KindWalked && f.generation == s.sum.Base
		if s.fn != nil && kind != kindEnd {
			err := s.fn(Entry{File: path, Offset: off, Generation: f.generation, Frame: f.index, Kind: kind, Body: body})
			switch {
			case errors.Is(err, ErrRecord):
				return &DamageError{File: path, Offset: off, Reason: fmt.Sprintf("record %d of frame %d: %v", i+1, f.index, err), Err: err}
			case err != nil:
				return fmt.Errorf("%s at offset %d: record %d of frame %d: %w", path, off, i+1, f.index, err)
			}
		}
		rest = more
	}
	if len(rest) != 0 {
		return damaged("frame %d: %d bytes follow its %d records", f.index, len(rest), f.count)
	}
	s.next++
	return nil
}

// checkpoint reads a checkpoint. It was complete and synced before it got its
// name, so whatever is wrong with it is damage.
func (s *scanner) checkpoint(path string, generation uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	s.generation, s.next = generation, 1
	in := bufio.NewReaderSize(f, 1<<18)
	off, end, ended := int64(0), fi.Size(), false
	sum := &s.sum.Checkpoint
	for off < end {
		fr, n, bad := s.entry(in, end-off)
		damage := &DamageError{File: path, Offset: off}
		switch {
		case bad != nil && bad.newer:
			return &VersionError{File: path, Offset: off, Version: bad.ver, Flags: bad.flags}
		case bad != nil:
			damage.Reason = bad.reason
			return damage
		case ended:
			damage.Reason = "the checkpoint goes on behind its end"
			return damage
		}
		if err := s.frame(path, off, fr, true); err != nil {
			return err
		}
		records := sum.Records + uint64(fr.count)
		if kind, body, _, ok := record(fr.payload); ok && kind == kindEnd {
			total, k := binary.Uvarint(body)
			if ended = k == len(body) && fr.count == 1 && total == sum.Records; !ended {
				damage.Reason = fmt.Sprintf("the checkpoint has %d records, its end says otherwise (% x)", sum.Records, body)
				return damage
			}
			records--
		}
		off += int64(n)
		*sum = CheckpointSummary{Frames: sum.Frames + 1, Records: records, Bytes: off}
	}
	if !ended {
		return &DamageError{File: path, Offset: off, Reason: "the end of the checkpoint is missing"}
	}
	return nil
}

// entry reads one entry of at most limit bytes.
func (s *scanner) entry(in *bufio.Reader, limit int64) (frame, int, *flaw) {
	head, err := in.Peek(int(min(limit, binary.MaxVarintLen64)))
	if err != nil {
		return frame{}, 0, &flaw{reason: err.Error()}
	}
	n := len(head)
	if size, k := uvarint(head); k > 0 && size <= uint64(limit) && int64(size)+int64(k) <= limit {
		n = int(size) + k
	}
	s.buf = sized(s.buf, n)
	if _, err := io.ReadFull(in, s.buf); err != nil {
		return frame{}, 0, &flaw{reason: err.Error()}
	}
	return decodeEntry(s.buf)
}
