// Package wal keeps a write-ahead log of opaque records: group commit in
// predecessor order, checksummed frames, tail repair, replay. What a record
// says is its caller's business.
//
// The segment files are written by github.com/tidwall/wal, which knows neither
// checksums nor torn tails; this package puts a frame of its own into each of
// its entries, reads segments itself, and owns the rules below.
//
// Invariants:
//
//  1. Order: a record is written after its predecessor, whoever hands it over
//     first. The order in the log is each chain's order.
//  2. Durability: with Sync, Wait returns nil only after the record, all its
//     predecessors and the directory entry of their segment were synced; with
//     None, after they were written.
//  3. Group commit: everything queued when somebody begins to write goes to disk
//     with one sync, in one frame unless it would be larger than 8 MiB.
//  4. Reopening gives a prefix of what was written that contains everything
//     acknowledged (with Interval and None: that the crash has left). Nothing is
//     ever skipped in the middle.
//  5. Only a torn tail of the last segment is cut, and that is said in the log
//     output. Any other damage is a [DamageError] that names file and offset,
//     and leaves the disk as it was.
//  6. What a newer version wrote is refused with a [VersionError], never guessed.
//  7. The first failed write or sync halts the log for good: no retry, nothing
//     is acknowledged any more, and the failed data is not written again by Close.
//  8. Every submitted record completes when somebody waits for it or for a later
//     one, also across Close and a halt; with Interval, in time.
//  9. Memory does not grow with history: a completed record refers neither to
//     its body nor to any other record.
//  10. Submit and NewRecord take no mutex and do not wait: a goroutine that is
//     suspended anywhere in them holds up nobody else.
//  11. One log per directory: a second opener gets [ErrInUse].
//  12. [Read] creates, repairs and locks nothing.
//  13. A checkpoint that is complete and durable takes the place of what was in
//     the log before it began; until then that stays. Records are written while
//     it is.
//
// docs/log-format.md says what is on disk, byte by byte.
package wal
