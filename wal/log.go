package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/wal"

	"sneck/lock"
)

const (
	defaultSegmentSize     = 4 << 20
	defaultCheckpointAfter = 64 << 20
	defaultSyncInterval    = 10 * time.Millisecond
	defaultMaxPayload      = 8 << 20
	defaultMaxRecord       = 1 << 30
)

// Durability says when a record is acknowledged.
type Durability uint8

const (
	Sync     Durability = iota // when it is on stable storage
	Interval                   // at once; what was acknowledged is written and synced every SyncInterval
	None                       // when it is written, which is before it is on stable storage
)

// Options say how to open a log. The zero value is usable.
type Options struct {
	// Durability says when a record is acknowledged.
	Durability Durability
	// SyncInterval is how long Interval leaves what was acknowledged in memory
	// at most, but for the time that a sync takes. 0 means 10 ms.
	SyncInterval time.Duration
	// SegmentSize is the size in bytes from which on a segment is complete and
	// a new one begun. 0 means 4 MiB: tidwall/wal keeps a copy of the segment
	// that it writes in memory. It may change from one Open to the next.
	SegmentSize int
	// CheckpointAfter is how many bytes of log a checkpoint is started after;
	// or after as many as the last checkpoint has, if that is more, so that
	// checkpoints never cost more than what they replace. 0 means 64 MiB, less
	// than 0 never. It has no effect without Snapshot.
	CheckpointAfter int64
	// Snapshot calls emit for each record of a checkpoint, of kinds KindEpoch
	// and KindState. It is called while records are submitted; what it emits
	// must reflect every record that was submitted before it was called, and
	// may reflect later ones. It ends with emit's error, if that has one.
	Snapshot func(emit func(Kind, Body) error) error
	// Logger is told what was repaired and why the log halted; nil = silent.
	Logger *slog.Logger
	// Replay is called for each record in log order during Open; nil = not.
	// Its error makes Open fail; an [ErrRecord] as damage.
	Replay func(Entry) error
	// OnHalt is called once, when the log halts and before anybody is told. It
	// must not call the log nor wait for anybody who does.
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
//
// Whoever waits for a record writes it himself if nobody else is writing: that
// spares an uncontended caller the hand-off to another goroutine. Whoever finds
// somebody writing waits to be told; when the writer is done and more has been
// queued meanwhile, it wakes the log's own goroutine, which writes until the
// queue is empty.
//
//	Submit ─▶ queue ─┬─▶ Wait, if mu is free ───┐
//	                 └─▶ run, if it is not ─────┴─▶ take all, frame, sync, complete
type Log struct {
	opts Options
	dir  string
	lock *os.File

	queue    atomic.Pointer[Record] // stack of submitted records, the last on top
	wake     chan struct{}
	complete *signal // what finished records point to

	mu sync.Mutex // held while the log is written
	w  *writer

	buffered atomic.Int64 // Interval: acknowledged and not written yet
	timed    atomic.Bool  // Interval: the timer runs

	since      atomic.Int64  // bytes of log since the last checkpoint began
	checkpoint chan struct{} // holds a token while no checkpoint is written
	background sync.WaitGroup
	stopping   chan struct{} // closed when Close begins
	idle       chan struct{}
	stopOnce   sync.Once
	failure    atomic.Pointer[error] // why nothing is accepted any more; set once
	closed     atomic.Bool           // nobody writes any more: who submits completes
	finished   chan struct{}         // closed after the last step of Close
	closeErr   error                 // of Close; valid once finished is closed

	stats counters
}

type counters struct {
	records, frames, syncs, dirSyncs           atomic.Uint64
	segments, bytes                            atomic.Int64
	generation, checkpoints, failedCheckpoints atomic.Uint64
	checkpointBytes, checkpointTime            atomic.Int64
	replayed                                   uint64
	repaired                                   int64
}

// Stats are counters of a log. Those that count events count from Open on.
type Stats struct {
	Records  uint64 // written, and synced unless Durability is None
	Frames   uint64 // the same
	Syncs    uint64 // group commits that were synced
	DirSyncs uint64 // directory syncs because of new segments
	Replayed uint64 // records that Open found, those of a checkpoint included
	Repaired int64  // bytes of torn tail that Open cut
	Segments int64  // on disk now
	Bytes    int64  // of segments on disk now

	Generation        uint64        // that is being written
	Checkpoints       uint64        // completed
	FailedCheckpoints uint64        // begun and not completed, but for those that Close ended
	CheckpointBytes   int64         // of the last checkpoint, on disk now
	CheckpointTime    time.Duration // that the last one took
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
	if err := o.complete(); err != nil {
		return nil, err
	}
	// A log keeps its directory when the process changes its own.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	l := &Log{
		opts:       o,
		dir:        dir,
		wake:       make(chan struct{}, 1),
		complete:   &signal{ch: make(chan struct{}), complete: true},
		checkpoint: make(chan struct{}, 1),
		stopping:   make(chan struct{}),
		idle:       make(chan struct{}),
		finished:   make(chan struct{}),
	}
	close(l.complete.ch)
	l.checkpoint <- struct{}{}

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
	y, c, err := l.prepare()
	if err != nil {
		return nil, err
	}
	s := scanner{fn: o.Replay}
	if err = s.chain(&y, c); err != nil {
		return nil, err
	}
	if err = l.repair(&y, c, &s); err != nil {
		return nil, err
	}
	if l.w, err = newWriter(l, y.log(s.generation), &s); err != nil {
		return nil, err
	}
	l.background.Add(1)
	go l.run()
	return l, nil
}

// complete checks the options and fills in the defaults.
func (o *Options) complete() error {
	switch {
	case o.SegmentSize < 0:
		return &lock.InvalidError{Field: "SegmentSize", Reason: fmt.Sprintf("%d is negative", o.SegmentSize)}
	case o.SyncInterval < 0:
		return &lock.InvalidError{Field: "SyncInterval", Reason: fmt.Sprintf("%v is negative", o.SyncInterval)}
	case o.Durability > None:
		return &lock.InvalidError{Field: "Durability", Reason: fmt.Sprintf("%d is none of Sync, Interval, None", o.Durability)}
	}
	o.SegmentSize = orDefault(o.SegmentSize, defaultSegmentSize)
	o.SyncInterval = orDefault(o.SyncInterval, defaultSyncInterval)
	o.CheckpointAfter = orDefault(o.CheckpointAfter, defaultCheckpointAfter)
	o.seam.maxPayload = orDefault(o.seam.maxPayload, defaultMaxPayload)
	o.seam.maxRecord = orDefault(o.seam.maxRecord, defaultMaxRecord)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// prepare finds what is there, and makes the first generation if that is nothing.
func (l *Log) prepare() (layout, chain, error) {
	y, err := listLayout(l.dir)
	if err != nil {
		return y, chain{}, err
	}
	c, err := y.chain()
	if err != nil {
		return y, c, err
	}
	if len(c.logs) > 0 {
		if err = l.syncDir(l.dir); err == nil { // whoever made it may have died before this
			err = settle(&y, c)
		}
		return y, c, err
	}
	c.logs = []uint64{1}
	// Whoever made dir may have died too. If the parent may not be opened, dir was
	// made by somebody with other rights, before and not by a log.
	if err := l.syncDir(filepath.Dir(l.dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return y, c, err
	}
	return y, c, mkdirSynced(y.log(1), l.syncDir)
}

// repair cuts the torn tail that the scanner met, if any, and removes what a
// crash has left in the middle of a checkpoint.
func (l *Log) repair(y *layout, c chain, s *scanner) error {
	l.stats.replayed = s.sum.Records + s.sum.Checkpoint.Records
	if t := s.sum.TornTail; t != nil {
		if err := cut(t); err != nil {
			return err
		}
		l.stats.repaired = t.Bytes
		l.opts.Logger.Warn("torn tail of the log cut off", "file", t.File, "offset", t.Offset, "bytes", t.Bytes, "reason", t.Reason)
	}
	paths := y.stale(c)
	for _, n := range s.empty {
		paths = append(paths, y.log(n))
	}
	return l.remove(paths)
}

// engine opens tidwall/wal on a generation without damage, for appending only.
func (l *Log) engine(dir string, next uint64) (*wal.Log, error) {
	tw, err := wal.Open(dir, &wal.Options{
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
		err = fmt.Errorf("%s ends with frame %d, tidwall/wal takes it for %d", dir, next-1, last)
	}
	if err == nil {
		err = l.syncDir(dir) // it may have made the first segment
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

func orDefault[T comparable](n, otherwise T) T {
	var zero T
	if n == zero {
		return otherwise
	}
	return n
}

// run writes what nobody else does: what came while others wrote, and what
// nobody waits for.
func (l *Log) run() {
	defer l.background.Done()
	for {
		select {
		case <-l.wake:
			l.timed.Store(false) // what comes from now on may miss this round
			l.mu.Lock()
			l.lead()
		case <-l.idle:
			return
		}
	}
}

// lead writes what is queued, and gives mu up.
func (l *Log) lead() {
	l.w.commit()
	l.giveUp()
}

// giveUp unlocks mu. Whoever found it locked relies on this: what it had queued
// by then is seen here.
func (l *Log) giveUp() {
	l.mu.Unlock()
	if l.queue.Load() != nil && l.opts.Durability != Interval {
		l.wakeWriter()
	}
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

const (
	// writeFrom is how many records that were acknowledged by Interval are
	// written without waiting for the interval's end.
	writeFrom = 1 << 12
	// mostBuffered is how many there may be: on a disk that does not keep up,
	// the next ones wait until they are durable.
	mostBuffered = 1 << 16
)

// Submit hands r over to be written. It never blocks. r is written when
// somebody waits for it or for a later one, or, with Interval, in time. It
// completes in any case; after the log halted or was closed with that error.
//
// Whoever finds the record of somebody else may submit it too: that one may be
// suspended right before, or in the middle. Nothing that is submitted after
// Submit has returned is written before r.
func (l *Log) Submit(r *Record) {
	switch {
	case r.complete():
		return
	case r.submitted.CompareAndSwap(unsubmitted, submitting):
		l.push(r)
		r.submitted.Store(queued)
	case r.submitted.Load() == submitting:
		// Only one can put it into the queue, but it can be had written as a
		// predecessor, of a record that says nothing.
		l.push(&Record{prev: r})
	default:
		return
	}
	// Close sets closed and then takes the queue a last time: either it got r
	// there, or closed is set by now.
	if l.closed.Load() {
		l.refuse()
		return
	}
	if l.opts.Durability == Interval {
		l.buffer()
	}
}

// push puts r on top of the queue.
func (l *Log) push(r *Record) {
	for {
		top := l.queue.Load()
		r.next = top
		if l.queue.CompareAndSwap(top, r) {
			return
		}
	}
}

// buffer takes note of one more record that will be written in time.
func (l *Log) buffer() {
	if l.buffered.Add(1)%writeFrom == 0 {
		l.wakeWriter()
	} else if !l.timed.Load() && l.timed.CompareAndSwap(false, true) {
		time.AfterFunc(l.opts.SyncInterval, l.wakeWriter)
	}
}

// Wait waits until r is as durable as the log was opened for, and says why if it
// never will be. It submits r if that was not done yet.
func (l *Log) Wait(r *Record) error {
	if l.opts.Durability == Interval && !r.complete() && l.buffered.Load() < mostBuffered {
		l.Submit(r)
		return l.Err()
	}
	return l.settle(r)
}

// Append adds a record, and waits until it and all before it are on stable
// storage, whatever the log's durability.
func (l *Log) Append(kind Kind, body Body) error {
	r := l.NewRecord(nil, kind, body)
	if err := l.settle(r); err != nil || l.opts.Durability != None {
		return err
	}
	l.mu.Lock()
	defer l.giveUp()
	return l.w.flush()
}

// settle waits until r is complete.
func (l *Log) settle(r *Record) error {
	if r.complete() {
		return r.err
	}
	l.Submit(r) // whoever made it may be suspended right before that
	if l.mu.TryLock() {
		l.lead()
	} else if l.opts.Durability == Interval {
		l.wakeWriter() // not only when the interval is over
	}
	if !r.complete() {
		<-r.Done()
	}
	return r.err
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

// refuse completes what is in the queue of a closed log.
func (l *Log) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.commit()
}

// Err is non-nil once the log is halted or closed: why.
func (l *Log) Err() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Close writes and syncs what was submitted before it, and gives the directory
// free. A checkpoint that is under way is given up. Records submitted meanwhile
// are either written or complete with [lock.ErrClosed]. A halted log is closed
// without touching the disk again; Close returns why it halted. Further calls
// return what the first one does.
func (l *Log) Close() error {
	l.stopOnce.Do(func() {
		close(l.stopping)
		<-l.checkpoint // and no other is begun; it may need run
		close(l.idle)
		l.background.Wait()
		closed := fmt.Errorf("log %s: %w", l.dir, lock.ErrClosed)
		l.failure.CompareAndSwap(nil, &closed) // with Interval, what is submitted from now on is not acknowledged
		l.mu.Lock()
		l.w.commit()
		l.closeErr = l.w.close()
		l.closed.Store(true)
		l.mu.Unlock()
		l.refuse()
		if err := l.lock.Close(); l.closeErr == nil {
			l.closeErr = err
		}
		close(l.finished)
	})
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

		Generation:        c.generation.Load(),
		Checkpoints:       c.checkpoints.Load(),
		FailedCheckpoints: c.failedCheckpoints.Load(),
		CheckpointBytes:   c.checkpointBytes.Load(),
		CheckpointTime:    time.Duration(c.checkpointTime.Load()),
	}
}
