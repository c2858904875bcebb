package crashfs

import (
	"math/rand/v2"
	"path"
	"slices"
)

// sector is what a disk writes as a whole.
const sector = 512

// synced says of each entry of the history whether it is on disk for certain,
// because a sync came after it.
func synced(history []entry) []bool {
	done := make([]bool, len(history))
	dirty := make(map[uint64][]int) // by inode: positions in the history
	for i, e := range history {
		switch {
		case e.Kind == Marked:
		case e.Kind != Sync && e.Kind != SyncDir:
			if e.Err == 0 {
				dirty[e.inode] = append(dirty[e.inode], i)
			}
		case e.Err == 0:
			for _, j := range dirty[e.inode] {
				done[j] = true
			}
			delete(dirty, e.inode)
		default: // data counts as clean now; metadata does not
			dirty[e.inode] = slices.DeleteFunc(dirty[e.inode], func(j int) bool { return history[j].Kind == Write })
		}
	}
	return done
}

// entriesThere says of each change of a directory entry whether it is on disk.
// A volatile rename is, if a later change that is has taken the old name: else
// the file would be left without a name. So they are decided on from the last
// to the first.
func entriesThere(history []entry, synced []bool, f *fate) []bool {
	type place struct {
		dir  uint64
		name string
	}
	there := make([]bool, len(history))
	taken := make(map[place]bool) // by a later change
	for i, e := range slices.Backward(history) {
		if e.Err != 0 {
			continue
		}
		switch e.Kind {
		case Create, Mkdir:
			there[i] = synced[i] || f.keeps()
			if there[i] {
				taken[place{e.inode, path.Base(e.Path)}] = true
			}
		case Rename:
			there[i] = synced[i] || taken[place{e.inode, path.Base(e.Path)}] || f.keeps()
			if there[i] {
				taken[place{e.inode, path.Base(e.To)}] = true
			}
		case Unlink, Rmdir:
			there[i] = synced[i] || f.keeps()
		}
	}
	return there
}

// fate decides on what is volatile.
type fate struct {
	policy Policy
	rand   *rand.Rand
	keep   float64 // how likely something is there under Random
}

func newFate(p Policy, r *rand.Rand) *fate {
	f := &fate{policy: p, rand: r}
	if p == Random {
		f.keep = r.Float64()
	}
	return f
}

// keeps decides on something that is either there or not.
func (f *fate) keeps() bool {
	return f.policy == Kept || f.policy == Random && f.rand.Float64() < f.keep
}

func (f *fate) coin() bool { return f.rand.IntN(2) == 0 }

// write does what is left of a volatile write.
func (f *fate) write(c *content, offset int, data []byte) {
	if f.keeps() {
		c.write(offset, data)
		return
	}
	if f.policy != Random {
		return
	}
	switch f.rand.IntN(3) {
	case 0: // gone
	case 1:
		c.write(offset, data[:f.rand.IntN(len(data))])
	case 2:
		for at, rest := offset, data; len(rest) > 0; {
			size := min(sector-at%sector, len(rest))
			if f.coin() {
				c.write(at, rest[:size])
			}
			at, rest = at+size, rest[size:]
		}
	}
	if f.coin() {
		c.grow(offset + len(data))
	}
}
