package sneck_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"sneck"
	"sneck/internal/crashfs"
	"sneck/lock"
)

var images = flag.Int("images", 2, "how many random disks TestRestartCrashed makes of each moment")

// play is a run of a script on a file system that keeps account: what the disk
// may hold if the machine stops is asked for later, for every moment.
type play struct {
	t      *testing.T
	fs     *crashfs.FS
	o      sneck.Options
	tables [][]fact // after each call, the first before any
	lives  int
	waits  bool       // somebody stands in line
	told   chan error // how that ended
	closed bool       // Close was called and failed
}

// moment is what the outside knows at some time.
type moment struct {
	begun, acked int    // calls
	epoch        uint64 // of the last Open that returned
}

const playWaits = lock.FileKey("file with a waiter")

func newPlay(t *testing.T, o sneck.Options) *play {
	t.Helper()
	if err := crashfs.Available(); err != nil {
		t.Skip(err)
	}
	mnt := t.TempDir()
	fs, err := crashfs.Mount(mnt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A log that halted leaves its file to the garbage collector.
		if err := fs.Unmount(); err != nil && !errors.Is(err, syscall.EBUSY) {
			t.Error(err)
		}
	})
	o.Dir = filepath.Join(mnt, "log")
	return &play{t: t, fs: fs, o: o, tables: [][]fact{nil}, told: make(chan error, 1)}
}

// open opens the Manager on the file system.
func (p *play) open() (*sneck.Manager, error) {
	m, err := sneck.Open(p.o)
	if err == nil {
		p.fs.Mark(moment{begun: len(p.tables) - 1, acked: len(p.tables) - 1, epoch: m.Epoch()})
	}
	return m, err
}

// call makes the next call, which c makes on the Manager and on one in memory.
func (p *play) call(m, mem *sneck.Manager, c func(*sneck.Manager) error) error {
	n := len(p.tables)
	if err := c(mem); err != nil {
		p.t.Fatal(err)
	}
	p.tables = append(p.tables, everything(mem))
	p.fs.Mark(moment{begun: n, acked: n - 1, epoch: m.Epoch()})
	err := c(m)
	if err == nil {
		p.fs.Mark(moment{begun: n, acked: n, epoch: m.Epoch()})
	}
	return err
}

// run is the script: two lives, a checkpoint in each, and somebody who waits all
// the time. In the second all is reclaimed first, which changes nothing in what is
// held. It ends with the first error but one of a checkpoint, which is no
// reason not to go on. m is the Manager then, if there is one.
func (p *play) run(calls int) (m *sneck.Manager, err error) {
	mem := mustOpen(p.t, "")
	defer func() { _ = mem.Close() }()
	for range 2 {
		if m, err = p.open(); err != nil {
			return nil, err
		}
		p.lives++
		if p.lives > 1 {
			mustEqual(p.t, "what is there in the second life", everything(m), p.tables[len(p.tables)-1])
			graceIs(p.t, m, true, mem.Stats().Locks+mem.Stats().Shares)
		}
		if err := reclaimAll(m); err != nil {
			return m, err
		}
		held := ask(posix("holder"), x, span(0, 9))
		held.File = playWaits
		if err := p.call(m, mem, func(m *sneck.Manager) error { _, err := m.TryLock(bg, held); return err }); err != nil {
			return m, err
		}
		waits := ask(ofd("waiter"), x, span(5, 5))
		waits.File = playWaits
		if _, err := m.Enqueue(waits, func(_ lock.Held, err error) { p.told <- err }); err != nil {
			return m, err
		}
		p.waits = true
		for i := range calls {
			n := len(p.tables)
			if err := p.call(m, mem, func(m *sneck.Manager) error { return scripted(m, n) }); err != nil {
				return m, err
			}
			if i == calls/2 {
				_ = m.Checkpoint(bg)
			}
		}
		if err := m.Close(); err != nil {
			p.closed = true
			return m, err
		}
		if err := <-p.told; !errors.Is(err, lock.ErrClosed) {
			p.t.Fatalf("the waiter was told %v", err)
		}
		p.waits = false
	}
	return m, nil
}

// last is what was known after the first n entries of the history.
func last(history []crashfs.Op) (at moment) {
	for _, op := range slices.Backward(history) {
		if m, ok := op.Mark.(moment); ok {
			return m
		}
	}
	return moment{}
}

// check opens what the disk may hold. What is held must be what was held after
// the last call that was acknowledged, or after one begun since; atLeast is 0
// where what was acknowledged need not be there.
func (p *play) check(what string, im *crashfs.Image, at moment, lossy bool) {
	t := p.t
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := im.WriteTo(dir); err != nil {
		t.Fatal(err)
	}
	o := p.o
	o.Dir = filepath.Join(dir, "log")
	m, err := sneck.Open(o)
	if err != nil {
		t.Fatalf("%s: %v\non the disk: %s", what, err, im)
	}
	from := at.acked
	if lossy {
		from = 0
	}
	held := table(m, lock.Filter{})
	got, n := everything(m), len(held)+len(shares(m))
	ok := false
	for _, want := range p.tables[from : at.begun+1] {
		ok = ok || slices.Equal(got, want)
	}
	if !ok {
		t.Fatalf("%s: %d calls were acknowledged and %d begun; the table has\n\t%v\nwant\n\t%v\non the disk: %s", what, at.acked, at.begun, got, p.tables[from:at.begun+1], im)
	}
	if m.Epoch() <= at.epoch {
		t.Fatalf("%s: epoch %d after %d", what, m.Epoch(), at.epoch)
	}
	mustEqual(t, what, held, marked(held, true))
	graceIs(t, m, n > 0, n)
	later := mustTry(t, m, posix("later"), x, span(0, 9))
	for _, h := range held {
		if h.ID == later.ID {
			t.Fatalf("%s: id %d is given out again", what, h.ID)
		}
	}
	// Half of it is reclaimed: all of that, and nothing else, is confirmed now.
	ids := map[lock.ID]bool{later.ID: true}
	for _, h := range held {
		ids[h.ID] = true
	}
	for i, h := range held {
		if i%2 == 0 {
			continue
		}
		got, err := m.TryLock(bg, lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true})
		if err != nil || factOf(got) != factOf(h) || got.Unconfirmed || ids[got.ID] {
			t.Fatalf("%s: reclaimed as %+v, %v: %+v", what, got, err, h)
		}
	}
	graceIs(t, m, n > 0, n-len(held)/2)
	want := table(m, lock.Filter{})
	mustEqual(t, what, everything(m), slices.SortedFunc(slices.Values(append(got, factOf(later))), compareFacts))
	epoch := m.Epoch()
	mustClose(t, m)
	if m, err = sneck.Open(o); err != nil {
		t.Fatalf("%s, and opened again: %v", what, err)
	}
	if m.Epoch() <= epoch {
		t.Fatalf("%s: epoch %d after %d", what, m.Epoch(), epoch)
	}
	mustEqual(t, what, table(m, lock.Filter{}), marked(want, true))
	mustEqual(t, what, everything(m), slices.SortedFunc(slices.Values(append(got, factOf(later))), compareFacts))
	mustClose(t, m)
}

// The machine stops at every operation of a file system: whatever of what was
// not synced is then on the disk, whole, torn, or out of order, or not, what was
// acknowledged is there, and what was never asked for is not.
func TestRestartCrashed(t *testing.T) {
	r := newRand(t)
	for _, d := range []sneck.Durability{sneck.Sync, sneck.Interval, sneck.None} {
		t.Run(d.String(), func(t *testing.T) {
			p := newPlay(t, sneck.Options{Durability: d, SegmentSize: 400, CheckpointAfter: -1})
			if _, err := p.run(20); err != nil {
				t.Fatal(err)
			}
			history := p.fs.History()
			operations, disks := 0, 0
			for n := range len(history) + 1 {
				if n > 0 && history[n-1].Kind == crashfs.Marked {
					continue // the same disk as before
				}
				operations++
				next := n // what was known before the next operation
				for next < len(history) && history[next].Kind == crashfs.Marked {
					next++
				}
				at := last(history[:next])
				kinds := []crashfs.Policy{crashfs.Lost, crashfs.Kept}
				for range *images {
					kinds = append(kinds, crashfs.Random)
				}
				for _, policy := range kinds {
					seed := r.Uint64()
					im := p.fs.Image(n, policy, rand.New(rand.NewPCG(seed, 0)))
					p.check(fmt.Sprintf("%s after operation %d of %d (%s), seed %d", policy, n, len(history), describe(history, n), seed), im, at, d != sneck.Sync)
					disks++
				}
			}
			t.Logf("%d operations, %d disks, %d calls", operations, disks, len(p.tables)-1)
		})
	}
}

func describe(history []crashfs.Op, n int) string {
	if n == 0 {
		return "none"
	}
	return history[n-1].String()
}

// Every operation of the file system fails in turn, for lack of space or for
// good. Then every call is refused with ErrHalted, and so is whoever waits;
// looking still works; and a restart finds what was acknowledged.
func TestRestartFaults(t *testing.T) {
	r := newRand(t)
	clean := newPlay(t, sneck.Options{SegmentSize: 400, CheckpointAfter: -1})
	if _, err := clean.run(8); err != nil {
		t.Fatal(err)
	}
	operations := 0
	for _, op := range clean.fs.History() {
		if op.Kind != crashfs.Marked {
			operations++
		}
	}
	halted, refused, survived := 0, 0, 0
	for i := range operations {
		fault := crashfs.Fault{After: i, Errno: syscall.EIO, Sticky: i%3 != 0}
		if i%2 == 1 {
			fault.Errno, fault.ShortWrite = syscall.ENOSPC, true
		}
		t.Run(fmt.Sprintf("%d/%v/sticky=%v", i, fault.Errno, fault.Sticky), func(t *testing.T) {
			p := newPlay(t, sneck.Options{SegmentSize: 400, CheckpointAfter: -1})
			p.fs.Inject(fault)
			m, err := p.run(8)
			switch {
			case err == nil: // a checkpoint, or its removal of what it replaced
				survived++
			case m == nil: // Open
				if !errors.Is(err, fault.Errno) {
					t.Errorf("Open: %v", err)
				}
				refused++
			default:
				halted++
				mustBe(t, err, lock.ErrHalted)
				if !errors.Is(err, fault.Errno) {
					t.Errorf("%v does not say why", err)
				}
				if p.closed {
					mustBe(t, <-p.told, lock.ErrClosed)
					break
				}
				if p.waits {
					mustBe(t, <-p.told, lock.ErrHalted)
				}
				p.mustBeHalted(m)
			}
			p.fs.Clear()
			h := p.fs.History()
			at := last(h)
			for _, policy := range []crashfs.Policy{crashfs.Lost, crashfs.Kept, crashfs.Random, crashfs.Random} {
				seed := r.Uint64()
				p.check(fmt.Sprint(policy, " seed ", seed), p.fs.Image(len(h), policy, rand.New(rand.NewPCG(seed, 0))), at, false)
			}
		})
	}
	t.Logf("%d operations failed in turn: %d halted the log, %d made Open fail, %d only a checkpoint", operations, halted, refused, survived)
}

// mustBeHalted fails unless every change is refused, and looking works.
func (p *play) mustBeHalted(m *sneck.Manager) {
	t := p.t
	t.Helper()
	before := table(m, lock.Filter{})
	w := ask(posix("z"), s, span(500, 501))
	_, err := m.TryLock(bg, w)
	mustBe(t, err, lock.ErrHalted)
	_, err = m.Lock(bg, w)
	mustBe(t, err, lock.ErrHalted)
	mustBe(t, m.Unlock(bg, playWaits, posix("holder"), span(0, 9)), lock.ErrHalted)
	_, err = m.ReleaseClient(bg, posix("holder").Client)
	mustBe(t, err, lock.ErrHalted)
	mustBe(t, m.Checkpoint(context.Background()), lock.ErrHalted)
	mustEqual(t, "the table", table(m, lock.Filter{}), before)
	r := ask(posix("z"), s, span(3, 3))
	r.File = playWaits
	if h, found := m.Test(r); len(before) > 0 && (!found || !h.Owner.Same(posix("holder"))) {
		t.Errorf("Test: %+v, %v", h, found)
	}
	mustBe(t, m.Close(), lock.ErrHalted)
}
