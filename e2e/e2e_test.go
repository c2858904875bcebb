package e2e

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"sneck/lock"
)

const (
	s = lock.Shared
	x = lock.Exclusive

	f = lock.FileKey("f")
	h = lock.FileKey("h") // C has it open, and denies writing
	k = lock.FileKey("k") // E has it open, and denies deletion

	rd, wr, del = lock.Read, lock.Write, lock.Delete
)

// The clients' owners. E is an SMB session with durable handles, F a client that
// loses everything with its connection.
var (
	a1 = lock.Owner{Client: "A", ID: "process 1", Semantics: lock.POSIX}
	b1 = lock.Owner{Client: "B", ID: "open file 1", Semantics: lock.OFD}
	c1 = lock.Owner{Client: "C", ID: "process 1", Semantics: lock.POSIX}
	d1 = lock.Owner{Client: "D", ID: "handle 1", Semantics: lock.SMB}
	e1 = lock.Owner{Client: "E", ID: "handle 1", Semantics: lock.SMB}
	e2 = lock.Owner{Client: "E", ID: "handle 2", Semantics: lock.SMB}
	f1 = lock.Owner{Client: "F", ID: "1", Semantics: lock.POSIX} // three owners, not one
	f2 = lock.Owner{Client: "F", ID: "1", Semantics: lock.OFD}
	f3 = lock.Owner{Client: "F", ID: "1", Semantics: lock.SMB}

	owners = []lock.Owner{a1, b1, c1, d1, e1, f1}
)

func span(first, last uint64) extent { return extent{First: first, Last: last} }

const eof = math.MaxUint64

var seedFlag = flag.Uint64("seed", 0, "seed of when the server is killed; 0 = SNECK_SEED, else another one each time")

func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if v := os.Getenv("SNECK_SEED"); seed == 0 && v != "" {
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			t.Fatalf("SNECK_SEED: %v", err)
		}
		seed = n
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to repeat: -seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Six clients lose the server to kill -9 again and again. A reclaims everything at
// once, B late and from another address, C never, D too late, E twice and what it
// may not, and F reclaims one half before the server dies in grace, and both halves
// after.
func TestServerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("runs processes")
	}
	random := newRand(t)
	w := newWitness(t)

	w.start(minutes) // there is no grace, since nothing was held
	w.everybodyLocks()
	inFlight := w.killedUnderLoad(random)
	w.killClient("C")

	w.start(minutes, inFlight...)
	inFlight = w.killedInGrace(random)

	w.start(minutes, inFlight...)
	w.secondGrace()
	w.killed()

	w.graceEndsByTime()
	w.killed()

	w.start(minutes)
	w.graceEndsEarly()
	w.everybodyLetsGo()
	w.stop()

	w.start(minutes)
	w.nothingIsLeft()
}

func (w *witness) arrive(name string) {
	w.t.Helper()
	adapter := map[string]string{"A": "nfs4", "B": "nlm", "C": "nfs4", "D": "smb", "E": "smb", "F": "9p"}[name]
	ttl := time.Duration(0)
	if name == "D" {
		ttl = 20 * time.Minute
	}
	w.connect(name, adapter, "10.0.0."+name, ttl)
}

// everybodyLocks: the clients come, and lock, wait, split, merge and stack.
func (w *witness) everybodyLocks() {
	for _, o := range owners {
		w.arrive(o.Client)
		w.renew(o.Client)
	}
	w.try(a1, f, x, span(0, 9), "")
	w.try(a1, f, x, span(10, 14), "") // merges
	w.try(a1, f, s, span(200, 209), "")
	w.try(a1, f, s, span(1000, eof), "")
	w.try(b1, f, x, span(20, 29), "")
	w.try(b1, f, s, span(25, 39), "") // a downgrade in part
	w.try(b1, f, s, span(205, 214), "")
	w.try(b1, f, x, span(14, 14), "ErrConflict")
	w.test(b1, f, s, span(9, 19), true)
	w.test(b1, f, s, span(200, 204), false)
	w.try(c1, f, x, span(40, 49), "")
	w.try(c1, f, s, span(50, 59), "")
	w.open(c1, h, rd, wr, "")
	w.try(d1, f, x, span(60, 69), "")
	w.try(d1, f, s, span(60, 69), "") // stacks
	w.try(d1, f, x, span(60, 69), "ErrConflict")
	w.try(e1, f, x, span(80, 89), "")
	w.try(e1, f, s, span(80, 89), "")
	w.try(e1, f, s, span(90, 99), "")
	w.try(e2, f, s, span(90, 99), "")
	w.try(e2, f, s, extent{First: 95, Last: 95, Empty: true}, "")
	w.open(e1, k, rd|wr, del, "")
	w.open(d1, k, del, 0, "ErrConflict")
	w.open(f3, k, rd, 0, "")
	w.try(f1, f, x, span(110, 119), "")
	w.unlock(f1, f, span(113, 114), "") // splits
	w.try(f1, f, s, span(160, 169), "")
	w.try(f2, f, s, span(120, 129), "")
	w.try(f2, f, x, span(140, 149), "")
	w.try(f3, f, s, span(120, 129), "")
	w.try(f3, f, x, span(150, 159), "")
	w.unlock(f3, f, span(150, 155), "ErrNotFound")
	w.unlock(e1, f, span(90, 99), "")
	w.try(e1, f, s, span(90, 98), "")

	// A request that blocks holds up nothing else of its client.
	w.waits(request{Op: opLock, File: f, Owner: d1, Range: span(12, 14), Mode: s})
	w.waits(request{Op: opLock, File: f, Owner: f1, Range: span(14, 14), Mode: x})
	w.try(d1, f, x, span(70, 79), "")
	w.renew("D")
	w.unlock(a1, f, span(13, 14), "")
	w.unlock(a1, f, span(10, 12), "") // lets D in, before F
	w.unlock(d1, f, span(12, 14), "") // lets F in
	w.step("A", request{Op: opCheckpoint}, "")
}

// load is what each client asks for at the moment when the server is killed. No two
// of these requests have to do with each other.
func (w *witness) load(random *rand.Rand, who []lock.Owner) (rs []request) {
	const busy = lock.FileKey("busy")
	for i, o := range who {
		base := w.account.epoch*100_000 + uint64(i)*1000
		for n := range uint64(4) {
			mine := request{Op: opTry, File: busy, Owner: o, Range: span(base+10*n, base+10*n+4), Mode: lock.Mode(1 + n%2)}
			rs = append(rs, mine)
			if n == 3 {
				continue
			}
			// These there are already, and go.
			mine.Range = span(base+500+10*n, base+500+10*n+4)
			w.try(o, busy, mine.Mode, mine.Range, "")
			mine.Op = opUnlock
			rs = append(rs, mine)
		}
		mine := lock.FileKey(fmt.Sprint("opened by ", o.Client, " in ", w.account.epoch))
		w.open(o, mine, rd, 0, "")
		rs = append(rs,
			request{Op: opCloseShare, File: mine, Owner: o},
			request{Op: opOpenShare, File: mine + ", too", Owner: o, Access: rd | wr, Deny: wr})
	}
	random.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
	return rs
}

// killedUnderLoad: the server dies while all clients ask for something, and some
// stand in line.
func (w *witness) killedUnderLoad(random *rand.Rand) (inFlight []request) {
	rs := w.load(random, owners)
	w.waits(request{Op: opLock, File: f, Owner: b1, Range: span(40, 45), Mode: x})
	w.waits(request{Op: opLock, File: f, Owner: e1, Range: span(45, 49), Mode: s})
	return w.burst(rs, random.IntN(2*len(rs)), random.IntN(len(rs)))
}

// killedInGrace: A is there at once, E asks twice and for too much, B is late, F gets
// half of it done.
func (w *witness) killedInGrace(random *rand.Rand) (inFlight []request) {
	w.arrive("A")
	w.atOnce(w.account.of("A"))

	// What cannot collide with what may still be reclaimed is granted, else not.
	w.try(a1, f, x, span(300, 309), "")
	w.try(a1, f, s, span(50, 52), "") // C's is shared as well
	w.try(a1, f, x, span(45, 46), "ErrGrace")
	w.try(a1, f, s, span(49, 50), "ErrGrace")
	w.try(a1, f, x, span(20, 20), "ErrGrace")
	w.test(a1, f, s, span(40, 49), true)
	w.open(a1, h, wr, 0, "ErrGrace")
	w.open(a1, h, rd, 0, "")
	w.open(a1, k, rd|wr, 0, "")

	w.arrive("E")
	all := w.account.of("E")
	once := w.oneByOne(all)
	for i, again := range w.oneByOne(all) {
		if all[i].Op == opReclaim && again.Held.ID != once[i].Held.ID {
			w.t.Fatalf("%s: lock %d, the second time %d", all[i], once[i].Held.ID, again.Held.ID)
		}
	}
	w.reclaim(e1, f, x, span(500, 509), "ErrReclaimBad") // never held
	w.reclaim(e1, f, x, span(90, 98), "ErrReclaimBad")   // held in a weaker mode
	w.reclaim(e1, f, s, span(90, 99), "ErrReclaimBad")   // let go
	w.reclaim(e1, f, s, span(80, 84), "ErrReclaimBad")   // some bytes: SMB has no such thing
	w.reclaim(e1, f, s, span(40, 49), "ErrReclaimBad")   // somebody else's
	w.reclaimShare(e1, k, rd|wr|del, del, "ErrReclaimBad")
	w.reclaimShare(e1, h, rd, 0, "ErrReclaimBad")
	w.reclaim(a1, f, x, span(200, 209), "ErrReclaimBad") // held in a weaker mode
	w.reclaim(a1, f, x, span(0, 12), "ErrReclaimBad")    // some of it was let go

	w.connect("B", "nlm", "192.168.7.7", 0)
	w.reclaim(b1, f, s, span(20, 39), "") // in the weaker mode of two, over both
	w.oneByOne(w.account.of("B"))
	w.try(b1, f, x, span(0, 0), "ErrConflict")  // A's, and confirmed
	w.try(b1, f, x, span(110, 110), "ErrGrace") // F's, and not yet
	w.waits(request{Op: opLock, File: f, Owner: b1, Range: span(40, 49), Mode: x})

	w.arrive("F")
	var half, other []request // every owner has something in each
	for i, r := range w.account.of("F") {
		if i%2 == 0 {
			half = append(half, r)
		} else {
			other = append(other, r)
		}
	}
	w.oneByOne(half)
	w.unlock(f1, f, span(163, 165), "") // both ends stay unconfirmed
	w.unlock(f2, f, span(144, 149), "")

	rs := w.load(random, []lock.Owner{a1, b1, e1})
	rs = append(rs, half...)
	rs = append(rs, other[0])
	return w.burst(rs, random.IntN(2*len(rs)), random.IntN(len(rs)))
}

// secondGrace: everything is unconfirmed again, so that F has to reclaim the first
// half once more.
func (w *witness) secondGrace() {
	w.arrive("A")
	w.try(a1, f, x, span(110, 110), "ErrGrace")
	w.try(a1, f, s, span(140, 141), "ErrGrace")
	w.arrive("F")
	half, other := w.account.of("F", w.account.epoch-1), w.account.of("F", w.account.epoch-2)
	if len(half) == 0 || len(other) == 0 {
		w.t.Fatalf("F has reclaimed %v, and has left %v", half, other)
	}
	w.oneByOne(other)
	w.oneByOne(half)
	w.try(a1, f, x, span(110, 110), "ErrConflict")
	w.try(f1, f, s, span(163, 165), "")
	w.try(f1, f, x, span(300, 300), "ErrGrace") // A's, who has come and not reclaimed
	w.connect("B", "nlm", "192.168.7.7", 0)
	w.arrive("E")
	for _, name := range []string{"A", "B", "E"} {
		w.atOnce(w.account.of(name))
	}
	w.try(f1, f, x, span(300, 300), "ErrConflict")
	w.try(f1, f, x, span(44, 44), "ErrGrace") // C's, still
	w.try(f1, f, x, span(400, 409), "")
	w.step("A", request{Op: opCheckpoint}, "")
	w.waits(request{Op: opLock, File: f, Owner: f1, Range: span(44, 44), Mode: x})
}

// graceEndsByTime: C has not come, D comes too late. Those who stood in line for what
// they had get it.
func (w *witness) graceEndsByTime() {
	log, before := w.copyLog(), w.account
	for grace := 400 * time.Millisecond; ; grace *= 2 {
		w.short, w.late, w.account = true, false, before.clone()
		w.start(grace)
		for _, name := range []string{"A", "B", "E", "F"} {
			w.arrive(name)
			w.atOnce(w.account.of(name))
		}
		w.waits(request{Op: opLock, File: f, Owner: b1, Range: span(40, 49), Mode: x})
		w.waits(request{Op: opLock, File: f, Owner: a1, Range: span(60, 69), Mode: x})
		w.waits(request{Op: opLock, File: f, Owner: f3, Range: span(45, 45), Mode: s}) // behind B
		if !w.late {
			break
		}
		w.t.Logf("a grace period of %v was too short", grace)
		if grace > minutes {
			w.t.Fatal("no grace period is long enough")
		}
		w.killed()
		w.log = log
		log = w.copyLog()
	}
	w.graceOver()
	if left := append(w.account.of("C"), w.account.of("D")...); len(left) > 0 {
		w.t.Fatalf("C and D still have %v", left)
	}

	w.arrive("D")
	w.reclaim(d1, f, x, span(60, 69), "ErrNoGrace")
	w.try(d1, f, x, span(60, 69), "ErrConflict") // A has it
	w.try(d1, f, s, span(40, 44), "ErrConflict") // B
	w.reclaimShare(d1, k, rd, 0, "ErrNoGrace")
	w.try(d1, f, x, span(700, 709), "")
	w.open(d1, h, rd|wr, 0, "")       // C's denial is gone
	w.unlock(b1, f, span(45, 49), "") // lets F in
	w.reclaim(a1, f, x, span(0, 9), "ErrNoGrace")
}

// graceEndsEarly: all say that they are complete.
func (w *witness) graceEndsEarly() {
	for _, name := range []string{"A", "B", "D", "E", "F"} {
		w.arrive(name)
	}
	w.waits(request{Op: opLock, File: f, Owner: b1, Range: span(300, 304), Mode: x})
	// A does without these, D without everything, B without some of its range.
	w.oneByOne(slices.DeleteFunc(w.account.of("A"), func(r request) bool { return r.Range.First == 300 }))
	w.atOnce(slices.DeleteFunc(w.account.of("B"), func(r request) bool { return r.Range == span(20, 39) }))
	w.reclaim(b1, f, s, span(22, 33), "")
	w.reclaimShare(d1, h, rd, 0, "")
	w.atOnce(w.account.of("E"))
	w.atOnce(w.account.of("F"))
	w.complete("A")
	w.reclaim(a1, f, x, span(300, 309), "ErrReclaimBad")
	w.try(a1, f, x, span(310, 319), "") // a new one it may have
	w.complete("A")
	for _, name := range []string{"B", "F", "E"} {
		w.complete(name)
	}
	w.try(e1, f, x, span(700, 700), "ErrGrace") // D's, which may still reclaim it
	w.complete("D")                             // lets B in
	if w.account.grace {
		w.t.Fatal("all are complete, and grace goes on")
	}
	w.try(e1, f, x, span(700, 700), "")
	w.try(e1, f, x, span(34, 39), "")
	w.open(a1, h, rd, del, "") // D may read only
	w.reclaim(e1, f, s, span(90, 98), "ErrNoGrace")
	w.complete("A")
}

// everybodyLetsGo: each in its own way.
func (w *witness) everybodyLetsGo() {
	for _, name := range []string{"A", "B", "D"} {
		for _, r := range w.account.of(name) {
			if r.Op == opReclaimShare {
				w.close(r.Owner, r.File, "")
			} else {
				w.unlock(r.Owner, r.File, r.Range, "")
			}
		}
		w.disconnect(name) // it has its time to come back
	}
	w.disconnect("E") // it has none
	// F's connection ends with it, and then there is none either.
	w.killClient("F")
	w.account.disconnect("F")
	w.eventually("what F held goes", func() bool { return len(w.holdings()) == 0 })
	w.compare()
}

func (w *witness) nothingIsLeft() {
	w.t.Helper()
	if got := w.holdings(); len(got) > 0 || len(w.account.holdings()) > 0 || w.account.grace {
		w.t.Fatalf("left: %v", got)
	}
	w.arrive("A")
	w.reclaim(a1, f, x, span(0, 9), "ErrNoGrace")
}
