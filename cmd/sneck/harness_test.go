package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sneck/internal/lockprobe"
)

var (
	noFUSE   string // why nothing can be mounted here, if so
	sneckBin string // this program, built
	probeBin string // the program of package lockprobe
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		noFUSE = "/dev/fuse is missing: " + err.Error()
	} else {
		f.Close()
	}
	dir, err := os.MkdirTemp("", "sneck")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	sneckBin = filepath.Join(dir, "sneck")
	if out, err := exec.Command("go", "build", "-o", sneckBin, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	if probeBin, err = lockprobe.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// place is a scratch folder with the three folders of a mount.
type place struct{ base, src, mnt, log string }

func newPlace(t *testing.T) place {
	t.Helper()
	if noFUSE != "" {
		t.Skip(noFUSE)
	}
	base := t.TempDir()
	p := place{base: base, src: filepath.Join(base, "src"), mnt: filepath.Join(base, "mnt"), log: filepath.Join(base, "log")}
	for _, d := range []string{p.src, p.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for unix.Unmount(p.mnt, unix.MNT_DETACH) == nil { // whatever a test that failed has left
		}
	})
	return p
}

func (p place) file(name string) string { return filepath.Join(p.mnt, name) }

// daemon is a running sneck mount.
type daemon struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string // of standard output
	stderr lockedBuffer
	exited chan struct{}
	code   int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs sneck with args until the end of the test at most.
func start(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(sneckBin, args...), lines: make(chan string, 64), exited: make(chan struct{})}
	d.cmd.Stderr = &d.stderr
	d.cmd.Dir = "/"
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.lines <- lines.Text()
		}
		close(d.lines)
		_ = d.cmd.Wait() // the exit code says it
		d.code = d.cmd.ProcessState.ExitCode()
		close(d.exited)
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // it may be gone already
		<-d.exited
		if t.Failed() {
			t.Logf("%v:\n%s", args, d.stderr.String())
		}
	})
	return d
}

// mount mounts p and waits until it is ready. before are the lines that come
// before it says so.
func (p place) mount(t *testing.T) (d *daemon, before []string) {
	t.Helper()
	d = start(t, "mount", p.src, p.mnt, "--log", p.log, "--durability", "sync")
	ready := fmt.Sprintf("sneck: mounted %s on %s (log %s, durability sync)", p.src, p.mnt, p.log)
	for {
		line := d.line()
		if line == ready {
			return d, before
		}
		before = append(before, line)
	}
}

// line is the next line of standard output.
func (d *daemon) line() string {
	d.t.Helper()
	select {
	case l, ok := <-d.lines:
		if !ok {
			d.t.Fatalf("no more output; standard error: %s", d.stderr.String())
		}
		return l
	case <-time.After(lockprobe.Patience):
		d.t.Fatal("no output")
	}
	return ""
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// wantExit waits for the end.
func (d *daemon) wantExit(code int) {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(lockprobe.Patience):
		d.t.Fatal("does not end")
	}
	if d.code != code {
		d.t.Fatalf("exit code %d, want %d; standard error: %s", d.code, code, d.stderr.String())
	}
}

// kill9 kills it and waits for the end.
func (d *daemon) kill9() {
	d.t.Helper()
	d.signal(unix.SIGKILL)
	<-d.exited
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(lockprobe.Patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("does not come: %s", what)
		}
	}
}

// isMounted reports whether something is mounted on path.
func isMounted(t *testing.T, path string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+path+" ")
}
