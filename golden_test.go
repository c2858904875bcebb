package sneck_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

var update = flag.Bool("update", false, "write testdata/log-v1 anew, after a change of a format that nobody has yet")

const goldenDir = "testdata/log-v1"

// goldenLogs make the logs that are kept.
var goldenLogs = map[string]func(t *testing.T, dir string){
	"plain": func(t *testing.T, dir string) {
		goldenLife(t, dir, 0, false)
		goldenLife(t, dir, 1, false)
	},
	"checkpoint": func(t *testing.T, dir string) {
		goldenLife(t, dir, 0, false)
		goldenLife(t, dir, 1, true)
		goldenLife(t, dir, 2, false)
	},
}

// goldenLife does something of everything.
func goldenLife(t *testing.T, dir string, life int, checkpoint bool) {
	m, err := sneck.Open(sneck.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ours := func(o lock.Owner) lock.Owner {
		o.ID += fmt.Sprint(" of life ", life)
		o.Share, o.PID = "share", uint32(1000+life)
		return o
	}
	p, o, c := ours(posix("a")), ours(ofd("b")), ours(smb("c\xff\x00"))
	base := uint64(1000 * life)
	mustTry(t, m, p, x, span(base, base+99))
	mustUnlock(t, m, p, span(base+40, base+49)) // splits
	mustTry(t, m, p, s, span(base+60, base+69)) // replaces
	mustTry(t, m, o, s, span(base+62, base+65))
	mustTry(t, m, c, x, span(base+200, base+299))
	mustTry(t, m, c, s, span(base+200, base+299))
	zero, err := lock.SMBRange(base+500, 0)
	if err != nil {
		t.Fatal(err)
	}
	mustTry(t, m, c, x, zero)
	if _, err := m.TryLockAll(bg, []lock.Request{ask(p, s, span(base+400, base+409)), ask(o, s, span(base+405, base+420))}); err != nil {
		t.Fatal(err)
	}
	other := ask(p, x, span(0, eof))
	other.File = lock.FileKey(fmt.Sprint("other ", life, "\x00\xfe"))
	if _, err := m.TryLock(bg, other); err != nil {
		t.Fatal(err)
	}
	granted := make(chan error, 1)
	waits := other
	waits.Owner, waits.Range = c, span(7, 7)
	if _, err := m.Enqueue(waits, func(_ lock.Held, err error) { granted <- err }); err != nil {
		t.Fatal(err)
	}
	if checkpoint {
		if err := m.Checkpoint(bg); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Unlock(bg, other.File, p, span(5, 9)); err != nil { // grants the waiter
		t.Fatal(err)
	}
	if err := <-granted; err != nil {
		t.Fatal(err)
	}
	gone := ours(posix("gone"))
	mustTry(t, m, gone, s, span(base+800, base+809))
	if _, err := m.ReleaseClient(bg, gone.Client); err != nil {
		t.Fatal(err)
	}
	mustTry(t, m, gone, s, span(base+800, base+809))
	if _, err := m.ReleaseOwner(bg, file, gone); err != nil {
		t.Fatal(err)
	}
	deleted := other
	deleted.File = "deleted"
	if _, err := m.TryLock(bg, deleted); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReleaseFile(bg, deleted.File); err != nil {
		t.Fatal(err)
	}
	mustClose(t, m)
}

// listing is a table as text, one line a lock.
func listing(held []lock.Held) string {
	var b strings.Builder
	for _, h := range held {
		fmt.Fprintf(&b, "%q %v share %q pid %d %v %v id %d epoch %d since %s\n", h.File, h.Owner, h.Owner.Share, h.Owner.PID, h.Range, h.Mode, h.ID, h.Epoch, h.Since.UTC().Format(time.RFC3339Nano))
	}
	return b.String()
}

// The logs that this version wrote are read as they were meant, and go on.
func TestGoldenLogs(t *testing.T) {
	for name, build := range goldenLogs {
		t.Run(name, func(t *testing.T) {
			kept := filepath.Join(goldenDir, name)
			if *update {
				if err := os.RemoveAll(kept); err != nil {
					t.Fatal(err)
				}
				build(t, kept)
				if err := os.Remove(filepath.Join(kept, "LOCK")); err != nil {
					t.Fatal(err)
				}
				snap, err := sneck.Inspect(kept)
				if err != nil {
					t.Fatal(err)
				}
				write(t, kept+".txt", []byte(listing(table(snap, lock.Filter{}))))
			}
			want, err := os.ReadFile(kept + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			dir := crashed(t, kept)
			snap, err := sneck.Inspect(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := listing(table(snap, lock.Filter{})); got != string(want) || len(want) == 0 {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			m := open(t, dir)
			if m.Epoch() <= snap.Epoch || snap.Epoch == 0 {
				t.Errorf("epoch %d after %d", m.Epoch(), snap.Epoch)
			}
			if got := listing(table(m, lock.Filter{})); got != string(want) {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
			mustClose(t, m)
			m = open(t, dir)
			if got := listing(table(m, lock.Filter{})); got != string(want) {
				t.Fatalf("after a checkpoint\n%s\nwant\n%s", got, want)
			}
			mustClose(t, m)
		})
	}
}
