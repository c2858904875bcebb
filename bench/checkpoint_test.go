package bench

import (
	"fmt"
	"math/bits"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

// histogram counts durations in buckets that are narrower than 1/32 of what is
// in them.
type histogram [64 << subBits]uint64

const subBits = 5

func bucket(d time.Duration) int {
	n := uint64(max(d, 0))
	shift := max(bits.Len64(n)-subBits-1, 0)
	return shift<<subBits + int(n>>shift)
}

// least is the least duration in bucket i.
func least(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration(i-shift<<subBits) << shift
}

func (h *histogram) add(d time.Duration) { h[bucket(d)]++ }

func (h *histogram) merge(other *histogram) {
	for i, n := range other {
		h[i] += n
	}
}

func (h *histogram) count() (n uint64) {
	for _, k := range h {
		n += k
	}
	return n
}

// quantile is what a share q of the durations stays below, in microseconds, and
// for 1 the longest one; about.
func (h *histogram) quantile(q float64) float64 {
	last, below := 0, uint64(q*float64(h.count()))
	for i, n := range h {
		if n == 0 {
			continue
		}
		if last = i; below < n {
			break
		}
		below -= n
	}
	return float64(least(last)+least(last+1)) / 2 / 1e3
}

// The phases of W16. What reaches from one into the next belongs to the later
// number.
const (
	unseen = iota
	idle
	writing // a checkpoint
	phases
)

// The operation is one checkpoint of N locks on as many files, while two
// goroutines lock and unlock ranges of other files as fast as they can; each
// checkpoint comes after about as much time in which they do that without.
//
// x-p99 is the time that 99 % of the calls of Lock during checkpoints stay
// below relative to that without, which is p99-us-idle; x-rate is how many there
// are per second, relative likewise. Where a call takes less than a microsecond,
// one that is stalled is one of very many, and p99 says little; max-us is the
// longest one.
func BenchmarkW16CheckpointUnderLoad(b *testing.B) {
	for _, d := range []sneck.Durability{sneck.Sync, sneck.Interval, sneck.None} {
		for _, n := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%v/%s", d, count(n)), func(b *testing.B) {
				large(b, n)
				checkpoints(b, d, n)
			})
		}
	}
}

func checkpoints(b *testing.B, d sneck.Durability, n int) {
	m := open(b, sneck.Options{Dir: filepath.Join(b.TempDir(), "log"), Durability: d, CheckpointAfter: -1, Limits: wide})
	filled(b, m, n, inodes(n))

	l := load{m: m}
	l.start(b)
	defer l.end()
	var took, rest time.Duration
	// Only the checkpoints are operations; the time between them is not counted.
	for took = time.Second; b.Loop(); {
		b.StopTimer()
		time.Sleep(100 * time.Millisecond)
		l.phase.Store(idle)
		time.Sleep(took)
		rest += took
		l.phase.Store(writing)
		b.StartTimer()
		took = time.Duration(timed(1, func(int) {
			if err := m.Checkpoint(bg); err != nil {
				b.Fatal(err)
			}
		}))
		l.phase.Store(unseen)
	}
	l.end()

	var seen [phases]histogram
	for _, w := range l.workers {
		for i := range seen {
			seen[i].merge(&w[i])
		}
	}
	during, without := &seen[writing], &seen[idle]
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}} {
		b.ReportMetric(during.quantile(q.at), q.name+"-us")
		b.ReportMetric(without.quantile(q.at), q.name+"-us-idle")
	}
	b.ReportMetric(during.quantile(0.99)/without.quantile(0.99), "x-p99")
	b.ReportMetric(float64(during.count())/b.Elapsed().Seconds()/(float64(without.count())/rest.Seconds()), "x-rate")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "checkpoint-s")
}

// load is two goroutines that lock and unlock, and what Lock took them in each
// phase.
type load struct {
	m       *sneck.Manager
	phase   atomic.Int32
	stop    atomic.Bool
	all     sync.WaitGroup
	workers [2]*[phases]histogram
}

func (l *load) start(b *testing.B) {
	for g := range l.workers {
		seen := new([phases]histogram)
		l.workers[g] = seen
		var rs [1000]lock.Request
		for i := range rs {
			key := lock.FileKey(fmt.Sprintf("device 2, inode %d", g*len(rs)+i))
			rs[i] = lock.Request{File: key, Owner: owner(lock.POSIX, g), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
		}
		l.all.Go(func() {
			for i := 0; !l.stop.Load(); i++ {
				r := &rs[i%len(rs)]
				before, start := l.phase.Load(), time.Now()
				if _, err := l.m.Lock(bg, *r); err != nil {
					b.Error(err)
					return
				}
				seen[max(before, l.phase.Load())].add(time.Since(start))
				if err := l.m.Unlock(bg, r.File, r.Owner, r.Range); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
}

func (l *load) end() {
	l.stop.Store(true)
	l.all.Wait()
}
