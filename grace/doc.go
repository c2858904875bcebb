// Package grace decides how long, after a restart, clients may reclaim what they
// held before it, and who is through with that (RFC 8881 8.4.2.1).
//
// The machine only counts and compares: what a client may reclaim, and what is
// still unconfirmed, the lock table knows. Time is an argument. Times with a
// monotonic reading are compared by that, so a step of the wall clock neither
// lengthens nor shortens the period; others are compared as they are.
//
// Invariants:
//
//  1. Grace ends once: of all calls on a machine that was active, exactly one
//     reports that it has ended, and it is never active again.
//  2. It ends when nothing is unconfirmed, when every expected client has said
//     that it is complete, when the period is over, or by an administrator; for
//     the reason that came first.
//  3. Where nobody is expected nobody can be complete: then it ends in one of the
//     other ways.
//  4. A client that is complete reclaims nothing any more (RFC 8881 18.51.3), and
//     outside of grace nobody does.
//  5. Without a period, and when nothing was restored, there is no grace at all.
package grace
