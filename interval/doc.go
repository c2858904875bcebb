// Package interval is the index of the ranges held on one file: an immutable
// B-tree that answers "does anybody else hold a conflicting mode in [a,b]?" in
// O(log n) for every mix of shared and exclusive ranges.
//
// Ranges of different owners overlap freely when they are shared, so an
// ordered tree alone would have to look at every range that begins before b.
// Each child entry therefore carries, for exclusive and for shared ranges
// apart, the two largest last bytes below it that belong to different owners:
//
//	                    ┌ keys ≥ (0,9,#1)  x: 9 by A, - │ s: 99 by B, 49 by C ┐
//	root ── children ──▶│                                                     │
//	                    └ keys ≥ (40,49,#7) x: - , -    │ s: EOF by D, 60 by B┘
//
// Without the asker's own ranges the largest last byte of a subtree is one of
// those two. Descending into the leftmost child whose value reaches a, one
// path finds the first range in the way, or shows that there is none.
//
// Invariants:
//
//  1. A [Set] never changes. Every change returns another Set that shares all
//     nodes it did not touch, so a reader needs no lock and several writers
//     can derive from one version at the same time.
//  2. Items are ordered by (first, last, id), and ids are unique in a set.
//  3. A child entry's key is the smallest key below it, and its summaries are
//     exact, not bounds; the owner index has none.
//  4. Every node but the root is at least a quarter full; all leaves have the
//     same depth.
//  5. The owner index, where there is one, holds the same items as the tree,
//     ordered by (owner hash, first, last, id).
//  6. The stale items of a set are in its trees, the fresh ones are not, and
//     there are at most maxLoose of each.
package interval
