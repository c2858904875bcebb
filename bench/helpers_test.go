package bench

import (
	"context"
	"fmt"
	"testing"

	"sneck"
	"sneck/lock"
)

var ctx = context.Background()

func open(b *testing.B, o sneck.Options) *sneck.Manager {
	b.Helper()
	m, err := sneck.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	return m
}

func owner(id string) lock.Owner {
	return lock.Owner{Client: "client", ID: id, Semantics: lock.POSIX}
}

func span(b testing.TB, first, last uint64) lock.Range {
	r, err := lock.Bytes(first, last)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func hold(b *testing.B, m *sneck.Manager, r lock.Request) {
	b.Helper()
	if _, err := m.TryLock(ctx, r); err != nil {
		b.Fatal(err)
	}
}

// pair locks and unlocks r.
func pair(b *testing.B, m *sneck.Manager, r *lock.Request) {
	if _, err := m.TryLock(ctx, *r); err != nil {
		b.Error(err)
	}
	if err := m.Unlock(ctx, r.File, r.Owner, r.Range); err != nil {
		b.Error(err)
	}
}

func size(n int) string {
	switch {
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("N=%dk", n/1000)
	default:
		return fmt.Sprintf("N=%d", n)
	}
}

// disjoint holds n exclusive ranges of 5 bytes, 10 bytes apart, of n owners.
func disjoint(b *testing.B, m *sneck.Manager, n int) {
	for i := range n {
		hold(b, m, lock.Request{File: "file", Owner: owner(fmt.Sprint("owner", i)),
			Range: span(b, uint64(i)*10, uint64(i)*10+4), Mode: lock.Exclusive})
	}
}

// readers holds n shared locks on the whole file, of n owners.
func readers(b *testing.B, m *sneck.Manager, n int) {
	for i := range n {
		hold(b, m, lock.Request{File: "file", Owner: owner(fmt.Sprint("owner", i)), Range: lock.WholeFile(), Mode: lock.Shared})
	}
}
