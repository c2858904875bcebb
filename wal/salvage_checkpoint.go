package wal

import (
	"bytes"
	"errors"
	"os"
	"time"
)

// salvage is what is left of a damaged checkpoint.
type salvage struct {
	path       string
	generation uint64
	data       []byte
	frames     []int // offsets of the entries that are believed

	kept    uint64  // records of theirs
	lost    int64   // bytes of entries that are not believed, and of records that are refused
	refused []Entry // records that cannot be
}

// newSalvage is what is left of a checkpoint that is not there.
func newSalvage(path string, generation uint64) *salvage {
	return &salvage{path: path, generation: generation}
}

// load reads a checkpoint and finds out what can be believed.
//
// What comes one after the other from the beginning of the file can, and so can
// what comes behind a bad entry whose header is whole and says where it ends.
// Behind one that does not say where it ends, a frame may be part of what a
// client chose to be called. What such a client cannot choose is what comes
// behind its own record: so from there on frames are believed if they reach,
// one after the other, to the end of the checkpoint.
func (c *salvage) load() (err error) {
	if c.data, err = os.ReadFile(c.path); err != nil {
		return err
	}
	off, next := 0, uint64(1)
	for off < len(c.data) {
		f, n, bad := decodeEntry(c.data[off:])
		extent, whole := headerExtent(c.data[off:], header{index: next, generation: c.generation, checkpoint: true})
		switch {
		case bad == nil:
			usable, err := c.usable(off, f, next)
			if err != nil {
				return err
			}
			if usable {
				c.frames = append(c.frames, off)
				next = f.index + 1
			}
		case bad.newer:
			return &VersionError{File: c.path, Offset: int64(off), Version: bad.ver, Flags: bad.flags}
		case bad.intact:
		case whole: // but for its end, if that is cut off
			n = int(min(extent, uint64(len(c.data)-off)))
			next++
		default:
			more, err := c.tail(off+1, next)
			c.frames = append(c.frames, more...)
			return err
		}
		off += n
	}
	return nil
}

// usable reports whether an intact frame can be used where frame number next
// or a later one should be.
func (c *salvage) usable(off int, f frame, next uint64) (bool, error) {
	if f.index < next {
		return false, nil
	}
	s := scanner{generation: c.generation, next: f.index}
	err := s.frame(c.path, int64(off), f, true)
	var newer *VersionError
	if errors.As(err, &newer) {
		return false, err
	}
	return err == nil, nil
}

// tail finds the frames that reach from pos or later to the end of the
// checkpoint, one after the other. The first is number next or a later one.
func (c *salvage) tail(pos int, next uint64) ([]int, error) {
	most := uint64(len(c.data) / minEntry)
	for {
		i := bytes.Index(c.data[pos:], []byte(magic))
		if i < 0 {
			return nil, nil
		}
		m := pos + i
		at, _, f, whole := frameAt(c.data, pos, m, next, most)
		if !whole {
			pos = m + 1
			continue
		}
		var run []int
		ended := false
		index := f.index
		for pos = at; pos < len(c.data); index++ {
			f, n, bad := decodeEntry(c.data[pos:])
			if bad != nil || f.index != index || ended {
				break
			}
			usable, err := c.usable(pos, f, index)
			if err != nil {
				return nil, err
			}
			if !usable {
				break
			}
			kind, _, _, ok := record(f.payload)
			ended = ok && kind == kindEnd
			run = append(run, pos)
			pos += n
		}
		if ended && pos == len(c.data) {
			return run, nil
		}
		pos = max(pos, m+1)
	}
}

// records hands what is left to check, as a replay would, and what it does not
// refuse to write, if that is not nil.
func (c *salvage) records(check func(Entry) error, write func(Kind, []byte) error) error {
	c.kept, c.lost, c.refused = 0, int64(len(c.data)), nil
	emit := func(e Entry) error {
		err := check(e)
		if errors.Is(err, ErrRecord) {
			c.lost += int64(len(e.Body))
			c.refused = append(c.refused, e)
			return nil
		}
		if err == nil && write != nil {
			err = write(e.Kind, e.Body)
		}
		if e.Frame > 0 { // else it is made here
			c.kept++
		}
		return err
	}
	entry := Entry{File: c.path, Generation: c.generation, Kind: KindBegin}
	begun := false
	begin := func() error {
		begun = true
		entry.Body = beginBody{c.generation, time.Now()}.AppendTo(nil)
		return emit(entry)
	}
	for _, off := range c.frames {
		f, n, _ := decodeEntry(c.data[off:]) // it was decoded before
		c.lost -= int64(n)
		e := Entry{File: c.path, Offset: int64(off), Generation: c.generation, Frame: f.index}
		for rest := f.payload; len(rest) > 0; {
			e.Kind, e.Body, rest, _ = record(rest)
			switch {
			case e.Kind == kindEnd, e.Kind == KindBegin && begun:
				continue
			case e.Kind == KindBegin:
				begun = true
			case !begun:
				if err := begin(); err != nil {
					return err
				}
			}
			if err := emit(e); err != nil {
				return err
			}
		}
	}
	if !begun {
		if err := begin(); err != nil {
			return err
		}
	}
	entry.Kind, entry.Body = KindCut, number(c.lost).AppendTo(nil)
	return emit(entry)
}

// forgone adds to a step what can be read of what is not kept, and tells lost.
func (c *salvage) forgone(step *Step, lost func(Entry, bool)) error {
	believed := make(map[int64]bool, len(c.frames))
	for _, off := range c.frames {
		believed[int64(off)] = true
	}
	at := int64(-1)
	gone := func(e Entry, sure bool) {
		if e.Offset != at && !believed[e.Offset] {
			at = e.Offset
			step.Frames++
			if step.Last = e.Frame; step.First == 0 {
				step.First = e.Frame
			}
		}
		step.Records++
		if lost != nil {
			lost(e, sure)
		}
	}
	v := newSurveyor(nil, func(e Entry, sure bool) {
		if !believed[e.Offset] {
			gone(e, sure)
		}
	})
	v.s.generation, v.s.next = c.generation, 1
	v.frames(c.path, c.data, 0, true, false)
	for _, e := range c.refused {
		gone(e, true)
	}
	return v.newer
}
