package sneck

import (
	"context"
	"fmt"
	"iter"
	"log/slog"

	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

// Manager is the lock table of a server. All methods may be called from any
// number of goroutines. Methods that change something return when the change
// is as durable as Options say.
type Manager struct {
	table *shard.Table
	log   *wal.Log // nil: memory only
	epoch uint64

	clients  *clientele
	grace    reclaiming
	logger   *slog.Logger
	courtesy bool // some adapter has it
}

// Close ends the manager: everybody in line gets ErrClosed, and so does every
// later change, unless it had halted before and says so still. What is held stays in the log. Looking is still possible. Only
// the first Close does anything.
func (m *Manager) Close() error {
	m.grace.stop()
	m.clients.stop()
	m.table.Fail(lock.ErrClosed)
	if m.log == nil {
		return nil
	}
	return m.log.Close()
}

// check is why r cannot be asked for now, or nil.
func (m *Manager) check(r *lock.Request) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Reclaim {
		if err := m.ready(); err != nil {
			return err
		}
		if err := m.mayReclaim(r.Owner.Client); err != nil {
			return fmt.Errorf("%s on %s of %q: %w", r.Owner, r.Range, r.File, err)
		}
	}
	return nil
}

// TryLock locks r at once or not at all: a [lock.ConflictError] says who is in
// the way. It does not mind who stands in line for the same bytes.
//
// A POSIX or OFD owner's lock takes the place of whatever it held on these
// bytes, and merges with its neighbours of the same mode; the result is the
// whole range then held (POSIX fcntl). An SMB owner's lock is one more on its
// stack (MS-FSA 2.1.5.8).
//
// It may fail with ErrConflict, ErrRange, ErrInvalid, ErrNoGrace, ErrHalted or
// ErrClosed. ctx is not looked at: nothing is waited for but the log.
func (m *Manager) TryLock(_ context.Context, r lock.Request) (lock.Held, error) {
	if err := m.check(&r); err != nil {
		return lock.Held{}, err
	}
	for {
		h, err := m.table.TryLock(r, m.session(r.Owner.Client))
		if !m.giveWay(err) {
			return h, err
		}
	}
}

// MaxBatch is how many requests TryLockAll takes, so that a record has a bound.
const MaxBatch = 4096

// TryLockAll locks all of rs, which must be of one file, or none: a later one
// sees the earlier ones held. The results are in the order of rs; a range that a
// later one merged with or replaced is given as what then holds its first byte.
// It fails as TryLock does, with the first request that cannot be granted, whose
// holder may be an earlier request of another owner; and with ErrLimit for more
// than MaxBatch of them.
func (m *Manager) TryLockAll(_ context.Context, rs []lock.Request) ([]lock.Held, error) {
	if len(rs) > MaxBatch {
		return nil, &lock.LimitError{What: "requests in a batch", Limit: MaxBatch}
	}
	for i := range rs {
		if err := m.check(&rs[i]); err != nil {
			return nil, fmt.Errorf("request %d: %w", i, err)
		}
		if rs[i].File != rs[0].File {
			return nil, &lock.InvalidError{Field: "File", Reason: fmt.Sprintf("request %d is of %q, request 0 of %q", i, rs[i].File, rs[0].File)}
		}
	}
	if len(rs) == 0 {
		return nil, nil
	}
	for {
		hs, err := m.table.TryLockAll(rs, m.session)
		if !m.giveWay(err) {
			return hs, err
		}
	}
}

// Lock waits in line for r, behind everybody who came before and whom r would
// keep out, unless r's owner already keeps that one out. If ctx ends while it
// stands there it returns ctx's error, wrapped, and nothing remains; once the
// lock is granted ctx has no say.
//
// It may fail with ctx's error, ErrCanceled (by Cancel), ErrReleased (the
// owner, client or file was released meanwhile), ErrRange, ErrInvalid,
// ErrNoGrace, ErrHalted or ErrClosed.
func (m *Manager) Lock(ctx context.Context, r lock.Request) (lock.Held, error) {
	if r.Reclaim { // it needs not wait, and must not
		return m.TryLock(ctx, r)
	}
	if err := m.check(&r); err != nil {
		return lock.Held{}, err
	}
	return m.table.Lock(ctx, r, false, m.session(r.Owner.Client))
}

// Enqueue is Lock without a goroutine that waits. Unless it fails itself, done
// is called exactly once, on a goroutine of its own and possibly before Enqueue
// returns: with the lock when it is granted and as durable as chosen, else with
// an error as Lock has it. The id is the waiter's and then the lock's, but for a
// waiter whose owner got the lock in another way meanwhile: a grant that changes
// nothing has the id of the lock that is there.
func (m *Manager) Enqueue(r lock.Request, done func(lock.Held, error)) (lock.ID, error) {
	if done == nil {
		return 0, &lock.InvalidError{Field: "done", Reason: "it is nil"}
	}
	if r.Reclaim { // it needs not wait, and must not
		h, err := m.TryLock(context.Background(), r)
		if err != nil {
			return 0, err
		}
		go done(h, nil)
		return h.ID, nil
	}
	if err := m.check(&r); err != nil {
		return 0, err
	}
	return m.table.Enqueue(r, m.session(r.Owner.Client), done)
}

// Cancel takes a waiter out of the line: it will never be granted, and is told
// ErrCanceled. False: its outcome was already decided, or there is no such
// waiter.
func (m *Manager) Cancel(id lock.ID) bool { return m.table.Cancel(id) }

// Unlock lets go of what o holds of r on f. For POSIX and OFD owners that may
// be nothing, the middle of a range, or several ranges (fcntl, F_UNLCK). An SMB
// owner must hold a lock on exactly r, else it is ErrNotFound; of several it is
// an exclusive one, then the oldest (MS-FSA 2.1.5.9).
//
// It may fail with ErrNotFound, ErrRange, ErrInvalid, ErrHalted or ErrClosed.
func (m *Manager) Unlock(_ context.Context, f lock.FileKey, o lock.Owner, r lock.Range) error {
	if err := valid(f, o, r); err != nil {
		return err
	}
	return m.table.Unlock(f, o, r)
}

// Upgrade turns o's shared lock on r into an exclusive one, waiting in line for
// it. What o holds it keeps until then, and also if it is refused or cancelled.
// It fails with ErrNotFound unless o holds all of r, and when o unlocks some of
// it meanwhile, with ErrDeadlock if another
// owner is already waiting to upgrade bytes of r, since neither could ever be
// granted, with ErrInvalid for SMB owners, who have no conversion, and else as
// Lock does.
func (m *Manager) Upgrade(ctx context.Context, f lock.FileKey, o lock.Owner, r lock.Range) (lock.Held, error) {
	if err := valid(f, o, r); err != nil {
		return lock.Held{}, err
	}
	if o.Semantics == lock.SMB {
		return lock.Held{}, &lock.InvalidError{Field: "Owner.Semantics", Reason: "SMB locks are not converted: unlock and lock again"}
	}
	return m.table.Lock(ctx, lock.Request{File: f, Owner: o, Range: r, Mode: lock.Exclusive}, true, m.session(o.Client))
}

func valid(f lock.FileKey, o lock.Owner, r lock.Range) error {
	if err := f.Validate(); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	return r.ValidFor(o.Semantics)
}

// Test is the lock that is in r's way, if any: the first one, a copy. It
// ignores who stands in line and what r's own owner holds. It waits for nobody
// and allocates nothing. A request that is not valid has nothing in its way.
func (m *Manager) Test(r lock.Request) (lock.Held, bool) {
	if r.Validate() != nil {
		return lock.Held{}, false
	}
	return m.table.Test(r)
}

// CheckIO is what denies o to read or write r, if anything. A share reservation
// of another owner that denies such access is given as a lock on the whole file.
// SMB locks deny
// everybody: an exclusive one all I/O of others, a shared one every write, its
// holder's too. POSIX and OFD locks are advisory to POSIX and OFD owners, but
// deny SMB owners as SMB locks do (MS-FSA 2.1.4.10). It waits for nobody and
// allocates nothing.
func (m *Manager) CheckIO(f lock.FileKey, o lock.Owner, r lock.Range, write bool) (lock.Held, bool) {
	return m.table.CheckIO(f, o, r, write)
}

// HasOwner reports whether o holds any lock on f.
func (m *Manager) HasOwner(f lock.FileKey, o lock.Owner) bool { return m.table.HasOwner(f, o) }

// ReleaseOwner lets go of all that o holds on f, locks and share reservation, and takes o's waiters there
// out of the line with ErrReleased: the owner is gone. An owner that lives on
// and only drops its locks, as a POSIX process does when it closes any of its
// descriptors, wants Unlock of the whole file. It returns how many locks it
// released, and fails with ErrInvalid, ErrHalted or ErrClosed.
func (m *Manager) ReleaseOwner(_ context.Context, f lock.FileKey, o lock.Owner) (int, error) {
	if err := valid(f, o, lock.WholeFile()); err != nil {
		return 0, err
	}
	return m.table.ReleaseOwner(f, o)
}

// ReleaseClient lets go of all that any owner of the client holds on any file,
// locks and share reservations,
// and takes their waiters out of the line with ErrReleased. Requests of the client
// that are under way leave nothing behind, if it is connected; it stays so. It
// returns how many locks it released, and fails with ErrHalted or ErrClosed.
func (m *Manager) ReleaseClient(_ context.Context, client string) (int, error) {
	if s := m.clients.Lookup(client); s != nil {
		return m.renewed(s)
	}
	n, err := m.table.ReleaseClient(client)
	m.reclaimsNothing(client)
	return n, err
}

// ReleaseFile lets go of all that anybody holds on f, which has been deleted,
// locks and share reservations,
// and takes all waiters there out of the line with ErrReleased. It returns how
// many locks it released, and fails with ErrInvalid, ErrHalted or ErrClosed.
func (m *Manager) ReleaseFile(_ context.Context, f lock.FileKey) (int, error) {
	if err := f.Validate(); err != nil {
		return 0, err
	}
	return m.table.ReleaseFile(f)
}

// Revoke takes one lock or share reservation away from whoever holds it, and wakes
// whom that lets in. The reason goes to the log output. The owner is not told: its
// protocol has to, if it can. A revoked lock cannot be reclaimed after a restart.
// It fails with ErrNotFound, ErrHalted or ErrClosed.
func (m *Manager) Revoke(_ context.Context, id lock.ID, reason string) error {
	h, err := m.table.Revoke(id)
	if err != nil {
		return err
	}
	m.logger.Warn("lock revoked", "id", id, "file", h.File, "owner", h.Owner, "range", h.Range, "mode", h.Mode, "reason", reason)
	return nil
}

// Epoch is the server epoch: it grows with every Open of a log directory, and
// is 1 in memory.
func (m *Manager) Epoch() uint64 { return m.epoch }

// Locks yields the held locks that match, file by file in no order; on a file
// POSIX and OFD ranges first, each by first byte. What is yielded of one file
// was held at one moment.
func (m *Manager) Locks(q lock.Filter) iter.Seq[lock.Held] { return m.table.Locks(q) }

// Waiters yields who stands in line and matches, of each file in the order in
// which they came.
func (m *Manager) Waiters(q lock.Filter) iter.Seq[lock.Waiting] { return m.table.Waiters(q) }

// OpenShare reserves s.Access on the file for s.Owner and denies s.Deny to all
// other owners, of whatever protocol, until CloseShare. Unless an owner has
// reserved or denied otherwise: a [lock.ConflictError] with its ShareHolder says
// who. A further open of the same owner adds to what it has (RFC 8881 9.7, MS-FSA
// 2.1.5.1.2). Locks do not mind share reservations, and share reservations do
// not mind locks; CheckIO minds both.
//
// It may fail with ErrConflict, ErrInvalid, ErrNoGrace, ErrHalted or ErrClosed.
// ctx is not looked at: nothing is waited for but the log.
func (m *Manager) OpenShare(_ context.Context, s lock.Share) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if s.Reclaim {
		if err := m.ready(); err != nil {
			return err
		}
		if err := m.mayReclaim(s.Owner.Client); err != nil {
			return fmt.Errorf("share of %s on %q: %w", s.Owner, s.File, err)
		}
	}
	for {
		err := m.table.OpenShare(s, m.session(s.Owner.Client))
		if !m.giveWay(err) {
			return err
		}
	}
}

// CloseShare lets go of all that o has reserved on f, by however many opens. It
// fails with ErrNotFound if that is nothing, ErrInvalid, ErrHalted or ErrClosed.
func (m *Manager) CloseShare(_ context.Context, f lock.FileKey, o lock.Owner) error {
	if err := valid(f, o, lock.WholeFile()); err != nil {
		return err
	}
	return m.table.CloseShare(f, o)
}

// Shares yields the share reservations that match, file by file in no order, of
// each file in the order in which their owners came.
func (m *Manager) Shares(q lock.Filter) iter.Seq[lock.Share] { return m.table.Shares(q) }

// Checkpoint replaces the log by what is held now, while traffic goes on, and
// returns when the files that it replaces are gone. One happens by itself when
// the log has grown by Options.CheckpointAfter; the caller may want one before a
// planned stop, or to have disk space back. Only one is written at a time: a call
// waits for its turn.
//
// If it fails, with ctx's error, ErrHalted, ErrClosed or one of the file system,
// nothing is lost: the log is as it was. Without a log there is nothing to do.
func (m *Manager) Checkpoint(ctx context.Context) error {
	if m.log == nil {
		return nil
	}
	return m.log.Checkpoint(ctx)
}

// Stats are counts for gauges and counters. They are not taken at one moment.
type Stats struct {
	Locks    int    // ranges held
	Shares   int    // share reservations
	Files    int    // files with a lock or waiter
	Clients  int    // clients that hold or wait
	Waiters  int    // requests that stand in line
	Epoch    uint64 // see Manager.Epoch
	LogBytes int64  // size of the log on disk, with its last checkpoint

	Log wal.Stats // what else is known of the log; zero without one
}

// Stats counts what there is now.
func (m *Manager) Stats() Stats {
	t := m.table.Stats()
	s := Stats{Locks: t.Locks, Shares: t.Shares, Files: t.Files, Clients: t.Clients, Waiters: t.Waiters, Epoch: m.epoch}
	if m.log != nil {
		s.Log = m.log.Stats()
		s.LogBytes = s.Log.Bytes + s.Log.CheckpointBytes
	}
	return s
}
