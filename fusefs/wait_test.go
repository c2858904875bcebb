package fusefs_test

import (
	"fmt"
	"os"
	"testing"

	"sneck/internal/lockprobe"
)

// Invariant 4: waits, and what interrupts them.
func TestWaits(t *testing.T) {
	scripts(t, []scenario{
		{"unlock wakes", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlkw 3 w 5 10 ...
			A setlk 3 u 0 5 -> ok
			waiters 1
			A setlk 3 u 5 5 -> ok
			B => ok
			locks B:w[5,14]`},
		{"downgrade wakes readers", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlkw 3 r 0 10 ...
			A setlk 3 r 0 10 -> ok
			B => ok
			locks A:r[0,9] B:r[0,9]`},
		{"close wakes", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlkw 3 w 0 10 ...
			A close 3 -> ok
			B => ok`},
		{"first come, first served", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			C open $f rw -> ok 3
			A setlk 3 r 0 10 -> ok
			B setlkw 3 w 0 10 ...
			C setlkw 3 r 0 10 ...       # no reader passes a waiting writer
			A setlk 3 u 0 0 -> ok
			B => ok
			waiters 1
			B setlk 3 u 0 0 -> ok
			C => ok`},
		{"a signal ends the wait with EINTR and leaves nothing", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B handler norestart -> ok
			A setlk 3 w 0 10 -> ok
			B setlkw 3 w 0 10 ...
			B USR1
			B => err EINTR
			waiters 0
			B signals -> ok 1
			A setlk 3 u 0 0 -> ok
			locks
			A setlk 3 w 0 10 -> ok`},
		{"also for OFD locks", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B handler norestart -> ok
			A osetlk 3 w 0 10 -> ok
			B osetlkw 3 w 0 10 ...
			B USR1
			B => err EINTR
			waiters 0
			locks A:w[0,9]`},
		{"and for flock", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B handler norestart -> ok
			A flock 3 ex -> ok
			B flock 3 ex ...
			B USR1
			B => err EINTR
			waiters 0
			locks A:flock-w`},
		{"an interrupted wait keeps what the owner had", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			B handler norestart -> ok
			A setlk 3 r 0 10 -> ok
			B setlk 3 r 5 10 -> ok
			B setlkw 3 w 0 15 ...
			B USR1
			B => err EINTR
			locks A:r[0,9] B:r[5,14]`},
		{"SIGKILL of a waiter leaves nothing", `
			A open $f rw,creat -> ok 3
			B open $f rw -> ok 3
			A setlk 3 w 0 10 -> ok
			B setlkw 3 w 0 10 ...
			B KILL
			waiters 0
			locks A:w[0,9]
			A setlk 3 u 0 0 -> ok
			locks`},
	})
}

// Invariant 4, SA_RESTART: the kernel sends the request again. The wait goes
// on as one waiter, and is served once.
func TestSignalWithRestart(t *testing.T) {
	x := mountScratch(t)
	a, b := x.probe("A"), x.probe("B")
	fa := a.Open(x.path("f"), "rw,creat")
	fb := b.Open(x.path("f"), "rw")
	b.OK("handler restart")
	a.OK("setlk %d w 0 10", fa)
	b.Send("setlkw %d w 0 10", fb)
	x.wantWaiters(1)
	first := x.firstWaiter()
	for range 5 {
		b.Signal(usr1)
		x.eventually("a new request takes the place of the interrupted one", func() bool {
			now := x.firstWaiter()
			return x.waiters() == 1 && now != 0 && now != first
		})
		first = x.firstWaiter()
	}
	if b.Answered() {
		t.Fatalf("the wait ended: %s", b.Answer())
	}
	a.OK("setlk %d u 0 10", fa)
	b.WantAnswer("ok")
	b.Want("ok 5", "signals")
	x.wantWaiters(0)
	x.wantLocks("B:w[0,9]")
}

// Invariant 4: whoever wins when signal and unlock come together, the table
// agrees with what the program was told.
func TestSignalRacesUnlock(t *testing.T) {
	x := mountScratch(t)
	a, b := x.probe("A"), x.probe("B")
	fa := a.Open(x.path("f"), "rw,creat")
	fb := b.Open(x.path("f"), "rw")
	b.OK("handler norestart")
	told := make(map[string]int)
	for i := range 200 {
		a.OK("setlk %d w 0 10", fa)
		b.Send("setlkw %d w 0 10", fb)
		x.wantWaiters(1)
		if i%2 == 0 {
			a.Send("setlk %d u 0 10", fa)
			b.Signal(usr1)
		} else {
			b.Signal(usr1)
			a.Send("setlk %d u 0 10", fa)
		}
		a.WantAnswer("ok")
		answer := b.Answer()
		told[answer]++
		switch answer {
		case "ok":
			x.wantLocks("B:w[0,9]")
			b.OK("setlk %d u 0 10", fb)
		case "err EINTR":
			x.wantLocks()
		default:
			t.Fatalf("round %d: %s", i, answer)
		}
		x.wantWaiters(0)
	}
	t.Log(told)
}

// Invariant 8: two hundred blocked requests hold nobody up.
func TestManyWaiters(t *testing.T) {
	const many = 200
	x := mountScratch(t)
	a := x.probe("holder")
	fd := a.Open(x.path("f"), "rw,creat")
	a.OK("setlk %d w 0 1", fd)
	a.OK("flock %d ex", fd)
	waiters := make([]*lockprobe.Probe, many)
	for i := range waiters {
		w := x.probe("w")
		waiters[i] = w
		wfd := w.Open(x.path("f"), "rw")
		if i%2 == 0 {
			w.Send("setlkw %d w 0 1", wfd)
		} else {
			w.Send("flock %d ex", wfd)
		}
	}
	x.wantWaiters(many)

	b := x.probe("bystander")
	bfd := b.Open(x.path("f"), "rw")
	b.OK("setlk %d w 1 1", bfd)
	g := b.Open(x.path("g"), "rw,creat")
	for i := range 50 {
		b.OK("pwrite %d 0 %d", g, i)
		b.OK("setlk %d w %d 1", g, i)
		name := x.path(fmt.Sprintf("other%d", i))
		if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}

	for _, w := range waiters[:many/4] {
		w.Kill()
	}
	x.wantWaiters(many - many/4)
	a.Kill()
	// One after the other: each gets it, and hands it on by dying.
	left := waiters[many/4:]
	for len(left) > 0 {
		var still []*lockprobe.Probe
		x.eventually("somebody is served", func() bool {
			still = still[:0]
			for _, w := range left {
				if !w.Answered() {
					still = append(still, w)
					continue
				}
				w.WantAnswer("ok")
				w.Kill()
			}
			return len(still) < len(left)
		})
		left = still
	}
	x.wantWaiters(0)
	x.wantLocks("bystander:w[1,1]", "bystander:w[0,49]")
}
