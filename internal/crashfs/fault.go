package crashfs

import (
	"slices"
	"syscall"
)

// Fault is how operations fail. It counts only operations that would succeed
// without it.
type Fault struct {
	After  int           // how many operations of these kinds still succeed
	Errno  syscall.Errno // what the next one fails with; 0 is EIO
	Kinds  []Kind        // nil is all but Marked
	Sticky bool          // all later ones fail too, until Clear
	// ShortWrite lets half of the first Write that would fail through. write(2)
	// then returns what it wrote without an error, as it does when a disk gets
	// full, and the next operation that the fault concerns fails: the next Write
	// if the fault is not sticky.
	ShortWrite bool
}

// Inject makes operations fail from now on. It replaces an earlier fault.
func (f *FS) Inject(t Fault) {
	if t.Errno == 0 {
		t.Errno = syscall.EIO
	}
	t.Kinds = slices.Clone(t.Kinds)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = &t
}

// Clear ends the fault that was injected, if any: operations succeed again.
func (f *FS) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
}

func (t *Fault) concerns(k Kind) bool { return t.Kinds == nil || slices.Contains(t.Kinds, k) }

// attempt puts an operation into the history that is possible and now takes
// effect, unless the result says that it fails.
func (f *FS) attempt(e entry) syscall.Errno {
	if t := f.fault; t != nil && t.concerns(e.Kind) {
		if t.After > 0 {
			t.After--
		} else {
			e.Err = t.Errno
			if !t.Sticky {
				f.fault = nil
			}
		}
	}
	f.history = append(f.history, e)
	return e.Err
}

// cutShort reports whether the next Write is to write half of its data. The
// rest of it is what the fault strikes then.
func (f *FS) cutShort() bool {
	t := f.fault
	if t == nil || !t.ShortWrite || t.After > 0 || !t.concerns(Write) {
		return false
	}
	t.ShortWrite = false
	if !t.Sticky {
		t.Kinds = []Kind{Write}
	}
	return true
}
