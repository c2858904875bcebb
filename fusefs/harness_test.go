package fusefs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/fusefs"
	"sneck/internal/lockprobe"
	"sneck/lock"
)

// noFUSE says why nothing can be mounted here, if so.
var noFUSE string

// probeBin is the program of package lockprobe.
var probeBin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	unix.Umask(0) // as package fusefs asks of a process that serves mounts
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		noFUSE = "/dev/fuse is missing: " + err.Error()
	} else {
		f.Close()
	}
	dir, err := os.MkdirTemp("", "lockprobe")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if probeBin, err = lockprobe.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// mounted is a scratch folder on a mount served by the test's own process. So
// that a program being started has no file of the mount open between fork and
// exec, when this process may not be able to serve it, tests open none
// themselves while they start programs.
type mounted struct {
	t    testing.TB
	src  string         // the folder behind
	dir  string         // the mount point
	m    *sneck.Manager // nil: not a mount, the kernel locks
	s    *fusefs.Server
	pids map[int]string // probes, by process id
}

// mountScratch mounts a scratch folder until the end of the test. When the
// test's programs are gone no lock and no waiter may be left.
func mountScratch(t testing.TB) *mounted {
	t.Helper()
	if noFUSE != "" {
		t.Skip(noFUSE)
	}
	base := t.TempDir()
	x := &mounted{t: t, src: filepath.Join(base, "src"), dir: filepath.Join(base, "mnt"), pids: make(map[int]string)}
	for _, d := range []string{x.src, x.dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if x.m, err = sneck.Open(sneck.Options{}); err != nil {
		t.Fatal(err)
	}
	x.s, err = fusefs.Mount(fusefs.Options{Source: x.src, MountPoint: x.dir, Client: fusefs.ClientName(x.dir, 1), Manager: x.m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.s.Unmount(); err != nil {
			t.Errorf("%v; open: %d", err, x.s.Open())
			if err := x.s.Detach(); err != nil {
				t.Error(err)
			}
		} else if open := openUnder(t, x.src); len(open) != 0 {
			t.Errorf("unmounted, but still has open: %v", open)
		}
		if err := x.m.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if !t.Failed() {
			x.eventually("all locks are released at the end", func() bool { return len(x.locks()) == 0 && x.waiters() == 0 })
		}
	})
	return x
}

// openUnder lists what this process has open in dir.
func openUnder(t testing.TB, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir) {
			out = append(out, to)
		}
	}
	return out
}

func (x *mounted) path(name string) string { return filepath.Join(x.dir, name) }

// probe starts a process.
func (x *mounted) probe(name string) *lockprobe.Probe {
	x.t.Helper()
	p := lockprobe.Start(x.t, probeBin, name)
	x.pids[p.PID()] = name
	return p
}

// eventually waits for what no event tells: that the kernel and the server
// have come to something.
func (x *mounted) eventually(what string, done func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(lockprobe.Patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			x.t.Fatalf("does not come: %s; locks %v, %d waiters", what, x.locks(), x.waiters())
		}
	}
}

func (x *mounted) waiters() int {
	if x.m == nil {
		return x.blocked()
	}
	n := 0
	for range x.m.Waiters(lock.Filter{}) {
		n++
	}
	return n
}

func (x *mounted) wantWaiters(n int) {
	x.t.Helper()
	x.eventually(fmt.Sprintf("%d waiters", n), func() bool { return x.waiters() == n })
}

// locks shows the table as "A:w[0,9]", with the name of the probe that locked;
// a flock(2) lock as "A:flock-w".
func (x *mounted) locks() []string {
	if x.m == nil {
		return nil // the kernel's own
	}
	var out []string
	for h := range x.m.Locks(lock.Filter{}) {
		mode := "r"
		if h.Mode == lock.Exclusive {
			mode = "w"
		}
		who := x.pids[int(h.Owner.PID)]
		if who == "" {
			who = fmt.Sprint(h.Owner.PID)
		}
		if strings.HasSuffix(string(h.File), "/flock") {
			out = append(out, who+":flock-"+mode)
			continue
		}
		out = append(out, fmt.Sprintf("%s:%s%s", who, mode, h.Range))
	}
	sort.Strings(out)
	return out
}

// wantLocks waits for the table to be exactly this, in any order.
func (x *mounted) wantLocks(want ...string) {
	x.t.Helper()
	sort.Strings(want)
	x.eventually(fmt.Sprintf("locks %v", want), func() bool {
		return strings.Join(x.locks(), " ") == strings.Join(want, " ")
	})
}

// script runs steps, one a line. A, B, ... are probes, started when first
// named; $f is a file, $g another.
//
//	A setlk 3 w 0 10 -> ok     does it and compares the answer, in which @A is
//	                           A's process id; @pid alone is the id of a child,
//	                           whose locks are shown as of A'
//	A setlkw 3 w 0 10 ...      must block
//	A => ok                    the answer to what blocked
//	A USR1 | A KILL | A INT    sends a signal
//	locks A:w[0,9] B:r[5,5]    the whole table is, or comes to be, this
//	waiters 2                  as many stand, or come to stand, in line
func (x *mounted) script(steps string) {
	x.t.Helper()
	probes := make(map[string]*lockprobe.Probe)
	vars := strings.NewReplacer("$f", x.path("f"), "$g", x.path("g"))
	for i, line := range strings.Split(strings.TrimSpace(steps), "\n") {
		if line, _, _ = strings.Cut(strings.TrimSpace(line), "#"); line == "" {
			continue
		}
		line = strings.TrimSpace(line)
		who, what, _ := strings.Cut(vars.Replace(line), " ")
		fail := func(got, want string) {
			x.t.Helper()
			x.t.Fatalf("step %d: %s: got %q, want %q; locks %v", i+1, line, got, want, x.locks())
		}
		switch who {
		case "locks":
			x.wantLocks(strings.Fields(what)...)
			continue
		case "waiters":
			var n int
			fmt.Sscan(what, &n)
			x.wantWaiters(n)
			continue
		}
		p := probes[who]
		if p == nil {
			p = x.probe(who)
			probes[who] = p
		}
		if sig := unix.SignalNum("SIG" + what); sig != 0 {
			p.Signal(sig)
			continue
		}
		if want, ok := strings.CutPrefix(what, "=> "); ok {
			if got := p.Answer(); got != want {
				fail(got, want)
			}
			continue
		}
		if command, ok := strings.CutSuffix(what, " ..."); ok {
			before := x.waiters()
			p.Send("%s", command)
			x.wantWaiters(before + 1)
			if p.Answered() {
				fail(p.Answer(), "nothing yet")
			}
			continue
		}
		command, want, ok := strings.Cut(what, " -> ")
		if !ok {
			x.t.Fatalf("step %d: %q says neither what to expect nor that it blocks", i+1, line)
		}
		got := p.Do("%s", command)
		if want == "@pid" { // of a child
			var pid int
			if _, err := fmt.Sscanf(got, "ok %d", &pid); err != nil {
				fail(got, want)
			}
			x.pids[pid] = who + "'"
			continue
		}
		if want = replacePIDs(want, probes); got != want {
			fail(got, want)
		}
	}
}

// replacePIDs puts process ids in for @A.
func replacePIDs(s string, probes map[string]*lockprobe.Probe) string {
	for name, p := range probes {
		s = strings.ReplaceAll(s, "@"+name, fmt.Sprint(p.PID()))
	}
	return s
}

const usr1 = unix.SIGUSR1

// firstWaiter is the id of whoever stands first in line, 0 if nobody does.
func (x *mounted) firstWaiter() lock.ID {
	for w := range x.m.Waiters(lock.Filter{}) {
		return w.ID
	}
	return 0
}
