package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"sneck/lock"
)

// patience is how long anything may take that has to come: a bound for broken
// code, and not a measure of anything.
const patience = time.Minute

// minutes is a grace period that nothing here is too slow for.
const minutes = 15 * time.Minute

// witness has clients ask, and compares what comes of it with its account.
type witness struct {
	t       *testing.T
	log     string // the server's log directory
	server  *process
	clients map[string]*process
	account *account
	pending []*pending // what was not answered yet, in order

	// In a grace period that is short: what comes after its end comes too late, and
	// all since the restart is to be done again.
	short, late bool
}

// process is the test binary, run as something else.
type process struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	link    *link        // to it, once there is one
	trouble bytes.Buffer // what it says on its standard error: nothing, if all is well
}

// pending is a request in flight.
type pending struct {
	r request
	a chan answer
}

func newWitness(t *testing.T) *witness {
	w := &witness{t: t, log: filepath.Join(t.TempDir(), "log"), clients: make(map[string]*process), account: new(account)}
	t.Chdir(filepath.Dir(w.log)) // for the socket, and for all processes
	t.Cleanup(func() {
		for _, c := range w.clients {
			w.end(c)
		}
		if w.server != nil {
			w.kill()
		}
	})
	return w
}

// process starts one, and gives its standard output.
func (w *witness) process(name, role string, env ...string) (*process, io.Reader) {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{name: name, cmd: exec.Command(exe)}
	p.cmd.Env = append(append(os.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")), env...)
	p.cmd.Stderr = io.MultiWriter(os.Stderr, &p.trouble)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	return p, out
}

// within fails the test if f takes too long: it is for what has to come.
func (w *witness) within(what string, f func()) {
	w.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		w.t.Fatalf("does not come: %s", what)
	}
}

// eventually polls for what no answer tells.
func (w *witness) eventually(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("does not come: %s", what)
		}
	}
}

// start starts a server on the log, with a grace period. It may have made of what
// was in flight what it likes, as long as it is yes or no.
func (w *witness) start(grace time.Duration, inFlight ...request) {
	w.t.Helper()
	p, out := w.process("server", "server", graceEnv+"="+grace.String(), logEnv+"="+w.log)
	w.server = p
	var said string
	w.within("the server", func() { _, _ = fmt.Fscanln(out, &said) })
	if said != ready {
		w.t.Fatalf("the server said %q", said)
	}
	conn, err := net.Dial("unix", socketPath)
	if err != nil {
		w.t.Fatal(err)
	}
	p.link = dial(conn, conn)
	go func() {
		<-p.link.gone
		conn.Close()
	}()
	epoch := w.look(opEpoch).Epoch
	if epoch <= w.account.epoch {
		w.t.Fatalf("epoch %d after epoch %d", epoch, w.account.epoch)
	}
	listed, were := w.holdings(), 0
	for _, r := range inFlight {
		if w.wasDone(r, epoch, listed) {
			w.account.apply(r)
			were++
		}
	}
	if inFlight != nil {
		w.t.Logf("of %d requests in flight %d were carried out", len(inFlight), were)
	}
	w.account.restart(epoch)
	w.compare()
}

// wasDone reports whether the server has carried out r before it was killed, as the
// listing of its successor has it.
func (w *witness) wasDone(r request, epoch uint64, listed []string) bool {
	w.t.Helper()
	without, with := w.account.clone(), w.account.clone()
	with.apply(r)
	without.restart(epoch)
	with.restart(epoch)
	// lists reports whether it lists some, and all, of what is in one of them only.
	lists := func(facts, others []string) (some, all bool) {
		all = true
		for _, f := range facts {
			if !slices.Contains(others, f) {
				has := slices.Contains(listed, f)
				some, all = some || has, all && has
			}
		}
		return some, all
	}
	someNew, allNew := lists(with.holdings(), without.holdings())
	someOld, allOld := lists(without.holdings(), with.holdings())
	switch {
	case allOld && !someNew: // or it changes nothing
		return false
	case allNew && !someOld:
		return true
	}
	w.t.Fatalf("%s, which was in flight, was carried out in part:%s", r, differences(listed, with.holdings()))
	return false
}

// kill kills the server, and waits until it is dead.
func (w *witness) kill() {
	w.t.Helper()
	p := w.server
	w.server = nil
	if err := p.cmd.Process.Kill(); err != nil {
		w.t.Errorf("kill -9 of the server: %v", err)
	}
	w.end(p)
}

// killClient kills a client, and forgets it.
func (w *witness) killClient(name string) {
	w.t.Helper()
	c := w.clients[name]
	delete(w.clients, name)
	if err := c.cmd.Process.Kill(); err != nil {
		w.t.Errorf("kill -9 of client %s: %v", name, err)
	}
	w.end(c)
}

// end waits for the end of a process that was killed, or else ends now because its
// input does, and for that of the link to it.
func (w *witness) end(p *process) {
	w.t.Helper()
	p.in.Close()
	if p.link != nil {
		w.within("the end of "+p.name, func() { <-p.link.gone })
	}
	var err error
	w.within("the end of "+p.name, func() { err = p.cmd.Wait() })
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGKILL {
			err = nil
		}
	}
	if err != nil || p.trouble.Len() > 0 {
		w.t.Errorf("%s: %v\n%s", p.name, err, p.trouble.String())
	}
}

// stop has the server end in good order.
func (w *witness) stop() {
	w.t.Helper()
	p := w.server
	w.server = nil
	w.end(p)
}

// connect has a client, a new process if there is none of that name, connect to the
// server as itself.
func (w *witness) connect(name, adapter, addr string, ttl time.Duration) {
	w.t.Helper()
	if w.late {
		return
	}
	if w.clients[name] == nil {
		p, out := w.process("client "+name, "client")
		p.link = dial(out, p.in)
		w.clients[name] = p
	}
	if a := w.ask(name, request{Op: opDial}); a.Err != "" {
		w.t.Fatalf("client %s cannot connect: %s", name, a.Err)
	}
	w.step(name, request{Op: opConnect, Client: lock.Client{ID: name, Adapter: adapter, Addr: addr, TTL: ttl}}, "")
}

// send has a client send a request.
func (w *witness) send(name string, r request) *pending {
	p := &pending{r, make(chan answer, 1)}
	w.clients[name].link.send(r, func(a answer) { p.a <- a })
	return p
}

func (w *witness) answerTo(p *pending) (a answer) {
	w.t.Helper()
	w.within("the answer to "+p.r.String(), func() { a = <-p.a })
	return a
}

func (w *witness) ask(name string, r request) answer {
	w.t.Helper()
	return w.answerTo(w.send(name, r))
}

// look asks the server what there is: all of it in one answer.
func (w *witness) look(ops ...string) (all answer) {
	w.t.Helper()
	var ps []*pending
	for _, op := range ops {
		p := &pending{request{Op: op}, make(chan answer, 1)}
		w.server.link.send(p.r, func(a answer) { p.a <- a })
		ps = append(ps, p)
	}
	for _, p := range ps {
		a := w.answerTo(p)
		if a.Err != "" {
			w.t.Fatalf("%s: %s %s", p.r.Op, a.Err, a.Text)
		}
		switch p.r.Op {
		case opLocks:
			all.Locks = a.Locks
		case opShares:
			all.Shares = a.Shares
		case opWaiters:
			all.Line = a.Line
		case opClients:
			all.Known = a.Known
		case opGrace:
			all.Grace = a.Grace
		case opEpoch:
			all.Epoch = a.Epoch
		}
	}
	return all
}

// step has a client ask for something, which must be answered as the account has
// it, and so as the scenario: want is the name of an error, or "". Then the account
// must be what the server lists.
func (w *witness) step(name string, r request, want string) answer {
	w.t.Helper()
	if w.late {
		return answer{}
	}
	a := w.ask(name, r)
	if a.Err != want {
		w.fail("%s: got %q (%s), want %q", r, a.Err, a.Text, want)
	}
	w.answered(r, a)
	w.compare()
	return a
}

// answered puts the request into the account; its answer must be as that has it.
func (w *witness) answered(r request, a answer) {
	w.t.Helper()
	if w.late {
		return
	}
	vs, granted := w.account.apply(r)
	w.judge(r, a, vs)
	w.letIn(granted)
}

// judge fails unless the answer is one that there may be.
func (w *witness) judge(r request, a answer, vs []verdict) {
	w.t.Helper()
	got := verdict{err: a.Err}
	switch share := r.Op == opOpenShare || r.Op == opReclaimShare; {
	case a.Share != nil:
		got.who = a.Share.Owner.String()
	case a.Held != nil && share:
		got.who = a.Held.Owner.String()
	case a.Held != nil:
		got.who = sayHeld(*a.Held)
	}
	if !slices.Contains(vs, got) {
		w.fail("%s: got %+v (%s), want one of %+v", r, got, a.Text, vs)
	}
}

// letIn waits for the answers to those who stood in line, and were let in.
func (w *witness) letIn(granted []request) {
	w.t.Helper()
	for _, r := range granted {
		i := slices.IndexFunc(w.pending, func(p *pending) bool { return p.r == r })
		a := w.answerTo(w.pending[i])
		w.pending = slices.Delete(w.pending, i, i+1)
		if a.Err != "" || a.Held == nil || a.Held.Range != r.Range || a.Held.Mode != r.Mode || a.Held.Owner != r.Owner {
			w.fail("%s, which stood in line: got %+v", r, a)
		}
	}
}

// waits has a client ask for what it must stand in line for.
func (w *witness) waits(r request) {
	w.t.Helper()
	if w.late {
		return
	}
	p := w.send(r.Owner.Client, r)
	w.pending = append(w.pending, p)
	vs, _ := w.account.apply(r)
	if !slices.Equal(vs, stands) {
		w.t.Fatalf("%s: the scenario has it wait, the account says %+v", r, vs)
	}
	w.eventually(r.String()+" stands in line", func() bool {
		return slices.ContainsFunc(w.look(opWaiters).Line, func(q request) bool { return q == r }) || w.tooLate()
	})
	w.compare()
}

// burst has clients ask for much at the same time, and kills the server in the midst
// of it: when so many requests were sent, or so many answers have come. What was not
// answered may have happened or not: it is given back, for the next start.
func (w *witness) burst(rs []request, sent, answers int) (inFlight []request) {
	w.t.Helper()
	type reply struct {
		r request
		a answer
	}
	replies := make(chan reply, len(rs))
	w.server.link.send(request{Op: opCheckpoint}, func(answer) {})
	for i, r := range rs {
		if i == sent {
			w.kill()
		}
		w.clients[r.Owner.Client].link.send(r, func(a answer) { replies <- reply{r, a} })
	}
	for i := range rs {
		if i == answers && w.server != nil {
			w.kill()
		}
		var p reply
		w.within("an answer, or the loss of the server", func() { p = <-replies })
		if p.a.Err == lost && w.server == nil {
			inFlight = append(inFlight, p.r)
			continue
		}
		w.answered(p.r, p.a)
	}
	w.abandoned()
	w.t.Logf("killed with %d of %d requests in flight", len(inFlight), len(rs))
	return inFlight
}

// killed kills the server while nothing is in flight but what stands in line.
func (w *witness) killed() {
	w.t.Helper()
	w.kill()
	w.abandoned()
}

// abandoned is what becomes of those in line when the server dies.
func (w *witness) abandoned() {
	w.t.Helper()
	for _, p := range w.pending {
		if a := w.answerTo(p); a.Err != lost {
			w.fail("%s: got %+v of a server that was killed", p.r, a)
		}
	}
	w.pending = nil
}

// holdings are the locks and shares that the server lists, in words.
func (w *witness) holdings() []string {
	w.t.Helper()
	return w.look(opLocks, opShares).holdings()
}

func (a answer) holdings() (facts []string) {
	for _, h := range a.Locks {
		facts = append(facts, sayHeld(h))
	}
	for _, sh := range a.Shares {
		facts = append(facts, sayShare(sh.File, sh.Owner, sh.Access, sh.Deny))
	}
	return facts
}

// compare fails unless the server lists what the account has.
func (w *witness) compare() {
	w.t.Helper()
	if w.late {
		return
	}
	if d := differences(w.listed(), w.account.facts()); d != "" {
		w.fail("the server%s", d)
	}
}

// listed is everything that the server lists, in words. Where the grace period
// stands comes last: if it is not over then, it was not before.
func (w *witness) listed() []string {
	w.t.Helper()
	all := w.look(opLocks, opShares, opWaiters, opClients, opEpoch)
	got := all.holdings()
	for _, r := range all.Line {
		got = append(got, "waits: "+r.String())
	}
	for _, c := range all.Known {
		got = append(got, sayClient(c))
	}
	g := w.look(opGrace).Grace
	if !w.short && (g.Remaining > 0) != g.Active || g.Remaining > minutes {
		w.fail("grace: %+v", g)
	}
	return append(got, sayGrace(g.Active, g.Expected, g.Complete, g.Unconfirmed), fmt.Sprint("epoch ", all.Epoch))
}

// tooLate reports whether a short grace period is over, or ends just now: clients
// without a TTL that have not come go at the same time, and maybe a moment before.
func (w *witness) tooLate() bool {
	w.t.Helper()
	w.late = w.late || w.short && w.look(opGrace).Grace.Remaining == 0
	return w.late
}

// fail ends the test, unless it is because the grace period was too short.
func (w *witness) fail(format string, args ...any) {
	w.t.Helper()
	if !w.tooLate() {
		w.t.Fatalf(format, args...)
	}
}

// graceOver waits for a short grace period to be over by time. Who stood in line
// for what was not reclaimed has it then.
func (w *witness) graceOver() {
	w.t.Helper()
	w.short = false
	w.eventually("the end of grace", func() bool {
		g := w.look(opGrace).Grace
		return !g.Active && g.Unconfirmed == 0
	})
	w.account.endGrace()
	w.letIn(w.account.handOver())
	w.compare()
}

// copyLog is a copy of the log of a server that is dead.
func (w *witness) copyLog() string {
	w.t.Helper()
	to := filepath.Join(w.t.TempDir(), "log")
	if err := os.CopyFS(to, os.DirFS(w.log)); err != nil {
		w.t.Fatal(err)
	}
	return to
}

// The steps of a scenario. want is the name of an error, or "".

func (w *witness) try(o lock.Owner, f lock.FileKey, m lock.Mode, s extent, want string) answer {
	w.t.Helper()
	return w.step(o.Client, request{Op: opTry, File: f, Owner: o, Range: s, Mode: m}, want)
}

func (w *witness) unlock(o lock.Owner, f lock.FileKey, s extent, want string) {
	w.t.Helper()
	w.step(o.Client, request{Op: opUnlock, File: f, Owner: o, Range: s}, want)
}

func (w *witness) test(o lock.Owner, f lock.FileKey, m lock.Mode, s extent, found bool) {
	w.t.Helper()
	a := w.step(o.Client, request{Op: opTest, File: f, Owner: o, Range: s, Mode: m}, "")
	if !w.late && (a.Held != nil) != found {
		w.fail("test of %s %v for %s: %+v", f, s, o, a)
	}
}

func (w *witness) reclaim(o lock.Owner, f lock.FileKey, m lock.Mode, s extent, want string) answer {
	w.t.Helper()
	return w.step(o.Client, request{Op: opReclaim, File: f, Owner: o, Range: s, Mode: m}, want)
}

func (w *witness) open(o lock.Owner, f lock.FileKey, access, deny lock.Access, want string) {
	w.t.Helper()
	w.step(o.Client, request{Op: opOpenShare, File: f, Owner: o, Access: access, Deny: deny}, want)
}

func (w *witness) reclaimShare(o lock.Owner, f lock.FileKey, access, deny lock.Access, want string) {
	w.t.Helper()
	w.step(o.Client, request{Op: opReclaimShare, File: f, Owner: o, Access: access, Deny: deny}, want)
}

func (w *witness) close(o lock.Owner, f lock.FileKey, want string) {
	w.t.Helper()
	w.step(o.Client, request{Op: opCloseShare, File: f, Owner: o}, want)
}

func (w *witness) complete(name string) {
	w.t.Helper()
	w.step(name, request{Op: opComplete, Client: lock.Client{ID: name}}, "")
}

func (w *witness) renew(name string) {
	w.t.Helper()
	w.step(name, request{Op: opRenew, Client: lock.Client{ID: name}}, "")
}

func (w *witness) disconnect(name string) {
	w.t.Helper()
	w.step(name, request{Op: opDisconnect, Client: lock.Client{ID: name}}, "")
}

// atOnce has a client ask for all of rs before any of it is answered. They must
// be such that their order does not matter, and all succeed. The answers are in
// the order of rs.
func (w *witness) atOnce(rs []request) (as []answer) {
	w.t.Helper()
	if w.late {
		return nil
	}
	var ps []*pending
	for _, r := range rs {
		ps = append(ps, w.send(r.Owner.Client, r))
	}
	for _, p := range ps {
		a := w.answerTo(p)
		as = append(as, a)
		if a.Err != "" {
			w.fail("%s: %s %s", p.r, a.Err, a.Text)
		}
		w.answered(p.r, a)
	}
	w.compare()
	return as
}

// oneByOne has a client ask for one after the other.
func (w *witness) oneByOne(rs []request) (as []answer) {
	w.t.Helper()
	for _, r := range rs {
		as = append(as, w.step(r.Owner.Client, r, ""))
	}
	return as
}
