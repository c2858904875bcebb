package fusefs_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"sneck/lock"
)

// scripts runs table-driven scenarios, each on a mount of its own.
func scripts(t *testing.T, table []scenario) {
	t.Helper()
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) { mountScratch(t).script(c.steps) })
	}
}

type scenario struct{ name, steps string }

// Invariants 2 and 3: who holds what, as other processes see it.
func TestFcntl(t *testing.T) {
	scripts(t, []scenario{
		{"conflict, and F_GETLK names process and range", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 100 50 -> ok
			B setlk 3 w 140 10 -> err EAGAIN
			B setlk 3 r 149 1 -> err EAGAIN
			B setlk 3 w 150 10 -> ok
			B getlk 3 w 0 0 -> ok w 100 50 @A
			B getlk 3 r 120 5 -> ok w 100 50 @A
			B getlk 3 w 0 100 -> ok free
			A getlk 3 w 0 0 -> ok w 150 10 @B
			A getlk 3 w 100 50 -> ok free
			locks A:w[100,149] B:w[150,159]`},
		{"shared locks are shared", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 r 0 10 -> ok
			B setlk 3 r 5 10 -> ok
			A setlk 3 w 5 1 -> err EAGAIN
			A setlk 3 w 0 5 -> ok
			A getlk 3 w 0 0 -> ok r 5 10 @B
			B getlk 3 r 0 0 -> ok w 0 5 @A
			locks A:w[0,4] A:r[5,9] B:r[5,14]`},
		{"length 0 reaches to the end of the file, wherever that is", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 1000 0 -> ok
			locks A:w[1000,EOF]
			B getlk 3 w 0 0 -> ok w 1000 0 @A
			B setlk 3 w 9223372036854775807 1 -> err EAGAIN
			B setlk 3 w 0 1000 -> ok
			A setlk 3 u 2000 0 -> ok
			locks A:w[1000,1999] B:w[0,999]
			B setlk 3 w 9223372036854775807 1 -> ok
			A getlk 3 w 2000 0 -> ok w 9223372036854775807 0 @B`},
		{"lengths and positions are made absolute, or refused", `
			A open $f rw,creat -> ok 3
			A write 3 0123456789 -> ok
			A setlk 3 w -4 2 2 -> ok         # from the end of the file
			locks A:w[6,7]
			A setlk 3 w 0 5 1 -> ok          # from the position
			locks A:w[6,7] A:w[10,14]
			A setlk 3 r 6 -6 -> ok           # the bytes before
			locks A:r[0,5] A:w[6,7] A:w[10,14]
			A setlk 3 w -1 1 -> err EINVAL
			A setlk 3 w 5 -6 -> err EINVAL
			A setlk 3 w 9223372036854775807 2 -> err EOVERFLOW`},
		{"the kernel checks the open mode", `
			A open $f rw,creat -> ok 3
			A open $f r -> ok 4
			A open $f w -> ok 5
			A setlk 4 w 0 1 -> err EBADF
			A setlk 5 r 0 1 -> err EBADF
			A setlk 4 r 0 1 -> ok
			A setlk 5 w 0 1 -> ok
			locks A:w[0,0]`},
		{"hard links share locks", `
			A open $f rw,creat -> ok 3
			A link $f $g -> ok
			B open $g rw -> ok 3
			A setlk 3 w 0 1 -> ok
			B setlk 3 w 0 1 -> err EAGAIN
			A flock 3 ex -> ok
			B flock 3 sh nb -> err EAGAIN`},
		{"locks survive rename and unlink", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 1 -> ok
			A rename $f $g -> ok
			B setlk 3 w 0 1 -> err EAGAIN
			A unlink $g -> ok
			B setlk 3 w 0 1 -> err EAGAIN
			B getlk 3 w 0 0 -> ok w 0 1 @A
			C open $g rw,creat -> ok 3      # another file of the same name
			C setlk 3 w 0 1 -> ok
			A close 3 -> ok
			B setlk 3 w 0 1 -> ok`},
		{"unlock of what is not held succeeds", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 u 0 0 -> ok
			B setlk 3 w 0 10 -> ok
			A setlkw 3 u 0 5 -> ok
			locks B:w[0,9]`},
	})
}

// Invariant 2: flock(2) is a space of its own.
func TestFlock(t *testing.T) {
	scripts(t, []scenario{
		{"flock and fcntl do not conflict", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 0 -> ok
			B flock 3 ex -> ok
			A flock 3 sh nb -> err EAGAIN
			B setlk 3 r 0 1 -> err EAGAIN
			locks A:w[0,EOF] B:flock-w`},
		{"conversion", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 sh -> ok
			A flock 3 ex -> ok
			B flock 3 sh nb -> err EAGAIN
			A flock 3 sh -> ok
			B flock 3 sh nb -> ok
			A flock 3 ex nb -> err EAGAIN
			locks A:flock-r B:flock-r
			B flock 3 un -> ok
			A flock 3 ex nb -> ok
			locks A:flock-w`},
		{"a blocked conversion is served when the other goes", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 sh -> ok
			B flock 3 sh -> ok
			A flock 3 ex ...
			B close 3 -> ok
			A => ok
			locks A:flock-w`},
		{"of two that convert at once both are served, one after the other", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 sh -> ok
			B flock 3 sh -> ok
			A flock 3 ex ...            # gives up its shared lock to wait
			B flock 3 ex -> ok
			locks B:flock-w
			B flock 3 un -> ok
			A => ok
			locks A:flock-w`},
		{"waiting and LOCK_NB", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A flock 3 ex -> ok
			B flock 3 ex nb -> err EAGAIN
			B flock 3 sh ...
			C flock 3 sh ...
			A flock 3 un -> ok
			B => ok
			C => ok
			locks B:flock-r C:flock-r`},
	})
}

// F_OFD_* on the same table as F_*.
func TestOFD(t *testing.T) {
	scripts(t, []scenario{
		{"OFD and process locks conflict, also within a process", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			B open $f rw -> ok 3
			A osetlk 3 w 0 10 -> ok
			A setlk 4 w 5 1 -> err EAGAIN
			A osetlk 4 w 5 1 -> err EAGAIN
			B setlk 3 w 5 1 -> err EAGAIN
			B getlk 3 w 5 1 -> ok w 0 10 @A
			B setlk 3 w 10 10 -> ok
			A osetlk 3 r 15 1 -> err EAGAIN
			A ogetlk 3 r 0 0 -> ok w 10 10 -1`},
		{"a wait for an OFD lock ends when it is unlocked", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A osetlk 3 w 0 10 -> ok
			B osetlkw 3 w 0 10 ...
			A osetlk 3 u 0 10 -> ok
			B => ok
			locks B:w[0,9]`},
	})
}

// F_OFD_GETLK with F_UNLCK asks for the open file's own locks.
func TestOFDGetlkOwn(t *testing.T) {
	x := mountScratch(t)
	a := x.probe("A")
	fd := a.Open(x.path("f"), "rw,creat")
	got := a.Do("ogetlk %d u 0 0", fd)
	if got == "err EINVAL" {
		t.Skip("this kernel does not know F_OFD_GETLK with F_UNLCK")
	}
	if got != "ok free" {
		t.Fatalf("nothing held: got %q", got)
	}
	a.OK("osetlk %d w 10 5", fd)
	a.Want("ok w 10 5 -1", "ogetlk %d u 0 0", fd)
	a.Want("ok free", "ogetlk %d u 0 10", fd)
}

// Invariant 2: the key is device, inode and generation; flock has its own.
func TestFileKey(t *testing.T) {
	x := mountScratch(t)
	a := x.probe("A")
	key := func() (fcntl, flock lock.FileKey) {
		fd := a.Open(x.path("f"), "rw,creat")
		a.OK("setlk %d w 0 1", fd)
		for h := range x.m.Locks(lock.Filter{}) {
			fcntl = h.File
			if want := fusefsClient(x); h.Owner.Client != want || h.Owner.Share != "src" || len(h.Owner.ID) != 16 || h.Owner.Semantics != lock.POSIX || int(h.Owner.PID) != a.PID() {
				t.Errorf("owner %+v", h.Owner)
			}
		}
		a.OK("setlk %d u 0 0", fd)
		a.OK("flock %d ex", fd)
		for h := range x.m.Locks(lock.Filter{}) {
			flock = h.File
			if h.Owner.Semantics != lock.OFD || !h.Range.ToEOF() || h.Range.First() != 0 {
				t.Errorf("flock lock %+v", h)
			}
		}
		a.OK("close %d", fd)
		x.wantLocks()
		return fcntl, flock
	}
	fcntl, flock := key()
	var st unix.Stat_t
	if err := unix.Stat(x.src+"/f", &st); err != nil {
		t.Fatal(err)
	}
	var major, minor uint32
	var ino, generation uint64
	if n, err := fmt.Sscanf(string(fcntl), "%d:%d/%d/%d", &major, &minor, &ino, &generation); n != 4 || err != nil {
		t.Fatalf("key %q: %v", fcntl, err)
	}
	if major != unix.Major(st.Dev) || minor != unix.Minor(st.Dev) || ino != st.Ino {
		t.Errorf("key %q is not of inode %d on %d:%d", fcntl, st.Ino, unix.Major(st.Dev), unix.Minor(st.Dev))
	}
	if flock != fcntl+"/flock" {
		t.Errorf("flock key %q, fcntl key %q", flock, fcntl)
	}
	// The same name, another file.
	a.OK("unlink %s", x.path("f"))
	if again, _ := key(); again == fcntl {
		t.Errorf("a new file has the key of the deleted one: %q", again)
	}
}

func fusefsClient(x *mounted) string { return "fuse:" + x.dir + "@1" }
