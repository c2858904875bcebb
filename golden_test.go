package sneck_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sneck"
	"sneck/lock"
)

var update = flag.Bool("update", false, "write the logs of testdata/log-v1 that are missing: what is there stays as it is")

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
	"clients": goldenClients,
}

// goldenClients does something of everything that came with clients, share
// reservations and restarts, before, in and after a checkpoint that is made in
// grace.
func goldenClients(t *testing.T, dir string) {
	a, b, c, d := posix("a"), ofd("b"), smb("c\xff\x00"), smb("d")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	reclaims := func(m *sneck.Manager, o lock.Owner, access, deny lock.Access) {
		t.Helper()
		sh := share(o, access, deny)
		sh.Reclaim = true
		must(m.OpenShare(bg, sh))
	}
	other := lock.Share{File: "other\x00\xfe", Owner: a, Access: lock.Read}
	nfs := lock.Client{ID: a.Client, Adapter: "nfs4", Addr: "10.0.0.1", TTL: time.Hour}

	m := mustOpen(t, dir)
	must(m.Connect(bg, nfs))
	must(m.Connect(bg, lock.Client{ID: c.Client, Adapter: "smb\xff", Addr: "10.0.0.2\x00"}))
	must(m.Connect(bg, lock.Client{ID: d.Client, Adapter: "smb", Addr: "", TTL: time.Nanosecond << 62}))
	mustTry(t, m, a, x, span(0, 99))
	mustTry(t, m, a, s, span(200, 299))
	mustTry(t, m, b, s, span(300, 399))
	mustTry(t, m, c, x, span(400, 499))
	mustTry(t, m, c, s, span(400, 499))
	mustTry(t, m, c, s, at(500))
	mustShare(t, m, c, lock.Read|lock.Write, lock.Delete)
	mustShare(t, m, d, lock.Read, 0)
	must(m.OpenShare(bg, other))
	mustClose(t, m)

	m = mustOpen(t, dir)
	mustReclaim(t, m, a, s, span(200, 299))
	mustReclaim(t, m, c, s, span(400, 499))
	reclaims(m, c, lock.Read, 0) // the rest is unconfirmed still
	nfs.Addr = "10.0.0.3"
	must(m.Connect(bg, nfs))
	must(m.Checkpoint(bg))
	mustReclaim(t, m, a, x, span(10, 19))
	mustReclaim(t, m, b, s, span(300, 349))
	reclaims(m, c, 0, lock.Delete)
	if _, err := m.TryLockAll(bg, []lock.Request{ // one reclaimed, one new
		{File: file, Owner: a, Range: span(30, 30), Mode: s, Reclaim: true}, ask(b, x, span(600, 609)),
	}); err != nil {
		t.Fatal(err)
	}
	must(m.EndGrace(bg)) // write access of c goes, and d's, and locks
	mustShare(t, m, d, lock.Write, 0)
	mustShare(t, m, d, lock.Read, lock.Delete)
	mustShare(t, m, b, lock.Read, 0)
	must(m.CloseShare(bg, file, b))
	granted := make(chan error, 1)
	held := mustTry(t, m, c, x, span(700, 799))
	if _, err := m.Enqueue(ask(d, s, span(750, 750)), func(_ lock.Held, err error) { granted <- err }); err != nil {
		t.Fatal(err)
	}
	must(m.Revoke(bg, held.ID, "to let d in"))
	must(<-granted)
	gone := lock.Client{ID: "gone", Adapter: "nlm"}
	must(m.Connect(bg, gone))
	mustTry(t, m, lock.Owner{Client: gone.ID, ID: "gone", Semantics: lock.POSIX}, s, span(900, 909))
	must(m.Disconnect(bg, gone.ID))
	nfs.TTL = 0
	must(m.Connect(bg, nfs))
	mustClose(t, m)

	m = mustOpen(t, dir) // nfs has not come back, so nothing of it is known but its session
	must(m.Connect(bg, lock.Client{ID: "last", Adapter: "fuse", Addr: "/mnt"}))
	mustReclaim(t, m, d, s, span(750, 750))
	reclaims(m, d, lock.Write, 0)
	mustClose(t, m)
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

// listing is what is held, reserved and known as text, each in a line.
func listing(m interface {
	Locks(lock.Filter) iter.Seq[lock.Held]
	Shares(lock.Filter) iter.Seq[lock.Share]
}, clients iter.Seq[lock.Client]) string {
	var b strings.Builder
	for _, h := range table(m, lock.Filter{}) {
		fmt.Fprintf(&b, "%q %v share %q pid %d %v %v id %d epoch %d since %s\n", h.File, h.Owner, h.Owner.Share, h.Owner.PID, h.Range, h.Mode, h.ID, h.Epoch, h.Since.UTC().Format(time.RFC3339Nano))
	}
	for _, sh := range shares(m) {
		fmt.Fprintf(&b, "%q %v share %q pid %d opened for %v denying %v\n", sh.File, sh.Owner, sh.Owner.Share, sh.Owner.PID, sh.Access, sh.Deny)
	}
	for c := range clients {
		fmt.Fprintf(&b, "client %q adapter %q addr %q ttl %v\n", c.ID, c.Adapter, c.Addr, c.TTL)
	}
	return b.String()
}

// The logs that this version wrote are read as they were meant, and go on.
func TestGoldenLogs(t *testing.T) {
	for name, build := range goldenLogs {
		t.Run(name, func(t *testing.T) {
			kept := filepath.Join(goldenDir, name)
			if _, err := os.Stat(kept); *update && errors.Is(err, fs.ErrNotExist) {
				build(t, kept)
				if err := os.Remove(filepath.Join(kept, "LOCK")); err != nil {
					t.Fatal(err)
				}
				snap, err := sneck.Inspect(kept)
				if err != nil {
					t.Fatal(err)
				}
				write(t, kept+".txt", []byte(listing(snap, snap.Clients())))
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
			if got := listing(snap, snap.Clients()); got != string(want) || len(want) == 0 {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			m := open(t, dir)
			if m.Epoch() <= snap.Epoch || snap.Epoch == 0 {
				t.Errorf("epoch %d after %d", m.Epoch(), snap.Epoch)
			}
			if got := listing(m, m.Clients("")); got != string(want) {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			held := table(m, lock.Filter{})
			mustEqual(t, "what is unconfirmed", held, marked(held, true))
			graceIs(t, m, true, len(held)+len(shares(m)))
			if err := m.Checkpoint(bg); err != nil {
				t.Fatal(err)
			}
			mustClose(t, m)
			m = open(t, dir)
			if got := listing(m, m.Clients("")); got != string(want) {
				t.Fatalf("after a checkpoint\n%s\nwant\n%s", got, want)
			}
			mustReclaimAll(t, m)
			mustClose(t, m)
		})
	}
}

// Of everything that can be in a log there is something in these.
func TestGoldenLogsAreComplete(t *testing.T) {
	seen := make(map[string]bool)
	for name := range goldenLogs {
		_, err := sneck.Records(filepath.Join(goldenDir, name), nil, func(r sneck.LogRecord) error {
			if r.Err != nil {
				t.Errorf("%s: %v", name, r.Err)
				return nil
			}
			where := " in a log"
			if strings.HasPrefix(filepath.Base(r.Entry.File), "checkpoint-") {
				where = " in a checkpoint"
			}
			seen[r.Kind.String()+where] = true
			switch {
			case r.Change != nil:
				for _, p := range r.Change.Parts {
					what := p.Op.String()
					if p.Reclaim {
						what = "reclaim share"
					}
					seen[what] = true
				}
			case r.State != nil:
				for _, sh := range r.State.Shares {
					seen["share of a state"] = true
					if sh.OldAccess|sh.OldDeny != 0 {
						seen["share reclaimed in part"] = true
					}
				}
			case r.Client != nil:
				seen[r.Client.What.String()+where] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"epoch in a log", "file in a log", "client in a log", "walked in a log",
		"epoch in a checkpoint", "state in a checkpoint", "client in a checkpoint", "begin in a checkpoint",
		"lock", "unlock", "release owner", "release client", "release file",
		"open share", "reclaim share", "close share", "reclaim", "release unconfirmed", "revoke",
		"share of a state", "share reclaimed in part",
		"began in a log", "updated in a log", "ended in a log", "began in a checkpoint", "updated in a checkpoint", "mark in a checkpoint",
	}
	slices.Sort(want)
	mustEqual(t, "what there is", slices.Sorted(maps.Keys(seen)), want)
}
