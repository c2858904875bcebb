package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/tidwall/wal"

	"sneck/lock"
)

const (
	defaultSegmentSize = 20 << 20
	defaultMaxPayload  = 8 << 20
	defaultMaxRecord   = 1 << 30
)

// Options say how to open a log. The zero value is usable.
type Options struct {
	// SegmentSize is the size in bytes from which on a segment is complete and
	// a new one begun. 0 means 20 MiB. It may change from one Open to the next.
	SegmentSize int
	// Logger is told what was repaired and why the log halted; nil = silent.
	Logger *slog.Logger
	// Replay is called for each record in log order during Open; nil = not.
	// The body is valid during the call only. Its error makes Open fail.
	Replay func(kind Kind, body []byte) error
	// OnHalt is called once, on a goroutine of its own, when the log halts.
	OnHalt func(error)

	seam seam
}

// seam is where tests get between the log and the disk. Each function, if set,
// is called before the operation that it is named after; its error takes the
// operation's place.
type seam struct {
	write      func(index uint64, frame []byte) error
	sync       func() error
	syncDir    func(dir string) error
	maxPayload int
	maxRecord  int
}

// Log is an open log. Its methods may be called from any goroutine.
type Log struct {
	opts Options
	dir  string // of the generation
	lock *os.File

	queue    atomic.Pointer[Record] // stack of submitted records, the last on top
	wake     chan struct{}
	complete *signal // what finished records point to

	failure  atomic.Pointer[error] // why nothing is accepted any more; set once
	closing  atomic.Bool           // Close was called
	closed   atomic.Bool           // the writer is gone: who submits completes
	finished chan struct{}         // closed after the last step of Close
	closeErr error                 // of Close; valid once finished is closed

	stats counters
}

type counters struct {
	records, frames, syncs, dirSyncs atomic.Uint64
	segments, bytes                  atomic.Int64
	replayed                         uint64
	repaired                         int64
}

// Stats are counters of a log. Those that count events count from Open on.
type Stats struct {
	Records  uint64 // written and synced
	Frames   uint64 // written and synced
	Syncs    uint64 // group commits
	DirSyncs uint64 // directory syncs because of new segments
	Replayed uint64 // records that Open found
	Repaired int64  // bytes of torn tail that Open cut
	Segments int64  // on disk now
	Bytes    int64  // on disk now
}

// Open opens the log in dir and makes it if there is none. It cuts a torn tail,
// hands every record to o.Replay, and returns a log that is ready to append.
// All that was replayed is durable by then.
//
// It fails with [ErrInUse], [DamageError] or [VersionError], among others; then
// no segment was changed.
func Open(dir string, o Options) (*Log, error) {
	l, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	return l, nil
}

func open(dir string, o Options) (_ *Log, err error) {
	if o.SegmentSize < 0 {
		return nil, &lock.InvalidError{Field: "SegmentSize", Reason: fmt.Sprintf("%d is negative", o.SegmentSize)}
	}
	o.SegmentSize = orDefault(o.SegmentSize, defaultSegmentSize)
	o.seam.maxPayload = orDefault(o.seam.maxPayload, defaultMaxPayload)
	o.seam.maxRecord = orDefault(o.seam.maxRecord, defaultMaxRecord)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// A log keeps its directory when the process changes its own.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	l := &Log{
		opts:     o,
		wake:     make(chan struct{}, 1),
		complete: &signal{ch: make(chan struct{}), complete: true},
		finished: make(chan struct{}),
	}
	close(l.complete.ch)

	if err = mkdirSynced(dir, l.syncDir); err != nil {
		return nil, err
	}
	if l.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = l.lock.Close() // nothing was written to it
		}
	}()
	if err = l.prepare(dir); err != nil {
		return nil, err
	}
	if err = settle(l.dir); err != nil {
		return nil, err
	}
	s := scanner{fn: o.Replay}
	if err = s.generation(l.dir); err != nil {
		return nil, err
	}
	if err = l.repair(&s); err != nil {
		return nil, err
	}
	w, err := newWriter(l, &s)
	if err != nil {
		return nil, err
	}
	go w.run()
	return l, nil
}

// prepare finds or makes the directory of the generation.
func (l *Log) prepare(dir string) error {
	gen, found, err := findGeneration(dir)
	if err != nil {
		return err
	}
	l.dir = gen
	if found {
		return l.syncDir(dir) // whoever made it may have died before this
	}
	// So may whoever made dir. If the parent may not be opened, dir was made by
	// somebody with other rights, before and not by a log.
	if err := l.syncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return mkdirSynced(gen, l.syncDir)
}

// repair cuts the torn tail that the scanner met, if any.
func (l *Log) repair(s *scanner) error {
	l.stats.replayed = s.sum.Records
	t := s.sum.TornTail
	if t == nil {
		return nil
	}
	if err := cut(t); err != nil {
		return err
	}
	l.stats.repaired = t.Bytes
	l.opts.Logger.Warn("torn tail of the log cut off", "file", t.File, "offset", t.Offset, "bytes", t.Bytes, "reason", t.Reason)
	return nil
}

// engine opens tidwall/wal on the repaired generation, for appending only.
func (l *Log) engine(next uint64) (*wal.Log, error) {
	tw, err := wal.Open(l.dir, &wal.Options{
		NoSync:           true, // one explicit sync for all frames of a group commit
		SegmentSize:      l.opts.SegmentSize,
		LogFormat:        wal.Binary,
		SegmentCacheSize: 1, // nothing is ever read through it
		AllowEmpty:       true,
		DirPerms:         dirPerm,
		FilePerms:        filePerm,
	})
	if err != nil {
		return nil, err
	}
	last, err := tw.LastIndex()
	if err == nil && last+1 != next {
		err = fmt.Errorf("%s ends with frame %d, tidwall/wal takes it for %d", l.dir, next-1, last)
	}
	if err == nil {
		err = l.syncDir(l.dir) // it may have made the first segment
	}
	if err != nil {
		_ = tw.Close() // nothing was written to it
		return nil, err
	}
	return tw, nil
}

func (l *Log) syncDir(dir string) error {
	if f := l.opts.seam.syncDir; f != nil {
		if err := f(dir); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// NewRecord makes a record that comes after prev, which may be nil. It has no
// side effect: a record that is neither submitted nor used as a predecessor
// may just be dropped. One that is used as a predecessor must be submitted too,
// sooner or later; it is written with the first of its successors if that is
// submitted before it.
func (l *Log) NewRecord(prev *Record, kind Kind, body Body) *Record {
	if prev != nil && prev.complete() {
		prev = nil
	}
	return &Record{body: body, prev: prev, kind: kind}
}

// Submit hands r over to be written. It never blocks. r completes in any case;
// after the log halted or was closed with that error. Submitting a record
// again does nothing.
func (l *Log) Submit(r *Record) {
	if r.submitted.Swap(true) || r.complete() {
		return
	}
	for {
		top := l.queue.Load()
		r.next = top
		if l.queue.CompareAndSwap(top, r) {
			break
		}
	}
	// The writer sets closed and then takes the queue a last time: either it
	// got r there, or closed is set by now.
	if l.closed.Load() {
		l.refuse()
		return
	}
	// Not only by whoever found the queue empty: that one may be suspended
	// right here.
	l.wakeWriter()
}

func (l *Log) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default: // a wake-up is pending: the writer has not looked at the queue since
	}
}

// take empties the queue into batch, in the order of submission.
func (l *Log) take(batch []*Record) []*Record {
	n := len(batch)
	for r := l.queue.Swap(nil); r != nil; {
		next := r.next
		r.next = nil
		batch = append(batch, r)
		r = next
	}
	for i, j := n, len(batch)-1; i < j; i, j = i+1, j-1 {
		batch[i], batch[j] = batch[j], batch[i]
	}
	return batch
}

// refuse completes what is in the queue of a closed log. Predecessors are left
// to their own Submit: other goroutines may be in here too.
func (l *Log) refuse() {
	for _, r := range l.take(nil) {
		if !r.complete() {
			r.finish(l.Err(), l.complete)
		}
	}
}

// Err is non-nil once the log is halted or closed: why.
func (l *Log) Err() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Close writes and syncs what was submitted before it, and gives the directory
// free. Records submitted meanwhile are either written or complete with
// [lock.ErrClosed]. A halted log is closed without touching the disk again;
// Close returns why it halted. Further calls return what the first one does.
func (l *Log) Close() error {
	l.closing.Store(true)
	l.wakeWriter()
	<-l.finished
	return l.closeErr
}

// Stats returns the counters as they are now.
func (l *Log) Stats() Stats {
	c := &l.stats
	return Stats{
		Records:  c.records.Load(),
		Frames:   c.frames.Load(),
		Syncs:    c.syncs.Load(),
		DirSyncs: c.dirSyncs.Load(),
		Replayed: c.replayed,
		Repaired: c.repaired,
		Segments: c.segments.Load(),
		Bytes:    c.bytes.Load(),
	}
}
