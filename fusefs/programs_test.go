package fusefs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"sneck/internal/lockprobe"
)

// program is a command whose working folder is not on the mount.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	return cmd
}

// together runs commands at the same time; all must succeed.
func together(t *testing.T, cmds ...*exec.Cmd) {
	t.Helper()
	outs := make([]bytes.Buffer, len(cmds))
	for i, c := range cmds {
		c.Stdout, c.Stderr = &outs[i], &outs[i]
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range cmds {
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", c.Args, err, outs[i].Bytes())
		}
	}
}

// sqlite3 with eight writers, in both journal modes.
func TestSQLite(t *testing.T) {
	const writers, rows = 8, 25
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			x := mountScratch(t)
			db := x.path("db")
			sqlite := func(sql string) string {
				t.Helper()
				out, err := program(t, "sqlite3", "-bail", db, ".timeout 60000", sql).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return strings.TrimSpace(string(out))
			}
			if got := sqlite("PRAGMA journal_mode=" + mode + "; CREATE TABLE t (writer INT, n INT, PRIMARY KEY (writer, n));"); got != mode {
				t.Fatalf("journal mode %q", got)
			}
			var cmds []*exec.Cmd
			for w := range writers {
				c := program(t, "sqlite3", "-bail", db)
				sql := ".timeout 60000\n"
				for n := range rows {
					sql += fmt.Sprintf("BEGIN IMMEDIATE; INSERT INTO t VALUES (%d, %d); COMMIT;\n", w, n)
				}
				c.Stdin = strings.NewReader(sql)
				cmds = append(cmds, c)
			}
			together(t, cmds...)
			if got := sqlite("PRAGMA integrity_check; SELECT count(*), count(DISTINCT writer), sum(n) FROM t;"); got !=
				fmt.Sprintf("ok\n%d|%d|%d", writers*rows, writers, writers*rows*(rows-1)/2) {
				t.Error(got)
			}
		})
	}
}

// util-linux flock(1) around a shell that adds one to a file.
func TestFlockProgram(t *testing.T) {
	const programs, rounds = 6, 15
	x := mountScratch(t)
	must(t, os.WriteFile(x.path("n"), []byte("0\n"), 0o600))
	var cmds []*exec.Cmd
	for range programs {
		cmds = append(cmds, program(t, "sh", "-c",
			`i=0; while [ $i -lt `+fmt.Sprint(rounds)+` ]; do
				flock "$1.lock" sh -c 'read n <"$1"; echo $((n+1)) >"$1"' sh "$1" || exit; i=$((i+1)); done`,
			"sh", x.path("n")))
	}
	program(t, "flock", "--version")
	together(t, cmds...)
	wantFile(t, x.path("n"), fmt.Sprintln(programs*rounds))
}

// Counters under each kind of lock end exact.
func TestCounters(t *testing.T) {
	const programs, rounds = 6, 100
	for _, how := range []string{"posix", "ofd", "flock"} {
		t.Run(how, func(t *testing.T) {
			x := mountScratch(t)
			var probes []*lockprobe.Probe
			for i := range programs {
				p := x.probe(fmt.Sprint(how, i))
				probes = append(probes, p)
				p.Send("count %s %d %s", x.path("n"), rounds, how)
			}
			for _, p := range probes {
				p.WantAnswer("ok")
			}
			wantFile(t, x.path("n"), fmt.Sprint(programs*rounds))
		})
	}
}
