package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Damage is one stretch of a log that cannot be used.
type Damage struct {
	File   string // segment or checkpoint, or directory if that is missing or does not belong there
	Offset int64
	Bytes  int64 // 0 if something is missing
	Reason string
}

// Survey walks everything in dir as Read does, but goes on behind damage, at
// the next frame that is intact: found is called for each stretch of damage.
// The summary counts what is intact. fn, which may be nil, is called for each
// record of an intact frame; whether that record follows from those before it
// is another question.
//
// What looks intact behind damage may be part of what a client chose to be
// called: it is good enough to be shown, not to be believed.
func Survey(dir string, found func(Damage), fn func(Entry)) (Summary, error) {
	v := newSurveyor(found, func(e Entry, _ bool) {
		if fn != nil {
			fn(e)
		}
	})
	err := v.dir(dir)
	v.flush()
	if err != nil {
		return v.s.sum, fmt.Errorf("survey log %s: %w", dir, err)
	}
	return v.s.sum, nil
}

// surveyor walks over damage.
type surveyor struct {
	s     scanner
	found func(Damage)

	pending Damage // the last stretch of damage, which may go on
	lost    bool   // damage reaches to the end of the file that was read last: what comes next cannot be known
	hurt    bool   // there was damage in this file
	unsure  bool   // where the last damage in it ends had to be guessed
	ended   bool   // the end of the checkpoint was met
	newer   error  // the first thing that another version has written

	first, last uint64 // frames that were met
}

// newSurveyor makes one. fn is also told whether a record can be believed: no
// client can have made it up.
func newSurveyor(found func(Damage), fn func(e Entry, sure bool)) *surveyor {
	v := &surveyor{found: found}
	if fn != nil {
		v.s.fn = func(e Entry) error { fn(e, !v.unsure); return nil }
	}
	return v
}

// damage notes a stretch. One that begins where the last one ended continues it.
func (v *surveyor) damage(d Damage) {
	v.hurt = true
	p := &v.pending
	if p.File == d.File && p.Bytes > 0 && d.Bytes > 0 && p.Offset+p.Bytes == d.Offset {
		p.Bytes += d.Bytes
		return
	}
	v.flush()
	*p = d
}

func (v *surveyor) flush() {
	if v.pending.File != "" && v.found != nil {
		v.found(v.pending)
	}
	v.pending = Damage{}
}

// err notes damage that has no bytes.
func (v *surveyor) err(d *DamageError) {
	v.damage(Damage{File: d.File, Offset: d.Offset, Reason: d.Reason})
}

func (v *surveyor) dir(dir string) error {
	y, strange, err := looseLayout(dir)
	if err != nil {
		return err
	}
	for _, d := range strange {
		v.err(d)
	}
	c := y.looseChain()
	v.s.sum.Stale = y.stale(chain{base: c.base})
	for _, d := range c.missing {
		v.err(d)
	}
	err = v.all(&y, c)
	if errors.Is(err, fs.ErrNotExist) {
		// Was it there, and went while it was read?
		if _, now, lerr := find(dir); lerr == nil && now.base != c.base {
			return ErrChanged
		}
	}
	return err
}

func (v *surveyor) all(y *layout, c looseChain) error {
	v.s.sum.Base = c.base
	if c.base > 0 && !c.noCheckpoint {
		if err := v.checkpoint(y.checkpoint(c.base), c.base); err != nil {
			return err
		}
	}
	logs := slices.Concat(c.logs, c.behind)
	last, err := lastWritten(y, logs)
	if err != nil {
		return err
	}
	for _, n := range logs {
		if err := v.log(y.log(n), n, n == last); err != nil {
			return err
		}
	}
	return nil
}

// lastWritten is the last of the logs that has a byte, or the first one.
func lastWritten(y *layout, logs []uint64) (uint64, error) {
	for i := len(logs) - 1; i > 0; i-- {
		segs, _, err := looseSegments(y.log(logs[i]))
		if err != nil {
			return 0, err
		}
		size, err := sizeOfAll(segs)
		if err != nil {
			return 0, err
		}
		if size > 0 {
			return logs[i], nil
		}
	}
	if len(logs) == 0 {
		return 0, nil
	}
	return logs[0], nil
}

func sizeOfAll(segs []segment) (size int64, err error) {
	for _, seg := range segs {
		fi, err := os.Stat(seg.path)
		if err != nil {
			return 0, err
		}
		size += fi.Size()
	}
	return size, nil
}

// looseChain is a chain of which something may be missing.
type looseChain struct {
	base         uint64         // generation of the checkpoint; 0: there need be none
	noCheckpoint bool           // it is missing
	noLog        bool           // the log of its generation is missing
	logs         []uint64       // generations, ascending, one after the other
	behind       []uint64       // those behind one that is missing
	missing      []*DamageError // what is missing, in order
}

// looseChain finds what there is of a chain.
func (y *layout) looseChain() looseChain {
	c, err := y.chain()
	l := looseChain{base: c.base, logs: c.logs}
	var d *DamageError
	if !errors.As(err, &d) { // chain has no other errors
		return l
	}
	next := max(1, c.base)
	switch {
	case len(c.logs) == 0:
		l.missing = append(l.missing, d)
	case c.base == 0 && c.logs[0] > 1:
		l.missing = append(l.missing, d)
		next = c.logs[0]
		l.base, l.noCheckpoint = next, true
	}
	l.noLog = len(c.logs) == 0 || c.logs[0] != next
	l.logs = nil
	for i, n := range c.logs {
		switch {
		case n != next:
			l.missing = append(l.missing, &DamageError{File: y.log(next), Reason: fmt.Sprintf("the log of generation %d is missing, that of generation %d is there", next, n)})
			fallthrough
		case l.behind != nil:
			l.behind = append(l.behind, n)
		default:
			l.logs = c.logs[:i+1]
		}
		next = n + 1
	}
	return l
}

// gap is the first log that is missing.
func (l *looseChain) gap() *DamageError {
	if l.noCheckpoint {
		return l.missing[1]
	}
	return l.missing[0]
}

// log walks over the segments of a generation.
func (v *surveyor) log(dir string, generation uint64, last bool) error {
	segs, strange, err := looseSegments(dir)
	if err != nil {
		return err
	}
	for _, d := range strange {
		v.err(d)
	}
	v.s.begin(generation)
	v.lost = false
	return v.segments(dir, segs, 0, last)
}

// segments walks over segments, over the first one from an offset on.
func (v *surveyor) segments(dir string, segs []segment, from int64, last bool) error {
	s := &v.s
	for i, seg := range segs {
		if from == 0 && seg.index != s.next {
			if !v.lost || seg.index < s.next {
				v.err(s.misplaced(dir, seg))
			}
			s.next = seg.index
		}
		data, err := s.load(seg.path)
		if err != nil {
			return err
		}
		s.sum.Segments++
		v.lost = false
		v.frames(seg.path, data, int(min(from, int64(len(data)))), false, last && i == len(segs)-1)
		from = 0
	}
	return nil
}

// checkpoint walks over a checkpoint.
func (v *surveyor) checkpoint(path string, generation uint64) error {
	data, err := v.s.load(path)
	if err != nil {
		return err
	}
	v.s.generation, v.s.next = generation, 1
	v.hurt, v.ended = false, false
	v.frames(path, data, 0, true, false)
	if !v.ended && !v.lost {
		v.err(&DamageError{File: path, Offset: int64(len(data)), Reason: "the end of the checkpoint is missing"})
	}
	return nil
}

// frames walks over the frames in data from off on, where one begins.
func (v *surveyor) frames(path string, data []byte, off int, checkpoint, last bool) {
	s := &v.s
	v.unsure = false
	for off < len(data) {
		f, n, bad := decodeEntry(data[off:])
		end, reason := off+n, ""
		switch {
		case bad == nil:
			if reason = v.frame(path, int64(off), f, n, checkpoint); reason == "" {
				off = end
				v.lost = false
				if v.last = f.index; v.first == 0 {
					v.first = f.index
				}
				continue
			}
			if f.generation == s.generation && f.index >= s.next { // go on with the one that comes after it
				s.next, s.lastPart = f.index+1, f.part
			}
		case bad.newer:
			v.note(&VersionError{File: path, Offset: int64(off), Version: bad.ver, Flags: bad.flags})
			reason = v.newer.Error()
			s.next++
		case bad.intact:
			reason = bad.reason
			s.next++
		default:
			reason = bad.reason
			if last {
				if _, _, found := laterFrame(data, off, s.generation, s.next); !found {
					s.sum.TornTail = &TornTail{File: path, Offset: int64(off), Bytes: int64(len(data) - off), Reason: reason}
					return
				}
			}
			var found bool
			if end, found = v.resync(data, off, checkpoint); !found {
				v.lost = true
			}
		}
		v.damage(Damage{File: path, Offset: int64(off), Bytes: int64(end - off), Reason: reason})
		off = end
	}
}

// frame takes an intact entry of n bytes, or says what is wrong with it.
func (v *surveyor) frame(path string, off int64, f frame, n int, checkpoint bool) string {
	s := &v.s
	var err error
	switch {
	case !checkpoint:
		if err = s.logFrame(path, off, f); err == nil {
			s.sum.Bytes += int64(n)
		}
	case v.ended:
		return "the checkpoint goes on behind its end"
	default:
		if err = s.frame(path, off, f, true); err != nil {
			break
		}
		sum := &s.sum.Checkpoint
		kind, body, _, ok := record(f.payload)
		if v.ended = ok && kind == kindEnd; !v.ended {
			*sum = CheckpointSummary{Frames: sum.Frames + 1, Records: sum.Records + uint64(f.count), Bytes: sum.Bytes + int64(n)}
			break
		}
		total, k := uvarint(body)
		if v.hurt { // what it counts is not all there, which was said
			break
		}
		if k != len(body) || f.count != 1 || total != sum.Records {
			return fmt.Sprintf("the checkpoint has %d records, its end says otherwise (% x)", sum.Records, body)
		}
		sum.Frames, sum.Bytes = sum.Frames+1, sum.Bytes+int64(n)
	}
	var d *DamageError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &d):
		return d.Reason
	}
	v.note(err)
	return err.Error()
}

func (v *surveyor) note(newer error) {
	if v.newer == nil {
		v.newer = newer
	}
}

// resync is where the next frame begins behind the bad entry at off, or the end
// of data. The frame is what comes next then.
func (v *surveyor) resync(data []byte, off int, checkpoint bool) (int, bool) {
	s := &v.s
	pos := off + 1
	// As in laterFrame: not inside of a write that was begun.
	if n, ok := headerExtent(data[off:], header{index: s.next, generation: s.generation, checkpoint: checkpoint}); ok {
		if n >= uint64(len(data)-off) {
			return len(data), false
		}
		pos = off + int(n)
	}
	sure := pos
	if pos == off+1 {
		sure = -1
	}
	most := uint64(len(data) / minEntry)
	for {
		i := bytes.Index(data[pos:], []byte(magic))
		if i < 0 {
			return len(data), false
		}
		m := pos + i
		at, n, f, whole := frameAt(data, pos, m, s.next, most)
		switch {
		case !whole:
			pos = m + 1
		case f.generation != s.generation || f.checkpoint != checkpoint:
			pos = at + n
		default:
			s.next, s.lastPart = f.index, f.part-1 // whatever was before it
			v.unsure = v.unsure || at != sure
			return at, true
		}
	}
}
