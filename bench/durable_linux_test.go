package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
	"sneck/wal"
)

// meter is time that passed in blocks, and what was done in it.
type meter struct {
	spent time.Duration
	n     int
}

func (m *meter) run(n int, f func()) {
	start := time.Now()
	f()
	m.spent += time.Since(start)
	m.n += n
}

// per is what each took, in nanoseconds.
func (m *meter) per() float64 { return float64(m.spent) / float64(max(m.n, 1)) }

// raw is a file on the disk that the log is on, to measure what the disk takes.
type raw struct {
	f    *os.File
	data []byte
	meter
}

func newRaw(b *testing.B, dir string) *raw {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return &raw{f: f}
}

// append appends size bytes n times and syncs them each time.
func (r *raw) append(b *testing.B, n, size int) {
	if cap(r.data) < size {
		r.data = make([]byte, size)
	}
	r.run(n, func() {
		for range n {
			if _, err := r.f.Write(r.data[:size]); err != nil {
				b.Fatal(err)
			}
			if err := syscall.Fdatasync(int(r.f.Fd())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// logged is what a log has written since.
func logged(m *sneck.Manager, since wal.Stats) wal.Stats {
	s := m.Stats().Log
	s.Records -= since.Records
	s.Frames -= since.Frames
	s.Syncs -= since.Syncs
	s.Bytes -= since.Bytes
	return s
}

func ratio[N int64 | uint64](a, b N) float64 { return float64(a) / float64(max(b, 1)) }

// A block of pairs and one of raw appends take turns, since the speed of a disk
// drifts.
const (
	blockPairs   = 50
	blockAppends = 2 * blockPairs
)

// x-raw is the time of a pair relative to that of two appends of as many bytes
// to a file next to the log, each followed by fdatasync, which take raw-us each.
func BenchmarkW11LockUnlockDurable(b *testing.B) {
	dir := b.TempDir()
	m := open(b, sneck.Options{Dir: filepath.Join(dir, "log")})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	floor := newRaw(b, dir)
	before := m.Stats().Log
	for range blockPairs { // says how large a record is
		pair(b, m, &r)
	}
	s := logged(m, before)
	size := int(ratio(s.Bytes, int64(s.Records)))
	before = m.Stats().Log
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%blockPairs == 0 {
			b.StopTimer()
			floor.append(b, blockAppends, size)
			b.StartTimer()
		}
		pair(b, m, &r)
	}
	s = logged(m, before)
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/(2*floor.per()), "x-raw")
	b.ReportMetric(floor.per()/1e3, "raw-us")
	b.ReportMetric(ratio(s.Bytes, int64(s.Records)), "B/record")
	b.ReportMetric(ratio(s.Records, s.Frames), "records/frame")
	b.ReportMetric(ratio(s.Records, s.Syncs), "records/sync")
}

// 256 callers, each an owner of its own, on a file of its own or on one of 16.
//
// x-W11 is how many times the records they write per second than one caller
// alone, on the same log in turn; x-raw is the time from one sync to the next
// relative to that of one append and fdatasync of as many bytes.
func BenchmarkW12LockUnlockDurableMany(b *testing.B) {
	const callers = 256
	for _, files := range []int{callers, 16} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			var rs []lock.Request
			for i := range callers {
				key := lock.FileKey(fmt.Sprintf("device 1, inode %d", i%files))
				rs = append(rs, lock.Request{File: key, Owner: owner(lock.POSIX, i), Range: heldBytes(b, i), Mode: lock.Exclusive})
			}
			alone := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
			manyCallers(b, rs, alone)
		})
	}
}

func manyCallers(b *testing.B, rs []lock.Request, alone lock.Request) {
	const block = 1 << 14
	dir := b.TempDir()
	m := open(b, sneck.Options{Dir: filepath.Join(dir, "log")})
	floor := newRaw(b, dir)
	var one meter
	var records, syncs uint64
	var size int64
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += block {
		before := m.Stats().Log
		crowd(b, m, rs, min(block, b.N-done))
		b.StopTimer()
		s := logged(m, before)
		records, syncs, size = records+s.Records, syncs+s.Syncs, size+s.Bytes
		floor.append(b, blockAppends, int(ratio(size, int64(syncs))))
		one.run(2*blockPairs, func() {
			for range blockPairs {
				pair(b, m, &alone)
			}
		})
		b.StartTimer()
	}
	b.StopTimer()
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(ratio(records, syncs), "records/sync")
	b.ReportMetric(one.per()*float64(records)/float64(b.Elapsed()), "x-W11")
	b.ReportMetric(float64(b.Elapsed())/float64(max(syncs, 1))/floor.per(), "x-raw")
	b.ReportMetric(floor.per()/1e3, "raw-us")
}

// crowd makes n pairs of rs, each by a goroutine of its own.
func crowd(b *testing.B, m *sneck.Manager, rs []lock.Request, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for i := range rs {
		all.Go(func() {
			for r := &rs[i]; left.Add(-1) >= 0; {
				if err := once(m, r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkW13LockUnlockInterval(b *testing.B) { buffered(b, sneck.Interval) }
func BenchmarkW13LockUnlockNone(b *testing.B)     { buffered(b, sneck.None) }

// One caller. W01-ns is a pair in memory, measured in turn, and over-ns what a
// pair takes beyond twice that.
func buffered(b *testing.B, d sneck.Durability) {
	const block = 1 << 16
	m := open(b, sneck.Options{Dir: filepath.Join(b.TempDir(), "log"), Durability: d})
	memory := open(b, sneck.Options{})
	r := lock.Request{File: file, Owner: me(lock.POSIX), Range: bytes(b, 100, 199), Mode: lock.Exclusive}
	before := m.Stats().Log
	var w01 meter
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += block {
		n := min(block, b.N-done)
		for range n {
			pair(b, m, &r)
		}
		b.StopTimer()
		for logged(m, before).Records < uint64(2*(done+n)) { // the log's goroutine needs a CPU
			time.Sleep(time.Millisecond)
		}
		w01.run(n, func() {
			for range n {
				pair(b, memory, &r)
			}
		})
		b.StartTimer()
	}
	b.StopTimer()
	s := logged(m, before)
	each := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(w01.per(), "W01-ns")
	b.ReportMetric(each/w01.per(), "x-W01")
	b.ReportMetric(each-2*w01.per(), "over-ns")
	b.ReportMetric(ratio(s.Records, s.Frames), "records/frame")
}
