// Package lock is the vocabulary that every protocol front end shares: files,
// owners, ranges, modes, requests, what is held, and every error. It imports
// the standard library only, so that an adapter can speak it without pulling
// in the engine.
//
// Invariants:
//
//  1. A [Range] is inclusive at both ends. No code computes last+1, so nothing
//     wraps at 2^64. "To end of file" is last = 2^64-1 in every protocol.
//  2. Two owners are the same iff [Owner.Same] says so: Client, ID and
//     Semantics are equal. Share and PID are display.
//  3. Every error of this package matches exactly one sentinel through any
//     wrapping; typed errors carry the data that a protocol reply needs.
package lock
