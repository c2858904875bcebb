package wal

import "sync/atomic"

// Body is what a record says. AppendTo appends its encoding to dst. The log's
// writer calls it, once at most, at any time after Submit of the record or of a
// successor: what it reads must not change any more.
type Body interface{ AppendTo(dst []byte) []byte }

// Record is one change on its way to disk. Log.NewRecord makes it.
//
// body, prev and next need no atomics. They are set before the record is
// published or pushed, both of which are atomic operations of the goroutine
// that sets them; after that the writer alone reads and clears them. The
// goroutines that make successors look at wait only.
type Record struct {
	body Body
	prev *Record // written before this one; nil once this one is complete
	next *Record // pushed before this one; set while in the queue
	err  error   // set before wait becomes complete

	// wait is nil until somebody asks for Done, then a signal of this record,
	// and from completion on the log's complete signal: a record that stays
	// reachable does not keep a channel.
	wait atomic.Pointer[signal]

	submitted atomic.Uint32 // unsubmitted, submitting or queued
	kind      Kind
	written   bool // the writer's: in a frame, perhaps not durable yet
}

const (
	unsubmitted = iota
	submitting  // somebody is about to put it into the queue
	queued
)

type signal struct {
	ch       chan struct{}
	complete bool
}

// Done returns a channel that is closed when the record is complete: written,
// and synced unless the log never syncs; or it never will be, Err says which. It
// makes nobody write: Log.Wait does.
func (r *Record) Done() <-chan struct{} {
	if s := r.wait.Load(); s != nil {
		return s.ch
	}
	s := &signal{ch: make(chan struct{})}
	if r.wait.CompareAndSwap(nil, s) {
		return s.ch
	}
	return r.wait.Load().ch // set once by another Done or by completion, and never nil again
}

// Durable reports whether the record is complete and did not fail.
func (r *Record) Durable() bool { return r.complete() && r.err == nil }

// Err is, after Done, nil if the record is durable, else an error that wraps
// lock.ErrHalted or lock.ErrClosed. Before, it is nil.
func (r *Record) Err() error {
	if !r.complete() {
		return nil
	}
	return r.err
}

func (r *Record) complete() bool {
	s := r.wait.Load()
	return s != nil && s.complete
}

// finish completes r and lets go of everything that it refers to. Each record
// has one goroutine that may call it: the writer, or whoever took the record
// off the queue of a closed log.
func (r *Record) finish(err error, complete *signal) {
	r.body, r.prev = nil, nil
	r.err = err
	if s := r.wait.Swap(complete); s != nil {
		close(s.ch)
	}
}
