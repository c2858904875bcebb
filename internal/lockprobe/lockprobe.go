// Package lockprobe runs a small C program that takes file locks on command,
// for tests: each [Probe] is a process of its own, so that fork, exec, signals
// and process death are the real ones. The commands are listed at the top of
// testdata/lockprobe.c.
package lockprobe

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/lockprobe.c
var source []byte

// Patience is how long a probe may take to answer, a bound for broken code
// and not a measure of anything.
const Patience = 60 * time.Second

// Build compiles the program into dir and returns its path, "" if there is no
// gcc to do it: then [Start] skips the test.
func Build(dir string) (string, error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", nil
	}
	src, bin := filepath.Join(dir, "lockprobe.c"), filepath.Join(dir, "lockprobe")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command(gcc, "-O1", "-Wall", "-o", bin, src).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return bin, nil
}

// Probe is one running process.
type Probe struct {
	t       testing.TB
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string
	exited  chan struct{}
}

// Start runs the program at bin until the end of the test.
func Start(t testing.TB, bin, name string) *Probe {
	t.Helper()
	if bin == "" {
		t.Skip("gcc is missing: the program that takes the locks is written in C")
	}
	p := &Probe{t: t, name: name, cmd: exec.Command(bin), answers: make(chan string, 16), exited: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.Dir = "/" // never on a mount that is served by this process
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.answers <- lines.Text()
		}
		close(p.answers)
		_ = p.cmd.Wait() // killed is how many of them end
		close(p.exited)
	}()
	t.Cleanup(p.Kill)
	return p
}

// PID is the process id.
func (p *Probe) PID() int { return p.cmd.Process.Pid }

// Send gives a command without waiting for the answer.
func (p *Probe) Send(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// Answer waits for the answer to the earliest command without one; "gone" when
// the process ended instead.
func (p *Probe) Answer() string {
	p.t.Helper()
	select {
	case a, ok := <-p.answers:
		if !ok {
			return "gone"
		}
		return a
	case <-time.After(Patience):
		p.t.Fatalf("%s: no answer", p.name)
		return ""
	}
}

// Answered reports whether an answer is there.
func (p *Probe) Answered() bool { return len(p.answers) > 0 }

// Do gives a command and waits for its answer.
func (p *Probe) Do(format string, args ...any) string {
	p.t.Helper()
	p.Send(format, args...)
	return p.Answer()
}

// Want gives a command that must have this answer.
func (p *Probe) Want(answer, format string, args ...any) {
	p.t.Helper()
	if got := p.Do(format, args...); got != answer {
		p.t.Fatalf("%s: %s: got %q, want %q", p.name, fmt.Sprintf(format, args...), got, answer)
	}
}

// WantAnswer waits for an answer, which must be this one.
func (p *Probe) WantAnswer(answer string) {
	p.t.Helper()
	if got := p.Answer(); got != answer {
		p.t.Fatalf("%s: got %q, want %q", p.name, got, answer)
	}
}

// OK gives a command that must succeed.
func (p *Probe) OK(format string, args ...any) {
	p.t.Helper()
	p.Want("ok", format, args...)
}

// Number gives a command that must answer with a number.
func (p *Probe) Number(format string, args ...any) int {
	p.t.Helper()
	got := p.Do(format, args...)
	n, err := strconv.Atoi(strings.TrimPrefix(got, "ok "))
	if err != nil {
		p.t.Fatalf("%s: %s: got %q, want a number", p.name, fmt.Sprintf(format, args...), got)
	}
	return n
}

// Open opens a file and returns the descriptor.
func (p *Probe) Open(path, flags string) int {
	p.t.Helper()
	return p.Number("open %s %s", path, flags)
}

// Signal sends a signal.
func (p *Probe) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// Kill sends SIGKILL and waits until the process is gone, and with it its
// descriptors.
func (p *Probe) Kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	for {
		select {
		case <-p.answers:
		case <-p.exited:
			return
		case <-time.After(Patience):
			p.t.Errorf("%s: does not end", p.name)
			return
		}
	}
}
