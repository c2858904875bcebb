package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/lock"
)

// sneckRun runs a command line in this process.
func sneckRun(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, streams{Out: &out, Err: &err})
	return code, out.String(), err.String()
}

// wantRun fails unless a command line exits with code, and prints these pieces,
// each with a prefix that says where: "1:" standard output, "2:" standard error.
func wantRun(t *testing.T, code int, args []string, want ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := sneckRun(args...)
	if got != code {
		t.Errorf("%q exits %d, want %d", args, got, code)
	}
	for _, w := range want {
		if out := map[string]string{"1:": stdout, "2:": stderr}[w[:2]]; !strings.Contains(out, w[2:]) {
			t.Errorf("%q does not say %q", args, w)
		}
	}
	if t.Failed() {
		t.Fatalf("standard output:\n%s\nstandard error:\n%s", stdout, stderr)
	}
	return stdout, stderr
}

var (
	nasty = lock.Owner{Client: "host \x1b[2J\xff", ID: "id; release file", Semantics: lock.SMB, Share: "ex\xfeport", PID: 7}
	tame  = lock.Owner{Client: "host", ID: "1", Semantics: lock.POSIX}
)

// someLog makes a log: a checkpoint, and n changes of one file after it.
func someLog(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	m, err := sneck.Open(sneck.Options{Dir: dir, SegmentSize: 2 << 10, CheckpointAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	at, _ := lock.SMBRange(5, 0)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.TryLock(ctx, lock.Request{File: "key\x00\xff", Owner: nasty, Range: at, Mode: lock.Exclusive}))
	must(m.TryLock(ctx, lock.Request{File: "key\x00\xff", Owner: tame, Range: bytesOf(t, 10, 19), Mode: lock.Shared}))
	must(nil, m.Checkpoint(ctx))
	must(nil, m.Unlock(ctx, "key\x00\xff", tame, bytesOf(t, 12, 13)))
	for i := range n {
		must(m.TryLock(ctx, lock.Request{File: "f", Owner: tame, Range: bytesOf(t, uint64(2*i), uint64(2*i)), Mode: lock.Exclusive}))
	}
	must(m.ReleaseOwner(ctx, "f", tame))
	must(m.TryLock(ctx, lock.Request{File: "f", Owner: nasty, Range: lock.WholeFile(), Mode: lock.Shared}))
	must(m.ReleaseClient(ctx, nasty.Client))
	return dir
}

func bytesOf(t *testing.T, first, last uint64) lock.Range {
	t.Helper()
	r, err := lock.Bytes(first, last)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// segmentIn is the n-th segment of the last log in dir.
func segmentIn(t *testing.T, dir string, n int) string {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(dir, "log-*"))
	segs, _ := filepath.Glob(filepath.Join(logs[len(logs)-1], "*"))
	if len(segs) <= n {
		t.Fatalf("only %d segments", len(segs))
	}
	return segs[n]
}

// change changes a file of a log.
func change(t *testing.T, path string, f func(data []byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flipAt(offsets ...int) func([]byte) []byte {
	return func(data []byte) []byte {
		for _, i := range offsets {
			data[i] ^= 1
		}
		return data
	}
}

// filesIn is what is below a folder.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path)
			m[strings.TrimPrefix(path, dir)] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What makes no sense exits 2; what is not there, 1, and is not made.
func TestLogUsage(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{2, nil, "2:inspect"},
		{2, []string{"mend"}, "2:mend"},
		{2, []string{"inspect"}, "2:<dir>"},
		{2, []string{"verify", ""}, "2:empty"},
		{2, []string{"repair", "", "--write"}, "2:empty"},
		{2, []string{"compact", ""}, "2:empty"},
		{2, []string{"verify", none, none}, "2:none"},
		{2, []string{"repair", none, "--wirte"}, "2:--wirte"},
		{1, []string{"inspect", none}, "2:" + none},
		{1, []string{"inspect", none, "--locks"}, "2:" + none},
		{1, []string{"verify", none}, "2:" + none},
		{1, []string{"repair", none}, "2:" + none},
		{1, []string{"repair", none, "--write"}, "2:" + none},
		{1, []string{"compact", none}, "2:" + none},
		{1, []string{"verify", filepath.Dir(none)}, "2:" + filepath.Dir(none)},
		{1, []string{"repair", filepath.Dir(none), "--write"}, "2:" + filepath.Dir(none)},
		{0, []string{"inspect", "--help"}, "1:Exit code"},
		{0, []string{"verify", "--help"}, "1:Examples"},
		{0, []string{"repair", "--help"}, "1:--write"},
		{0, []string{"compact", "--help"}, "1:new epoch"},
	} {
		wantRun(t, c.code, append([]string{"log"}, c.args...), c.want)
	}
	if left, _ := filepath.Glob(filepath.Dir(none) + "*/*"); len(left) > 0 {
		t.Errorf("there is %q", left)
	}
}

// Every record is a line that says where it is and what it says, and nothing
// that a client chose reaches the terminal or looks like something else.
func TestLogInspect(t *testing.T) {
	dir := someLog(t, 1)
	before := filesIn(t, dir)
	out, _ := wantRun(t, 0, []string{"log", "inspect", dir})
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	owner := `smb "id; release file" of "host \x1b[2J\xff" pid 7`
	want := [][]string{
		{"checkpoint-0000000000000002 ", " 0 ", " 1 ", " begin ", "generation 2, 20"},
		{"checkpoint-0000000000000002 ", " epoch ", "1"},
		{"checkpoint-0000000000000002 ", " state ", `"key\x00\xff" version 2: [10,19] shared posix 1 of host id `, "; [5,empty] exclusive " + owner, " epoch 1 since 20"},
		{"log-0000000000000002/00000000000000000001 ", " 0 ", " 1 ", " walked ", "generation 2"},
		{"log-0000000000000002/00000000000000000001 ", " 2 ", " file ", `"key\x00\xff" version 3: unlock [12,13] posix 1 of host`},
		{"log-0000000000000002/00000000000000000001 ", " 3 ", " file ", `f version 1 first: lock [0,0] exclusive posix 1 of host id `},
		{"log-0000000000000002/00000000000000000001 ", " file ", `f version 2: release owner posix 1 of host`},
		{"log-0000000000000002/00000000000000000001 ", " file ", `f version 3 first: lock [0,EOF] shared ` + owner},
		{"log-0000000000000002/00000000000000000001 ", " file ", `release client "host \x1b[2J\xff"`},
		{"log-0000000000000002/00000000000000000001 ", " file ", `release client "host \x1b[2J\xff"`},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), out)
	}
	for i, pieces := range want {
		for _, p := range pieces {
			if !strings.Contains(lines[i], p) {
				t.Errorf("line %d is %q, without %q", i, lines[i], p)
			}
		}
	}
	if strings.ContainsAny(out, "\x1b\x00") || !utf8.ValidString(out) {
		t.Errorf("it prints %q", out)
	}

	out, _ = wantRun(t, 0, []string{"log", "inspect", dir, "--json"})
	var records []map[string]any
	for line := range strings.Lines(out) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		records = append(records, r)
	}
	if len(records) != len(want) {
		t.Fatalf("%d records", len(records))
	}
	hexOf := func(s string) string { return hex.EncodeToString([]byte(s)) }
	held := records[2]["locks"].([]any)[1].(map[string]any)
	if records[2]["file_hex"] != hexOf("key\x00\xff") || held["client_hex"] != hexOf(nasty.Client) || held["share_hex"] != hexOf(nasty.Share) ||
		held["owner"] != nasty.ID || held["owner_hex"] != nil || held["first"] != 5.0 || held["last"] != nil || held["mode"] != "exclusive" || held["epoch"] != 1.0 {
		t.Errorf("the state is %v", records[2])
	}
	part := func(i int) map[string]any { return records[i]["parts"].([]any)[0].(map[string]any) }
	if p := part(4); p["op"] != "unlock" || p["first"] != 12.0 || p["last"] != 13.0 || p["mode"] != nil || p["client"] != "host" || records[4]["empty_before"] != false {
		t.Errorf("the unlock is %v", records[4])
	}
	if p := part(7); p["op"] != "lock" || p["last"] != "EOF" || p["mode"] != "shared" || p["semantics"] != "smb" || p["pid"] != 7.0 || records[7]["empty_before"] != true || records[7]["version"] != 3.0 {
		t.Errorf("the lock is %v", records[7])
	}
	if p := part(8); p["op"] != "release client" || p["client_hex"] != hexOf(nasty.Client) || p["owner"] != nil || len(p) != 3 {
		t.Errorf("the release is %v", records[8])
	}
	if r := records[3]; r["kind"] != "walked" || r["generation"] != 2.0 || r["segment"] != "log-0000000000000002/00000000000000000001" || r["offset"] != 0.0 || r["frame"] != 1.0 || len(r) != 5 {
		t.Errorf("walked is %v", r)
	}

	wantRun(t, 0, []string{"log", "inspect", dir, "--locks"}, "1:epoch 1, 2 locks, ", "1:[14,19]")
	out, _ = wantRun(t, 0, []string{"log", "inspect", dir, "--locks", "--json"}, `1:"first":14,"last":19,"mode":"shared","epoch":1`)
	if n := strings.Count(out, "\n"); n != 2 {
		t.Errorf("%d locks", n)
	}
	if !reflect.DeepEqual(filesIn(t, dir), before) {
		t.Error("the log has changed")
	}
}

// clientsLog is a copy of the golden log of clients, share reservations and what
// happens in grace.
func clientsLog(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "..", "testdata", "log-v1", "clients"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Everything that a log can say of clients, share reservations and what is
// reclaimed, revoked or not reclaimed is printed: testdata has what "sneck log
// inspect" and "--json" make of the golden log, field by field.
func TestLogInspectClients(t *testing.T) {
	dir := clientsLog(t)
	before := filesIn(t, dir)
	for name, args := range map[string][]string{
		"inspect-clients.txt":  {"log", "inspect", dir},
		"inspect-clients.json": {"log", "inspect", dir, "--json"},
	} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		out, errs := wantRun(t, 0, args)
		got, lines := strings.Split(out, "\n"), strings.Split(string(want), "\n")
		for i := range max(len(got), len(lines)) {
			if i >= len(got) || i >= len(lines) || got[i] != lines[i] {
				t.Fatalf("%s, line %d of %d: it says\n%s\nwant %d lines\n%s", name, i+1, len(got), strings.Join(got[min(i, len(got)):], "\n"), len(lines), strings.Join(lines[min(i, len(lines)):], "\n"))
			}
		}
		if errs != "" || strings.ContainsAny(out, "\x1b\x00\xff") || !utf8.ValidString(out) {
			t.Errorf("%s: it prints %q and %q", name, out, errs)
		}
	}
	if !reflect.DeepEqual(filesIn(t, dir), before) {
		t.Error("the log has changed")
	}
}

// What of it is lost and what is left is said by verify and repair.
func TestLogRepairClients(t *testing.T) {
	dir := clientsLog(t)
	wantRun(t, 0, []string{"log", "verify", dir}, "1:held        7 locks on 1 file, epoch 3\nbesides     2 share reservations, 4 clients\nno damage\n")
	path := segmentIn(t, dir, 0)
	change(t, path, flipAt(1131+40)) // the first record of "gone"
	wantRun(t, 1, []string{"log", "verify", dir}, "2:"+path+" at offset 1131")
	wantRun(t, 0, []string{"log", "repair", dir},
		"1:of what goes can be read: 4 changes and 0 states of a checkpoint, of 1 file; 3 changes of clients\n",
		"1:7 locks on 1 file would be held then, epoch 3; besides 2 share reservations, 3 clients\n")
	wantRun(t, 0, []string{"log", "repair", dir, "--write"}, "1:7 locks on 1 file are held now, epoch 3; besides 2 share reservations, 3 clients\n")
	wantRun(t, 0, []string{"log", "verify", dir}, "1:held        7 locks on 1 file, epoch 3\nbesides     2 share reservations, 3 clients\nno damage\n")
	if out, _ := wantRun(t, 0, []string{"log", "inspect", dir}, "1:ttl 1h0m0s generation 1 number 4\n"); strings.Contains(out, "gone") || strings.Contains(out, " last ") {
		t.Errorf("it is still there:\n%s", out)
	}
}

// Compact is not in the way of a grace period, nor that of it: nothing is released
// or confirmed, and whoever opens the log next has all of it to be reclaimed.
func TestLogCompactKeepsGrace(t *testing.T) {
	dir := clientsLog(t)
	inspect := func() (locks string, shares, clients []string) {
		locks, _ = wantRun(t, 0, []string{"log", "inspect", dir, "--locks", "--json"})
		s, err := sneck.Inspect(dir)
		if err != nil {
			t.Fatal(err)
		}
		for sh := range s.Shares(lock.Filter{}) {
			shares = append(shares, fmt.Sprintf("%+v", sh))
		}
		for c := range s.Clients() {
			clients = append(clients, fmt.Sprintf("%+v", c))
		}
		return locks, shares, clients
	}
	locks, shares, clients := inspect()
	if strings.Count(locks, "\n") != 7 || len(shares) != 2 || len(clients) != 4 {
		t.Fatalf("%s %q %q", locks, shares, clients)
	}
	for i := range 3 { // from the second on it compacts what it has made
		wantRun(t, 0, []string{"log", "compact", dir}, "1: bytes before, ", fmt.Sprintf("1:; epoch %d, 7 locks on 1 file\n", 4+2*i))
		if l, s, c := inspect(); l != locks || !reflect.DeepEqual(s, shares) || !reflect.DeepEqual(c, clients) {
			t.Errorf("then there are\n%s%q\n%q\nwant\n%s%q\n%q", l, s, c, locks, shares, clients)
		}
		m, err := sneck.Open(sneck.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if g := m.Grace(); !g.Active || g.Unconfirmed != 9 || g.Remaining <= 0 {
			t.Errorf("%+v", g)
		}
		for h := range m.Locks(lock.Filter{}) {
			if !h.Unconfirmed {
				t.Errorf("%+v", h)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A torn tail is said, and is no damage.
func TestLogTornTail(t *testing.T) {
	dir := someLog(t, 1)
	change(t, segmentIn(t, dir, 0), func(data []byte) []byte { return data[:len(data)-1] })
	before := filesIn(t, dir)
	wantRun(t, 0, []string{"log", "inspect", dir}, "1:walked", "2:belong to no complete frame")
	wantRun(t, 0, []string{"log", "inspect", dir, "--locks"}, "1:epoch", "2:belong to no complete frame")
	wantRun(t, 0, []string{"log", "verify", dir}, "1:torn tail", "1:no damage")
	wantRun(t, 0, []string{"log", "repair", dir}, "1:nothing to do")
	wantRun(t, 0, []string{"log", "repair", dir, "--write"}, "1:nothing to do")
	if !reflect.DeepEqual(filesIn(t, dir), before) {
		t.Error("the log has changed")
	}
}

// Damage: Open names file and offset and what to do, verify lists it all, repair
// shows, does and is done.
func TestLogRepair(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string) (file string, offset string)
		held   string
	}{
		"flip": {func(t *testing.T, dir string) (string, string) {
			change(t, segmentIn(t, dir, 1), flipAt(200))
			return segmentIn(t, dir, 1), "offset "
		}, "locks on 2 files"},
		"missing segment": {func(t *testing.T, dir string) (string, string) {
			path := segmentIn(t, dir, 1)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			return path, "offset 0"
		}, "locks on 2 files"},
		"flip in the checkpoint": {func(t *testing.T, dir string) (string, string) {
			path := filepath.Join(dir, "checkpoint-0000000000000002")
			change(t, path, flipAt(60))
			return path, "offset 0"
		}, "0 locks on 0 files"},
		"checkpoint missing": {func(t *testing.T, dir string) (string, string) {
			path := filepath.Join(dir, "checkpoint-0000000000000002")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			return path, "offset 0"
		}, "0 locks on 0 files"},
		"stranger": {func(t *testing.T, dir string) (string, string) {
			path := filepath.Join(filepath.Dir(segmentIn(t, dir, 0)), "notes")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path, "offset 0"
		}, "2 locks on 1 file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := someLog(t, 50)
			file, offset := c.damage(t, dir)
			before := filesIn(t, dir)
			_, err := sneck.Open(sneck.Options{Dir: dir})
			if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), offset) || !strings.Contains(err.Error(), `"sneck log repair"`) {
				t.Errorf("Open: %v", err)
			}
			wantRun(t, 1, []string{"log", "verify", dir}, "1:held        cannot be told", "2:sneck: "+file+" at "+offset, `2:is damaged in 1 place ("sneck log repair"`)
			wantRun(t, 1, []string{"log", "inspect", dir}, "2:"+file)
			wantRun(t, 1, []string{"log", "compact", dir}, "2:"+file)
			wantRun(t, 0, []string{"log", "repair", dir}, "1:to be ", "1:"+c.held+" would be held then", "1:nothing was changed")
			if !reflect.DeepEqual(filesIn(t, dir), before) {
				t.Error("the log has changed")
			}
			out, _ := wantRun(t, 0, []string{"log", "repair", "--write", dir}, "1:"+c.held+" are held now")
			copied, _, _ := strings.Cut(out, " has the log as it was")
			if !reflect.DeepEqual(filesIn(t, copied), before) {
				t.Errorf("%s is not what was there", copied)
			}
			wantRun(t, 0, []string{"log", "verify", dir}, "1:"+c.held, "1:no damage")
			wantRun(t, 0, []string{"log", "repair", "--write", dir}, "1:nothing to do")
			wantRun(t, 0, []string{"log", "inspect", dir}, "1:walked")
			wantRun(t, 0, []string{"log", "compact", dir}, "1: bytes before, ", "1:; epoch 2, ", "1:"+c.held)
			wantRun(t, 0, []string{"log", "verify", dir}, "1:"+c.held, "1:no damage")
		})
	}
}

// Many places are listed, but not without end.
func TestLogVerifyIsBounded(t *testing.T) {
	dir := someLog(t, 400)
	segs, _ := filepath.Glob(filepath.Join(filepath.Dir(segmentIn(t, dir, 0)), "*"))
	places := 0
	for _, path := range segs {
		change(t, path, func(data []byte) []byte {
			for i := 40; i+100 < len(data); i += 150 {
				data[i] ^= 1
				places++
			}
			return data
		})
	}
	_, errs := wantRun(t, 1, []string{"log", "verify", dir}, "2:\nsneck: and ", "2: more\n")
	if n := strings.Count(errs, "\n"); n < 100 || n > 104 || places < 200 {
		t.Errorf("%d lines for %d places", n, places)
	}
}

// What is in use is looked at, and left alone.
func TestLogToolsInUse(t *testing.T) {
	dir := someLog(t, 1)
	m, err := sneck.Open(sneck.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	wantRun(t, 0, []string{"log", "inspect", dir}, "1:epoch")
	wantRun(t, 0, []string{"log", "verify", dir}, "1:no damage")
	for _, args := range [][]string{{"log", "repair", dir}, {"log", "repair", dir, "--write"}, {"log", "compact", dir}} {
		wantRun(t, 1, args, "2:in use")
	}
}

// terminal is a pseudo terminal: what is written to the file can be read.
func terminal(t *testing.T) (tty *os.File, read func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skip("there are no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty, func() string {
		var b [4096]byte
		n, err := unix.Read(fd, b[:])
		if err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
		return string(b[:max(n, 0)])
	}
}

// Progress is a line on a terminal that is written anew now and then, for long
// logs, and is gone in the end; nothing elsewhere.
func TestLogProgress(t *testing.T) {
	if newProgress(new(bytes.Buffer)) != nil {
		t.Error("progress on what is no terminal")
	}
	plainFile, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer plainFile.Close()
	if newProgress(plainFile) != nil {
		t.Error("progress in a file")
	}
	var none *progress
	none.clear()
	if none.tell() != nil {
		t.Error("somebody is told")
	}

	tty, read := terminal(t)
	p := newProgress(tty)
	if p == nil {
		t.Fatal("no progress on a terminal")
	}
	p.next = time.Time{}
	p.tell()(10<<20, 60<<20)
	p.clear()
	if got := read(); got != "" {
		t.Errorf("for a short log: %q", got)
	}
	for i := range int64(1000) {
		p.tell()(i<<20, 1000<<20)
	}
	if got, want := read(), "\r  0% of 1000 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.next = time.Time{}
	p.tell()(500<<20, 1000<<20)
	if got, want := read(), "\r 50% of 1000 MiB"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.clear()
	p.clear()
	if got, want := read(), "\r"+strings.Repeat(" ", 16)+"\r"; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	// The commands print what they print elsewhere.
	dir := someLog(t, 1)
	for _, args := range [][]string{{"log", "inspect", dir}, {"log", "verify", dir}, {"log", "repair", dir}} {
		var out bytes.Buffer
		if code := run(args, streams{Out: &out, Err: tty}); code != 0 || out.Len() == 0 || read() != "" {
			t.Errorf("%q exits %d and prints %q", args, code, out.String())
		}
	}
}
