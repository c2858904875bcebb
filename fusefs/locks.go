package fusefs

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"sneck/lock"
)

// lockSpace is the fcntl or the flock side of one open file.
type lockSpace struct {
	key       lock.FileKey
	semantics lock.Semantics
	holders   *holders
	noted     *handleLocks
}

// fcntlSpace is where F_SETLK and F_OFD_SETLK lock. The kernel does not tell
// the two apart; their owners differ.
func (h *handle) fcntlSpace() lockSpace {
	return lockSpace{key: h.node.key(h.fd), semantics: lock.POSIX, holders: &h.node.fcntl, noted: &h.fcntl}
}

// flockSpace is where flock(2) locks.
func (h *handle) flockSpace() lockSpace {
	return lockSpace{key: flockKey(h.node.key(h.fd)), semantics: lock.OFD, holders: &h.node.flock, noted: &h.flock}
}

func (h *handle) space(lkFlags uint32) lockSpace {
	if lkFlags&fuse.LK_FLOCK != 0 {
		return h.flockSpace()
	}
	return h.fcntlSpace()
}

// owner is the lock manager's name for a kernel lock owner (invariant 3).
func (p *passthrough) owner(id uint64, s lock.Semantics, pid uint32) lock.Owner {
	return lock.Owner{Client: p.client, ID: fmt.Sprintf("%016x", id), Semantics: s, Share: p.name, PID: pid}
}

// mode translates F_RDLCK and F_WRLCK.
func mode(typ uint32) (lock.Mode, bool) {
	switch typ {
	case unix.F_RDLCK:
		return lock.Shared, true
	case unix.F_WRLCK:
		return lock.Exclusive, true
	}
	return 0, false
}

// errno is the one table of what the lock manager's errors are to a program
// (invariant 10). EINTR is for interrupted requests alone: without a signal to
// deliver, the kernel would hand its internal restart code to the program.
func errno(err error) fuse.Status {
	for _, e := range [...]struct {
		err  error
		code unix.Errno
	}{
		{nil, 0},
		{lock.ErrConflict, unix.EAGAIN},
		{lock.ErrGrace, unix.EAGAIN},
		{lock.ErrDeadlock, unix.EDEADLK},
		{lock.ErrLimit, unix.ENOLCK},
		{context.Canceled, unix.EINTR},
		{lock.ErrRange, unix.EINVAL},
		{lock.ErrInvalid, unix.EINVAL},
		{errReleased, unix.EBADF},
	} {
		if errors.Is(err, e.err) {
			return fuse.Status(e.code)
		}
	}
	return fuse.EIO // halted, closed, and whatever no program can do anything about
}

// GetLk is F_GETLK and F_OFD_GETLK: which lock is in the way?
func (p *passthrough) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	s := h.space(in.LkFlags)
	r, err := lock.FUSERange(in.Lk.Start, in.Lk.End)
	if err != nil {
		return errno(err)
	}
	owner := p.owner(in.Owner, s.semantics, 0)
	var held lock.Held
	var found bool
	if m, ok := mode(in.Lk.Typ); ok {
		held, found = p.manager.Test(lock.Request{File: s.key, Owner: owner, Range: r, Mode: m})
	} else {
		held, found = p.own(s.key, owner, r)
	}
	out.Lk = fuse.FileLock{Typ: unix.F_UNLCK}
	if found {
		out.Lk = fileLock(held)
	}
	return fuse.OK
}

// own finds a lock of the owner itself in r: F_OFD_GETLK with F_UNLCK asks for
// that, since Linux 6.5.
func (p *passthrough) own(f lock.FileKey, o lock.Owner, r lock.Range) (lock.Held, bool) {
	for held := range p.manager.Locks(lock.Filter{File: f, Owner: &o}) {
		if held.Range.Overlaps(r) {
			return held, true
		}
	}
	return lock.Held{}, false
}

// fileLock shows a lock to the kernel, whose offsets end at 2^63-1.
func fileLock(h lock.Held) fuse.FileLock {
	typ := uint32(unix.F_RDLCK)
	if h.Mode == lock.Exclusive {
		typ = unix.F_WRLCK
	}
	return fuse.FileLock{
		Start: min(h.Range.First(), math.MaxInt64),
		End:   min(h.Range.Last(), math.MaxInt64),
		Typ:   typ,
		Pid:   h.Owner.PID,
	}
}

// SetLk is F_SETLK, F_OFD_SETLK, and flock(2) with LOCK_NB.
func (p *passthrough) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return p.setLock(nil, in)
}

// SetLkw is F_SETLKW, F_OFD_SETLKW, and flock(2) without LOCK_NB.
func (p *passthrough) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return p.setLock(cancel, in)
}

// setLock locks or unlocks. It waits iff there is a cancel to end the waiting.
func (p *passthrough) setLock(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	h, ok := p.handles.get(in.Fh)
	if !ok {
		return fuse.EBADF
	}
	s := h.space(in.LkFlags)
	r, err := lock.FUSERange(in.Lk.Start, in.Lk.End)
	if err != nil {
		return errno(err)
	}
	owner := p.owner(in.Owner, s.semantics, in.Lk.Pid)
	if in.Lk.Typ == unix.F_UNLCK {
		return errno(p.manager.Unlock(context.Background(), s.key, owner, r))
	}
	m, ok := mode(in.Lk.Typ)
	if !ok {
		return fuse.EINVAL
	}
	if err := s.holders.begin(s.noted, in.Owner); err != nil {
		return errno(err)
	}
	err = p.acquire(cancel, lock.Request{File: s.key, Owner: owner, Range: r, Mode: m}, in.LkFlags&fuse.LK_FLOCK != 0)
	if s.holders.end(s.noted, in.Owner, func(id uint64) { p.drop(s, id) }) {
		return errno(errReleased)
	}
	return errno(err)
}

// acquire gets a lock, waiting iff there is a cancel.
//
// A flock(2) conversion that has to wait gives up the old lock first, as the
// kernel's own does: of two that hold the shared lock and wait for the
// exclusive one, neither could ever be served else.
func (p *passthrough) acquire(cancel <-chan struct{}, r lock.Request, flock bool) error {
	ctx := context.Background()
	if cancel == nil {
		_, err := p.manager.TryLock(ctx, r)
		return err
	}
	if flock && p.manager.HasOwner(r.File, r.Owner) {
		_, err := p.manager.TryLock(ctx, r)
		if !errors.Is(err, lock.ErrConflict) {
			return err
		}
		if err := p.manager.Unlock(ctx, r.File, r.Owner, r.Range); err != nil {
			return err
		}
	}
	_, err := p.manager.Lock(interruptible{ctx, cancel}, r)
	return err
}

// interruptible is a context that ends when the kernel interrupts a request.
// It costs no goroutine.
type interruptible struct {
	context.Context
	cancel <-chan struct{}
}

func (c interruptible) Done() <-chan struct{} { return c.cancel }

func (c interruptible) Err() error {
	select {
	case <-c.cancel:
		return context.Canceled
	default:
		return nil
	}
}

// flushLocks drops the fcntl locks that a closing process has on the file
// (invariant 5). Most have none.
func (p *passthrough) flushLocks(h *handle, id uint64) fuse.Status {
	s := h.fcntlSpace()
	s.holders.flush(id)
	owner := p.owner(id, s.semantics, 0)
	if !p.manager.HasOwner(s.key, owner) {
		return fuse.OK
	}
	// Not ReleaseOwner: another thread of the process may be waiting for a lock
	// on this file through another descriptor, and goes on waiting.
	err := p.manager.Unlock(context.Background(), s.key, owner, lock.WholeFile())
	if err != nil {
		p.log.Error("cannot release locks at close", "file", s.key, "owner", owner, "err", err)
	}
	return errno(err)
}

// releaseLocks drops what was locked through h and has no other open file to
// stay for (invariant 6).
func (p *passthrough) releaseLocks(h *handle) {
	for _, s := range [...]lockSpace{h.fcntlSpace(), h.flockSpace()} {
		s.holders.release(s.noted, func(id uint64) { p.drop(s, id) })
	}
}

// drop drops all locks of an owner on a file. RELEASE has nobody to tell of
// an error.
func (p *passthrough) drop(s lockSpace, id uint64) {
	owner := p.owner(id, s.semantics, 0)
	if !p.manager.HasOwner(s.key, owner) {
		return
	}
	if _, err := p.manager.ReleaseOwner(context.Background(), s.key, owner); err != nil {
		p.log.Error("cannot release locks", "file", s.key, "owner", owner, "err", err)
	}
}
