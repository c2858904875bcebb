package wal

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sneck/lock"
)

// A checkpoint replaces all of the log before it while traffic goes on:
//
//	log-1 ━━━━━━━━━━━━━━━━┓ rotate                        ╳ removed
//	log-2                 ┗━━━━━━━━━━━━━━━ walked ━━━━━━━━━━━━━━━▶
//	checkpoint-2.tmp        begin ─ state ─ state ─ end
//	checkpoint-2                                        ▲ renamed
//
// First the log goes on in a new generation. Then the snapshot is read and
// written to a file of its own, while records are added to the new log. Each of
// these may be in the snapshot already, up to the record "walked"; whoever
// replays can tell (package shard has how). The file gets its name when it is
// complete and synced, after "walked" is; and only then, after that is durable
// too, the older files go. A crash in between leaves the older ones in force.

const (
	checkpointFrame = 256 << 10 // bytes of payload from which on a frame is written
	checkpointSync  = 4 << 20   // bytes from which on they are synced: not all at the end, which would hold up the log
)

// Checkpoint writes a checkpoint and removes what it replaces. One is written
// at a time; a call waits for its turn. If it fails the log is as it was, but
// in a new generation. ctx ends it early.
func (l *Log) Checkpoint(ctx context.Context) error {
	if l.opts.Snapshot == nil {
		return &lock.InvalidError{Field: "Snapshot", Reason: "the log was opened without one"}
	}
	select {
	case <-l.checkpoint:
	case <-l.stopping:
		return fmt.Errorf("checkpoint of %s: %w", l.dir, lock.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("checkpoint of %s: %w", l.dir, ctx.Err())
	}
	defer func() { l.checkpoint <- struct{}{} }()
	return l.oneCheckpoint(ctx)
}

// oneCheckpoint writes a checkpoint for whoever holds the token.
func (l *Log) oneCheckpoint(ctx context.Context) error {
	stopped := func() error {
		select {
		case <-l.stopping:
			return lock.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		default:
			return l.Err()
		}
	}
	err := stopped()
	if err == nil {
		start := time.Now()
		l.since.Store(0)
		if err = l.writeCheckpoint(stopped); err == nil {
			took := time.Since(start)
			l.stats.checkpoints.Add(1)
			l.stats.checkpointTime.Store(int64(took))
			l.opts.Logger.Info("checkpoint", "dir", l.dir, "generation", l.stats.generation.Load(),
				"bytes", l.stats.checkpointBytes.Load(), "took", took)
			return nil
		}
	}
	if stopped() == nil {
		l.stats.failedCheckpoints.Add(1)
		l.opts.Logger.Warn("no checkpoint", "dir", l.dir, "error", err)
	}
	return fmt.Errorf("checkpoint of %s: %w", l.dir, err)
}

// grown starts a checkpoint when the log has become large. n is how many bytes
// came.
func (l *Log) grown(n int64) {
	since := l.since.Add(n)
	if after := l.opts.CheckpointAfter; l.opts.Snapshot == nil || after < 0 || since < max(after, l.stats.checkpointBytes.Load()) {
		return
	}
	select {
	case <-l.checkpoint:
		go func() {
			defer func() { l.checkpoint <- struct{}{} }()
			_ = l.oneCheckpoint(context.Background()) // it was logged, and comes again when the log has grown as much again
		}()
	default: // one is being written
	}
}

func (l *Log) writeCheckpoint(stopped func() error) error {
	old, err := l.rotate()
	if err != nil {
		return err
	}
	n := old.generation + 1
	y := layout{dir: l.dir}
	size, err := l.fill(y.checkpoint(n), n, stopped)
	if err != nil {
		return err
	}
	l.stats.checkpointBytes.Store(size)
	now, err := listLayout(l.dir)
	if err != nil {
		return err
	}
	if err := l.remove(now.stale(chain{base: n})); err != nil {
		return err
	}
	l.stats.bytes.Add(-old.bytes)
	l.stats.segments.Add(-old.segments)
	return nil
}

// replaced is what was there when a log went on in a new generation.
type replaced struct {
	generation      uint64
	bytes, segments int64
}

// rotate lets the log go on in a new generation. All of the old one is durable
// when the new one gets its first frame.
func (l *Log) rotate() (old replaced, err error) {
	w := l.w
	// generation is written by whoever holds the checkpoint's token, which is us.
	old.generation = w.generation
	dir := filepath.Join(l.dir, generationName(w.generation+1))
	// What an attempt that failed has left there has no frame.
	if err := os.RemoveAll(dir); err != nil {
		return old, err
	}
	if err := mkdirSynced(dir, l.syncDir); err != nil {
		return old, err
	}
	tw, err := l.engine(dir, 1)
	if err != nil {
		return old, err
	}
	l.mu.Lock()
	defer l.giveUp()
	w.commit() // rather to what goes
	if err := w.flush(); err != nil {
		_ = tw.Close() // nothing was written to it
		return old, err
	}
	closing := w.tw
	w.tw, w.dir, w.generation = tw, dir, w.generation+1
	w.next, w.part, w.tail.size = 1, 0, 0
	l.stats.generation.Store(w.generation)
	old.bytes, old.segments = l.stats.bytes.Load(), l.stats.segments.Load()
	l.stats.segments.Add(1)
	if err := closing.Close(); err != nil { // all that it has is synced
		l.opts.Logger.Warn("closing a segment", "dir", l.dir, "error", err)
	}
	return old, nil
}

// fill writes the checkpoint of a generation and gives it its name. It returns
// its size.
func (l *Log) fill(path string, generation uint64, stopped func() error) (_ int64, err error) {
	tmp := path + temporarySuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, filePerm)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()      // what it has is not wanted
			_ = os.Remove(tmp) // the next one, or the next Open, removes it too
		}
	}()
	c := newCheckpointWriter(f, generation)
	if err = c.add(KindBegin, beginBody{generation, time.Now()}); err != nil {
		return 0, err
	}
	err = l.opts.Snapshot(func(k Kind, b Body) error {
		if err := stopped(); err != nil {
			return err
		}
		return c.add(k, b)
	})
	if err != nil {
		return 0, err
	}
	// Nothing that the checkpoint has may come after this in the log.
	if err = l.Append(KindWalked, number(generation)); err != nil {
		return 0, err
	}
	if err = c.end(); err != nil {
		return 0, err
	}
	if err = stopped(); err != nil {
		return 0, err
	}
	if err = os.Rename(tmp, path); err != nil {
		return 0, err
	}
	return c.size, l.syncDir(l.dir)
}

// number is a body that is one number.
type number uint64

func (n number) AppendTo(b []byte) []byte { return binary.AppendUvarint(b, uint64(n)) }

// beginBody is the body of KindBegin: the generation, and when it was begun in
// microseconds since 1970.
type beginBody struct {
	generation uint64
	at         time.Time
}

func (c beginBody) AppendTo(b []byte) []byte {
	return binary.AppendVarint(binary.AppendUvarint(b, c.generation), c.at.UnixMicro())
}

// checkpointWriter writes the frames of a checkpoint.
type checkpointWriter struct {
	f       *os.File
	h       header
	buf     []byte
	scratch []byte
	count   uint32 // records in buf
	records uint64
	size    int64
	synced  int64
}

func newCheckpointWriter(f *os.File, generation uint64) *checkpointWriter {
	return &checkpointWriter{f: f, h: header{index: 1, generation: generation, checkpoint: true}, buf: room(nil)}
}

// add adds a record.
func (c *checkpointWriter) add(k Kind, b Body) error {
	c.scratch = b.AppendTo(c.scratch[:0])
	return c.addBytes(k, c.scratch)
}

func (c *checkpointWriter) addBytes(k Kind, body []byte) error {
	if !k.known() || !k.fits(true) {
		return fmt.Errorf("a record of kind %s cannot be written to a checkpoint", k)
	}
	c.buf = appendRecord(c.buf, k, body)
	c.count++
	c.records++
	if len(c.buf) < headerSize+checkpointFrame {
		return nil
	}
	return c.flush()
}

// flush writes the frame.
func (c *checkpointWriter) flush() error {
	if c.count == 0 {
		return nil
	}
	data := c.h.seal(c.buf, c.count)
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(len(data)))
	for _, b := range [][]byte{head[:n], data} {
		if _, err := c.f.Write(b); err != nil {
			return err
		}
		c.size += int64(len(b))
	}
	c.h.index++
	c.buf, c.count = room(data), 0
	if cap(c.buf) > keepBuffer {
		c.buf = room(nil)
	}
	if c.size-c.synced < checkpointSync {
		return nil
	}
	c.synced = c.size
	return c.f.Sync()
}

// end ends the checkpoint, syncs and closes it.
func (c *checkpointWriter) end() error {
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.add(kindEnd, number(c.records)); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.f.Sync(); err != nil {
		return err
	}
	return c.f.Close()
}

// remove removes what is no longer needed, and makes that durable.
func (l *Log) remove(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return l.syncDir(l.dir)
}
