package sneck_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"sneck"
	"sneck/lock"
)

// queue is a waiter without a goroutine, and what it is told.
type queue struct {
	id    lock.ID
	calls atomic.Int32
	call
}

func enqueue(t tb, m *sneck.Manager, o lock.Owner, mode lock.Mode, r lock.Range) *queue {
	t.Helper()
	q := new(queue)
	var err error
	q.id, err = m.Enqueue(ask(o, mode, r), func(h lock.Held, err error) {
		q.calls.Add(1)
		q.end(h, err)
	})
	if err != nil {
		t.Fatalf("Enqueue: %v", err)
	}
	return q
}

// A sub-range locked again in the weaker mode is a downgrade: it wakes exactly
// whom it unblocks.
func TestWaitDowngradeWakesExactly(t *testing.T) {
	for _, sem := range []lock.Semantics{lock.POSIX, lock.OFD} {
		t.Run(sem.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				a := owner(sem, "a")
				draw(t, m, a, "wwwwwwwwww")
				below := lockIn(bg, m, posix("below"), s, span(0, 3))
				within := lockIn(bg, m, ofd("within"), s, span(4, 5))
				part := lockIn(bg, m, smb("part"), s, span(5, 5))
				across := lockIn(bg, m, posix("across"), s, span(3, 4))
				writer := lockIn(bg, m, posix("writer"), x, span(4, 5))
				late := lockIn(bg, m, posix("late"), s, span(4, 4)) // behind the writer
				above := lockIn(bg, m, posix("above"), s, span(6, 9))
				draw(t, m, a, "....rr....")
				within.holds(t)
				part.holds(t)
				for _, c := range []*call{below, across, writer, late, above} {
					c.waits(t)
				}
				if got := picture(t, m, a, 10); got != "wwwwrrwwww" {
					t.Errorf("a has %s", got)
				}
				compatible(t, table(m, lock.Filter{}))
				// Everybody else gets his turn as the rest becomes free.
				mustUnlock(t, m, a, lock.WholeFile())
				for _, c := range []*call{below, across, above} {
					c.holds(t)
				}
				writer.waits(t)
				late.waits(t)
			})
		})
	}
}

// A replacement by the same or the stronger mode wakes nobody.
func TestWaitUpgradeInPlaceWakesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		draw(t, m, a, "rrrrr.....")
		w := lockIn(bg, m, posix("w"), x, span(0, 9))
		draw(t, m, a, "rrrrr.....")
		w.waits(t)
		draw(t, m, a, ".wwww.....")
		w.waits(t)
		draw(t, m, a, ".....rrrrr")
		w.waits(t)
		mustUnlock(t, m, a, span(0, 8))
		w.waits(t)
		mustUnlock(t, m, a, span(9, 9))
		w.holds(t)
	})
}

// Each unlock, downgrade, release, Cancel and end of a context runs the same
// hand-over over the bytes that changed: whoever stood behind holds the lock
// when the call returns.
func TestWaitHandOver(t *testing.T) {
	for _, sem := range allSemantics {
		for name, free := range map[string]func(t *testing.T, m *sneck.Manager, a lock.Owner){
			"unlock": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				mustUnlock(t, m, a, span(0, 9))
			},
			"unlock of a part": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				if a.Semantics == lock.SMB {
					mustUnlock(t, m, a, span(0, 9))
					return
				}
				mustUnlock(t, m, a, span(4, 6))
			},
			"downgrade": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				if a.Semantics == lock.SMB { // has none but to unlock
					mustTry(t, m, a, s, span(0, 9))
					mustUnlock(t, m, a, span(0, 9))
					return
				}
				mustTry(t, m, a, s, span(0, 9))
			},
			"downgrade by Lock": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				if _, err := m.Lock(bg, ask(a, s, span(0, 9))); err != nil {
					t.Fatal(err)
				}
				if a.Semantics == lock.SMB {
					mustUnlock(t, m, a, span(0, 9))
				}
			},
			"downgrade by TryLockAll": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				if _, err := m.TryLockAll(bg, []lock.Request{ask(a, s, span(0, 9)), ask(a, s, span(20, 29))}); err != nil {
					t.Fatal(err)
				}
				if a.Semantics == lock.SMB {
					mustUnlock(t, m, a, span(0, 9))
				}
			},
			"ReleaseOwner": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				mustRelease(t, 1)(m.ReleaseOwner(bg, file, a))
			},
			"ReleaseClient": func(t *testing.T, m *sneck.Manager, a lock.Owner) {
				mustRelease(t, 1)(m.ReleaseClient(bg, a.Client))
			},
		} {
			t.Run(fmt.Sprint(sem, "/", name), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *sneck.Manager) {
					a := owner(sem, "a")
					mustTry(t, m, a, x, span(0, 9))
					w := lockIn(bg, m, posix("w"), s, span(4, 6))
					w.waits(t)
					free(t, m, a)
					// Granted in that same step, not some time later.
					wo := posix("w")
					mustEqual(t, "the table", facts(table(m, lock.Filter{Owner: &wo})), []fact{{file, wo, span(4, 6), s}})
					w.holds(t)
					mustIdle(t, m)
				})
			})
		}
	}

	// The same for those who stood in line and leave it.
	a, v, w, u := posix("a"), posix("v"), posix("w"), posix("u")
	for name, tc := range map[string]struct {
		leave func(t *testing.T, m *sneck.Manager, id lock.ID, cancel func())
		want  error
	}{
		"Cancel": {func(t *testing.T, m *sneck.Manager, id lock.ID, _ func()) {
			if !m.Cancel(id) {
				t.Error("not in line")
			}
		}, lock.ErrCanceled},
		"ReleaseOwner": {func(t *testing.T, m *sneck.Manager, _ lock.ID, _ func()) {
			mustRelease(t, 0)(m.ReleaseOwner(bg, file, v))
		}, lock.ErrReleased},
		"ReleaseClient": {func(t *testing.T, m *sneck.Manager, _ lock.ID, _ func()) {
			mustRelease(t, 0)(m.ReleaseClient(bg, v.Client))
		}, lock.ErrReleased},
		"context": {func(_ *testing.T, _ *sneck.Manager, _ lock.ID, cancel func()) { cancel() }, context.Canceled},
	} {
		t.Run("leaving the line/"+name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				mustTry(t, m, a, s, span(0, 9))
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				leaves := lockIn(ctx, m, v, x, span(5, 15))
				behind := lockIn(bg, m, w, s, span(0, 9))
				beside := lockIn(bg, m, u, x, span(15, 19))
				behind.waits(t)
				beside.waits(t)
				first := slices.Collect(m.Waiters(lock.Filter{}))[0]
				tc.leave(t, m, first.ID, cancel)
				leaves.fails(t, tc.want)
				behind.holds(t)
				beside.holds(t)
				mustIdle(t, m)
				mustHold(t, m, fact{file, a, span(0, 9), s}, fact{file, w, span(0, 9), s}, fact{file, u, span(15, 19), x})
			})
		})
	}
}

// Lock and Enqueue stand behind earlier waiters with whom they would conflict:
// a stream of readers does not starve a writer. A reader that comes later also
// waits where only the writer, not a holder, is in its way.
func TestWaitNoStarvation(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		r0 := posix("r0")
		mustTry(t, m, r0, s, span(0, 9))
		w := lockIn(bg, m, posix("w"), x, span(5, 9))
		w.waits(t)
		var late []*call
		for i := range 50 {
			o := owner(allSemantics[i%3], fmt.Sprint("r", i+1))
			if i%2 == 0 {
				late = append(late, lockIn(bg, m, o, s, span(0, 5)))
			} else {
				late = append(late, &enqueue(t, m, o, s, span(0, 5)).call)
			}
		}
		for _, c := range late {
			c.waits(t)
		}
		lockIn(bg, m, posix("elsewhere"), s, span(0, 4)).holds(t) // does not meet the writer
		mustUnlock(t, m, r0, span(0, 9))
		w.holds(t)
		for _, c := range late {
			c.waits(t)
		}
		mustUnlock(t, m, posix("w"), span(5, 9))
		for _, c := range late {
			c.holds(t)
		}
		mustIdle(t, m)
	})
}

// The line is first come, first served among those who conflict; those who do
// not conflict pass each other.
func TestWaitTicketOrder(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		mustTry(t, m, posix("a"), x, span(0, 9))
		var calls []*call
		modes := []lock.Mode{s, s, x, s, x, x, s, s}
		for i, mode := range modes {
			calls = append(calls, lockIn(bg, m, owner(allSemantics[i%3], fmt.Sprint(i)), mode, span(0, 9)))
		}
		ws := slices.Collect(m.Waiters(lock.Filter{}))
		for i, w := range ws {
			if w.Request.Owner.ID != fmt.Sprint(i) {
				t.Errorf("place %d is %+v", i, w)
			}
		}
		step := func(holding ...int) {
			t.Helper()
			for i, c := range calls {
				if slices.Contains(holding, i) {
					c.holds(t)
				} else if i > holding[len(holding)-1] {
					c.waits(t)
				}
			}
			if n := len(table(m, lock.Filter{})); n != len(holding) {
				t.Fatalf("%d hold, want %v", n, holding)
			}
		}
		leave := func(is ...int) {
			for _, i := range is {
				mustUnlock(t, m, owner(allSemantics[i%3], fmt.Sprint(i)), span(0, 9))
			}
		}
		mustUnlock(t, m, posix("a"), span(0, 9))
		step(0, 1)
		leave(0)
		step(1)
		leave(1)
		step(2)
		leave(2)
		step(3)
		leave(3)
		step(4)
		leave(4)
		step(5)
		leave(5)
		step(6, 7)
		leave(6, 7)
		mustEmpty(t, m)
	})
}

// A request does not stand behind a waiter that its owner already keeps out:
// that one could not go first anyway, and to wait for it would be a deadlock
// of the table's own making.
func TestWaitPassesWhomItBlocks(t *testing.T) {
	for _, sem := range allSemantics {
		t.Run(sem.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				a := owner(sem, "a")
				mustTry(t, m, a, s, span(0, 4))
				w := lockIn(bg, m, posix("w"), x, span(0, 9))
				w.waits(t)
				lockIn(bg, m, posix("b"), s, span(5, 9)).waits(t) // nobody's blocker: stands behind w
				lockIn(bg, m, a, s, span(5, 9)).holds(t)
				lockIn(bg, m, a, s, span(0, 2)).holds(t)
				w.waits(t)
			})
		})
	}
}

// It does not stand behind it either when it comes to block it later, while
// both are in line: an owner may have several waits at once, and none of them
// may wait for what waits for the owner.
func TestWaitPassesWhomItBlocksLater(t *testing.T) {
	for name, block := range map[string]func(t *testing.T, m *sneck.Manager, o lock.Owner){
		"by TryLock": func(t *testing.T, m *sneck.Manager, o lock.Owner) {
			mustTry(t, m, o, s, span(9, 9))
		},
		"by TryLockAll": func(t *testing.T, m *sneck.Manager, o lock.Owner) {
			if _, err := m.TryLockAll(bg, []lock.Request{ask(o, s, span(9, 9))}); err != nil {
				t.Fatal(err)
			}
		},
		"by the grant of another wait": func(t *testing.T, m *sneck.Manager, _ lock.Owner) {
			mustUnlock(t, m, posix("h"), span(20, 20))
		},
	} {
		for _, sem := range allSemantics {
			t.Run(fmt.Sprint(name, "/", sem), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *sneck.Manager) {
					o, v := owner(sem, "o"), posix("v")
					mustTry(t, m, posix("a"), s, span(0, 0))
					mustTry(t, m, posix("h"), x, span(20, 20))
					enqueue(t, m, o, s, span(10, 20))
					vq := enqueue(t, m, v, x, span(0, 10))
					wq := enqueue(t, m, o, s, span(5, 5)) // behind v, kept out by no holder
					vq.waits(t)
					wq.waits(t)
					block(t, m, o) // now o keeps v out
					for q := range m.Waiters(lock.Filter{}) {
						if len(q.Blockers) == 0 {
							t.Errorf("%s stands in line for %s and waits for nobody", q.Request.Owner, q.Request.Range)
						}
					}
					wq.holds(t)
					vq.waits(t)
				})
			})
		}
	}
}

// A waiter for zero bytes is unblocked when the range around it is split right
// where it stands: it lies strictly inside neither piece.
func TestWaitZeroLengthAtSplit(t *testing.T) {
	for name, free := range map[string]func(t *testing.T, m *sneck.Manager, a lock.Owner){
		"unlock below":    func(t *testing.T, m *sneck.Manager, a lock.Owner) { mustUnlock(t, m, a, span(0, 4)) },
		"unlock above":    func(t *testing.T, m *sneck.Manager, a lock.Owner) { mustUnlock(t, m, a, span(5, 9)) },
		"unlock around":   func(t *testing.T, m *sneck.Manager, a lock.Owner) { mustUnlock(t, m, a, span(4, 5)) },
		"downgrade below": func(t *testing.T, m *sneck.Manager, a lock.Owner) { mustTry(t, m, a, s, span(0, 4)) },
		"downgrade above": func(t *testing.T, m *sneck.Manager, a lock.Owner) { mustTry(t, m, a, s, span(5, 9)) },
	} {
		for _, mode := range []lock.Mode{s, x} {
			t.Run(fmt.Sprint(name, "/", mode), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *sneck.Manager) {
					a := posix("a")
					mustTry(t, m, a, x, span(0, 9))
					w := lockIn(bg, m, smb("w"), mode, at(5))
					w.waits(t)
					free(t, m, a)
					if _, found := m.Test(ask(smb("w"), mode, at(5))); found {
						t.Fatal("it is still inside")
					}
					w.holds(t)
				})
			})
		}
	}
}

// An upgrade in place can split a range too: what was inside one shared range
// is then between a shared and an exclusive one.
func TestWaitZeroLengthAtUpgradeSplit(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a := posix("a")
		mustTry(t, m, a, s, span(0, 9))
		w := lockIn(bg, m, smb("w"), x, at(5))
		w.waits(t)
		mustTry(t, m, a, x, span(5, 9))
		if _, found := m.Test(ask(smb("w"), x, at(5))); found {
			t.Fatal("it is still inside")
		}
		w.holds(t)
	})
}

// An SMB handle whose exclusive lock conflicts with its own shared one waits
// for itself to let go of that.
func TestWaitSMBBehindItself(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a := smb("a")
		mustTry(t, m, a, s, span(0, 9))
		w := lockIn(bg, m, a, x, span(5, 14))
		w.waits(t)
		for q := range m.Waiters(lock.Filter{}) {
			mustEqual(t, "blockers", q.Blockers, []lock.Owner{a})
		}
		mustUnlock(t, m, a, span(0, 9))
		w.holds(t)
	})
}

// An owner may have several waits at once, on one file and on several, each
// granted for itself; none waits for another of its own.
func TestWaitSeveralPerOwner(t *testing.T) {
	for _, sem := range allSemantics {
		t.Run(sem.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *sneck.Manager) {
				o := owner(sem, "o")
				for i := range uint64(4) {
					mustTry(t, m, posix(fmt.Sprint("h", i)), x, span(10*i, 10*i+9))
				}
				other := ask(posix("h"), x, span(0, 9))
				other.File = "other"
				if _, err := m.TryLock(bg, other); err != nil {
					t.Fatal(err)
				}
				var calls []*call
				for i := range uint64(4) {
					calls = append(calls, lockIn(bg, m, o, x, span(10*i, 10*i+9)))
				}
				other.Owner = o
				elsewhere := start(func() (lock.Held, error) { return m.Lock(bg, other) })
				if ws := slices.Collect(m.Waiters(lock.Filter{Owner: &o})); len(ws) != 5 || m.Stats().Waiters != 5 {
					t.Errorf("%+v, Stats %+v", ws, m.Stats())
				}
				for _, i := range []uint64{2, 0, 3, 1} {
					calls[i].waits(t)
					mustUnlock(t, m, posix(fmt.Sprint("h", i)), span(10*i, 10*i+9))
					calls[i].holds(t)
				}
				elsewhere.waits(t)
				if n, err := m.ReleaseClient(bg, posix("h").Client); n != 1 || err != nil {
					t.Errorf("%d, %v", n, err)
				}
				elsewhere.holds(t)
				mustIdle(t, m)
			})
		})
	}
}

// Two waits of one POSIX owner for the same bytes are both granted: it does
// not conflict with itself, and ends up with what it asked for last.
func TestWaitTwiceForTheSame(t *testing.T) {
	bubble(t, func(t *testing.T, m *sneck.Manager) {
		a, o := posix("a"), posix("o")
		mustTry(t, m, a, x, span(0, 9))
		first := lockIn(bg, m, o, x, span(0, 9))
		second := lockIn(bg, m, o, s, span(3, 4))
		behind := lockIn(bg, m, posix("b"), s, span(4, 4))
		mustUnlock(t, m, a, span(0, 9))
		first.holds(t)
		second.holds(t)
		// The second was a downgrade, so it handed over too.
		behind.holds(t)
		if got := picture(t, m, o, 10); got != "wwwrrwwwww" {
			t.Errorf("%s", got)
		}
	})
}
