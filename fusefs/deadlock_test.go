package fusefs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sneck/internal/lockprobe"
)

// plainScratch is a scratch folder on the host's own file system, where its kernel
// locks: what it answers is what a mount has to answer.
func plainScratch(t testing.TB) *mounted {
	t.Helper()
	return &mounted{t: t, dir: t.TempDir(), pids: make(map[int]string)}
}

// blocked counts the probes that stand in line in the kernel, for a file that is
// not on a mount of ours. The kernel hands its list, which has the locks of the
// whole machine, out in pieces, and what moves between two is told twice or not at
// all: so it is read until it says the same twice.
func (x *mounted) blocked() int {
	x.t.Helper()
	for before := -1; ; {
		list, err := os.ReadFile("/proc/locks")
		if err != nil {
			x.t.Fatal(err)
		}
		waiting := make(map[int]bool)
		for _, line := range strings.Split(string(list), "\n") {
			// 1: -> POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 9
			_, what, ok := strings.Cut(line, "-> ")
			if w := strings.Fields(what); ok && len(w) > 3 {
				if pid, err := strconv.Atoi(w[3]); err == nil && x.pids[pid] != "" {
					waiting[pid] = true
				}
			}
		}
		if len(waiting) == before {
			return before
		}
		before = len(waiting)
	}
}

// Each scenario is played to the kernel and to a mount: the same process, the one
// that closes the cycle, is told EDEADLK by both, and nobody else (POSIX fcntl,
// "EDEADLK"; Linux fs/locks.c, posix_locks_deadlock).
func TestDeadlocks(t *testing.T) {
	for _, c := range []scenario{
		{"two processes, two ranges of a file", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			A setlkw 3 w 15 1 ...
			B setlkw 3 w 5 1 -> err EDEADLK
			waiters 1
			B setlkw 3 w 9 1 -> err EDEADLK    # as often as it tries
			B setlkw 3 w 20 1 -> ok            # it may do whatever does not deadlock
			C open $f rw -> ok 3
			C getlk 3 w 10 0 -> ok w 10 11 @B
			B setlk 3 u 0 0 -> ok
			A => ok
			C getlk 3 w 10 0 -> ok w 15 1 @A`},
		{"three processes, three ranges of a file", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			C setlk 3 w 20 10 -> ok
			A setlkw 3 w 10 1 ...
			B setlkw 3 w 20 1 ...
			C setlkw 3 w 0 1 -> err EDEADLK
			waiters 2
			C setlk 3 u 0 0 -> ok
			B => ok
			waiters 1
			B setlk 3 u 0 0 -> ok
			A => ok`},
		{"two processes, two files", `
			A open $f rw,creat -> ok 3
			A open $g rw,creat -> ok 4
			B open $f rw -> ok 3
			B open $g rw -> ok 4
			A setlk 3 w 0 0 -> ok
			B setlk 4 w 0 0 -> ok
			A setlkw 4 w 0 0 ...
			B setlkw 3 w 0 0 -> err EDEADLK
			waiters 1
			B close 4 -> ok
			A => ok`},
		{"three processes, three files", `
			A open $f1 rw,creat -> ok 3
			A open $f2 rw,creat -> ok 4
			B open $f2 rw -> ok 3
			B open $f3 rw,creat -> ok 4
			C open $f3 rw -> ok 3
			C open $f1 rw -> ok 4
			A setlk 3 w 0 0 -> ok
			B setlk 3 w 0 0 -> ok
			C setlk 3 w 0 0 -> ok
			B setlkw 4 w 7 1 ...
			C setlkw 4 w 7 1 ...
			A setlkw 4 w 7 1 -> err EDEADLK
			waiters 2
			A KILL                              # to die is to give way too
			C => ok
			C setlk 3 u 0 0 -> ok
			B => ok`},
		{"a reader and a writer", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 r 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			B setlkw 3 w 0 5 ...
			A setlkw 3 r 12 1 -> err EDEADLK
			waiters 1
			A setlk 3 u 2 8 -> ok               # not enough
			waiters 1
			A setlk 3 u 0 2 -> ok
			B => ok`},
		{"readers and writers of two files", `
			A open $f rw,creat -> ok 3
			A open $g rw,creat -> ok 4
			B open $f rw -> ok 3
			B open $g rw -> ok 4
			C open $f rw -> ok 3
			C open $g rw -> ok 4
			A setlk 3 r 0 0 -> ok
			B setlk 4 w 0 10 -> ok
			C setlk 4 r 10 10 -> ok
			C setlkw 3 w 0 0 ...                # for A
			B setlkw 4 w 10 10 ...              # for C
			A setlkw 4 r 5 1 -> err EDEADLK     # for B
			waiters 2
			A setlk 3 u 0 0 -> ok
			C => ok
			C setlk 4 u 0 0 -> ok
			B => ok`},
		{"two readers that both want to write", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 r 0 10 -> ok
			B setlk 3 r 0 10 -> ok
			A setlkw 3 w 0 10 ...
			B setlkw 3 w 0 10 -> err EDEADLK
			waiters 1
			B setlk 3 u 0 0 -> ok
			A => ok`},
		{"two readers that both want to write some of it", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A setlk 3 r 0 10 -> ok
			B setlk 3 r 5 10 -> ok
			B setlkw 3 w 8 5 ...
			A setlkw 3 w 0 6 -> err EDEADLK
			C getlk 3 w 0 5 -> ok r 0 10 @A      # it has what it had
			A setlkw 3 w 0 5 -> ok               # nobody is in the way there
			A setlk 3 u 8 2 -> ok
			B => ok`},
		{"three readers and writers, one of them twice", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B open $g rw,creat -> ok 4
			C open $f rw -> ok 3
			C open $g rw -> ok 4
			A setlk 3 r 0 0 -> ok
			B setlk 3 r 0 0 -> ok
			C setlk 4 w 0 0 -> ok
			A setlkw 3 w 0 0 ...                # for B
			B setlkw 4 r 0 0 ...                # for C
			C setlkw 3 w 0 0 -> err EDEADLK     # for A, and for B
			waiters 2
			C setlk 4 u 0 0 -> ok
			B => ok
			B setlk 3 u 0 0 -> ok
			A => ok`},
		{"to the end of the file", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 5 -> ok
			B setlk 3 w 100 0 -> ok
			A setlkw 3 r 50 0 ...
			B setlkw 3 r 2 0 -> err EDEADLK
			B close 3 -> ok
			A => ok`},
		{"a chain is none", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			B setlkw 3 w 0 5 ...
			C setlkw 3 w 10 5 ...
			A setlkw 3 w 20 10 -> ok
			waiters 2
			A setlk 3 u 0 0 -> ok
			B => ok
			waiters 1
			B setlk 3 u 0 0 -> ok
			C => ok`},
		{"who does not wait any more is in none", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A handler norestart -> ok
			A setlk 3 w 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			A setlkw 3 w 10 10 ...
			A USR1
			A => err EINTR
			waiters 0
			B setlkw 3 w 0 10 ...
			A setlkw 3 w 10 10 -> err EDEADLK
			A setlk 3 u 0 0 -> ok
			B => ok`},
		{"nor who has let go meanwhile", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlk 3 w 10 10 -> ok
			A setlkw 3 w 10 10 ...
			B setlk 3 u 10 10 -> ok
			A => ok
			B setlkw 3 w 0 10 ...
			A setlk 3 u 0 5 -> ok
			waiters 1
			A setlk 3 u 0 0 -> ok
			B => ok`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Run("kernel", func(t *testing.T) { plainScratch(t).script(c.steps) })
			t.Run("mount", func(t *testing.T) { mountScratch(t).script(c.steps) })
		})
	}
}

// ring has n processes each hold a byte and wait for the next one's, the last one
// for the first one's; it returns when all but the last one stand in line.
func (x *mounted) ring(n int) (probes []*lockprobe.Probe, last string) {
	x.t.Helper()
	path := filepath.Join(x.dir, "f")
	for i := range n {
		p := x.probe(fmt.Sprint(i))
		probes = append(probes, p)
		fd := p.Open(path, "rw,creat")
		p.OK("setlk %d w %d 1", fd, i)
		last = fmt.Sprintf("setlkw %d w 0 1", fd)
	}
	for i, p := range probes[:n-1] {
		p.Send("setlkw 3 w %d 1", i+1)
		x.wantWaiters(i + 1)
	}
	return probes, last
}

// A cycle of twenty: a mount finds it, whatever the kernel does (Linux looks at ten
// waiters, fs/locks.c, MAX_DEADLK_ITERATIONS).
func TestLongDeadlock(t *testing.T) {
	const n = 20
	t.Run("kernel", func(t *testing.T) {
		x := plainScratch(t)
		probes, last := x.ring(n)
		probes[n-1].Send("%s", last)
		found := false
		x.eventually("it is refused or stands in line", func() bool {
			found = probes[n-1].Answered()
			return found || x.waiters() == n
		})
		t.Log("the kernel finds it:", found)
	})
	t.Run("mount", func(t *testing.T) {
		x := mountScratch(t)
		probes, last := x.ring(n)
		probes[n-1].Want("err EDEADLK", "%s", last)
		x.wantWaiters(n - 1)
		for i := n - 1; i > 0; i-- { // one gives way, and all go
			if i < n-1 {
				probes[i].WantAnswer("ok")
			}
			if probes[i-1].Answered() {
				t.Fatalf("%d did not wait: %s", i-1, probes[i-1].Answer())
			}
			probes[i].OK("setlk 3 u 0 0")
		}
		probes[0].WantAnswer("ok")
		x.wantWaiters(0)
		x.wantLocks("0:w[0,1]")
	})
}
