package sneck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

// Open opens the lock manager. With a log directory it repairs the log's tail,
// replays the log, and makes the next server epoch durable before it returns;
// locks that the log holds are held by their owners as before.
//
// Only one Manager can have a directory open. Open fails, and changes nothing
// in it, when the log is damaged anywhere but at its tail.
func Open(o Options) (*Manager, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := &Manager{table: shard.New(o.Shards), epoch: 1}
	if o.Dir == "" {
		m.table.Begin(m.epoch, nil)
		return m, nil
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var last replay
	l, err := wal.Open(o.Dir, wal.Options{
		Logger: log,
		Replay: func(k wal.Kind, body []byte) error { return last.record(m.table, k, body) },
		OnHalt: m.halt,
	})
	if err != nil {
		return nil, err
	}
	m.log, m.epoch = l, last.epoch+1
	if m.epoch > shard.MaxEpoch {
		return nil, errors.Join(fmt.Errorf("log %s: it has been opened %d times, and no more ids are left", o.Dir, last.epoch), l.Close())
	}
	r := l.NewRecord(nil, wal.KindEpoch, epochBody(m.epoch))
	l.Submit(r)
	<-r.Done()
	if err := r.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting epoch %d in %s: %w", m.epoch, o.Dir, err), l.Close())
	}
	m.table.Begin(m.epoch, journal{l})
	log.Info("lock table opened", "dir", o.Dir, "epoch", m.epoch, "locks", m.table.Stats().Locks)
	return m, nil
}

// replay puts records into a table.
type replay struct{ epoch uint64 }

func (r *replay) record(t *shard.Table, k wal.Kind, body []byte) error {
	switch k {
	case wal.KindFile:
		return t.Replay(body)
	case wal.KindEpoch:
		epoch, n := binary.Uvarint(body)
		if n != len(body) || n == 0 || epoch <= r.epoch {
			return fmt.Errorf("epoch record % x after epoch %d", body, r.epoch)
		}
		r.epoch = epoch
		return nil
	}
	return fmt.Errorf("record of unknown kind %d", k)
}

// epochBody is the record of an epoch's begin.
type epochBody uint64

func (e epochBody) AppendTo(b []byte) []byte { return binary.AppendUvarint(b, uint64(e)) }

// journal lets the table, which does not know the log, write to it.
type journal struct{ log *wal.Log }

func (j journal) Record(after shard.Ticket, b shard.Body) shard.Ticket {
	prev, _ := after.(*wal.Record)
	return j.log.NewRecord(prev, wal.KindFile, b)
}

func (j journal) Submit(t shard.Ticket) { j.log.Submit(t.(*wal.Record)) }

// halt refuses everything once the log has failed.
func (m *Manager) halt(err error) { m.table.Fail(err) }

// Snapshot is what a log says is held, without opening it for use.
type Snapshot struct {
	Epoch uint64 // of the last time it was opened
	Log   wal.Summary
	table *shard.Table
}

// Inspect replays the log in dir without changing anything there: no repair, no
// new epoch, no lock file. It can be used while a Manager has it open, and sees
// the log as far as it is written then.
func Inspect(dir string) (*Snapshot, error) {
	s := &Snapshot{table: shard.New(0)}
	var last replay
	var err error
	s.Log, err = wal.Read(dir, func(k wal.Kind, body []byte) error { return last.record(s.table, k, body) })
	if err != nil {
		return nil, err
	}
	s.Epoch = last.epoch
	return s, nil
}

// Locks yields the locks that the log holds.
func (s *Snapshot) Locks(q lock.Filter) iter.Seq[lock.Held] { return s.table.Locks(q) }
