package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sneck"
)

const (
	progressFrom  = 64 << 20 // bytes of log from which on it is worth while
	progressEvery = time.Second / 5
)

// progress is a line on a terminal that says how far a command has come, and is
// gone when it is done. It takes no more than printing it takes: no goroutine.
type progress struct {
	w    io.Writer
	from int64 // bytes
	next time.Time
	wide int // columns that it has taken
}

// newProgress is nil, which does nothing, unless w is a terminal.
func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		return nil
	}
	return &progress{w: w, from: progressFrom, next: time.Now().Add(progressEvery)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// tell is what reads the log calls.
func (p *progress) tell() sneck.Progress {
	if p == nil {
		return nil
	}
	return p.at
}

func (p *progress) at(done, total int64) {
	if total < p.from {
		return
	}
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(progressEvery)
	line := fmt.Sprintf("%3d%% of %.0f MiB", int(float64(done)/float64(total)*100), float64(total)/(1<<20))
	fmt.Fprintf(p.w, "\r%-*s", p.wide, line)
	p.wide = max(p.wide, len(line))
}

// clear removes the line, before anything else is printed.
func (p *progress) clear() {
	if p != nil && p.wide > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.wide))
		p.wide = 0
	}
}
