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
func Inspect(dir string) (*Snapshot, error) { return InspectProgress(dir, nil) }

// InspectProgress is Inspect that tells how far it has come.
func InspectProgress(dir string, p Progress) (s *Snapshot, err error) {
	err = unchanged(func() error {
		s = &Snapshot{table: shard.New(0)}
		last := replay{table: s.table}
		s.Log, err = wal.Read(dir, p.over(dir, last.record))
		s.Epoch = last.lastEpoch()
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// unchanged calls read again while a checkpoint has replaced the log that it
// was reading.
func unchanged(read func() error) error {
	const tries = 100
	for try := 1; ; try++ {
		if err := read(); !errors.Is(err, wal.ErrChanged) || try == tries {
			return err
		}
	}
}

// Held counts the locks that the log holds, and the files that they are on.
func (s *Snapshot) Held() (locks, files int) {
	st := s.table.Stats()
	return st.Locks, st.Files
}

// Locks yields the locks that the log holds.
func (s *Snapshot) Locks(q lock.Filter) iter.Seq[lock.Held] { return s.table.Locks(q) }
