package fusefs_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sneck/fusefs"
	"sneck/lock"
)

// smbServer is another server of the mount's source, which shares its Manager: the
// test itself, with owners of SMB semantics. The mount's programs and its clients
// see each other's locks.
type smbServer struct {
	*mounted
	file lock.FileKey // of f
}

var background = context.Background()

// serveSMB makes f, and mounts the folder that it is in. The locks of the SMB
// handles are shown as those of S.
func serveSMB(t *testing.T) *smbServer {
	t.Helper()
	x := mountScratch(t)
	x.pids[os.Getpid()] = "S"
	must(t, os.WriteFile(filepath.Join(x.src, "f"), []byte("0123456789"), 0o644))
	return &smbServer{x, keyOf(t, filepath.Join(x.src, "f"))}
}

func keyOf(t *testing.T, path string) lock.FileKey {
	t.Helper()
	fd, err := os.Open(path)
	must(t, err)
	defer fd.Close()
	key, err := fusefs.KeyOf(int(fd.Fd()))
	must(t, err)
	return key
}

// handle is an SMB open handle. F_GETLK shows the process that has it.
func handle(id string) lock.Owner {
	return lock.Owner{Client: "session", ID: id, Semantics: lock.SMB, Share: "src", PID: uint32(os.Getpid())}
}

func (x *smbServer) ask(o lock.Owner, m lock.Mode, offset, length uint64) lock.Request {
	x.t.Helper()
	r, err := lock.SMBRange(offset, length)
	must(x.t, err)
	return lock.Request{File: x.file, Owner: o, Range: r, Mode: m}
}

func (x *smbServer) lock(o lock.Owner, m lock.Mode, offset, length uint64) {
	x.t.Helper()
	_, err := x.m.TryLock(background, x.ask(o, m, offset, length))
	must(x.t, err)
}

func (x *smbServer) unlock(o lock.Owner, offset, length uint64) {
	x.t.Helper()
	r := x.ask(o, lock.Shared, offset, length)
	must(x.t, x.m.Unlock(background, r.File, o, r.Range))
}

// refused is the holder that keeps o from locking.
func (x *smbServer) refused(o lock.Owner, m lock.Mode, offset, length uint64) lock.Held {
	x.t.Helper()
	_, err := x.m.TryLock(background, x.ask(o, m, offset, length))
	var c *lock.ConflictError
	if !errors.As(err, &c) {
		x.t.Fatalf("%s, %d bytes from %d on: %v; want a ConflictError; locks %v", o, length, offset, err, x.locks())
	}
	return c.Holder
}

// io fails unless o may read or write, or not; then it is who is in the way.
func (x *smbServer) io(o lock.Owner, write bool, offset, length uint64, denied bool) lock.Held {
	x.t.Helper()
	h, is := x.m.CheckIO(x.file, o, x.ask(o, lock.Shared, offset, length).Range, write)
	if is != denied {
		x.t.Fatalf("I/O of %d bytes from %d on, write %v: denied %v, by %+v", length, offset, write, is, h)
	}
	return h
}

// waiting is a request that stands in line.
type waiting struct {
	r    lock.Request
	told chan error
	held lock.Held // once that says something
}

func (x *smbServer) enqueue(o lock.Owner, m lock.Mode, offset, length uint64) *waiting {
	x.t.Helper()
	w := &waiting{r: x.ask(o, m, offset, length), told: make(chan error, 1)}
	before := x.waiters()
	_, err := x.m.Enqueue(w.r, func(h lock.Held, err error) {
		w.held = h
		w.told <- err
	})
	must(x.t, err)
	if len(w.told) > 0 || x.waiters() != before+1 {
		x.t.Fatalf("%s should stand in line; %d waiters; locks %v", o, x.waiters(), x.locks())
	}
	return w
}

// stands fails if the wait is over.
func (x *smbServer) stands(w *waiting) {
	x.t.Helper()
	if len(w.told) > 0 || x.waiters() == 0 {
		x.t.Fatalf("%s on %s should stand in line; locks %v", w.r.Owner, w.r.Range, x.locks())
	}
}

// granted waits until it is.
func (x *smbServer) granted(w *waiting) {
	x.t.Helper()
	x.eventually("the SMB owner is told", func() bool { return len(w.told) > 0 })
	must(x.t, <-w.told)
	if w.held.Range != w.r.Range || w.held.Mode != w.r.Mode || w.held.Owner != w.r.Owner {
		x.t.Fatalf("%+v was granted %+v", w.r, w.held)
	}
}

// A program is refused the bytes that an SMB owner holds; F_GETLK says by whom, and
// F_SETLKW waits until that one unlocks.
func TestProgramMeetsSMB(t *testing.T) {
	x := serveSMB(t)
	h := handle("1")
	x.lock(h, lock.Exclusive, 100, 50)
	x.lock(h, lock.Shared, 100, 50) // stacks
	x.lock(h, lock.Shared, 200, 50)
	a, b := x.probe("A"), x.probe("B")
	fa, fb := a.Open(x.path("f"), "rw"), b.Open(x.path("f"), "rw")
	self := os.Getpid()

	a.Want("err EAGAIN", "setlk %d w 149 1", fa)
	a.Want("err EAGAIN", "setlk %d r 0 101", fa)
	a.Want("err EAGAIN", "osetlk %d w 120 1", fa)
	a.Want("err EAGAIN", "setlk %d w 249 0", fa)
	a.OK("setlk %d r 200 0", fa)
	a.OK("setlk %d w 150 50", fa)
	a.OK("setlk %d w 0 100", fa)
	b.Want(fmt.Sprintf("ok w 100 50 %d", self), "getlk %d r 100 0", fb)
	b.Want("ok w 100 50 -1", "ogetlk %d w 149 1", fb) // the kernel shows no process for F_OFD_GETLK
	a.Want(fmt.Sprintf("ok r 200 50 %d", self), "getlk %d w 200 0", fa)
	a.Want("ok free", "getlk %d r 200 0", fa)
	x.wantLocks("A:w[0,99]", "A:w[150,199]", "A:r[200,EOF]", "S:w[100,149]", "S:r[100,149]", "S:r[200,249]")
	a.OK("setlk %d u 0 0", fa)

	// SMB unlocks exactly, the exclusive one first.
	a.Send("setlkw %d w 120 5", fa)
	x.wantWaiters(1)
	b.Send("setlkw %d r 120 5", fb)
	x.wantWaiters(2)
	r, err := lock.SMBRange(120, 5)
	must(t, err)
	if err := x.m.Unlock(background, x.file, h, r); !errors.Is(err, lock.ErrNotFound) {
		t.Fatalf("an SMB owner unlocks bytes in the middle: %v", err)
	}
	x.unlock(h, 100, 50)
	x.wantLocks("S:r[100,149]", "S:r[200,249]") // B stands behind A, who does not get it yet
	if a.Answered() || b.Answered() {
		t.Fatalf("granted while the shared lock is held; locks %v", x.locks())
	}
	x.unlock(h, 100, 50)
	a.WantAnswer("ok")
	x.wantLocks("A:w[120,124]", "S:r[200,249]")
	a.OK("close %d", fa)
	b.WantAnswer("ok")
	b.OK("setlk %d u 0 0", fb)

	// The end of the session ends a wait as well; a killed program leaves none.
	fa = a.Open(x.path("f"), "rw")
	a.Send("setlkw %d w 200 1", fa)
	x.wantWaiters(1)
	b.Send("setlkw %d w 210 1", fb)
	x.wantWaiters(2)
	b.Kill()
	x.wantWaiters(1)
	if n, err := x.m.ReleaseClient(background, h.Client); n != 1 || err != nil {
		t.Fatalf("%d released, %v", n, err)
	}
	a.WantAnswer("ok")
	x.wantLocks("A:w[200,200]")
}

// SMB knows offsets that no program does: a lock there is in the way of one to the
// end of the file, and is shown as if it began at the last byte that there is.
func TestProgramMeetsSMBFarAway(t *testing.T) {
	x := serveSMB(t)
	h := handle("1")
	x.lock(h, lock.Exclusive, 1<<63, 10)
	x.lock(h, lock.Exclusive, math.MaxUint64, 1)
	a := x.probe("A")
	fa := a.Open(x.path("f"), "rw")
	a.Want("err EAGAIN", "setlk %d w 0 0", fa)
	a.Want(fmt.Sprintf("ok w %d 0 %d", int64(math.MaxInt64), os.Getpid()), "getlk %d w 0 0", fa)
	a.OK("setlk %d w 0 %d", fa, int64(math.MaxInt64)) // all bytes but the last
	x.unlock(h, 1<<63, 10)
	a.Want("err EAGAIN", "setlk %d w 0 0", fa)
	x.unlock(h, math.MaxUint64, 1)
	a.OK("setlk %d w 0 0", fa)
	x.refused(h, lock.Shared, 1<<63, 1)
}

// An SMB owner is refused the bytes that a program holds, waits with Enqueue, and has
// them when the program closes its descriptor, or dies.
func TestSMBMeetsProgram(t *testing.T) {
	x := serveSMB(t)
	h, other := handle("1"), handle("2")
	a, b := x.probe("A"), x.probe("B")
	fa, fb := a.Open(x.path("f"), "rw"), b.Open(x.path("f"), "rw")
	a.OK("setlk %d w 100 50", fa)
	b.OK("osetlk %d r 200 50", fb)

	held := x.refused(h, lock.Shared, 149, 1)
	if held.Owner.Client != fusefsClient(x.mounted) || int(held.Owner.PID) != a.PID() || held.Range.String() != "[100,149]" || held.Mode != lock.Exclusive {
		t.Errorf("in the way: %+v", held)
	}
	if held = x.refused(h, lock.Exclusive, 150, 51); int(held.Owner.PID) != b.PID() {
		t.Errorf("in the way: %+v", held)
	}
	// SMB's zero-length range collides only strictly inside another one.
	x.refused(h, lock.Exclusive, 101, 0)
	x.lock(h, lock.Exclusive, 100, 0)
	x.lock(h, lock.Shared, 200, 50)
	x.lock(h, lock.Exclusive, 150, 50)
	x.wantLocks("A:w[100,149]", "B:r[200,249]", "S:r[200,249]", "S:w[150,199]", "S:w[100,empty]")

	first := x.enqueue(other, lock.Exclusive, 110, 10)
	second := x.enqueue(h, lock.Shared, 100, 50)
	third := x.enqueue(other, lock.Exclusive, 240, 20) // for B, and for the first handle
	a.OK("setlk %d u 100 10", fa)
	a.OK("setlk %d r 140 10", fa) // lets in neither
	x.stands(first)
	x.stands(second)
	a.OK("close %d", fa)
	x.granted(first)
	x.stands(second) // behind the first
	x.unlock(other, 110, 10)
	x.granted(second)
	x.unlock(h, 200, 50)
	x.stands(third)
	b.Kill()
	x.granted(third)
	x.wantLocks("S:w[150,199]", "S:w[100,empty]", "S:r[100,149]", "S:w[240,259]")

	// And a program behind them, as everybody else.
	fa = a.Open(x.path("f"), "rw")
	a.Send("setlkw %d w 140 110", fa)
	x.wantWaiters(1)
	for _, o := range []lock.Owner{h, other} {
		if _, err := x.m.ReleaseOwner(background, x.file, o); err != nil {
			t.Fatal(err)
		}
	}
	a.WantAnswer("ok")
	x.wantLocks("A:w[140,249]")
}

// The I/O of an SMB owner minds what programs have locked; that of programs minds
// what SMB owners have locked, for those who ask.
func TestSMBIOMeetsProgram(t *testing.T) {
	x := serveSMB(t)
	h := handle("1")
	a := x.probe("A")
	fa := a.Open(x.path("f"), "rw")
	x.io(h, true, 0, 1000, false)
	a.OK("setlk %d w 100 50", fa)
	a.OK("setlk %d r 200 50", fa)
	for _, write := range []bool{false, true} {
		if by := x.io(h, write, 149, 10, true); int(by.Owner.PID) != a.PID() || by.Range.String() != "[100,149]" {
			t.Errorf("denied by %+v", by)
		}
		x.io(h, write, 150, 50, false)
		x.io(h, write, 120, 0, false) // no bytes
		x.io(h, write, 249, 1, write)
	}
	a.OK("setlk %d r 100 50", fa)
	x.io(h, false, 0, 1000, false)
	x.io(h, true, 149, 1, true)
	a.OK("close %d", fa)
	x.io(h, true, 0, 1000, false)

	x.lock(h, lock.Exclusive, 0, 10)
	program := lock.Owner{Client: fusefsClient(x.mounted), ID: "any", Semantics: lock.POSIX}
	x.io(program, false, 9, 1, true)
	x.io(h, true, 0, 10, false)
	x.unlock(h, 0, 10)
}

// flock(2) is in no SMB owner's way, nor the reverse: it has another key.
func TestSMBAndFlock(t *testing.T) {
	x := serveSMB(t)
	h := handle("1")
	a, b := x.probe("A"), x.probe("B")
	fa, fb := a.Open(x.path("f"), "rw"), b.Open(x.path("f"), "rw")
	a.OK("flock %d ex", fa)
	x.io(h, true, 0, 10, false)
	x.lock(h, lock.Exclusive, 0, 1000)
	a.OK("flock %d sh", fa)
	b.OK("flock %d sh nb", fb)
	b.Want("err EAGAIN", "flock %d ex nb", fb)
	a.OK("flock %d un", fa)
	b.OK("flock %d ex nb", fb)
	x.wantLocks("B:flock-w", "S:w[0,999]")
	a.Want("err EAGAIN", "setlk %d r 0 1", fa)
	x.unlock(h, 0, 1000)
}

// KeyOf names the file, whatever its name, and only by a descriptor that says which
// it is.
func TestKeyOf(t *testing.T) {
	x := serveSMB(t)
	behind := func(name string) string { return filepath.Join(x.src, name) }
	must(t, os.Link(behind("f"), behind("g")))
	must(t, os.Rename(behind("f"), behind("h")))
	must(t, os.WriteFile(behind("f"), nil, 0o644))
	if g, h := keyOf(t, behind("g")), keyOf(t, behind("h")); g != x.file || h != x.file {
		t.Errorf("%q, %q; before it was linked and renamed it was %q", g, h, x.file)
	}
	a := x.probe("A")
	held := make(map[string]lock.FileKey)
	for _, name := range []string{"f", "g", "h"} {
		fd := a.Open(x.path(name), "rw")
		a.OK("setlk %d w 0 1", fd)
		for l := range x.m.Locks(lock.Filter{}) {
			held[name] = l.File
		}
		a.OK("close %d", fd)
		if want := keyOf(t, behind(name)); held[name] != want {
			t.Errorf("%s is %q on the mount, and %q behind it", name, held[name], want)
		}
	}
	if held["f"] == held["g"] {
		t.Errorf("two files have the key %q", held["f"])
	}

	fd, err := unix.Open(behind("f"), unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	for _, fd := range []int{fd, -1} {
		if key, err := fusefs.KeyOf(fd); !errors.Is(err, unix.EBADF) || key != "" {
			t.Errorf("%q, %v", key, err)
		}
	}
}
