// Package sneck is a lock manager that file servers embed: one table of
// byte-range locks under every protocol that a server speaks, so that an NFS
// client, an SMB client and a local program see each other's locks.
//
// # The model
//
// A file is a [lock.FileKey], an opaque name that lasts as long as the file. An
// owner is a [lock.Owner]: a client, an id within it, and the semantics that
// its ranges follow. A range is a [lock.Range]; a constructor per protocol does
// the arithmetic. An owner holds a range in a mode, [lock.Shared] or
// [lock.Exclusive].
//
//	            lock.NFS4Range(…)                     lock.SMBRange(…)
//	NFSv4 ─────────────────────┐           ┌───────────────────── SMB
//	                           ▼           ▼
//	                ┌──────────────────────────────┐
//	                │ one table: file → held ranges │──▶ log (Dir)
//	                │            and who waits      │
//	                └──────────────────────────────┘
//	                           ▲           ▲
//	NLM ───────────────────────┘           └──────────────────── FUSE
//	            lock.NLM4Range(…)                     lock.FUSERange(…)
//
// Rules of POSIX and OFD owners: an owner never conflicts with itself; a new
// lock takes the place of what the owner held on those bytes, merges with its
// neighbours of the same mode, and a partial unlock splits. Rules of SMB
// owners: locks stack, nothing merges, and an unlock names one lock exactly.
// All conflict with all.
//
// # Waiting
//
// [Manager.TryLock] answers at once. [Manager.Lock] and [Manager.Enqueue] stand
// in line; the call that frees the bytes grants whoever is next, in the same
// step. Nobody is woken to try again.
//
// A POSIX owner that would wait for itself, through whatever files and owners, is
// told lock.ErrDeadlock, if it is the youngest of those that do.
//
// # Clients
//
// A client that [Manager.Connect] has made known loses what it holds when it has
// been silent, or disconnected, for longer than its TTL; with
// [AdapterOptions].Courtesy only when somebody wants it. Whatever way a client
// loses its locks, it is the same one that [Manager.ReleaseClient] goes, and wakes
// whoever waited. Clients that never connected hold their locks until they let go.
//
// # Restart
//
// After an [Open] that has found something held, that is unconfirmed: its owners
// have the grace period to reclaim it, lock by lock (lock.Request.Reclaim). A new
// lock that would collide with something unconfirmed is told lock.ErrGrace, with
// the holder and the time left; or it waits in line. Everything else is granted at
// once, unless [Options].StrictGrace says otherwise. What is not reclaimed when the
// grace period is over is released.
//
//	Open ──▶ grace ──┬─ everything was reclaimed or released
//	                 ├─ every client that held something said ReclaimComplete ──▶ over
//	                 ├─ GracePeriod has passed
//	                 └─ EndGrace
//
// # Durability
//
// With a log directory, a call that returned without an error has its change on
// stable storage: kill -9 at any instant, or a machine that stops, loses nothing
// that was acknowledged. [Interval] and [None] promise less and wait less.
// Checkpoints replace the log by what is held, while traffic goes on.
// After the next [Open] the locks are held by their owners as before, and the
// epoch is higher. When the log cannot be written any more, the manager halts:
// every change is refused with lock.ErrHalted, looking still works, and a new
// Open finds everything that was acknowledged.
//
// # Concurrency
//
// Every file's state is an immutable value behind one pointer. Looking loads
// it; changing computes the next state by a pure function and swaps it in. No
// mutex is held while a state is computed or published, and a caller that stops
// anywhere holds up nobody else; but whom it has just granted a lock learns of it
// from that caller, and durable calls wait for the disk.
package sneck
