package sneck_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sneck"
	"sneck/lock"
)

// The test that kills a process: the test binary runs itself as the victim,
// which opens a log directory, has every owner reclaim what it held, and then has
// workers lock and unlock as fast as they can. Every worker writes to a pipe which operation it begins, and when it has
// been acknowledged. What a worker does follows from the seed and the
// operation's number alone, so the witness at the other end of the pipe can do
// the same on a Manager in memory.
const (
	victimEnv     = "SNECK_TEST_VICTIM" // the log directory
	victimSeedEnv = "SNECK_TEST_VICTIM_SEED"
	victimFromEnv = "SNECK_TEST_VICTIM_BEGIN" // each worker's first operation, "3,0,17,…"
	workers       = 8

	victimDurabilityEnv = "SNECK_TEST_VICTIM_DURABILITY"
	begins, acked       = "begins", "acked"
)

// worker is one owner that acts. Bytes from 1000·i on are its own; all share
// those from 0 to 99, and want byte 100 for themselves now and then.
type worker struct {
	i     int
	seed  uint64
	owner lock.Owner
}

func newWorker(seed uint64, i int) *worker {
	o := owner(allSemantics[i%3], fmt.Sprint("worker ", i))
	o.Share, o.PID = fmt.Sprint("share ", i), uint32(1000+i)
	return &worker{i: i, seed: seed, owner: o}
}

// operation is one thing that a worker does.
type operation struct {
	file             lock.FileKey
	own, shared, hot lock.Request
	share            lock.Share
	k                int // 0 to 21: what to do
}

// operation is the worker's n-th one.
func (w *worker) operation(n int) operation {
	r := rand.New(rand.NewPCG(w.seed, uint64(w.i)<<32|uint64(n)))
	f := lock.FileKey(fmt.Sprint("file ", r.IntN(3)))
	first := uint64(1000*(w.i+1) + r.IntN(20))
	own := lock.Request{File: f, Owner: w.owner, Range: span(first, first+uint64(r.IntN(10))), Mode: []lock.Mode{s, x}[r.IntN(2)]}
	shared := lock.Request{File: f, Owner: w.owner, Range: span(uint64(r.IntN(50)), uint64(50+r.IntN(50))), Mode: s}
	hot := lock.Request{File: "file 0", Owner: w.owner, Range: span(100, 100), Mode: x}
	k := r.IntN(22)
	// Denying nothing, so that it is up to nobody else.
	reserved := lock.Share{File: f, Owner: w.owner, Access: lock.Access(r.IntN(8))}
	return operation{file: f, own: own, shared: shared, hot: hot, share: reserved, k: k}
}

// releasesClient reports whether operation n is one of many files, each of
// which changes by itself.
func (w *worker) releasesClient(n int) bool {
	return n%10 != 0 && n%10 != 2 && w.operation(n).k == 19
}

// do is operation n. Whether it succeeds follows from what the worker did
// before, and from nothing else.
func (w *worker) do(m *sneck.Manager, n int) {
	op := w.operation(n)
	f, own, shared, hot := op.file, op.own, op.shared, op.hot
	switch k := op.k; {
	case n%10 == 0: // waits for whoever has it; nobody waits for anything while he has it
		_, err := m.Lock(bg, hot)
		must(err)
	case n%10 == 2:
		must(m.Unlock(bg, hot.File, w.owner, hot.Range), lock.ErrNotFound)
	case k < 6:
		_, err := m.TryLock(bg, own)
		must(err, lock.ErrConflict) // with its own, of SMB
	case k < 8:
		_, err := m.TryLockAll(bg, []lock.Request{own, shared})
		must(err, lock.ErrConflict)
	case k < 10:
		_, err := m.TryLock(bg, shared)
		must(err)
	case k < 16:
		must(m.Unlock(bg, f, w.owner, own.Range), lock.ErrNotFound)
	case k < 18 && w.owner.Semantics != lock.SMB:
		_, err := m.Upgrade(bg, f, w.owner, own.Range)
		must(err, lock.ErrNotFound)
	case k < 19:
		_, err := m.ReleaseOwner(bg, f, w.owner)
		must(err)
	case k < 20:
		_, err := m.ReleaseClient(bg, w.owner.Client)
		must(err)
	case k < 21:
		must(m.OpenShare(bg, op.share))
	default:
		must(m.CloseShare(bg, f, w.owner), lock.ErrNotFound)
	}
}

// must ends the process on any error but those that are allowed.
func must(err error, allowed ...error) {
	if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
		panic(err)
	}
}

// victim is what the test binary does when it is run to be killed.
func victim(dir string) {
	seed, err := strconv.ParseUint(os.Getenv(victimSeedEnv), 10, 64)
	must(err)
	durability, err := sneck.ParseDurability(os.Getenv(victimDurabilityEnv))
	must(err)
	// So small that checkpoints are always under way.
	m, err := sneck.Open(sneck.Options{Dir: dir, Durability: durability, SegmentSize: 4 << 10, CheckpointAfter: 8 << 10})
	must(err)
	must(reclaimAll(m))
	for i, from := range strings.Split(os.Getenv(victimFromEnv), ",") {
		n, err := strconv.Atoi(from)
		must(err)
		w := newWorker(seed, i)
		go func() {
			for ; ; n++ {
				say(i, n, begins)
				w.do(m, n)
				say(i, n, acked)
			}
		}()
	}
	select {}
}

// say writes one line to the witness, with one system call.
func say(i, n int, what string) {
	if _, err := fmt.Fprintf(os.Stdout, "%d %d %s\n", i, n, what); err != nil {
		panic(err)
	}
}

// witness has the victim run until it has acknowledged so many operations, kills
// it, and returns how many of each worker's operations have begun and how many
// were acknowledged, counting from operation 0.
func witness(t *testing.T, dir string, d sneck.Durability, seed uint64, from []int, until int) (begun, done []int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	var begin []string
	for _, n := range from {
		begin = append(begin, strconv.Itoa(n))
	}
	cmd.Env = append(os.Environ(), victimEnv+"="+dir, victimDurabilityEnv+"="+d.String(), fmt.Sprintf("%s=%d", victimSeedEnv, seed), victimFromEnv+"="+strings.Join(begin, ","))
	var trouble strings.Builder
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun, done = slices.Clone(from), slices.Clone(from)
	acks := 0
	lines := bufio.NewReader(out)
	for {
		l, err := lines.ReadString('\n')
		if err == io.EOF {
			break // of what was in the pipe when it died
		}
		var i, n int
		var what string
		if _, e := fmt.Sscan(l, &i, &n, &what); err != nil || e != nil {
			t.Errorf("%q, %v, %v", l, err, e)
			break
		}
		switch what {
		case begins:
			begun[i] = n + 1
		case acked:
			done[i] = n + 1
			if acks++; acks == until {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" || trouble.Len() > 0 {
		t.Fatalf("the victim ended by itself: %v\n%s", err, trouble.String())
	}
	return begun, done
}

// mirror does what a worker does on a Manager in memory.
type mirror struct {
	w    *worker
	m    *sneck.Manager
	next int
}

// until is what the worker holds after its first n operations.
func (r *mirror) until(n int) []fact {
	for ; r.next < n; r.next++ {
		r.w.do(r.m, r.next)
	}
	return everything(r.m)
}

// someFilesOf reports whether got is what was held before on some of the files,
// each of them whole.
func someFilesOf(got, before []fact) bool {
	kept := make(map[lock.FileKey]bool)
	for _, g := range got {
		kept[g.File] = true
	}
	return slices.Equal(got, slices.DeleteFunc(slices.Clone(before), func(b fact) bool { return !kept[b.File] }))
}

var kills = flag.Int("kills", 10, "how often TestRestartKilled kills a process")

// Durable means: killed at any instant under load, nothing that was
// acknowledged is missing, and nothing is there that was not asked for. What
// each worker holds is what its acknowledged operations give, with or without
// the one that was under way. Several lives follow each other on one log, on
// which checkpoints are made all the time. With None, what is acknowledged
// survives the process too.
func TestRestartKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("runs processes")
	}
	r := newRand(t)
	dir, seed := t.TempDir(), r.Uint64()
	from := make([]int, workers)
	var mirrors []*mirror
	for i := range workers {
		m := mustOpen(t, "")
		defer func() { _ = m.Close() }()
		mirrors = append(mirrors, &mirror{w: newWorker(seed, i), m: m})
	}
	var epoch uint64
	ids := make(map[lock.ID]fact)
	checkpoints, halfway, acknowledged := 0, 0, 0
	for life := range *kills {
		d := []sneck.Durability{sneck.Sync, sneck.None}[life%2]
		begun, done := witness(t, dir, d, seed, from, 1+r.IntN(600))
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "checkpoint-") {
				if checkpoints++; strings.HasSuffix(e.Name(), ".tmp") {
					halfway++
				}
			}
		}
		snap, err := sneck.Inspect(dir)
		if err != nil {
			t.Fatal(err)
		}
		seen := table(snap, lock.Filter{})
		m := open(t, dir)
		if m.Epoch() <= epoch+1 { // the victim had one too
			t.Errorf("epoch %d after %d", m.Epoch(), epoch)
		}
		epoch = m.Epoch()
		all := table(m, lock.Filter{})
		mustEqual(t, "the table after Inspect", all, marked(seen, true))
		mustEqual(t, "the shares after Inspect", shares(m), shares(snap))
		strange := everything(m)
		graceIs(t, m, len(strange) > 0, len(strange))
		mustEqual(t, "what there is", len(strange), len(all)+len(shares(m)))
		under := 0
		for i, mirror := range mirrors {
			w := mirror.w
			if begun[i] < done[i] || begun[i] > done[i]+1 {
				t.Fatalf("worker %d began %d operations and was acknowledged %d", i, begun[i], done[i])
			}
			acknowledged += done[i] - from[i]
			got := slices.DeleteFunc(everything(m), func(f fact) bool { return !f.Owner.Same(w.owner) })
			before := mirror.until(done[i])
			switch {
			case slices.Equal(got, before):
				from[i] = done[i]
			case begun[i] > done[i] && w.releasesClient(done[i]) && len(got) > 0 && someFilesOf(got, before):
				from[i] = done[i] // it is done again, to its end
				under++
			case begun[i] > done[i] && slices.Equal(got, mirror.until(begun[i])):
				from[i] = begun[i]
				under++
			default:
				t.Errorf("life %d, worker %d: %d operations acknowledged, %d begun; it holds\n\t%v\nwant\n\t%v\nor\n\t%v",
					life, i, done[i], begun[i], got, before, mirror.until(begun[i]))
			}
			strange = slices.DeleteFunc(strange, func(f fact) bool { return f.Owner == w.owner })
		}
		if len(strange) > 0 {
			t.Errorf("nobody asked for %v", strange)
		}
		now := make(map[lock.ID]fact)
		for _, f := range []lock.FileKey{"file 0", "file 1", "file 2"} {
			hs := table(m, lock.Filter{File: f})
			compatible(t, hs)
			for _, h := range hs {
				now[h.ID] = factOf(h)
				if was, ok := ids[h.ID]; ok && (was.File != h.File || was.Owner != h.Owner) {
					t.Errorf("id %d was that of %v, and is now of %v", h.ID, was, h)
				}
			}
		}
		maps.Copy(ids, now)
		mustClose(t, m)
		if t.Failed() {
			t.Logf("life %d with %v: %v operations acknowledged", life, d, done)
			return
		}
	}
	t.Logf("%d kills, %d operations acknowledged, %d checkpoints found, %d of them half written", *kills, acknowledged, checkpoints, halfway)
}
