package sneck_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"sneck"
	"sneck/lock"
)

// diskUse is how many bytes the files below dir have.
func diskUse(t *testing.T, dir string) (size int64) {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var fi fs.FileInfo
			if fi, err = d.Info(); err == nil {
				size += fi.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // a checkpoint has just removed it
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return size
}

// Memory and disk do not grow with history: with 5 million pairs of lock and
// unlock, which are a gigabyte of records, the log stays about as large as what
// is held and what it may grow by until a checkpoint.
func TestDiskUseIsBounded(t *testing.T) {
	const held, budget = 10_000, 16 << 20
	pairs := 5_000_000
	if raced || testing.Short() {
		pairs = 200_000 // .ci/run has all of them once, without the race detector
	}
	dir := t.TempDir()
	m, err := sneck.Open(sneck.Options{Dir: dir, Durability: sneck.None, CheckpointAfter: budget, SegmentSize: 1 << 20, Limits: sneck.Limits{LocksPerFile: -1}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(held) {
		mustTry(t, m, posix(fmt.Sprint("holder ", i%10)), x, span(2*i, 2*i))
	}
	if err := m.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	live := diskUse(t, dir)

	var left, most atomic.Int64
	left.Store(int64(pairs))
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			r := ask(posix(fmt.Sprint("worker ", w)), x, span(0, 99))
			r.File = lock.FileKey(fmt.Sprint("file ", w))
			for n := left.Add(-1); n >= 0; n = left.Add(-1) {
				if _, err := m.TryLock(bg, r); err != nil {
					t.Error(err)
					return
				}
				if err := m.Unlock(bg, r.File, r.Owner, r.Range); err != nil {
					t.Error(err)
					return
				}
				if n%10_000 == 0 {
					if size := diskUse(t, dir); size > most.Load() {
						most.Store(size)
					}
				}
			}
		})
	}
	wg.Wait()
	st := m.Stats()
	t.Logf("%d records, %d checkpoints; on disk %d bytes when nothing had been done, %d at most, %d now", st.Log.Records, st.Log.Checkpoints, live, most.Load(), diskUse(t, dir))
	// Twice what is held, while a checkpoint is written; and the log, which goes
	// on growing for as long as that takes.
	if bound := 2*live + 4*budget; most.Load() > bound {
		t.Errorf("%d bytes on disk, more than %d", most.Load(), bound)
	}
	if err := m.Checkpoint(bg); err != nil {
		t.Fatal(err)
	}
	if size := diskUse(t, dir); size > live+4096 {
		t.Errorf("after a checkpoint %d bytes on disk, %d before it all", size, live)
	}
	before := table(m, lock.Filter{})
	mustClose(t, m)
	m = open(t, dir) // which has a limit of fewer locks
	mustEqual(t, "the table", table(m, lock.Filter{}), marked(before, true))
	graceIs(t, m, true, held)
	mustClose(t, m)
}
