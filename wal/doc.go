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
//  2. Durability: Done is closed with a nil Err only after the record, all its
//     predecessors and the directory entry of their segment were synced.
//  3. Group commit: everything queued when the writer looks goes to disk with
//     one sync, in one frame unless it would be larger than 8 MiB.
//  4. Reopening gives a prefix of what was written that contains everything
//     acknowledged. Nothing is ever skipped in the middle.
//  5. Only a torn tail of the last segment is cut, and that is said in the log
//     output. Any other damage is a [DamageError] that names file and offset,
//     and leaves the disk as it was.
//  6. What a newer version wrote is refused with a [VersionError], never guessed.
//  7. The first failed write or sync halts the log for good: no retry, nothing
//     is acknowledged any more, and the failed data is not written again by Close.
//  8. Every submitted record completes, also across Close and a halt.
//  9. Memory does not grow with history: a completed record refers neither to
//     its body nor to any other record.
//  10. Submit and NewRecord take no mutex and do not wait: a goroutine that is
//     suspended anywhere in them holds up nobody else.
//  11. One log per directory: a second opener gets [ErrInUse].
//  12. [Read] creates, repairs and locks nothing.
//
// # Directory
//
//	DIR/LOCK                       flock(2)ed while a log is open
//	DIR/log-0000000000000001/      generation 1, decimal
//	    00000000000000000001       segment: named by the index of its first frame, decimal
//	    00000000000000001234
//
// A generation's first segment is 1 and each later segment is named by the
// index that follows the last frame of the one before it. Generations other
// than 1 are refused.
//
// # Segment
//
// A segment is a run of entries without padding. All integers are little
// endian; uvarint is the base-128 encoding of encoding/binary, in its shortest
// form.
//
//	entry:
//	    uvarint      size of the frame in bytes
//	    frame
//	frame:
//	     0  4 bytes  magic: 89 53 4e 4b
//	     4  uint8    format version: 1
//	     5  uint8    flags: 0; a reader refuses any that it does not know
//	     6  uint16   part: how many frames of the same group commit precede this one
//	     8  uint64   index: 1 for the first frame of a generation, then one more for each
//	    16  uint32   number of records
//	    20  uint32   size of the payload in bytes: size of the frame - 32
//	    24  bytes    payload: the records
//	    -8  uint64   XXH64, seed 0, of all the bytes of the frame before it
//	record:
//	    uvarint      size of the body in bytes
//	    uint8        kind
//	    bytes        body
//
// Every version keeps the entry's size, the magic, the version, the index and
// the checksum at the end where they are, so that an older reader can tell a
// newer log from a damaged one.
//
// The part says which frames share one sync: none of these is acknowledged
// before all are on disk, and until then the disk may hold any of them without
// the others. So a bad frame followed by good ones of its own group commit is a
// torn tail; followed by a good one of a later group commit it is damage.
package wal
