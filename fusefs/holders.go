package fusefs

import (
	"errors"
	"sync"
)

// holders remembers, for one lock space of one inode (fcntl or flock), which
// owners have locked through which open files.
//
// Why: when an open file goes, its OFD locks must go, but RELEASE names no
// owner for them, and the kernel does not mark OFD requests either. So every
// lock request is noted under its open file (the handle) and its owner:
//
//   - FLUSH by owner P, sent at each close by a process, takes P out of every
//     handle of the inode: P's locks on it are gone.
//   - RELEASE of handle h leaves, of what was noted under h, only owners that
//     never flush: open files. Their locks are dropped.
//   - Except: RELEASE is asynchronous. By the time it is read, the kernel may
//     have given the same struct file address, hence the same owner value, to
//     another open file that has locked already. So an owner that is also noted
//     under another handle keeps what it has until the last such handle goes.
//     It may then hold bytes of its predecessor for longer, never fewer than
//     its own.
//
// A request is noted before it reaches the lock manager and, while it is under
// way, is not taken out by a RELEASE: whoever of the two comes last drops. An
// owner whose locks are being dropped is closed to new requests until that is
// done, so that a drop cannot hit what comes after it.
//
// The zero holders is ready to use.
type holders struct {
	mu     sync.Mutex
	owners map[uint64]*holder
}

// holder is one owner in one lock space of one inode.
type holder struct {
	uses     map[*handleLocks]int // handles it locked through → requests under way there
	dropping chan struct{}        // not nil while its locks are being dropped; closed after
}

// handleLocks is what one open file contributes to a holders. The zero value
// is an open one; its holders guards it.
type handleLocks struct {
	owners   map[uint64]struct{}
	released bool
}

// errReleased says that a lock request came for an open file that is gone.
var errReleased = errors.New("open file was released")

// begin notes that owner is about to lock through h. Each begin that returns
// nil needs an end.
func (hs *holders) begin(h *handleLocks, owner uint64) error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for {
		if h.released {
			return errReleased
		}
		o := hs.owners[owner]
		if o == nil || o.dropping == nil {
			break
		}
		hs.wait(o.dropping)
	}
	hs.note(h, owner).uses[h]++
	return nil
}

// wait waits for c without the mutex.
func (hs *holders) wait(c <-chan struct{}) {
	hs.mu.Unlock()
	<-c
	hs.mu.Lock()
}

// note makes sure that owner is noted under h.
func (hs *holders) note(h *handleLocks, owner uint64) *holder {
	o := hs.owners[owner]
	if o == nil {
		o = &holder{uses: make(map[*handleLocks]int)}
		if hs.owners == nil {
			hs.owners = make(map[uint64]*holder)
		}
		hs.owners[owner] = o
	}
	if _, ok := o.uses[h]; !ok {
		o.uses[h] = 0
	}
	if h.owners == nil {
		h.owners = make(map[uint64]struct{})
	}
	h.owners[owner] = struct{}{}
	return o
}

// end ends a begin. If the handle was released meanwhile it drops the owner
// with drop, unless the owner still has a use for its locks. It reports
// whether the handle was released.
func (hs *holders) end(h *handleLocks, owner uint64, drop func(owner uint64)) (released bool) {
	hs.mu.Lock()
	o := hs.owners[owner]
	o.uses[h]--
	if !h.released {
		hs.mu.Unlock()
		return false
	}
	done := hs.leave(h, owner)
	hs.mu.Unlock()
	if done != nil {
		drop(owner)
		done()
	}
	return true
}

// flush takes owner out of every handle of the inode, because the caller is
// about to drop all its locks there. Requests of the owner that are under way
// stay noted: they may be granted after the drop.
func (hs *holders) flush(owner uint64) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	o := hs.owners[owner]
	if o == nil || o.dropping != nil {
		return
	}
	for h, underWay := range o.uses {
		if underWay == 0 {
			delete(o.uses, h)
			delete(h.owners, owner)
		}
	}
	if len(o.uses) == 0 {
		delete(hs.owners, owner)
	}
}

// release marks h as gone and drops every owner that locked through it and
// through no other handle that is still there.
func (hs *holders) release(h *handleLocks, drop func(owner uint64)) {
	hs.mu.Lock()
	h.released = true
	var owners []uint64
	var dones []func()
	for owner := range h.owners {
		if done := hs.leave(h, owner); done != nil {
			owners, dones = append(owners, owner), append(dones, done)
		}
	}
	hs.mu.Unlock()
	for i, owner := range owners {
		drop(owner)
		dones[i]()
	}
}

// leave takes owner out of the released handle h, unless a request is under
// way there. If that was the owner's last use, its locks must be dropped: the
// owner is closed to new requests until the caller calls done.
func (hs *holders) leave(h *handleLocks, owner uint64) (done func()) {
	o := hs.owners[owner]
	if o == nil || o.uses[h] > 0 {
		return nil
	}
	delete(o.uses, h)
	delete(h.owners, owner)
	if len(o.uses) > 0 {
		return nil
	}
	o.dropping = make(chan struct{})
	return func() {
		hs.mu.Lock()
		delete(hs.owners, owner)
		hs.mu.Unlock()
		close(o.dropping)
	}
}
