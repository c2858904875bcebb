package sneck_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sneck"
	"sneck/lock"
)

const (
	s   = lock.Shared
	x   = lock.Exclusive
	eof = math.MaxUint64

	file = lock.FileKey("file") // where a test needs one only
)

var bg = context.Background()

// tb is what *testing.T, *testing.B and *rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		victim(dir)
	}
	os.Exit(m.Run())
}

var seedFlag = flag.Uint64("seed", 0, "seed of the randomized tests; 0 = SNECK_SEED, else another one each time")

// newRand is a source of random numbers whose seed is printed and can be set.
func newRand(t testing.TB) *rand.Rand {
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

// memory is a Manager without a log.
func memory(t testing.TB) *sneck.Manager {
	t.Helper()
	return open(t, "")
}

// open is a Manager that is closed at the end of the test, if not before.
func open(t testing.TB, dir string) *sneck.Manager {
	t.Helper()
	m := mustOpen(t, dir)
	t.Cleanup(func() { _ = m.Close() }) // a test that minds has closed it itself
	return m
}

func mustOpen(t tb, dir string) *sneck.Manager {
	t.Helper()
	m, err := sneck.Open(sneck.Options{Dir: dir})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return m
}

func mustClose(t tb, m *sneck.Manager) {
	t.Helper()
	if err := m.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// bubble runs f with a Manager in memory where a goroutine that stands in line
// is durably blocked, so that synctest.Wait says when it does.
func bubble(t *testing.T, f func(t *testing.T, m *sneck.Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, memory(t)) })
}

func posix(name string) lock.Owner { return owner(lock.POSIX, name) }
func ofd(name string) lock.Owner   { return owner(lock.OFD, name) }
func smb(name string) lock.Owner   { return owner(lock.SMB, name) }

// owner is one with a client of its own.
func owner(sem lock.Semantics, name string) lock.Owner {
	return lock.Owner{Client: "client of " + name, ID: name, Semantics: sem}
}

var allSemantics = []lock.Semantics{lock.POSIX, lock.OFD, lock.SMB}

func span(first, last uint64) lock.Range {
	r, err := lock.Bytes(first, last)
	if err != nil {
		panic(err)
	}
	return r
}

// at is SMB's zero-length range.
func at(offset uint64) lock.Range {
	r, err := lock.SMBRange(offset, 0)
	if err != nil {
		panic(err)
	}
	return r
}

func ask(o lock.Owner, mode lock.Mode, r lock.Range) lock.Request {
	return lock.Request{File: file, Owner: o, Range: r, Mode: mode}
}

func mustTry(t tb, m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) lock.Held {
	t.Helper()
	h, err := m.TryLock(bg, ask(o, mode, r))
	if err != nil {
		t.Fatalf("TryLock: %v", err)
	}
	return h
}

// mustDeny is the holder that a refused TryLock names.
func mustDeny(t tb, m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) lock.Held {
	t.Helper()
	h, err := m.TryLock(bg, ask(o, mode, r))
	var conflict *lock.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("%s got %+v, %v; want a ConflictError", o, h, err)
	}
	return conflict.Holder
}

func mustUnlock(t tb, m *sneck.Manager, o lock.Owner, r lock.Range) {
	t.Helper()
	if err := m.Unlock(bg, file, o, r); err != nil {
		t.Fatalf("Unlock: %v", err)
	}
}

func mustRelease(t tb, want int) func(n int, err error) {
	t.Helper()
	return func(n int, err error) {
		t.Helper()
		if n != want || err != nil {
			t.Fatalf("released %d, %v; want %d", n, err, want)
		}
	}
}

// table is what matches, in an order of its own.
func table(m interface {
	Locks(lock.Filter) iter.Seq[lock.Held]
}, q lock.Filter) []lock.Held {
	hs := slices.Collect(m.Locks(q))
	slices.SortFunc(hs, func(a, b lock.Held) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Range.First(), b.Range.First()), cmp.Compare(a.Range.Last(), b.Range.Last()), cmp.Compare(a.ID, b.ID))
	})
	return hs
}

// marked are the locks as they are after a restart (unconfirmed), or as they
// would be without one: else they are the same.
func marked(hs []lock.Held, unconfirmed bool) []lock.Held {
	hs = slices.Clone(hs)
	for i := range hs {
		hs[i].Unconfirmed = unconfirmed
	}
	return hs
}

// reclaimAll has every owner reclaim what it held before the restart, all of it,
// and returns when that has ended the grace period.
func reclaimAll(m *sneck.Manager) error {
	if !m.Grace().Active {
		return nil
	}
	for _, h := range slices.Collect(m.Locks(lock.Filter{})) {
		if !h.Unconfirmed {
			return fmt.Errorf("it is in use already: %+v", h)
		}
		got, err := m.TryLock(bg, lock.Request{File: h.File, Owner: h.Owner, Range: h.Range, Mode: h.Mode, Reclaim: true})
		if err != nil {
			return fmt.Errorf("reclaiming %+v: %w", h, err)
		}
		if factOf(got) != factOf(h) || got.Unconfirmed || got.Epoch != m.Epoch() || got.ID == h.ID {
			return fmt.Errorf("%+v was reclaimed as %+v", h, got)
		}
	}
	for _, sh := range slices.Collect(m.Shares(lock.Filter{})) {
		sh.Reclaim = true
		if err := m.OpenShare(bg, sh); err != nil {
			return fmt.Errorf("reclaiming %+v: %w", sh, err)
		}
	}
	if g := m.Grace(); g.Unconfirmed != 0 {
		return fmt.Errorf("all was reclaimed, but: %+v", g)
	}
	mustEndGrace(m)
	return nil
}

// mustEndGrace returns when the grace period is over, because nothing is
// unconfirmed any more.
func mustEndGrace(m *sneck.Manager) {
	for start := time.Now(); m.Grace().Active; runtime.Gosched() {
		if time.Since(start) > time.Minute {
			panic(fmt.Sprintf("it goes on: %+v", m.Grace()))
		}
	}
}

// mustReclaimAll is reclaimAll; what is held and reserved is the same then, down
// to the display fields of owners.
func mustReclaimAll(t tb, m *sneck.Manager) {
	t.Helper()
	held, reserved := facts(table(m, lock.Filter{})), shares(m)
	if err := reclaimAll(m); err != nil {
		t.Fatalf("%v", err)
	}
	mustHold(t, m, held...)
	mustEqual(t, "the shares", shares(m), reserved)
}

// mustBeInTheWay fails unless a TryLock of r is refused because of h, which was
// not reclaimed yet.
func mustBeInTheWay(t tb, m *sneck.Manager, r lock.Request, h lock.Held) {
	t.Helper()
	got, err := m.TryLock(bg, r)
	var g *lock.GraceError
	if !errors.As(err, &g) || g.Holder != h || !h.Unconfirmed || g.Remaining <= 0 || g.Remaining > 90*time.Second {
		t.Fatalf("%s got %+v, %v; want a GraceError because of %+v", r.Owner, got, err, h)
	}
	mustBe(t, err, lock.ErrGrace)
}

// fact is what a held lock says whatever its number and time.
type fact struct {
	File  lock.FileKey
	Owner lock.Owner
	Range lock.Range
	Mode  lock.Mode
}

func (f fact) String() string { return fmt.Sprintf("%s %s %s on %q", f.Owner, f.Mode, f.Range, f.File) }

func factOf(h lock.Held) fact { return fact{h.File, h.Owner, h.Range, h.Mode} }

func compareFacts(a, b fact) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Range.First(), b.Range.First()), cmp.Compare(a.Range.Last(), b.Range.Last()),
		cmp.Compare(a.Owner.String(), b.Owner.String()), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.Range.String(), b.Range.String()),
	)
}

// facts are the facts of a table, sorted.
func facts(hs []lock.Held) []fact {
	fs := make([]fact, len(hs))
	for i, h := range hs {
		fs[i] = factOf(h)
	}
	slices.SortFunc(fs, compareFacts)
	return fs
}

// everything is what is held, reserved and known, as facts: a share reservation as
// a lock of a mode of its own, and a client as one of a file of its own.
func everything(m interface {
	Locks(lock.Filter) iter.Seq[lock.Held]
	Shares(lock.Filter) iter.Seq[lock.Share]
}) []fact {
	fs := facts(table(m, lock.Filter{}))
	for sh := range m.Shares(lock.Filter{}) {
		fs = append(fs, fact{sh.File, sh.Owner, lock.WholeFile(), lock.Mode(64 + sh.Access<<3 + sh.Deny)})
	}
	var known iter.Seq[lock.Client]
	switch m := m.(type) {
	case *sneck.Manager:
		known = m.Clients("")
	case *sneck.Snapshot:
		known = m.Clients()
	}
	for c := range known {
		fs = append(fs, fact{lock.FileKey("client " + c.ID), lock.Owner{Client: c.ID, ID: c.Addr, Share: fmt.Sprint(c.Adapter, " ", c.TTL)}, lock.WholeFile(), 200})
	}
	slices.SortFunc(fs, compareFacts)
	return fs
}

// mustHold fails unless exactly these facts are in the table.
func mustHold(t tb, m *sneck.Manager, want ...fact) {
	t.Helper()
	slices.SortFunc(want, compareFacts)
	if got := facts(table(m, lock.Filter{})); !slices.Equal(got, want) {
		t.Fatalf("the table has\n\t%v\nwant\n\t%v", got, want)
	}
}

func mustEqual(t tb, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n\t%+v\nwant\n\t%+v", what, got, want)
	}
}

// picture draws what an owner holds on the first n bytes: r, w or a dot each,
// and '>' if the last goes on to the end of file. It fails unless ranges that
// touch differ in mode, and none overlap: the picture then says all.
func picture(t tb, m *sneck.Manager, o lock.Owner, n int) string {
	t.Helper()
	b := []byte(strings.Repeat(".", n))
	var last lock.Held
	tail := ""
	for i, h := range table(m, lock.Filter{File: file, Owner: &o}) {
		switch {
		case i == 0:
		case h.Range.First() <= last.Range.Last():
			t.Fatalf("%s holds %s in two ways: %s %s and %s %s", o, h.Range, last.Mode, last.Range, h.Mode, h.Range)
		case h.Range.First()-1 == last.Range.Last() && h.Mode == last.Mode:
			t.Fatalf("%s holds %s and %s apart, both %s", o, last.Range, h.Range, h.Mode)
		}
		last = h
		for j := h.Range.First(); j <= min(h.Range.Last(), uint64(n-1)); j++ {
			b[j] = map[lock.Mode]byte{s: 'r', x: 'w'}[h.Mode]
		}
		if h.Range.ToEOF() {
			tail = ">"
		} else if h.Range.Last() >= uint64(n) {
			t.Fatalf("%s holds %s, more than the picture has", o, h.Range)
		}
	}
	return string(b) + tail
}

// draw makes o hold what the picture says.
func draw(t tb, m *sneck.Manager, o lock.Owner, pic string) {
	t.Helper()
	toEOF := strings.HasSuffix(pic, ">")
	pic = strings.TrimSuffix(pic, ">")
	for i := 0; i < len(pic); {
		j := i
		for j+1 < len(pic) && pic[j+1] == pic[i] {
			j++
		}
		last := uint64(j)
		if toEOF && j == len(pic)-1 {
			last = eof
		}
		if mode := map[byte]lock.Mode{'r': s, 'w': x}[pic[i]]; mode != 0 {
			mustTry(t, m, o, mode, span(uint64(i), last))
		}
		i = j + 1
	}
}

// call is a call that may stand in line. held and err are set once it ended.
type call struct {
	ended atomic.Bool
	held  lock.Held
	err   error
}

func (c *call) end(h lock.Held, err error) {
	c.held, c.err = h, err
	c.ended.Store(true)
}

// start calls f on a goroutine of the bubble, and returns when it ended or
// stands in line.
func start(f func() (lock.Held, error)) *call {
	c := new(call)
	go func() { c.end(f()) }()
	synctest.Wait()
	return c
}

func lockIn(ctx context.Context, m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) *call {
	return start(func() (lock.Held, error) { return m.Lock(ctx, ask(o, mode, r)) })
}

func (c *call) waits(t tb) {
	t.Helper()
	if synctest.Wait(); c.ended.Load() {
		t.Fatalf("it should stand in line, got %+v, %v", c.held, c.err)
	}
}

func (c *call) holds(t tb) lock.Held {
	t.Helper()
	if synctest.Wait(); !c.ended.Load() {
		t.Fatalf("it should have been granted and stands in line")
	}
	if c.err != nil {
		t.Fatalf("it should have been granted: %v", c.err)
	}
	return c.held
}

func (c *call) fails(t tb, want error) {
	t.Helper()
	if synctest.Wait(); !c.ended.Load() {
		t.Fatalf("it should have failed with %v and stands in line", want)
	}
	if !errors.Is(c.err, want) || c.held != (lock.Held{}) {
		t.Fatalf("got %+v, %v; want %v", c.held, c.err, want)
	}
}

// mustStand returns when n stand in line: for tests with a log, which cannot
// be in a bubble.
func mustStand(m *sneck.Manager, n int) {
	for len(slices.Collect(m.Waiters(lock.Filter{}))) < n {
		runtime.Gosched()
	}
}

// mustIdle fails unless nobody stands in line.
func mustIdle(t tb, m *sneck.Manager) {
	t.Helper()
	if ws := slices.Collect(m.Waiters(lock.Filter{})); len(ws) > 0 || m.Stats().Waiters != 0 {
		t.Fatalf("in line: %+v; Stats say %d", ws, m.Stats().Waiters)
	}
}

// mustEmpty fails unless nothing is left of anybody.
func mustEmpty(t tb, m *sneck.Manager) {
	t.Helper()
	mustIdle(t, m)
	mustHold(t, m)
	if st := m.Stats(); st.Locks != 0 || st.Files != 0 || st.Clients != 0 {
		t.Fatalf("nothing is held, but Stats are %+v", st)
	}
}

var sentinels = []error{
	lock.ErrConflict, lock.ErrDeadlock, lock.ErrNotFound, lock.ErrRange, lock.ErrInvalid, lock.ErrGrace,
	lock.ErrNoGrace, lock.ErrReclaimBad, lock.ErrLimit, lock.ErrConnectionLimit, lock.ErrUnknownClient,
	lock.ErrRevoked, lock.ErrCanceled, lock.ErrReleased, lock.ErrHalted, lock.ErrClosed,
	context.Canceled, context.DeadlineExceeded,
}

// kind is the one sentinel that err is; nil for none and for no error.
func kind(t tb, err error) error {
	t.Helper()
	var found error
	for _, e := range sentinels {
		if !errors.Is(err, e) {
			continue
		}
		if found != nil {
			t.Fatalf("%v is both %v and %v", err, found, e)
		}
		found = e
	}
	if err != nil && found == nil {
		t.Fatalf("%v is none of the documented errors", err)
	}
	return found
}

// mustBe fails unless err is want and nothing else.
func mustBe(t tb, err, want error) {
	t.Helper()
	if got := kind(t, err); !errors.Is(got, want) {
		t.Fatalf("got %v (%v), want %v", got, err, want)
	}
}

// compatible fails if two owners hold conflicting modes on a byte, or if one
// POSIX or OFD owner holds a byte twice, in the locks of one file at one moment.
// Zero-length ranges have no byte: two ranges may become one around them.
func compatible(t tb, hs []lock.Held) {
	t.Helper()
	ids := make(map[lock.ID]bool)
	for i, a := range hs {
		if a.ID == 0 || ids[a.ID] {
			t.Fatalf("id %d is not unique: %+v", a.ID, hs)
		}
		ids[a.ID] = true
		for _, b := range hs[:i] {
			if !a.Range.Overlaps(b.Range) || a.Range.IsEmpty() || b.Range.IsEmpty() {
				continue
			}
			switch same := a.Owner.Same(b.Owner); {
			case same && a.Owner.Semantics == lock.SMB:
				if a.Mode == x && b.Mode == x {
					t.Fatalf("an exclusive lock stacks on another: %+v and %+v", a, b)
				}
			case same:
				t.Fatalf("one owner holds bytes twice: %+v and %+v", a, b)
			case a.Mode.Conflicts(b.Mode):
				t.Fatalf("conflicting locks: %+v and %+v", a, b)
			}
		}
	}
}

// content is every file below dir and what is in it.
func content(t tb, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		info, e := d.Info()
		if err == nil {
			err = e
		}
		if err == nil {
			out[path] = info.ModTime().Format(time.RFC3339Nano) + "\n" + string(data)
		}
		return err
	})
	if err != nil {
		t.Fatalf("reading %s: %v", dir, err)
	}
	return out
}

// crashed is a copy of the log directory of a Manager that is still open: what
// it would leave if its process died now.
func crashed(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatalf("copying %s: %v", dir, err)
	}
	return to
}
