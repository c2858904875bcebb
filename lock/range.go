package lock

import (
	"fmt"
	"math"
)

// maxPOSIX is the largest file offset that POSIX knows: off_t is signed.
const maxPOSIX = math.MaxInt64

// Range is a run of bytes, inclusive at both ends, or SMB's zero-length range.
// Two ranges are equal iff ==. The zero Range is the whole file, so that a
// range which somebody forgot to set locks too much and never too little.
//
// Constructors do every protocol's arithmetic; nothing else computes with
// offsets and lengths.
type Range struct {
	first uint64
	tail  uint64 // bytes after the range: ^last. 0 = to end of file
	empty bool   // zero-length at first; tail is ^first then
}

func span(first, last uint64) Range { return Range{first: first, tail: ^last} }

// First is the first byte of the range, or the position of an empty one.
func (r Range) First() uint64 { return r.first }

// Last is the last byte of the range; math.MaxUint64 means to end of file. An
// empty range has no last byte: Last is First then.
func (r Range) Last() uint64 { return ^r.tail }

// IsEmpty reports whether r is an SMB zero-length range.
func (r Range) IsEmpty() bool { return r.empty }

// ToEOF reports whether r reaches to the end of the file, wherever that is.
func (r Range) ToEOF() bool { return !r.empty && r.tail == 0 }

// Overlaps reports whether r and s have a byte in common. A zero-length range
// overlaps one that it lies strictly inside of, that is one which has both the
// byte before it and the byte at it; two zero-length ranges never overlap, and
// the one at offset 0 overlaps nothing (MS-FSA 2.1.4.10).
func (r Range) Overlaps(s Range) bool {
	switch {
	case r.empty && s.empty:
		return false
	case r.empty:
		return s.first < r.first && r.first <= s.Last()
	case s.empty:
		return r.first < s.first && s.first <= r.Last()
	}
	return r.first <= s.Last() && s.first <= r.Last()
}

// Contains reports whether every byte of s is in r. Nothing contains an empty
// range, and an empty range contains nothing.
func (r Range) Contains(s Range) bool {
	return !r.empty && !s.empty && r.first <= s.first && s.Last() <= r.Last()
}

// String shows both ends as they are: "[0,99]", "[100,EOF]", "[7,empty]".
func (r Range) String() string {
	switch {
	case r.empty:
		return fmt.Sprintf("[%d,empty]", r.first)
	case r.tail == 0:
		return fmt.Sprintf("[%d,EOF]", r.first)
	}
	return fmt.Sprintf("[%d,%d]", r.first, r.Last())
}

// WholeFile is [0,EOF].
func WholeFile() Range { return Range{} }

// Bytes is the range from first to last, both included. last = math.MaxUint64
// means to end of file. It fails with [ErrRange] if last < first.
func Bytes(first, last uint64) (Range, error) {
	if last < first {
		return Range{}, &RangeError{Protocol: "bytes", Start: first, Arg: last, Reason: "the last byte is before the first"}
	}
	return span(first, last), nil
}

// POSIXRange is the range of an fcntl(2) struct flock whose l_start was made
// absolute. length 0 means to end of file, a negative length means the bytes
// before start.
//
// It fails with [ErrRange] when the range begins before byte 0 (EINVAL) or
// ends past the largest file offset, 2^63-1 (EOVERFLOW, [RangeError.Overflow]).
// A range that ends exactly there reaches to end of file: POSIX has no byte
// beyond it, and Linux does not tell the two apart either (fs/locks.c,
// posix_lock_to_flock).
//
// Source: POSIX.1-2024 fcntl, "l_len" and ERRORS.
func POSIXRange(start, length int64) (Range, error) {
	bad := func(overflow bool, reason string) (Range, error) {
		return Range{}, &RangeError{Protocol: "posix", Start: uint64(start), Arg: uint64(length), Signed: true, Overflow: overflow, Reason: reason}
	}
	if start < 0 {
		return bad(false, "it begins before byte 0")
	}
	first, last := uint64(start), uint64(maxPOSIX)
	switch {
	case length > 0:
		if length-1 > maxPOSIX-start {
			return bad(true, "it ends past the largest file offset, 2^63-1")
		}
		last = first + uint64(length-1)
	case length < 0:
		if start+length < 0 { // cannot wrap: start >= 0 > length
			return bad(false, "it begins before byte 0")
		}
		first, last = uint64(start+length), uint64(start-1)
	}
	if last == maxPOSIX {
		last = math.MaxUint64
	}
	return span(first, last), nil
}

// NLM4Range is the range of an nlm4_lock: l_offset, l_len. length 0 means to
// end of file. It fails with [ErrRange] when the last byte would lie past
// 2^64-1. Source: XNFS (C702) chapter 14, nlm4_lock.
func NLM4Range(offset, length uint64) (Range, error) {
	if length == 0 {
		return span(offset, math.MaxUint64), nil
	}
	return sized("nlm4", offset, length, math.MaxUint64)
}

// NFS4Range is the range of an NFSv4 LOCK, LOCKT or LOCKU. A length of all
// ones means to end of file. It fails with [ErrRange] for length 0, and for
// any other length whose sum with offset is past 2^64-1: byte 2^64-1 can only
// be locked with the length of all ones. Source: RFC 8881 18.10.3.
func NFS4Range(offset, length uint64) (Range, error) {
	switch length {
	case math.MaxUint64:
		return span(offset, math.MaxUint64), nil
	case 0:
		return Range{}, &RangeError{Protocol: "nfs4", Start: offset, Arg: length, Reason: "the length is zero"}
	}
	return sized("nfs4", offset, length, math.MaxUint64-1)
}

// SMBRange is the range of an SMB2 LOCK element. length 0 is the empty range
// at offset. It fails with [ErrRange] when the last byte would lie past
// 2^64-1; {2^64-1, 1} is valid. Source: MS-FSA 2.1.5.8.
func SMBRange(offset, length uint64) (Range, error) {
	if length == 0 {
		return Range{first: offset, tail: ^offset, empty: true}, nil
	}
	return sized("smb", offset, length, math.MaxUint64)
}

// FUSERange is the range of a fuse_file_lock, inclusive at both ends; end =
// 2^63-1 means to end of file. It fails with [ErrRange] when end < start or
// end is past 2^63-1, which no kernel sends. Source: Linux fs/fuse/file.c,
// convert_fuse_file_lock.
func FUSERange(start, end uint64) (Range, error) {
	bad := func(reason string) (Range, error) {
		return Range{}, &RangeError{Protocol: "fuse", Start: start, Arg: end, Reason: reason}
	}
	switch {
	case end < start:
		return bad("the last byte is before the first")
	case end > maxPOSIX:
		return bad("it ends past the largest file offset, 2^63-1")
	case end == maxPOSIX:
		end = math.MaxUint64
	}
	return span(start, end), nil
}

// sized is the range of length > 0 bytes at offset whose last byte is at most max.
func sized(protocol string, offset, length, max uint64) (Range, error) {
	if offset > max || length-1 > max-offset {
		return Range{}, &RangeError{Protocol: protocol, Start: offset, Arg: length, Overflow: true, Reason: "offset plus length is past 2^64-1"}
	}
	return span(offset, offset+(length-1)), nil
}
