package fusefs

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// pruner keeps the number of nodes below what the process may have open. Each
// node takes a descriptor, and the kernel forgets nodes only when it is short
// of memory: without it, a walk through a large tree ends in EMFILE for all.
//
// When there are more than the larger half of most, it asks the kernel to
// forget the ones that were looked up longest ago, down to a quarter. Whoever
// is still in use stays.
type pruner struct {
	nodes  *nodes
	most   int
	forget func([]candidate) // asks the kernel

	running atomic.Bool
	retryAt atomic.Uint64 // nodes.clock from which another run makes sense
	runs    sync.WaitGroup
}

// candidate is a node that nobody has open.
type candidate struct {
	id uint64
	seen
}

// defaultMaxNodes leaves half of the descriptors for open files and whatever
// else the process does.
func defaultMaxNodes() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 512
	}
	return int(min(limit.Cur/2, 1<<20))
}

// grown is called after each lookup.
func (p *pruner) grown() {
	if p.nodes.len() <= p.most/2 || !p.running.CompareAndSwap(false, true) {
		return
	}
	p.nodes.mu.RLock()
	now := p.nodes.clock
	p.nodes.mu.RUnlock()
	if now < p.retryAt.Load() {
		p.running.Store(false)
		return
	}
	// On a goroutine of its own: the kernel may hold the folder's lock for the
	// very request that found us too large.
	p.runs.Go(func() {
		defer p.running.Store(false)
		p.forget(p.oldest())
		// What is in use is not forgotten; do not ask again at once.
		p.retryAt.Store(now + uint64(p.most/8))
	})
}

// oldest are the nodes to be forgotten.
func (p *pruner) oldest() []candidate {
	p.nodes.mu.RLock()
	all := make([]candidate, 0, len(p.nodes.byID))
	for id, n := range p.nodes.byID {
		if n.open == 0 && id != fuse.FUSE_ROOT_ID {
			all = append(all, candidate{id, n.seen})
		}
	}
	p.nodes.mu.RUnlock()
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.at, b.at) })
	return all[:max(0, len(all)-p.most/4)]
}

// crowded reports whether nobody should be looked up without need.
func (p *pruner) crowded() bool { return p.nodes.len() > p.most/4*3 }

// makeRoom lets a lookup wait a moment when the kernel forgets more slowly
// than it looks up. Only a moment: it may hold a lock that is needed for
// forgetting.
func (p *pruner) makeRoom() {
	for range 5 {
		if p.nodes.len() <= p.most/8*7 {
			return
		}
		p.grown()
		time.Sleep(time.Millisecond)
	}
}

// wait waits until no run is under way.
func (p *pruner) wait() { p.runs.Wait() }

// forgetter asks the kernel behind server to forget nodes.
func forgetter(server *fuse.Server) func([]candidate) {
	return func(all []candidate) {
		for some := range slices.Chunk(all, 256) {
			ids := make([]uint64, len(some))
			for i, c := range some {
				ids[i] = c.id
			}
			if server.PruneNotify(ids) != fuse.ENOSYS { // Linux 6.18
				continue
			}
			forgetNames(server, some)
		}
	}
}

// forgetNames is for kernels that can only be told that a name is no longer
// valid. Not of a folder: whoever works in it would find it deleted.
func forgetNames(server *fuse.Server, some []candidate) {
	for _, c := range some {
		if !c.folder {
			server.EntryNotify(c.parent, c.name) // if it is in use or gone, so be it
		}
	}
}
