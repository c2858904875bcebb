package fusefs_test

import "testing"

// Invariants 5 and 6: what fork, dup, close, exec and death do to locks
// (POSIX fcntl; Linux fcntl(2), "Open file description locks"; flock(2)).
func TestOwners(t *testing.T) {
	scripts(t, []scenario{
		{"a forked child has none of its parent's process locks", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 0 10 -> ok
			A fork -> @pid
			A child setlk 3 w 0 10 -> err EAGAIN
			A child getlk 3 w 0 0 -> ok w 0 10 @A
			A child setlk 3 u 0 0 -> ok
			locks A:w[0,9]
			A child close 3 -> ok
			locks A:w[0,9]
			A child exit -> ok gone
			locks A:w[0,9]`},
		{"but shares its OFD locks", `
			A open $f rw,creat -> ok 3
			A osetlk 3 w 0 10 -> ok
			A fork -> @pid
			A child osetlk 3 w 0 10 -> ok
			A child osetlk 3 u 0 5 -> ok
			A close 3 -> ok
			B open $f rw -> ok 3
			B setlk 3 w 0 5 -> ok
			B setlk 3 w 5 5 -> err EAGAIN   # the child has it open
			A child exit -> ok gone
			locks B:w[0,4]`},
		{"and its flock locks", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 ex -> ok
			A fork -> @pid
			A child flock 3 ex nb -> ok
			A close 3 -> ok
			B flock 3 ex nb -> err EAGAIN
			A child exit -> ok gone
			locks
			B flock 3 ex -> ok`},
		{"one of them can let go of a flock lock for both", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A flock 3 ex -> ok
			A fork -> @pid
			A child flock 3 un -> ok
			locks
			B flock 3 ex nb -> ok`},
		{"close of any descriptor drops the process's locks on the file", `
			A open $f rw,creat -> ok 3
			A open $f r -> ok 4
			A setlk 3 w 0 10 -> ok
			A close 4 -> ok
			locks
			A open $f rw -> ok 4
			A setlk 3 w 0 10 -> ok
			A setlk 4 r 20 10 -> ok
			A close 3 -> ok
			locks`},
		{"so does close of a dup", `
			A open $f rw,creat -> ok 3
			A dup 3 -> ok 4
			A setlk 3 w 0 10 -> ok
			A close 4 -> ok
			locks`},
		{"but nothing of other files, processes or kinds", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			A open $g rw,creat -> ok 5
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			A setlk 5 w 0 10 -> ok
			A flock 4 ex -> ok
			A osetlk 4 w 20 10 -> ok
			B setlk 3 w 30 10 -> ok
			A close 3 -> ok
			locks A:flock-w A:w[0,9] A:w[20,29] B:w[30,39]`},
		{"OFD locks go at the last close of the open file", `
			A open $f rw,creat -> ok 3
			A dup 3 -> ok 4
			A osetlk 3 w 0 10 -> ok
			A close 3 -> ok
			locks A:w[0,9]
			A close 4 -> ok
			locks`},
		{"OFD locks of one open file stay when another is closed", `
			A open $f rw,creat -> ok 3
			A open $f rw -> ok 4
			A osetlk 3 w 0 10 -> ok
			A osetlk 4 w 10 10 -> ok
			A close 4 -> ok
			locks A:w[0,9]`},
		{"flock locks go at the last close of the open file", `
			A open $f rw,creat -> ok 3
			A dup 3 -> ok 4
			A flock 3 ex -> ok
			A close 3 -> ok
			locks A:flock-w
			A close 4 -> ok
			locks`},
		{"exec keeps locks", `
			A open $f rw,creat -> ok 3
			A setlk 3 w 0 10 -> ok
			A osetlk 3 w 20 10 -> ok
			A flock 3 ex -> ok
			A exec -> ok
			A setlk 3 w 10 1 -> ok
			locks A:flock-w A:w[0,10] A:w[20,29]`},
		{"close on exec drops them", `
			A open $f rw,creat,cloexec -> ok 3
			A setlk 3 w 0 10 -> ok
			A osetlk 3 w 20 10 -> ok
			A flock 3 ex -> ok
			A exec -> ok
			locks
			A close 3 -> err EBADF`},
		{"death of the holder releases everything", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			D open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			A osetlk 3 w 20 10 -> ok
			A flock 3 ex -> ok
			B setlkw 3 w 0 10 ...
			C setlkw 3 w 20 10 ...
			D flock 3 sh ...
			A KILL
			B => ok
			C => ok
			D => ok
			locks B:w[0,9] C:w[20,29] D:flock-r`},
	})
}

// Invariant 6 against struct file addresses that are used again at once.
func TestOFDOwnersAreReused(t *testing.T) {
	x := mountScratch(t)
	a, b := x.probe("A"), x.probe("B")
	b.Open(x.path("f"), "rw,creat")
	for range 200 {
		fd := a.Open(x.path("f"), "rw")
		a.OK("osetlkw %d w 0 10", fd) // the last round's lock may still be there
		b.Want("err EAGAIN", "osetlk 3 w 0 10")
		a.OK("flock %d ex", fd)
		b.Want("err EAGAIN", "flock 3 sh nb")
		a.OK("close %d", fd)
	}
	x.wantLocks()
}
