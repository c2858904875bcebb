// Package e2e holds the end-to-end test, and nothing that anybody could import:
// a lock manager behind a Unix socket in a process of its own, client processes
// that hold locks and lose the server to kill -9, and the test as their witness.
//
//	witness ─┬─▶ client A ─┐
//	         ├─▶ client B ─┼─▶ server ─▶ log
//	         ├─▶ ...      ─┤
//	         └─────────────┘
//
// All lines are newline-delimited JSON: over pipes to the clients, and over a Unix
// socket to the server. Requests and answers are numbered, so that one that blocks
// holds up no other.
//
// Server and clients are the test binary itself, run with an environment
// variable. A client does and says what the witness asks it to; what makes it one
// is its connection, which dies with it.
//
// The witness keeps an account of who must hold what, unconfirmed or not, who
// stands in line, and where the grace period stands; it works it out from the
// requests alone, and as naively as can be. After every step it compares that
// with what the server lists, to which it has a connection of its own. What was
// in flight when the server was killed may have happened or not: the next
// listing says which, and has to be the account of one or the other.
//
// Nothing depends on the speed of the machine: grace periods last for minutes and
// are ended by what clients say. Where one has to end by time it is short, and
// what is to happen in it is done again with a longer one if it came too late.
package e2e
