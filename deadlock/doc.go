// Package deadlock finds out whether somebody who waits would wait for himself.
// The graph of who waits for whom is asked for, node by node, while it is
// searched, and never stored: nothing can be stale, and there is no edge that
// somebody forgot to take out.
//
// Whoever waits for several nodes needs all of them to go: each is an edge, and
// one cycle is enough.
//
// Invariants:
//
//  1. What is returned is a cycle: start first, no node twice, each node was
//     told as a blocker of the one before it, and start as one of the last.
//  2. In a graph that does not change there is a result iff start can reach
//     itself. A cycle that start leads to but is not part of is not reported: it
//     is its members' business.
//  3. A node is asked at most once. So a search takes time linear in the nodes
//     and edges it was told, and ends also while the graph changes, unless that
//     grows new nodes for as long as it is searched.
//  4. A cycle through start that is there when the search begins and stays until
//     it ends does not go unnoticed, whatever else changes meanwhile: it or
//     another one that was told is reported.
//  5. There is no recursion and no limit of depth. What a search has seen it does
//     not hold on to, and of its buffers it keeps no more than a bound.
package deadlock
