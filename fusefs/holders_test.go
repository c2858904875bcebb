package fusefs

import (
	"errors"
	"slices"
	"sync"
	"testing"
)

// drops collects what a holders drops.
type drops struct {
	mu     sync.Mutex
	owners []uint64
}

func (d *drops) drop(owner uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owners = append(d.owners, owner)
}

func (d *drops) want(t *testing.T, owners ...uint64) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.owners)
	if !slices.Equal(d.owners, owners) {
		t.Fatalf("dropped %v, want %v", d.owners, owners)
	}
	d.owners = nil
}

// locked is a lock request of owner through h that came and went.
func locked(t *testing.T, hs *holders, h *handleLocks, d *drops, owner uint64) {
	t.Helper()
	if err := hs.begin(h, owner); err != nil {
		t.Fatal(err)
	}
	if hs.end(h, owner, d.drop) {
		t.Fatal("the handle is released")
	}
}

const (
	process  = 1 // an owner that flushes
	openFile = 2 // one that does not
)

// Invariant 6: RELEASE drops who has not flushed.
func TestHoldersReleaseDropsOpenFiles(t *testing.T) {
	var hs holders
	var h handleLocks
	var d drops
	locked(t, &hs, &h, &d, process)
	locked(t, &hs, &h, &d, openFile)
	hs.flush(process)
	hs.release(&h, d.drop)
	d.want(t, openFile)
	if len(hs.owners) != 0 || len(h.owners) != 0 {
		t.Errorf("remembers %v, %v", hs.owners, h.owners)
	}
}

// Invariant 5: FLUSH through one handle takes the process out of all.
func TestHoldersFlushIsOfTheInode(t *testing.T) {
	var hs holders
	var h1, h2 handleLocks
	var d drops
	locked(t, &hs, &h1, &d, process)
	locked(t, &hs, &h2, &d, process)
	hs.flush(process)
	hs.release(&h1, d.drop)
	hs.release(&h2, d.drop)
	d.want(t)
}

// Invariant 6: a late RELEASE of one handle drops nothing of an owner that has
// locked through another one since; the last such handle does.
func TestHoldersLateRelease(t *testing.T) {
	var hs holders
	var old, reused handleLocks
	var d drops
	locked(t, &hs, &old, &d, openFile)
	locked(t, &hs, &reused, &d, openFile)
	hs.release(&old, d.drop)
	d.want(t)
	hs.release(&reused, d.drop)
	d.want(t, openFile)
}

// Invariant 6: also when the request through the other handle is only under way.
func TestHoldersLateReleaseRequestUnderWay(t *testing.T) {
	var hs holders
	var old, reused handleLocks
	var d drops
	locked(t, &hs, &old, &d, openFile)
	if err := hs.begin(&reused, openFile); err != nil {
		t.Fatal(err)
	}
	hs.release(&old, d.drop)
	d.want(t)
	if hs.end(&reused, openFile, d.drop) {
		t.Fatal("the handle is released")
	}
	d.want(t)
	hs.release(&reused, d.drop)
	d.want(t, openFile)
}

// Invariant 7: the last request under way for a released handle drops.
func TestHoldersRequestOutlivesHandle(t *testing.T) {
	var hs holders
	var h handleLocks
	var d drops
	for range 2 {
		if err := hs.begin(&h, openFile); err != nil {
			t.Fatal(err)
		}
	}
	hs.release(&h, d.drop)
	d.want(t)
	if !hs.end(&h, openFile, d.drop) {
		t.Error("the handle is not released")
	}
	d.want(t)
	if !hs.end(&h, openFile, d.drop) {
		t.Error("the handle is not released")
	}
	d.want(t, openFile)
	if err := hs.begin(&h, openFile); !errors.Is(err, errReleased) {
		t.Errorf("a request for a released handle: %v", err)
	}
	if len(hs.owners) != 0 {
		t.Errorf("remembers %v", hs.owners)
	}
}

// Invariant 7: a FLUSH while a request of the same owner is under way does not
// lose sight of what may be granted after it.
func TestHoldersFlushDuringRequest(t *testing.T) {
	var hs holders
	var h handleLocks
	var d drops
	if err := hs.begin(&h, process); err != nil {
		t.Fatal(err)
	}
	hs.flush(process)
	hs.end(&h, process, d.drop)
	hs.release(&h, d.drop)
	d.want(t, process)
}

// An owner whose locks are being dropped takes no new ones until that is done:
// the drop would hit them.
func TestHoldersNoRequestDuringDrop(t *testing.T) {
	var hs holders
	var old, reused handleLocks
	var d drops
	locked(t, &hs, &old, &d, openFile)
	began := make(chan error, 1)
	dropping := false
	hs.release(&old, func(owner uint64) {
		dropping = true
		started := make(chan struct{})
		go func() {
			close(started)
			began <- hs.begin(&reused, openFile)
		}()
		<-started
		// Another owner is not held up.
		locked(t, &hs, &reused, &d, process)
		select {
		case err := <-began:
			t.Errorf("a request began during the drop: %v", err)
		default:
		}
		dropping = false
	})
	if err := <-began; err != nil {
		t.Error(err)
	}
	if dropping {
		t.Error("began during the drop")
	}
	hs.end(&reused, openFile, d.drop)
	hs.release(&reused, d.drop)
	d.want(t, process, openFile)
}

// Invariant 7: whatever the order, when all handles are gone every owner that
// locked was dropped after its last lock, and nothing is remembered.
func TestHoldersConcurrent(t *testing.T) {
	var hs holders
	const owners = 4
	var mu sync.Mutex
	held := make(map[uint64]int)
	drop := func(owner uint64) {
		mu.Lock()
		defer mu.Unlock()
		delete(held, owner)
	}
	for range 300 {
		var wg sync.WaitGroup
		handles := make([]handleLocks, 3)
		for i := range handles {
			h := &handles[i]
			for owner := range uint64(owners) {
				wg.Go(func() {
					if hs.begin(h, owner) != nil {
						return
					}
					mu.Lock()
					held[owner]++
					mu.Unlock()
					hs.end(h, owner, drop)
				})
			}
			wg.Go(func() { hs.release(h, drop) })
		}
		wg.Wait()
		if len(held) != 0 || len(hs.owners) != 0 {
			t.Fatalf("left: locks %v, owners %v", held, hs.owners)
		}
	}
}
