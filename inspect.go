package sneck

import (
	"errors"
	"iter"
	"time"

	"sneck/conn"
	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

// Snapshot is what a log says is held, without opening it for use.
type Snapshot struct {
	Epoch uint64 // of the last time it was opened
	Log   wal.Summary

	table   *shard.Table
	clients *conn.Table
}

// Inspect replays the log in dir without changing anything there: no repair, no
// new epoch, no lock file. It can be used while a Manager has it open, and sees
// the log as far as it is written then.
func Inspect(dir string) (*Snapshot, error) { return InspectProgress(dir, nil) }

// InspectProgress is Inspect that tells how far it has come.
func InspectProgress(dir string, p Progress) (s *Snapshot, err error) {
	err = unchanged(func() error {
		last := &replay{table: shard.New(0), clients: conn.New(nil)}
		sum, err := wal.Read(dir, p.over(dir, last.record))
		if err == nil {
			s = snapshotOf(last)
			s.Log = sum
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// snapshotOf is what has been replayed, to the end.
func snapshotOf(r *replay) *Snapshot {
	r.clients.Begin(time.Now(), 0)
	return &Snapshot{Epoch: r.lastEpoch(), table: r.table, clients: r.clients}
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

// Known counts the share reservations that the log holds, and the clients whose
// sessions are not over.
func (s *Snapshot) Known() (shares, clients int) {
	_, clients = s.clients.Count()
	return s.table.Stats().Shares, clients
}

// Locks yields the locks that the log holds. None of them is Unconfirmed: that is
// for whoever opens the log to say.
func (s *Snapshot) Locks(q lock.Filter) iter.Seq[lock.Held] { return s.table.Locks(q) }

// Shares yields the share reservations that the log holds.
func (s *Snapshot) Shares(q lock.Filter) iter.Seq[lock.Share] { return s.table.Shares(q) }

// Clients yields the clients whose sessions the log says are not over, by ID, with
// the TTL that they came with. When they were seen it does not say.
func (s *Snapshot) Clients() iter.Seq[lock.Client] { return s.clients.Clients("") }
