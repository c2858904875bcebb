package wal

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// The layout of an entry; the package comment has the table.
const (
	magic         = "\x89SNK"
	formatVersion = 1

	offVersion = 4
	offFlags   = 5
	offPart    = 6
	offIndex   = 8
	offCount   = 16
	offPayload = 20

	headerSize   = 24
	checksumSize = 8
	minFrame     = headerSize + checksumSize
	minEntry     = minFrame + 1 // with the shortest size before it
)

// Kind says what the body of a record is.
type Kind uint8

// Kinds of records. Reading refuses all others.
const (
	KindEpoch Kind = iota + 1 // a new server epoch began
	KindFile                  // one transition of one file
)

func (k Kind) known() bool { return k == KindEpoch || k == KindFile }

// appendRecord appends one record to a payload.
func appendRecord(dst []byte, kind Kind, body []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	dst = append(dst, byte(kind))
	return append(dst, body...)
}

// sealFrame fills in the header that buf begins with and appends the checksum.
// buf is headerSize bytes of room and then the payload.
func sealFrame(buf []byte, index uint64, part uint16, count uint32) []byte {
	copy(buf, magic)
	buf[offVersion] = formatVersion
	buf[offFlags] = 0
	binary.LittleEndian.PutUint16(buf[offPart:], part)
	binary.LittleEndian.PutUint64(buf[offIndex:], index)
	binary.LittleEndian.PutUint32(buf[offCount:], count)
	binary.LittleEndian.PutUint32(buf[offPayload:], uint32(len(buf)-headerSize))
	return binary.LittleEndian.AppendUint64(buf, xxhash.Sum64(buf))
}

// entrySize is how many bytes a frame of n bytes takes in a segment.
func entrySize(n int) int64 { return int64(uvarintLen(uint64(n)) + n) }

func uvarintLen(x uint64) int { return max(1, (bits.Len64(x)+6)/7) }

// uvarint reads a number in its shortest form. n is 0 if b does not begin with
// one: cut off, too long, or not the shortest form.
func uvarint(b []byte) (x uint64, n int) {
	x, n = binary.Uvarint(b)
	if n <= 0 || n != uvarintLen(x) {
		return 0, 0
	}
	return x, n
}

// frame is a decoded frame. It aliases the bytes that it was decoded from.
type frame struct {
	index   uint64
	part    uint16
	count   uint32
	payload []byte
}

// flaw is why an entry cannot be used.
type flaw struct {
	reason string
	intact bool  // the checksum is right: somebody meant to write this, so it is no torn write
	newer  bool  // intact, and of another format; version and flags say which
	ver    uint8 // format version, if newer
	flags  uint8 // flags, if newer
}

// decodeEntry decodes the entry that b begins with; n is its size. No length is
// believed before it was held against the bytes that there are.
func decodeEntry(b []byte) (f frame, n int, bad *flaw) {
	size, k := uvarint(b)
	switch {
	case k == 0:
		return f, 0, &flaw{reason: "the size of the entry is cut off or malformed"}
	case size < minFrame:
		return f, 0, &flaw{reason: fmt.Sprintf("an entry of %d bytes is too short for a frame", size)}
	case size > uint64(len(b)-k):
		return f, 0, &flaw{reason: fmt.Sprintf("an entry of %d bytes reaches past the end of the file", size)}
	}
	n = k + int(size)
	b = b[k:n]
	if string(b[:len(magic)]) != magic {
		return f, 0, &flaw{reason: "no frame begins here"}
	}
	end := len(b) - checksumSize
	if got, want := xxhash.Sum64(b[:end]), binary.LittleEndian.Uint64(b[end:]); got != want {
		return f, 0, &flaw{reason: fmt.Sprintf("checksum is %016x, the frame says %016x", got, want)}
	}
	f = frame{
		index:   binary.LittleEndian.Uint64(b[offIndex:]),
		part:    binary.LittleEndian.Uint16(b[offPart:]),
		count:   binary.LittleEndian.Uint32(b[offCount:]),
		payload: b[headerSize:end],
	}
	if v, flags := b[offVersion], b[offFlags]; v != formatVersion || flags != 0 {
		return f, n, &flaw{reason: "another format", intact: true, newer: true, ver: v, flags: flags}
	}
	if p := binary.LittleEndian.Uint32(b[offPayload:]); uint64(p) != uint64(len(f.payload)) {
		return f, n, &flaw{reason: fmt.Sprintf("the payload has %d bytes, the frame says %d", len(f.payload), p), intact: true}
	}
	return f, n, nil
}

// headerExtent is the size of the entry that b begins with if its header,
// taken by itself, is that of frame number index. The header says the size
// twice and the index a second time after the file's name, so a header that
// agrees in all is that of a write which was begun here: its bytes end where
// it says, even if they are not all there.
func headerExtent(b []byte, index uint64) (n uint64, ok bool) {
	size, k := uvarint(b)
	if k == 0 || len(b)-k < headerSize {
		return 0, false
	}
	b = b[k:]
	ok = string(b[:len(magic)]) == magic &&
		b[offVersion] == formatVersion && b[offFlags] == 0 &&
		binary.LittleEndian.Uint64(b[offIndex:]) == index &&
		uint64(binary.LittleEndian.Uint32(b[offPayload:]))+minFrame == size
	return uint64(k) + size, ok
}

// record takes the first record off a payload. ok is false if there is no
// whole one.
func record(payload []byte) (kind Kind, body, rest []byte, ok bool) {
	size, k := uvarint(payload)
	if k == 0 || len(payload) == k || size > uint64(len(payload)-k-1) {
		return 0, nil, nil, false
	}
	kind, payload = Kind(payload[k]), payload[k+1:]
	return kind, payload[:size:size], payload[size:], true
}
