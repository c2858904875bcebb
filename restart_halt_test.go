package sneck_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/lock"
)

// smallDisk is a directory on a file system of its own of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system to fill")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small file system to fill: %v", err)
	}
	t.Cleanup(func() {
		// A halted log leaves its file to the garbage collector.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the space that is left in dir, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// A failing log denies: when the disk is full, whoever asks, and whoever stands
// in line, is told ErrHalted; nothing is granted any more; looking still works;
// and when there is space again, reopening finds everything that was
// acknowledged, and nothing that was not but perhaps what was on its way.
func TestRestartHalted(t *testing.T) {
	dir := smallDisk(t)
	log := filepath.Join(dir, "log")
	m := open(t, log)
	a, w := posix("a"), smb("w")
	first := mustTry(t, m, a, x, span(0, 9))

	type result struct {
		h   lock.Held
		err error
	}
	line := make(chan result, 3)
	tell := func(h lock.Held, err error) { line <- result{h, err} }
	for _, o := range []lock.Owner{w, ofd("v")} {
		if _, err := m.Enqueue(ask(o, x, span(0, 9)), tell); err != nil {
			t.Fatal(err)
		}
	}
	go func() { tell(m.Lock(bg, ask(posix("u"), s, span(5, 5)))) }()
	mustStand(m, 3)

	free := fill(t, dir)
	acked := map[fact]bool{factOf(first): true}
	tried := make(map[fact]bool)
	var err error
	for i := range uint64(1 << 16) { // until the last page of the log is full
		o := posix(fmt.Sprint("b", i%7))
		f := fact{file, o, span(100+2*i, 100+2*i), x}
		tried[f] = true
		if _, err = m.TryLock(bg, ask(o, x, f.Range)); err != nil {
			break
		}
		acked[f] = true
	}
	mustBe(t, err, lock.ErrHalted)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v does not say why", err)
	}

	// Who stood in line.
	for range 3 {
		res := <-line
		mustBe(t, res.err, lock.ErrHalted)
		if res.h != (lock.Held{}) {
			t.Errorf("%+v", res.h)
		}
	}
	mustIdle(t, m)

	// Whoever comes.
	held := table(m, lock.Filter{})
	for name, f := range map[string]func() error{
		"TryLock":       func() error { _, err := m.TryLock(bg, ask(posix("z"), x, span(50, 59))); return err },
		"TryLockAll":    func() error { _, err := m.TryLockAll(bg, []lock.Request{ask(posix("z"), x, span(50, 59))}); return err },
		"Lock":          func() error { _, err := m.Lock(bg, ask(posix("z"), x, span(50, 59))); return err },
		"Lock in line":  func() error { _, err := m.Lock(bg, ask(posix("z"), x, span(0, 9))); return err },
		"Enqueue":       func() error { _, err := m.Enqueue(ask(posix("z"), x, span(0, 9)), tell); return err },
		"Upgrade":       func() error { _, err := m.Upgrade(bg, file, a, span(0, 9)); return err },
		"Unlock":        func() error { return m.Unlock(bg, file, a, span(0, 9)) },
		"ReleaseOwner":  func() error { _, err := m.ReleaseOwner(bg, file, a); return err },
		"ReleaseClient": func() error { _, err := m.ReleaseClient(bg, a.Client); return err },
		"ReleaseFile":   func() error { _, err := m.ReleaseFile(bg, file); return err },
	} {
		if err := f(); !errors.Is(err, lock.ErrHalted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustEqual(t, "the table", table(m, lock.Filter{}), held)

	// Looking.
	if h, found := m.Test(ask(posix("z"), s, span(3, 3))); !found || h != first {
		t.Errorf("Test: %v, %+v", found, h)
	}
	if h, found := m.CheckIO(file, smb("z"), span(3, 3), false); !found || h != first {
		t.Errorf("CheckIO: %v, %+v", found, h)
	}
	if !m.HasOwner(file, a) || m.HasOwner(file, w) {
		t.Error("HasOwner disagrees")
	}
	for f := range acked {
		if !slices.ContainsFunc(held, func(h lock.Held) bool { return factOf(h) == f }) {
			t.Errorf("%v was acknowledged and is not held", f)
		}
	}
	snap, err := sneck.Inspect(log)
	if err != nil {
		t.Fatal(err)
	}
	epoch := m.Epoch()
	mustBe(t, m.Close(), lock.ErrHalted)

	free()
	n := open(t, log)
	if n.Epoch() <= epoch {
		t.Errorf("epoch %d after %d", n.Epoch(), epoch)
	}
	got := facts(table(n, lock.Filter{}))
	for f := range acked {
		if !slices.Contains(got, f) {
			t.Errorf("%v was acknowledged and is lost", f)
		}
	}
	for _, f := range got {
		if !acked[f] && !tried[f] {
			t.Errorf("nobody asked for %v", f)
		}
	}
	mustEqual(t, "what Inspect saw", marked(table(snap, lock.Filter{}), true), table(n, lock.Filter{}))
	graceIs(t, n, true, len(got))
	if _, err := n.TryLock(bg, ask(posix("z"), x, span(50, 59))); err != nil {
		t.Errorf("after all: %v", err)
	}
	mustBeInTheWay(t, n, ask(w, x, span(0, 9)), marked([]lock.Held{first}, true)[0])
	mustUnlock(t, n, a, span(0, 9))
	mustTry(t, n, w, x, span(0, 9))
	graceIs(t, n, len(got) > 1, len(got)-1)
	mustClose(t, n)
}
