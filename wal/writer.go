package wal

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidwall/wal"

	"sneck/lock"
)

// keepBuffer is the size in bytes up to which a buffer is kept for the next
// group commit.
const keepBuffer = 1 << 20

// writer writes the log. Its fields belong to whoever holds Log.mu.
type writer struct {
	l          *Log
	tw         *wal.Log // nil once the log halted
	dir        string   // of the generation
	generation uint64
	tail       tail
	next       uint64 // index of the next frame

	batch []*Record // taken off the queue
	chain []*Record // one record and its unwritten predecessors, the last first
	group []*Record // what was written and is not complete yet, in log order

	buf     []byte // the frame that is being built
	scratch []byte // the body that is being encoded
	count   uint32 // records in buf
	part    uint32 // frames written since the last sync

	unsynced struct { // what was written and is not counted yet
		frames, records uint64
		bytes           int64
	}
}

func newWriter(l *Log, dir string, s *scanner) (*writer, error) {
	tw, err := l.engine(dir, s.next)
	if err != nil {
		return nil, err
	}
	l.stats.segments.Store(int64(max(1, s.sum.Segments)))
	l.stats.bytes.Store(s.sum.Bytes)
	l.stats.checkpointBytes.Store(s.sum.Checkpoint.Bytes)
	l.since.Store(s.sum.Bytes)
	l.stats.generation.Store(s.generation)
	return &writer{
		l:          l,
		tw:         tw,
		dir:        dir,
		generation: s.generation,
		tail:       tail{size: s.tailSize, limit: int64(l.opts.SegmentSize)},
		next:       s.next,
	}, nil
}

// commit takes the queue, writes it, makes it as durable as l.durability asks
// for, and completes its records.
func (w *writer) commit() {
	w.batch = w.l.take(w.batch)
	if len(w.batch) == 0 {
		return
	}
	if w.tw != nil {
		if err := w.write(w.l.opts.Durability != None); err != nil {
			w.halt(err)
		}
	}
	w.complete()
}

// complete ends what commit began.
func (w *writer) complete() {
	if w.tw == nil {
		w.fail()
	} else {
		for _, r := range w.group {
			r.finish(nil, w.l.complete)
		}
	}
	if w.l.opts.Durability == Interval {
		w.l.buffered.Add(-int64(len(w.batch)))
	}
	// Emptied, not just shortened: they would keep records reachable.
	w.batch, w.chain, w.group = emptied(w.batch), emptied(w.chain), emptied(w.group)
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	if cap(w.scratch) > keepBuffer {
		w.scratch = nil
	}
}

func emptied(s []*Record) []*Record {
	clear(s)
	if cap(s) > keepBuffer/8 {
		return nil
	}
	return s[:0]
}

// write puts every record of the batch, predecessors first, into frames, and
// syncs them if asked to.
func (w *writer) write(sync bool) error {
	w.beginFrame()
	for _, r := range w.batch {
		// A suspended goroutine may not have submitted the predecessors yet.
		// Chains can be long: no recursion.
		w.chain = w.chain[:0]
		for p := r; p != nil && !p.written; p = p.prev {
			w.chain = append(w.chain, p)
		}
		for i := len(w.chain) - 1; i >= 0; i-- {
			if err := w.add(w.chain[i]); err != nil {
				return err
			}
		}
	}
	if w.count == 0 { // all were written before as predecessors, or say nothing
		return nil
	}
	if err := w.writeFrame(); err != nil {
		return err
	}
	if !sync {
		w.account()
		return nil
	}
	return w.sync()
}

// add appends a record to the frame, or to a new one if it would be too large.
func (w *writer) add(r *Record) error {
	r.written = true
	w.group = append(w.group, r)
	if r.body == nil { // it is there for its predecessor
		return nil
	}
	w.scratch = r.body.AppendTo(w.scratch[:0])
	if n := len(w.scratch); n > w.l.opts.seam.maxRecord {
		return fmt.Errorf("a record of %d bytes is larger than %d and cannot be written", n, w.l.opts.seam.maxRecord)
	}
	if !r.kind.known() || !r.kind.fits(false) {
		return fmt.Errorf("a record of kind %s cannot be written to a log: no reader would take it", r.kind)
	}
	size := recordSize(len(w.scratch))
	if w.count > 0 && len(w.buf)-headerSize+size > w.l.opts.seam.maxPayload {
		if err := w.writeFrame(); err != nil {
			return err
		}
		w.beginFrame()
	}
	w.buf = appendRecord(w.buf, r.kind, w.scratch)
	w.count++
	return nil
}

func (w *writer) beginFrame() {
	w.buf = room(w.buf)
	w.count = 0
}

// writeFrame hands the frame to tidwall/wal, which appends it to the tail
// segment and, when that is full, syncs and closes it and begins another.
func (w *writer) writeFrame() error {
	if w.tail.full() {
		w.part = 0 // a new segment is begun first, and the one before it synced
	}
	w.buf = header{index: w.next, generation: w.generation, part: w.part}.seal(w.buf, w.count)
	if f := w.l.opts.seam.write; f != nil {
		if err := f(w.next, w.buf); err != nil {
			return w.failed("write", err)
		}
	}
	if err := w.tw.Write(w.next, w.buf); err != nil {
		return w.failed("write", err)
	}
	size := entrySize(len(w.buf))
	w.unsynced.frames++
	w.unsynced.records += uint64(w.count)
	w.unsynced.bytes += size
	rolls, newest := w.tail.add(size, w.next)
	w.next++
	w.part++
	if rolls == 0 {
		return nil
	}
	return w.rolled(rolls, newest)
}

// rolled makes the directory entries of new segments durable: tidwall/wal does
// not, and without them all that is synced into the segments is lost.
func (w *writer) rolled(rolls int, newest uint64) error {
	l := w.l
	if _, err := os.Stat(filepath.Join(w.dir, segmentName(newest))); err != nil {
		return w.failed("begin a segment", err)
	}
	if err := l.syncDir(w.dir); err != nil {
		return w.failed("sync the directory", err)
	}
	if newest == w.next { // begun after the frame: with that all is synced
		w.part = 0
	}
	l.stats.dirSyncs.Add(1)
	l.stats.segments.Add(int64(rolls))
	return w.tw.ClearCache() // it keeps full segments in memory to be read
}

// sync makes durable what was written since the last sync.
func (w *writer) sync() error {
	if f := w.l.opts.seam.sync; f != nil {
		if err := f(); err != nil {
			return w.failed("sync", err)
		}
	}
	if err := w.tw.Sync(); err != nil {
		return w.failed("sync", err)
	}
	w.part = 0
	w.l.stats.syncs.Add(1)
	w.account()
	return nil
}

// flush makes durable what was written and is not, and says why the log is not
// written any more, if so.
func (w *writer) flush() error {
	if w.tw != nil && w.part > 0 {
		if err := w.sync(); err != nil {
			w.halt(err)
		}
	}
	if w.tw == nil {
		return w.l.Err()
	}
	return nil
}

// account adds what was written to the counters.
func (w *writer) account() {
	c := &w.l.stats
	c.frames.Add(w.unsynced.frames)
	c.records.Add(w.unsynced.records)
	c.bytes.Add(w.unsynced.bytes)
	w.l.grown(w.unsynced.bytes)
	w.unsynced.frames, w.unsynced.records, w.unsynced.bytes = 0, 0, 0
}

func (w *writer) failed(what string, err error) error {
	return fmt.Errorf("%s, frame %d of %s: %w", what, w.next, w.dir, err)
}

// halt ends all writing. tidwall/wal is let go of, not closed: its Close would
// sync, and so try once more to write data that has been reported as lost. Its
// file is closed when the garbage collector finds it.
func (w *writer) halt(cause error) {
	l := w.l
	w.tw = nil
	err := fmt.Errorf("%w: %w", lock.ErrHalted, cause)
	l.failure.Store(&err)
	l.opts.Logger.Error("the log halted", "dir", l.dir, "error", cause)
	if l.opts.OnHalt != nil {
		l.opts.OnHalt(err)
	}
}

// fail completes the batch and the predecessors of its records with the
// reason for which the log halted. Predecessors of a complete record are
// complete.
func (w *writer) fail() {
	err := w.l.Err()
	for _, r := range w.batch {
		for p := r; p != nil && !p.complete(); {
			prev := p.prev
			p.finish(err, w.l.complete)
			p = prev
		}
	}
}

// close ends the log after the last group commit.
func (w *writer) close() (err error) {
	if err = w.flush(); err == nil {
		if err = w.tw.Close(); err != nil { // it syncs once more
			err = fmt.Errorf("%w: %w", lock.ErrHalted, w.failed("close", err))
		}
		w.tw = nil
		closed := fmt.Errorf("log %s: %w", w.l.dir, lock.ErrClosed)
		w.l.failure.Store(&closed)
	}
	return err
}

// tail mirrors when tidwall/wal begins a new segment: after a write that fills
// the tail segment up to the limit, and before a write if the tail segment is
// larger than the limit already, which it can only be after Open.
type tail struct{ size, limit int64 }

// full reports whether a new segment is begun before the next frame.
func (t *tail) full() bool { return t.size > t.limit }

// add takes note of the entry of frame number index, of size bytes. rolls is
// how many segments were begun, newest the index that the last of them is
// named by.
func (t *tail) add(size int64, index uint64) (rolls int, newest uint64) {
	if t.full() {
		t.size = 0
		rolls, newest = 1, index
	}
	t.size += size
	if t.size >= t.limit {
		t.size = 0
		rolls, newest = rolls+1, index+1
	}
	return rolls, newest
}
