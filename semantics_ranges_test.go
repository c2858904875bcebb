package sneck_test

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"sneck/lock"
)

// Ranges are inclusive, and "to end of file" is last = 2^64-1 whatever the
// protocol says: each protocol's way to say it keeps every other protocol off
// the very last byte, and off the first one of its own only.
// Source: POSIX fcntl; XNFS nlm4_lock; RFC 8881 18.10; MS-FSA 2.1.5.8; Linux fs/fuse/file.c.
func TestRangeToEOFInEveryProtocol(t *testing.T) {
	must := func(r lock.Range, err error) lock.Range {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const top = math.MaxInt64
	for name, r := range map[string]lock.Range{
		"POSIX length 0":                 must(lock.POSIXRange(100, 0)),
		"POSIX up to the largest offset": must(lock.POSIXRange(100, top-99)),
		"NLMv4 length 0":                 must(lock.NLM4Range(100, 0)),
		"NLMv4 up to the last byte":      must(lock.NLM4Range(100, eof-99)),
		"NFSv4 all ones":                 must(lock.NFS4Range(100, eof)),
		"SMB up to the last byte":        must(lock.SMBRange(100, eof-99)),
		"FUSE end 2^63-1":                must(lock.FUSERange(100, top)),
		"bytes":                          span(100, eof),
	} {
		t.Run(name, func(t *testing.T) {
			m := memory(t)
			if !r.ToEOF() || r.Last() != eof || r.First() != 100 {
				t.Fatalf("%s is not [100,EOF]", r)
			}
			mustTry(t, m, posix("a"), x, r)
			for _, taken := range []lock.Range{span(100, 100), span(1<<63, 1<<63), must(lock.SMBRange(eof, 1)), must(lock.POSIXRange(top, 1)), must(lock.FUSERange(top, top))} {
				if h := mustDeny(t, m, smb("b"), s, taken); h.Range != r {
					t.Errorf("%s is kept off by %s, want %s", taken, h.Range, r)
				}
			}
			mustTry(t, m, smb("b"), x, span(0, 99))
		})
	}
}

// Every protocol's arithmetic, as far as it can be told at the table: what is
// refused is ErrRange with the reason that the protocol's reply needs, and
// what is not covers exactly these bytes.
func TestRangeArithmetic(t *testing.T) {
	const top = math.MaxInt64
	posixRange := func(start, length int64) func() (lock.Range, error) {
		return func() (lock.Range, error) { return lock.POSIXRange(start, length) }
	}
	of := func(f func(uint64, uint64) (lock.Range, error), offset, length uint64) func() (lock.Range, error) {
		return func() (lock.Range, error) { return f(offset, length) }
	}
	for _, tc := range []struct {
		rule     string
		make     func() (lock.Range, error)
		want     string // "" = ErrRange
		overflow bool   // EOVERFLOW and its likes rather than EINVAL
	}{
		{"POSIX: length 0 = to EOF", posixRange(0, 0), "[0,EOF]", false},
		{"POSIX: length 0 = to EOF, at the largest offset", posixRange(top, 0), "[9223372036854775807,EOF]", false},
		{"POSIX: negative length = the bytes before start", posixRange(10, -4), "[6,9]", false},
		{"POSIX: negative length back to byte 0", posixRange(10, -10), "[0,9]", false},
		{"POSIX: before 0 is EINVAL", posixRange(10, -11), "", false},
		{"POSIX: before 0 is EINVAL, at 0", posixRange(0, -1), "", false},
		{"POSIX: before 0 is EINVAL, far", posixRange(0, math.MinInt64), "", false},
		{"POSIX: negative start is EINVAL", posixRange(-1, 10), "", false},
		{"POSIX: up to the maximum is to EOF", posixRange(top, 1), "[9223372036854775807,EOF]", false},
		{"POSIX: one less is not", posixRange(top-1, 1), "[9223372036854775806,9223372036854775806]", false},
		{"POSIX: past the maximum is EOVERFLOW", posixRange(top, 2), "", true},
		{"POSIX: past the maximum is EOVERFLOW, far", posixRange(1, top), "[1,EOF]", false},
		{"POSIX: past the maximum by one", posixRange(2, top), "", true},
		{"NFSv4: length 0 is invalid", of(lock.NFS4Range, 5, 0), "", false},
		{"NFSv4: all ones = to EOF", of(lock.NFS4Range, 5, eof), "[5,EOF]", false},
		{"NFSv4: all ones = to EOF, at the last byte", of(lock.NFS4Range, eof, eof), "[18446744073709551615,EOF]", false},
		{"NFSv4: other offset+length overflow is invalid", of(lock.NFS4Range, 2, eof-1), "", true},
		{"NFSv4: byte 2^64-1 has no other name", of(lock.NFS4Range, eof, 1), "", true},
		{"NFSv4: the byte before has", of(lock.NFS4Range, eof-1, 1), "[18446744073709551614,18446744073709551614]", false},
		{"NLMv4: length 0 = to EOF", of(lock.NLM4Range, 5, 0), "[5,EOF]", false},
		{"NLMv4: overflow is refused", of(lock.NLM4Range, 2, eof), "", true},
		{"NLMv4: up to the last byte", of(lock.NLM4Range, 1, eof), "[1,EOF]", false},
		{"SMB: overflow is refused", of(lock.SMBRange, 2, eof), "", true},
		{"SMB: overflow is refused, at the last byte", of(lock.SMBRange, eof, 2), "", true},
		{"SMB: unless length 0", of(lock.SMBRange, eof, 0), "[18446744073709551615,empty]", false},
		{"SMB: {2^64-1, 1} is valid", of(lock.SMBRange, eof, 1), "[18446744073709551615,EOF]", false},
		{"FUSE: end before start", of(lock.FUSERange, 5, 4), "", false},
		{"FUSE: end past 2^63-1", of(lock.FUSERange, 5, 1<<63), "", false},
		{"bytes: last before first", of(lock.Bytes, 5, 4), "", false},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			r, err := tc.make()
			if tc.want == "" {
				var re *lock.RangeError
				mustBe(t, err, lock.ErrRange)
				if !errors.As(err, &re) || re.Overflow != tc.overflow || re.Reason == "" {
					t.Fatalf("%#v", err)
				}
				return
			}
			if err != nil || r.String() != tc.want {
				t.Fatalf("%s, %v; want %s", r, err, tc.want)
			}
			m := memory(t)
			if h := mustTry(t, m, smb("a"), x, r); h.Range != r {
				t.Errorf("asked for %s, got %s", r, h.Range)
			}
			mustHold(t, m, fact{file, smb("a"), r, x})
		})
	}
}

// Nothing wraps at 2^64: the last byte has no neighbour at 0, and what ends
// there merges, splits and shrinks like anything else.
func TestRangeTopDoesNotWrap(t *testing.T) {
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		t.Run(sem.String(), func(t *testing.T) {
			m := memory(t)
			a, b := owner(sem, "a"), smb("b")
			mustTry(t, m, a, x, span(eof, eof))
			mustTry(t, m, a, x, span(0, 0))
			mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(eof, eof), x})
			mustTry(t, m, b, x, span(1, eof-1))
			mustUnlock(t, m, b, span(1, eof-1))
			mustTry(t, m, a, x, span(eof-2, eof-1))
			mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(eof-2, eof), x})
			mustTry(t, m, a, s, span(eof, eof))
			mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(eof-2, eof-1), x}, fact{file, a, span(eof, eof), s})
			mustUnlock(t, m, a, span(eof-1, eof))
			mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(eof-2, eof-2), x})
			mustTry(t, m, a, x, lock.WholeFile())
			mustUnlock(t, m, a, span(1, eof-1))
			mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(eof, eof), x})
			mustUnlock(t, m, a, lock.WholeFile())
			mustEmpty(t, m)
		})
	}
}

// SMB zero length: {0,0} never conflicts; {off>0,0} conflicts only strictly
// inside another range, that is where both the byte before it and the byte at
// it are of one lock. In both directions, against every kind of holder.
// Source: MS-FSA 2.1.4.10, 2.1.5.8.
func TestRangeZeroLength(t *testing.T) {
	for _, tc := range []struct {
		at       uint64
		r        lock.Range
		conflict bool
	}{
		{0, span(0, 9), false},
		{0, lock.WholeFile(), false},
		{1, lock.WholeFile(), true},
		{1, span(0, 9), true},
		{1, span(1, 9), false}, // at its beginning
		{5, span(0, 9), true},
		{5, span(4, 5), true},
		{5, span(5, 5), false},
		{5, span(4, 4), false}, // at its end
		{5, span(6, 9), false},
		{9, span(0, 9), true},
		{10, span(0, 9), false},
		{eof, lock.WholeFile(), true},
		{eof, span(eof, eof), false},
		{eof, span(eof-1, eof), true},
		{eof, span(0, eof-1), false},
		{5, at(5), false},
		{5, at(4), false},
		{5, at(6), false},
		{0, at(0), false},
	} {
		for _, sem := range allSemantics {
			if tc.r.IsEmpty() && sem != lock.SMB {
				continue
			}
			for _, modes := range [][2]lock.Mode{{s, s}, {s, x}, {x, s}, {x, x}} {
				want := tc.conflict && modes[0].Conflicts(modes[1])
				zero, other := ask(smb("z"), modes[0], at(tc.at)), ask(owner(sem, "other"), modes[1], tc.r)
				for _, order := range [][2]lock.Request{{zero, other}, {other, zero}} {
					holder, asker := order[0], order[1]
					m := memory(t)
					mustTry(t, m, holder.Owner, holder.Mode, holder.Range)
					what := fmt.Sprintf("%s %s against a held %s %s", asker.Mode, asker.Range, holder.Mode, holder.Range)
					hit, found := m.Test(asker)
					if found != want || found && factOf(hit) != (fact{file, holder.Owner, holder.Range, holder.Mode}) {
						t.Errorf("Test of %s: %v, %+v", what, found, hit)
					}
					if _, err := m.TryLock(bg, asker); errors.Is(err, lock.ErrConflict) != want {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
		}
	}
}

// A zero-length range is not covered by two locks that meet at it: it lies
// strictly inside neither, whether they are of one owner or of two.
func TestRangeZeroLengthBetweenTwoLocks(t *testing.T) {
	m := memory(t)
	z := smb("z")
	mustTry(t, m, smb("a"), x, span(0, 4))
	mustTry(t, m, smb("a"), x, span(5, 9))
	mustTry(t, m, z, x, at(5))
	mustUnlock(t, m, z, at(5))

	m = memory(t)
	draw(t, m, posix("a"), "wwwwwrrrrr")
	mustTry(t, m, z, x, at(5))
	mustDeny(t, m, z, s, at(4))
	mustTry(t, m, z, s, at(6))
	mustDeny(t, m, z, x, at(7))
	mustUnlock(t, m, z, at(5))
	mustUnlock(t, m, z, at(6))

	// The two become one: now it is inside.
	draw(t, m, posix("a"), ".....wwwww")
	mustDeny(t, m, z, x, at(5))
}

// Only SMB owners can lock zero bytes, and they are unlocked like any range:
// exactly.
func TestRangeZeroLengthOwners(t *testing.T) {
	m := memory(t)
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		_, err := m.TryLock(bg, ask(owner(sem, "a"), s, at(5)))
		mustBe(t, err, lock.ErrRange)
		mustBe(t, m.Unlock(bg, file, owner(sem, "a"), at(5)), lock.ErrRange)
	}
	mustEmpty(t, m)
	a := smb("a")
	mustTry(t, m, a, x, at(0))
	mustTry(t, m, a, x, at(5))
	mustTry(t, m, a, x, span(0, 0))
	mustTry(t, m, a, x, span(5, 5))
	mustUnlock(t, m, a, at(5))
	mustUnlock(t, m, a, at(0))
	mustBe(t, m.Unlock(bg, file, a, at(5)), lock.ErrNotFound)
	mustBe(t, m.Unlock(bg, file, a, at(0)), lock.ErrNotFound)
	mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(5, 5), x})

	// An exclusive one before a shared one, though it came later.
	mustTry(t, m, a, s, at(7))
	mustTry(t, m, a, x, at(7))
	mustTry(t, m, a, s, at(7))
	mustUnlock(t, m, a, at(7))
	mustHold(t, m, fact{file, a, span(0, 0), x}, fact{file, a, span(5, 5), x}, fact{file, a, at(7), s}, fact{file, a, at(7), s})
}
