package sneck_test

import (
	"fmt"
	"testing"

	"sneck/lock"
)

// I/O checks: a shared lock denies every write to its bytes, its SMB holder's
// too; an exclusive one denies all I/O of other owners. Locks of POSIX and OFD
// owners are advisory to POSIX and OFD I/O, but SMB I/O sees them. All
// semantics of issuer and holder, modes, reads and writes, own and other, and
// every way to overlap or not. Source: MS-FSA 2.1.4.10.
func TestIOMatrix(t *testing.T) {
	places := []struct {
		r    lock.Range
		hits bool
	}{
		{span(10, 19), true}, {span(0, 10), true}, {span(19, 30), true}, {span(12, 13), true}, {lock.WholeFile(), true},
		{span(0, 9), false}, {span(20, eof), false},
		{at(15), false}, {at(10), false}, {at(0), false}, // zero-length I/O never conflicts
	}
	for _, hs := range allSemantics {
		for _, is := range allSemantics {
			for _, mode := range []lock.Mode{s, x} {
				for _, own := range []bool{false, true} {
					if own && hs != is {
						continue
					}
					for _, write := range []bool{false, true} {
						holder, issuer := owner(hs, "a"), owner(is, "b")
						if own {
							issuer = holder
						}
						mandatory := hs == lock.SMB || is == lock.SMB
						denied := mandatory && (mode == x && !own || mode == s && write)
						t.Run(fmt.Sprintf("%s holds %s, %s own=%v write=%v", hs, mode, is, own, write), func(t *testing.T) {
							m := memory(t)
							h := mustTry(t, m, holder, mode, span(10, 19))
							for _, p := range places {
								want := denied && p.hits
								got, found := m.CheckIO(file, issuer, p.r, write)
								if found != want || found && got != h || !found && got != (lock.Held{}) {
									t.Errorf("%s: %v, %+v; want %v", p.r, found, got, want)
								}
								if _, found := m.CheckIO("other file", issuer, p.r, write); found {
									t.Errorf("%s of a file without locks", p.r)
								}
							}
							mustHold(t, m, fact{file, holder, span(10, 19), mode})
						})
					}
				}
			}
		}
	}
}

// A zero-length lock denies I/O only strictly around it, as it conflicts with
// locks; the one at 0 denies none. Source: MS-FSA 2.1.4.10.
func TestIOAcrossZeroLengthLock(t *testing.T) {
	for _, tc := range []struct {
		at   uint64
		r    lock.Range
		hits bool
	}{
		{15, span(10, 19), true}, {15, span(14, 15), true}, {15, lock.WholeFile(), true},
		{15, span(15, 19), false}, {15, span(10, 14), false}, {15, at(15), false},
		{0, lock.WholeFile(), false}, {0, span(0, 0), false}, {0, at(0), false},
	} {
		for _, mode := range []lock.Mode{s, x} {
			m := memory(t)
			holder := smb("a")
			mustTry(t, m, holder, mode, at(tc.at))
			for _, sem := range allSemantics {
				for _, write := range []bool{false, true} {
					want := tc.hits && (mode == x || write)
					if _, found := m.CheckIO(file, owner(sem, "b"), tc.r, write); found != want {
						t.Errorf("%s at %d, %s of %s write=%v: %v", mode, tc.at, sem, tc.r, write, found)
					}
				}
			}
			if _, found := m.CheckIO(file, holder, tc.r, true); found != (tc.hits && mode == s) {
				t.Errorf("%s at %d, the holder writes %s: %v", mode, tc.at, tc.r, found)
			}
		}
	}
}

// A stack denies what any lock of it denies: under its own shared lock an SMB
// holder may read but not write, though it holds the bytes exclusively too.
func TestIOOfOwnStack(t *testing.T) {
	m := memory(t)
	a := smb("a")
	mustTry(t, m, a, x, span(10, 19))
	h := mustTry(t, m, a, s, span(12, 13))
	if got, found := m.CheckIO(file, a, span(10, 19), true); !found || got != h {
		t.Errorf("write: %v, %+v", found, got)
	}
	if got, found := m.CheckIO(file, a, span(10, 19), false); found {
		t.Errorf("read: %+v", got)
	}
	if got, found := m.CheckIO(file, a, span(14, 19), true); found {
		t.Errorf("write beside it: %+v", got)
	}
}

// I/O checks see the table, not the line: who waits denies nothing.
func TestIOIgnoresTheLine(t *testing.T) {
	m := memory(t)
	mustTry(t, m, smb("a"), s, span(0, 9))
	id, err := m.Enqueue(ask(smb("b"), x, span(0, 9)), func(lock.Held, error) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, found := m.CheckIO(file, smb("c"), span(0, 9), false); found {
		t.Error("a waiter denies a read")
	}
	if !m.Cancel(id) {
		t.Error("the waiter was not in line")
	}
}

// TryLock does not look at I/O, and CheckIO leaves no trace.
func TestIOChangesNothing(t *testing.T) {
	m := memory(t)
	for _, sem := range allSemantics {
		for _, write := range []bool{false, true} {
			m.CheckIO(file, owner(sem, "a"), lock.WholeFile(), write)
			m.Test(ask(owner(sem, "a"), x, lock.WholeFile()))
			m.HasOwner(file, owner(sem, "a"))
		}
	}
	mustEmpty(t, m)
}
