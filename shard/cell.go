package shard

import (
	"fmt"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/puzpuzpuz/xsync/v3"

	"sneck/interval"
	"sneck/lock"
)

// fileRef is a file's key with its hash, which is computed once per call.
type fileRef struct {
	hash uint64
	key  lock.FileKey
}

func refOf(f lock.FileKey) fileRef { return fileRef{hash: xxhash.Sum64String(string(f)), key: f} }

// cell holds the current state of one file. A cell that has become empty stays
// for a while, since files that were locked are likely to be locked again;
// then it is marked dead, by a swap, and removed. Whoever meets a dead cell
// removes it too and looks the file up again.
type cell struct {
	state   atomic.Pointer[state]
	ref     fileRef
	link    atomic.Pointer[link] // the one made last: most files have one client
	slow    atomic.Int64         // how many turns others let a long transition go first; see yield
	next    *cell                // in the list of idle cells
	queued  atomic.Bool          // in that list
	touched atomic.Bool          // emptied since the sweep last looked
}

var (
	// empty is the state of a file on which nothing happens, when there is no
	// log that would need its version.
	empty = new(state)
	// dead is the state of a cell that is no longer in use. It is the last.
	dead = new(state)
)

// shard is a part of the table. Its counters have their cache lines to
// themselves, so that shards do not slow each other down.
type shard struct {
	cells  *xsync.MapOf[fileRef, *cell]
	clock  atomic.Uint64 // no version of a removed cell is higher
	_      [48]byte
	held   atomic.Uint64 // ranges held << filesBits + cells that are not empty
	ids    atomic.Uint64
	idle   atomic.Pointer[cell] // cells that were seen empty, a stack
	credit atomic.Int64         // of the limit on all locks: what this shard may use
	shares atomic.Int64         // share reservations
	_      [24]byte
}

// filesBits: one counter for two numbers is one atomic addition per change.
const filesBits = 30

// count notes that a file's state went from s to next.
func (sh *shard) count(s, next *state) {
	if n := len(next.shares()) - len(s.shares()); n != 0 {
		sh.shares.Add(int64(n))
	}
	d := uint64(next.locks()-s.locks()) << filesBits
	switch was, is := s.empty(), next.empty(); {
	case was && !is:
		d++
	case !was && is:
		d--
	}
	if d != 0 {
		sh.held.Add(d)
	}
}

// counts are the ranges held and the cells that are not empty. Changes are
// counted after they were published, in any order, so that either may be below
// 0 for a moment.
func (sh *shard) counts() (locks, files int) {
	n := int64(sh.held.Load())
	files = int(n << (64 - filesBits) >> (64 - filesBits))
	return int((n - int64(files)) >> filesBits), files
}

func newCells() *xsync.MapOf[fileRef, *cell] {
	return xsync.NewMapOfWithHasher[fileRef, *cell](func(r fileRef, seed uint64) uint64 { return r.hash ^ seed })
}

func (t *Table) shard(r fileRef) *shard { return &t.shards[r.hash>>t.shift] }

// find is the file's cell, or nil if nothing is known of the file.
func (t *Table) find(r fileRef) *cell {
	c, _ := t.shard(r).cells.Load(r)
	return c
}

// look is the file's current state. It is never nil and never dead.
func (t *Table) look(r fileRef) *state {
	if c := t.find(r); c != nil {
		if s := c.state.Load(); s != dead {
			return s
		}
	}
	return empty
}

// cell is the file's cell; it is made if there is none.
func (t *Table) cell(r fileRef) *cell {
	sh := t.shard(r)
	if c, ok := sh.cells.Load(r); ok {
		return c
	}
	c, _ := sh.cells.LoadOrCompute(r, func() *cell {
		c := &cell{ref: r}
		if t.journal == nil {
			c.state.Store(empty)
		} else {
			// Read here, where the map knows that there is no cell: the clock was
			// raised before the last one was marked dead, and so before it went.
			c.state.Store(&state{version: sh.clock.Load()})
		}
		return c
	})
	return c
}

// bury removes a dead cell from the map.
func (sh *shard) bury(c *cell) {
	sh.cells.Compute(c.ref, func(now *cell, _ bool) (*cell, bool) { return now, now == c || now == nil })
}

// block is how many ids a shard takes at a time, so that the counter that all
// share is seldom touched.
const block = 1 << 12

// MaxEpoch is the last server epoch whose ids can be told from all others'.
const MaxEpoch = 1<<(64-interval.EpochShift) - 1

// errIDs is why a table stops when it has given out all ids of an epoch, after
// some 10^13 requests.
var errIDs = fmt.Errorf("%w: the ids of this epoch are used up; open the log again", lock.ErrHalted)

// newIDs gives out two ids: id and id+1. Their upper bits are the server epoch,
// so that an id is never given out again after a restart.
func (t *Table) newIDs(sh *shard) lock.ID {
	for {
		n := sh.ids.Load()
		at := n
		if n%block == 0 { // used up, or never had one
			if at = t.blocks.Add(1) * block; at >= 1<<interval.EpochShift {
				t.Refuse(errIDs)
			}
		}
		if sh.ids.CompareAndSwap(n, at+2) {
			return lock.ID(t.epoch<<interval.EpochShift | at)
		}
	}
}
