package sneck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"sneck/conn"
	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

// Open opens the lock manager. With a log directory it repairs the log's tail,
// replays the log, and makes the next server epoch durable before it returns;
// what the log holds is held by its owners as before, but unconfirmed: the grace
// period begins, in which they may reclaim it.
//
// Only one Manager can have a directory open. Open fails, and changes nothing
// in it, when the log is damaged anywhere but at its tail (the error is a
// [wal.DamageError], which names file and offset), when it was written by
// another version ([wal.VersionError]), and when it is in use ([wal.ErrInUse]).
func Open(o Options) (*Manager, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.GracePeriod == 0 {
		o.GracePeriod = defaultGrace
	}
	m := &Manager{table: shard.New(o.Shards), epoch: 1, clients: newClientele(o.Adapters), logger: o.Logger}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	m.table.Limit(o.Limits.complete())
	for _, a := range o.Adapters {
		m.courtesy = m.courtesy || a.Courtesy
	}
	if m.courtesy {
		m.table.OnBlocked(func(client string) { m.yield(m.clients.Lookup(client)) })
	}
	if o.Dir == "" {
		m.table.Begin(m.epoch, nil)
		return m, m.beginGrace(&o, 0)
	}
	log := m.logger
	last := replay{table: m.table, clients: m.clients.Table}
	// A large log may want a checkpoint at its first record.
	begun, gaveUp := make(chan struct{}), make(chan struct{})
	l, err := wal.Open(o.Dir, wal.Options{
		Durability:      wal.Durability(o.Durability),
		SyncInterval:    o.SyncInterval,
		SegmentSize:     o.SegmentSize,
		CheckpointAfter: o.CheckpointAfter,
		Logger:          log,
		Replay:          last.record,
		OnHalt:          m.halt,
		Snapshot: func(emit func(wal.Kind, wal.Body) error) error {
			select {
			case <-begun:
				return m.snapshot(emit)
			case <-gaveUp:
				return lock.ErrClosed
			}
		},
	})
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Manager, error) {
		close(gaveUp)
		return nil, errors.Join(err, l.Close())
	}
	m.log, m.epoch = l, last.lastEpoch()+1
	if m.epoch > shard.MaxEpoch {
		return fail(fmt.Errorf("log %s: it has been opened %d times, and no more ids are left", o.Dir, m.epoch-1))
	}
	if err := l.Append(wal.KindEpoch, epochBody(m.epoch)); err != nil {
		return fail(fmt.Errorf("starting epoch %d in %s: %w", m.epoch, o.Dir, err))
	}
	for range m.clients.Clients("") {
		m.clients.ended.any.Store(true)
		break
	}
	unconfirmed := m.table.Begin(m.epoch, journal{l})
	close(begun)
	if err := m.beginGrace(&o, unconfirmed); err != nil {
		return nil, errors.Join(fmt.Errorf("releasing what was held before epoch %d in %s: %w", m.epoch, o.Dir, err), m.Close())
	}
	m.arm()
	log.Info("lock table opened", "dir", o.Dir, "epoch", m.epoch, "locks", m.table.Stats().Locks)
	return m, nil
}

// snapshot emits the records of a checkpoint.
func (m *Manager) snapshot(emit func(wal.Kind, wal.Body) error) error {
	if err := emit(wal.KindEpoch, epochBody(m.epoch)); err != nil {
		return err
	}
	if err := m.clients.Snapshot(func(c conn.Change) error { return emit(wal.KindClient, c) }); err != nil {
		return err
	}
	return m.table.Snapshot(func(b shard.Body) error { return emit(wal.KindState, b) })
}

// replay puts the records of a log into a table.
type replay struct {
	table   *shard.Table
	clients *conn.Table
	epoch   uint64
	base    uint64 // generation of the checkpoint
	// window: the records come from the time while the checkpoint was walked.
	// A checkpoint of which a repair has cut something out leaves it open.
	window, cut bool
}

func (r *replay) record(e wal.Entry) error {
	if err := r.apply(e); err != nil {
		return fmt.Errorf("%w: %w", wal.ErrRecord, err)
	}
	return nil
}

func (r *replay) apply(e wal.Entry) error {
	switch e.Kind {
	case wal.KindFile:
		return r.table.Replay(e.Body, r.window)
	case wal.KindState:
		return r.table.Restore(e.Body)
	case wal.KindClient:
		return r.clients.Replay(e.Body)
	case wal.KindBegin:
		r.base, r.window = e.Generation, true
		return nil
	case wal.KindWalked:
		if e.Generation == r.base {
			r.window = r.cut
		}
		return nil
	case wal.KindCut:
		r.cut = true
		return nil
	case wal.KindEpoch:
		epoch, n := binary.Uvarint(e.Body)
		if n != len(e.Body) || n == 0 || epoch <= r.epoch {
			return fmt.Errorf("epoch record % x after epoch %d", e.Body, r.epoch)
		}
		r.epoch = epoch
		return nil
	}
	return fmt.Errorf("record of kind %s", e.Kind)
}

// lastEpoch is the last epoch that the log knows of. When a repair has cut out
// the record of an epoch, its locks still have it in their ids.
func (r *replay) lastEpoch() uint64 { return max(r.epoch, r.table.ReplayedEpoch()) }

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

func (j journal) Wait(t shard.Ticket) error { return j.log.Wait(t.(*wal.Record)) }

// halt refuses everything once the log has failed.
func (m *Manager) halt(err error) {
	m.table.Refuse(err)
	go m.table.Fail(err) // tells those in line
}
