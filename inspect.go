package sneck

import (
	"errors"
	"iter"

	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

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
	const tries = 100 // a checkpoint may replace the log while it is read
	for try := 1; ; try++ {
		s := &Snapshot{table: shard.New(0)}
		last := replay{table: s.table}
		var err error
		if s.Log, err = wal.Read(dir, last.record); err == nil {
			s.Epoch = last.lastEpoch()
			return s, nil
		}
		if !errors.Is(err, wal.ErrChanged) || try == tries {
			return nil, err
		}
	}
}

// Locks yields the locks that the log holds.
func (s *Snapshot) Locks(q lock.Filter) iter.Seq[lock.Held] { return s.table.Locks(q) }
