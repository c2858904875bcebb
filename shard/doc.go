// Package shard is the lock table: one pure transition over the immutable
// state of a file, and the lock-free shell around it.
//
//	caller ── hash(FileKey) ─▶ shard ─▶ cell: atomic.Pointer[state]
//	                                      │ load; transition; CompareAndSwap; on failure again
//	                                      ▼
//	                          record ─▶ journal ─▶ acknowledge when durable
//	                                      ▼
//	                          effects: granted waiters are told
//
// Invariants:
//
//  1. What is held changes in [transition] and nowhere else, and a published
//     state never changes.
//  2. No two owners hold conflicting modes on the same byte. (A zero-length SMB
//     range has no byte: a POSIX owner's ranges may merge around it.)
//  3. No waiter stands in line whom neither a holder nor somebody before him in
//     line keeps out. The transition that frees bytes grants them.
//  4. A waiter is decided exactly once: granted, cancelled, released or failed,
//     by the one transition that takes it out of the line.
//  5. No mutex is held while a state is computed or published; the maps lock a
//     bucket for a moment to add a file, a waiter or a client. A goroutine that
//     stops at a step keeps nobody else from finishing: what it left half done
//     (a dead cell that is still in the map, a record that was published but not
//     handed to the journal) the next one who meets it completes. Only a waiter
//     that it has just granted hears of it no sooner.
//  6. A change is in its file's log in the order in which it was published: a
//     record knows its predecessor, and the journal writes that one first.
//  7. A client that holds a lock or waits, by a call that has returned, is in
//     the client index with that file.
//  8. A cell without locks and waiters goes away after a while, and nothing of
//     its history stays.
package shard
