// Package conn knows which clients there are, by which adapter they come, and
// until when each of them may be silent. It holds no locks: it says whose locks
// have to go, and the caller lets go of them.
//
// A session is one life of one client, from the Connect of a client that is not
// known to the moment when its locks begin to go. It is in one of four states:
//
//	connected               Disconnect ─▶ disconnected; without a TTL over
//	connected, disconnected Expire ─▶ over; courteous if the adapter is
//	courteous               Renew ─▶ what it was before
//	each of the three       Connect ─▶ connected, Evict ─▶ over
//
// A courteous session has let its deadline pass, but nobody has wanted what it
// holds: its locks stay until somebody does (RFC 8881 8.4.3 and RFC 7530 9.6.3.1
// leave that to the server). Expire is what lets a deadline pass: a client that
// is late, but comes before Expire is called, has lost nothing.
//
// The table forgets a session when it is over, but its locks may still be on their
// way out then. A caller that lets go of locks by the client's name lets no Connect
// of that client through until that is done: else it takes the new session's too.
//
// Time is an argument. Times with a monotonic reading are compared by that, so a
// step of the wall clock ends nobody's session.
//
// Invariants:
//
//  1. A session is in exactly one state. What is over stays over; exactly one
//     call makes it so and reports it.
//  2. A client has at most one session that is not over, and Lookup finds it;
//     none that is over. A client that comes back before its session is over
//     has the same one, from whatever address.
//  3. Every session with a deadline is in the tree, filed under a moment not later
//     than that deadline, and nothing else is in the tree.
//  4. No adapter has more connected clients than its MaxConnections, and counts
//     are what there is.
//  5. A renewal counts: when Renew has returned nil, Expire does not touch the
//     session before that moment plus its TTL.
//  6. Generations only grow, over all clients and across restarts.
//  7. Changes that are replayed give the table that made them, in whatever order
//     and how often they come, alone or after a snapshot taken meanwhile. What is
//     refused changes nothing.
//  8. Lookup, and Renew of a connected client, take no mutex and allocate nothing.
package conn
