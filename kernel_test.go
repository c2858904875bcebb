package sneck_test

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/lock"
)

// kernelOps is how many lock operations the kernel and a Manager are held
// against each other for, and every how many their tables are.
const (
	kernelOps   = 100_000
	kernelTable = 1000
)

// line is a lock as the kernel lists it. to is inclusive; math.MaxInt64 is to
// end of file.
type line struct {
	write    bool
	from, to int64
}

// scratch is a file on the local file system with several open descriptions,
// each an owner in the kernel and in a Manager.
type scratch struct {
	m      *sneck.Manager
	files  []*os.File
	owners []lock.Owner
	inode  string // as /proc/locks names it
}

func newScratch(t *testing.T, descriptors int) *scratch {
	k := &scratch{m: memory(t)}
	path := filepath.Join(t.TempDir(), "scratch")
	for i := range descriptors {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // the test closes it itself
		k.files = append(k.files, f)
		k.owners = append(k.owners, ofd(fmt.Sprint(i)))
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(k.files[0].Fd()), &st); err != nil {
		t.Fatal(err)
	}
	k.inode = ":" + strconv.FormatUint(st.Ino, 10)
	return k
}

// lists reads the locks of one format: /proc/locks has those of every file,
// fdinfo those of one description, with a word before each.
func (k *scratch) lists(t *testing.T, path string) (ls []line) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// 1: OFDLCK ADVISORY  WRITE -1 fe:00:1234 0 EOF
		w := strings.Fields(strings.TrimPrefix(sc.Text(), "lock:"))
		if len(w) != 8 || w[1] != "OFDLCK" || !strings.HasSuffix(w[5], k.inode) {
			continue
		}
		l := line{write: w[3] == "WRITE", to: math.MaxInt64}
		if l.from, err = strconv.ParseInt(w[6], 10, 64); err == nil && w[7] != "EOF" {
			l.to, err = strconv.ParseInt(w[7], 10, 64)
		}
		if err != nil {
			t.Fatalf("%s: %q: %v", path, sc.Text(), err)
		}
		ls = append(ls, l)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	sortLines(ls)
	return ls
}

func sortLines(ls []line) {
	slices.SortFunc(ls, func(a, b line) int {
		return compareFacts(fact{Range: kernelRange(a), Mode: kernelMode(a)}, fact{Range: kernelRange(b), Mode: kernelMode(b)})
	})
}

func kernelRange(l line) lock.Range {
	if l.to == math.MaxInt64 {
		return span(uint64(l.from), eof)
	}
	return span(uint64(l.from), uint64(l.to))
}

func kernelMode(l line) lock.Mode {
	if l.write {
		return x
	}
	return s
}

// holds is what the Manager has of those owners, as the kernel would list it.
func (k *scratch) holds(owners ...lock.Owner) (ls []line) {
	for h := range k.m.Locks(lock.Filter{File: file}) {
		if !slices.Contains(owners, h.Owner) {
			continue
		}
		to := int64(math.MaxInt64)
		if !h.Range.ToEOF() {
			to = int64(h.Range.Last())
		}
		ls = append(ls, line{write: h.Mode == x, from: int64(h.Range.First()), to: to})
	}
	sortLines(ls)
	return ls
}

// compare holds the tables against each other: each description's in its
// fdinfo, and the file's in /proc/locks. The kernel hands out /proc/locks, which
// has the locks of the whole machine, a page at a time, and others lock files
// too: what moves between two pages is read twice or not at all. So it is read
// again until it is right, and if it never is, fdinfo, which is read in one
// piece, has the say. It reports whether /proc/locks was right.
func (k *scratch) compare(t *testing.T) bool {
	t.Helper()
	for i, f := range k.files {
		if f == nil {
			continue
		}
		mustEqual(t, fmt.Sprint("descriptor ", i), k.lists(t, fmt.Sprint("/proc/self/fdinfo/", f.Fd())), k.holds(k.owners[i]))
	}
	want := k.holds(k.owners...)
	for range 100 {
		if slices.Equal(k.lists(t, "/proc/locks"), want) {
			return true
		}
	}
	return false
}

// fcntl makes the call in the kernel.
func (k *scratch) fcntl(i int, cmd int, typ int16, start, length int64) (unix.Flock_t, error) {
	fl := unix.Flock_t{Type: typ, Whence: unix.SEEK_SET, Start: start, Len: length}
	err := unix.FcntlFlock(k.files[i].Fd(), cmd, &fl)
	return fl, err
}

// errno is what a file server would answer the program.
func errno(t *testing.T, err error) error {
	t.Helper()
	var re *lock.RangeError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lock.ErrConflict):
		return unix.EAGAIN
	case errors.As(err, &re) && re.Overflow:
		return unix.EOVERFLOW
	case errors.As(err, &re):
		return unix.EINVAL
	}
	t.Fatalf("%v has no errno", err)
	return nil
}

// set makes the call on both sides: the same answer.
func (k *scratch) set(t *testing.T, i int, typ int16, start, length int64) {
	t.Helper()
	_, want := k.fcntl(i, unix.F_OFD_SETLK, typ, start, length)
	r, err := lock.POSIXRange(start, length)
	if err == nil {
		if typ == unix.F_UNLCK {
			err = k.m.Unlock(bg, file, k.owners[i], r)
		} else {
			_, err = k.m.TryLock(bg, ask(k.owners[i], flockMode(typ), r))
		}
	}
	if got := errno(t, err); !errors.Is(got, want) {
		t.Fatalf("descriptor %d, type %d, %d+%d: %v (%v), the kernel says %v", i, typ, start, length, got, err, want)
	}
}

// get makes the call on both sides: a conflict or none, and whatever lock the
// kernel reports, the Manager has one just like it that is in the way; the one
// that the Manager reports is in its table, of another owner, in the way.
func (k *scratch) get(t *testing.T, i int, typ int16, start, length int64) {
	t.Helper()
	fl, want := k.fcntl(i, unix.F_OFD_GETLK, typ, start, length)
	r, err := lock.POSIXRange(start, length)
	if got := errno(t, err); !errors.Is(got, want) {
		t.Fatalf("GETLK %d+%d: %v, the kernel says %v", start, length, got, want)
	}
	if err != nil {
		return
	}
	mode := flockMode(typ)
	h, found := k.m.Test(ask(k.owners[i], mode, r))
	if found != (fl.Type != unix.F_UNLCK) {
		t.Fatalf("GETLK by descriptor %d, %s of %s: %v, %+v; the kernel reports %+v", i, mode, r, found, h, fl)
	}
	if !found {
		return
	}
	reported, err := lock.POSIXRange(fl.Start, fl.Len)
	if err != nil {
		t.Fatalf("the kernel reports %+v: %v", fl, err)
	}
	ours, kernels := false, false
	for g := range k.m.Locks(lock.Filter{File: file}) {
		if g.Owner == k.owners[i] || !g.Mode.Conflicts(mode) || !g.Range.Overlaps(r) {
			continue
		}
		ours = ours || g == h
		kernels = kernels || g.Range == reported && g.Mode == flockMode(fl.Type)
		if ours && kernels {
			break
		}
	}
	if !ours || !kernels || fl.Pid != -1 {
		t.Fatalf("GETLK by descriptor %d, %s of %s: %+v (in the way: %v), the kernel reports %+v (in the way: %v)", i, mode, r, h, ours, fl, kernels)
	}
}

func flockMode(typ int16) lock.Mode {
	if typ == unix.F_WRLCK {
		return x
	}
	return s
}

// anyRange is a start and length as programs give them: near 0, where they
// overlap and touch, to end of file, at the top, negative, and wrong. Of those
// of a wide range, few are large, so that many locks accumulate.
func anyRange(r *rand.Rand, wide bool) (start, length int64) {
	const top = math.MaxInt64
	near, kinds := int64(64), 20
	if wide {
		near, kinds = 512, 600
	}
	switch r.IntN(kinds) {
	case 0:
		return r.Int64N(near), 0
	case 1:
		return top - r.Int64N(24), r.Int64N(24) + 1 // some end past the top
	case 2:
		return top - 1 - r.Int64N(24), 1
	case 3:
		return top - r.Int64N(4), 0
	case 4:
		return r.Int64N(near), -r.Int64N(16) // some begin before 0
	case 5:
		return top - r.Int64N(4), -1 - r.Int64N(24)
	case 6:
		return []int64{-1, math.MinInt64, top, 1}[r.IntN(4)], []int64{1, math.MinInt64, top, -1, 2}[r.IntN(5)]
	case 7:
		return 0, 0
	}
	// Whole steps, so that ranges touch exactly, more often than not.
	if start, length = r.Int64N(near), 1+r.Int64N(4); r.IntN(3) > 0 {
		start, length = start/4*4, 4
	}
	return start, length
}

// A Manager in memory answers random OFD lock calls over several descriptors
// as the kernel does on a file of the local file system, call by call, and
// ends up with the same table, owner by owner.
func TestKernelOFD(t *testing.T) {
	k := newScratch(t, 6)
	if _, err := k.fcntl(0, unix.F_OFD_SETLK, unix.F_RDLCK, 0, 0); err != nil {
		t.Skipf("no OFD locks here: %v", err)
	}
	if len(k.lists(t, "/proc/locks")) == 0 {
		t.Skip("/proc/locks does not show locks of this file system")
	}
	k.set(t, 0, unix.F_UNLCK, 0, 0)

	r := newRand(t)
	most, whole := 0, 0
	for n := range kernelOps {
		i := r.IntN(len(k.files))
		start, length := anyRange(r, n/(10*kernelTable)%2 == 1)
		switch r.IntN(8) {
		case 0, 1:
			k.set(t, i, unix.F_RDLCK, start, length)
		case 2, 3:
			k.set(t, i, unix.F_WRLCK, start, length)
		case 4, 5:
			k.set(t, i, unix.F_UNLCK, start, length)
		case 6:
			k.get(t, i, unix.F_RDLCK, start, length)
		case 7:
			k.get(t, i, unix.F_WRLCK, start, length)
		}
		if n%kernelTable == kernelTable-1 {
			most = max(most, k.m.Stats().Locks)
			if k.compare(t) {
				whole++
			}
		}
	}
	t.Logf("up to %d locks at a time; /proc/locks was read whole at %d of %d checkpoints", most, whole, kernelOps/kernelTable)
	if whole == 0 {
		t.Error("/proc/locks was never what the descriptors have")
	}

	// Closing a description is releasing its owner.
	for i, f := range k.files {
		n := len(k.holds(k.owners[i]))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		mustRelease(t, n)(k.m.ReleaseOwner(bg, file, k.owners[i]))
		k.files[i] = nil
		k.compare(t)
	}
	mustEmpty(t, k.m)
}
