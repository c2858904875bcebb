package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/fusefs"
	"sneck/internal/lockprobe"
	"sneck/lock"
)

// What makes no sense exits 2, what does not work exits 1, each with a reason.
func TestExitCodes(t *testing.T) {
	p := newPlace(t)
	file := filepath.Join(p.base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(p.src, "inside")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(p.base, "none")
	for _, c := range []struct {
		name string
		code int
		want string // in the message
		args []string
	}{
		{"help", 0, "", []string{"--help"}},
		{"help on mount", 0, "", []string{"mount", "--help"}},
		{"no command", 2, "mount", nil},
		{"no such command", 2, "mountt", []string{"mountt"}},
		{"no folders", 2, "<source>", []string{"mount", "--log", p.log}},
		{"no mount point", 2, "<mountpoint>", []string{"mount", p.src, "--log", p.log}},
		{"no log", 2, "--log", []string{"mount", p.src, p.mnt}},
		{"no such flag", 2, "--lgo", []string{"mount", p.src, p.mnt, "--lgo", p.log}},
		{"no such durability", 2, "durability", []string{"mount", p.src, p.mnt, "--log", p.log, "--durability", "maybe"}},
		{"source missing", 1, "source", []string{"mount", none, p.mnt, "--log", p.log}},
		{"source is a file", 1, "not a folder", []string{"mount", file, p.mnt, "--log", p.log}},
		{"mount point missing", 1, "mount point", []string{"mount", p.src, none, "--log", p.log}},
		{"mount point is a file", 1, "not a folder", []string{"mount", p.src, file, "--log", p.log}},
		{"mount point in the source", 1, "inside the source", []string{"mount", p.src, inside, "--log", p.log}},
		{"log is a file", 1, file, []string{"mount", p.src, p.mnt, "--log", file}},
		{"log behind the mount", 1, "behind the mount point", []string{"mount", p.src, p.mnt, "--log", filepath.Join(p.mnt, "a", "log")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := start(t, c.args...)
			d.wantExit(c.code)
			got := d.stderr.String()
			if c.code == 0 {
				return
			}
			last := strings.TrimSpace(got[strings.LastIndex(strings.TrimSpace(got), "\n")+1:])
			if !strings.HasPrefix(last, "sneck: ") || !strings.Contains(last, c.want) {
				t.Errorf("standard error %q, want a line \"sneck: ...%s...\"", got, c.want)
			}
			if isMounted(t, p.mnt) {
				t.Error("something is mounted")
			}
		})
	}
}

// Every way to end it while nobody uses it is clean.
func TestCleanEnd(t *testing.T) {
	for name, end := range map[string]func(p place, d *daemon){
		"SIGINT":  func(_ place, d *daemon) { d.signal(unix.SIGINT) },
		"SIGTERM": func(_ place, d *daemon) { d.signal(unix.SIGTERM) },
		"umount": func(p place, d *daemon) {
			eventually(d.t, "umount", func() bool { return unix.Unmount(p.mnt, 0) == nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			d, _ := p.mount(t)
			probe := lockprobe.Start(t, probeBin, "A")
			fd := probe.Open(p.file("f"), "rw,creat")
			probe.OK("setlk %d w 0 10", fd)
			probe.OK("flock %d ex", fd)
			probe.OK("close %d", fd)
			end(p, d)
			d.wantExit(0)
			if isMounted(t, p.mnt) {
				t.Error("still mounted")
			}
			if _, err := os.Stat(filepath.Join(p.src, "f")); err != nil {
				t.Error(err)
			}
			if held, _ := inspect(t, p.log); len(held) != 0 {
				t.Errorf("left in the log: %v", held)
			}
			_, before := p.mount(t)
			if !slices.Contains(before, "sneck: epoch 2: released 0 locks of a previous mount") {
				t.Errorf("the next mount says %q", before)
			}
		})
	}
}

// In use, it goes out of sight and serves on until the last user is gone.
func TestSignalWhileInUse(t *testing.T) {
	p := newPlace(t)
	d, _ := p.mount(t)
	a, b := lockprobe.Start(t, probeBin, "A"), lockprobe.Start(t, probeBin, "B")
	fa, fb := a.Open(p.file("f"), "rw,creat"), b.Open(p.file("f"), "rw")
	a.OK("setlk %d w 0 10", fa)
	d.signal(unix.SIGTERM)
	eventually(t, "the mount is detached", func() bool { return !isMounted(t, p.mnt) })
	b.Want("err EAGAIN", "setlk %d w 0 1", fb)
	a.OK("setlk %d u 0 10", fa)
	b.OK("setlk %d w 0 1", fb)
	a.OK("close %d", fa)
	b.OK("close %d", fb)
	d.wantExit(0)
	if !strings.Contains(d.stderr.String(), "is in use (2 open)") {
		t.Errorf("says %q", d.stderr.String())
	}
}

// The second signal does not wait for anybody; the next mount cleans up.
func TestSecondSignal(t *testing.T) {
	p := newPlace(t)
	d, _ := p.mount(t)
	a := lockprobe.Start(t, probeBin, "A")
	fd := a.Open(p.file("f"), "rw,creat")
	a.OK("setlk %d w 0 10", fd)
	d.signal(unix.SIGINT)
	eventually(t, "the mount is detached", func() bool { return !isMounted(t, p.mnt) })
	d.signal(unix.SIGINT)
	d.wantExit(1)
	a.Want("err ENOTCONN", "setlk %d u 0 10", fd)
	_, before := p.mount(t)
	if !slices.Contains(before, "sneck: epoch 2: released 1 lock of a previous mount") {
		t.Errorf("the next mount says %q", before)
	}
}

// Two programs cannot share a log.
func TestLogInUse(t *testing.T) {
	p := newPlace(t)
	p.mount(t)
	other := newPlace(t)
	d := start(t, "mount", other.src, other.mnt, "--log", p.log)
	d.wantExit(1)
	if !strings.Contains(d.stderr.String(), p.log) {
		t.Errorf("says %q", d.stderr.String())
	}
}

// kill -9 with locks held by live processes: the log lists exactly what they
// held, and the next mount, in a higher epoch, says that it released them and
// serves at once.
func TestKill9(t *testing.T) {
	p := newPlace(t)
	d, before := p.mount(t)
	if len(before) != 0 {
		t.Errorf("the first mount says %q", before)
	}
	a, b, c := lockprobe.Start(t, probeBin, "A"), lockprobe.Start(t, probeBin, "B"), lockprobe.Start(t, probeBin, "C")
	fa, ga := a.Open(p.file("f"), "rw,creat"), a.Open(p.file("g"), "rw,creat")
	fb, gb := b.Open(p.file("f"), "rw"), b.Open(p.file("g"), "rw")
	fc := c.Open(p.file("f"), "rw")
	a.OK("setlk %d w 0 100", fa)
	a.OK("setlk %d u 40 20", fa)
	a.OK("setlk %d r 0 0", ga)
	b.OK("setlk %d r 10 10", gb)
	b.OK("osetlk %d w 200 50", fb)
	b.OK("flock %d ex", fb)
	c.OK("setlk %d w 1000 0", fc)
	c.OK("setlk %d w 500 1", fc)
	c.OK("setlk %d u 500 1", fc)
	c.Send("setlkw %d w 0 10", fc) // stands in line: is not held
	var f, g unix.Stat_t
	for path, st := range map[string]*unix.Stat_t{"f": &f, "g": &g} {
		if err := unix.Stat(filepath.Join(p.src, path), st); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		fmt.Sprintf("%d pid %d posix exclusive [0,39]", f.Ino, a.PID()),
		fmt.Sprintf("%d pid %d posix exclusive [60,99]", f.Ino, a.PID()),
		fmt.Sprintf("%d pid %d posix shared [0,EOF]", g.Ino, a.PID()),
		fmt.Sprintf("%d pid %d posix shared [10,19]", g.Ino, b.PID()),
		fmt.Sprintf("%d pid %d posix exclusive [200,249]", f.Ino, b.PID()),
		fmt.Sprintf("%d/flock pid %d ofd exclusive [0,EOF]", f.Ino, b.PID()),
		fmt.Sprintf("%d pid %d posix exclusive [1000,EOF]", f.Ino, c.PID()),
	}
	slices.Sort(want)
	d.kill9()
	if got := c.Answer(); got != "err ECONNABORTED" && got != "err ENOTCONN" {
		t.Errorf("the waiter got %q", got)
	}

	held, epoch := inspect(t, p.log)
	if !slices.Equal(held, want) {
		t.Errorf("the log has\n%s\nwant\n%s", strings.Join(held, "\n"), strings.Join(want, "\n"))
	}
	if epoch != 1 {
		t.Errorf("epoch %d", epoch)
	}
	t.Run("log inspect", func(t *testing.T) {
		if got := inspectProgram(t, p.log); !slices.Equal(got, want) {
			t.Errorf("it lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})

	d, before = p.mount(t) // over the dead one, which A, B and C still have open
	for _, line := range []string{
		"sneck: detached a dead mount from " + p.mnt,
		"sneck: epoch 2: released 7 locks of a previous mount",
	} {
		if !slices.Contains(before, line) {
			t.Errorf("the next mount says %q, not %q", before, line)
		}
	}
	// Nothing is left to be reclaimed, and so nobody waits for that.
	d.grace("grace period begins", "epoch=2 ", "unconfirmed=7 ")
	d.grace("grace period ended", "epoch=2 ", "released=0 ")
	e := lockprobe.Start(t, probeBin, "E")
	fe := e.Open(p.file("f"), "rw")
	e.OK("setlk %d w 0 0", fe)
	e.OK("flock %d ex nb", fe)
	a.Want("err ENOTCONN", "setlk %d u 0 0", fa)
	a.Want("err ENOTCONN", "close %d", fa) // of the dead mount: nothing to the new one
	held, epoch = inspect(t, p.log)
	want = []string{
		fmt.Sprintf("%d pid %d posix exclusive [0,EOF]", f.Ino, e.PID()),
		fmt.Sprintf("%d/flock pid %d ofd exclusive [0,EOF]", f.Ino, e.PID()),
	}
	if !slices.Equal(held, want) || epoch != 2 {
		t.Errorf("epoch %d has\n%s\nwant\n%s", epoch, strings.Join(held, "\n"), strings.Join(want, "\n"))
	}
	e.Kill()
	d.signal(unix.SIGTERM)
	d.wantExit(0)
}

// grace waits until the log output has this message, with these attributes.
func (d *daemon) grace(message string, attributes ...string) {
	d.t.Helper()
	var line string
	eventually(d.t, message, func() bool {
		for l := range strings.Lines(d.stderr.String()) {
			if strings.Contains(l, message) && strings.HasSuffix(l, "\n") {
				line = l
			}
		}
		return line != ""
	})
	for _, a := range attributes {
		if !strings.Contains(line, a) {
			d.t.Errorf("%q does not say %q", line, a)
		}
	}
}

// The next mount releases what earlier ones have left, all of it: locks and share
// reservations. Grace is over then, unless others have left something, who may
// reclaim it.
func TestReleasePredecessors(t *testing.T) {
	ctx := context.Background()
	owner := func(client string) lock.Owner { return lock.Owner{Client: client, ID: "1", Semantics: lock.POSIX} }
	one, two, nfs := owner(fusefs.ClientName("/a", 1)), owner(fusefs.ClientName("/b", 1)), owner("nfs client")
	for _, others := range []bool{false, true} {
		dir := t.TempDir()
		m, err := sneck.Open(sneck.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		held := []lock.Owner{one, two}
		if others {
			held = append(held, nfs)
		}
		for i, o := range held {
			if _, err := m.TryLock(ctx, lock.Request{File: "f", Owner: o, Range: bytesOf(t, uint64(20*i), uint64(20*i+9)), Mode: lock.Exclusive}); err != nil {
				t.Fatal(err)
			}
		}
		sharer := owner(fusefs.ClientName("/c", 1))
		if err := m.OpenShare(ctx, lock.Share{File: "g", Owner: sharer, Access: lock.Read, Deny: lock.Write}); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}

		if m, err = sneck.Open(sneck.Options{Dir: dir}); err != nil {
			t.Fatal(err)
		}
		if g := m.Grace(); !g.Active || g.Unconfirmed != len(held)+1 {
			t.Fatalf("%+v", g)
		}
		var out bytes.Buffer
		if err := releasePredecessors(m, streams{Out: &out}); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), "sneck: epoch 2: released 2 locks of a previous mount\n"; got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		left := slices.Collect(m.Locks(lock.Filter{}))
		if n := len(slices.Collect(m.Shares(lock.Filter{}))); n != 0 || len(left) != len(held)-2 {
			t.Errorf("%d shares and %+v are left", n, left)
		}
		if !others {
			eventually(t, "the end of grace", func() bool { return !m.Grace().Active })
		} else if g := m.Grace(); !g.Active || g.Unconfirmed != 1 || !left[0].Unconfirmed || left[0].Owner != nfs {
			t.Errorf("%+v, with %+v", g, left)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// inspect lists what the log holds, and its epoch.
func inspect(t *testing.T, dir string) ([]string, uint64) {
	t.Helper()
	s, err := sneck.Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for h := range s.Locks(lock.Filter{}) {
		out = append(out, fmt.Sprintf("%s pid %d %s %s %s", inodeOf(string(h.File)), h.Owner.PID, h.Owner.Semantics, h.Mode, h.Range))
	}
	slices.Sort(out)
	return out, s.Epoch
}

// inodeOf is the inode number of a file key, and which space it is of.
func inodeOf(key string) string {
	parts := strings.SplitN(key, "/", 4) // device, inode, generation, "flock"
	if len(parts) == 4 {
		return parts[1] + "/" + parts[3]
	}
	return parts[1]
}

// inspectProgram is inspect by "sneck log inspect --locks --json".
func inspectProgram(t *testing.T, dir string) []string {
	t.Helper()
	data, err := exec.Command(sneckBin, "log", "inspect", dir, "--locks", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		var l struct {
			File, Client, Owner, Semantics, Mode string
			First                                uint64
			Last                                 json.RawMessage
			PID                                  int
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if !strings.HasPrefix(l.Client, "fuse:/") || len(l.Owner) != 16 {
			t.Errorf("%s: client or owner", line)
		}
		out = append(out, fmt.Sprintf("%s pid %d %s %s [%d,%s]", inodeOf(l.File), l.PID, l.Semantics, l.Mode, l.First, strings.Trim(string(l.Last), `"`)))
	}
	slices.Sort(out)
	return out
}
