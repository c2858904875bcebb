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

	offVersion    = 4
	offFlags      = 5
	offReserved   = 6
	offIndex      = 8
	offGeneration = 16
	offPart       = 24
	offCount      = 28
	offPayload    = 32

	headerSize   = 36
	checksumSize = 8
	minFrame     = headerSize + checksumSize
	minEntry     = minFrame + 1 // with the shortest size before it
)

// The flags of a frame.
const (
	flagCheckpoint = 1 << iota // of a checkpoint, not of the log
	knownFlags     = 1<<iota - 1
)

// Kind says what the body of a record is.
type Kind uint8

// Kinds of records. Reading refuses all others.
const (
	KindEpoch  Kind = iota + 1 // a new server epoch began
	KindFile                   // one transition of one file
	KindState                  // the state of one file; in checkpoints only
	KindBegin                  // a checkpoint begins; in checkpoints only
	KindWalked                 // everything that the generation's checkpoint holds has been read; in logs only
	KindCut                    // a repair cut something out of the checkpoint or log before it; in checkpoints only
	kindEnd                    // the checkpoint ends; this package's own
	KindClient                 // a change of a client
	kindLast   = KindClient
)

var kindNames = [...]string{"", "epoch", "file", "state", "begin", "walked", "cut", "end", "client"}

func (k Kind) String() string {
	if int(k) < len(kindNames) && k > 0 {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

func (k Kind) known() bool { return k >= KindEpoch && k <= kindLast }

// fits reports whether a record of this kind may be where it is.
func (k Kind) fits(checkpoint bool) bool {
	switch k {
	case KindEpoch, KindClient:
		return true
	case KindFile, KindWalked:
		return !checkpoint
	}
	return checkpoint
}

// appendRecord appends one record to a payload.
func appendRecord(dst []byte, kind Kind, body []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	dst = append(dst, byte(kind))
	return append(dst, body...)
}

// header is what a frame says besides its records.
type header struct {
	index      uint64
	generation uint64
	part       uint32
	checkpoint bool
}

// seal fills in the header that buf begins with and appends the checksum.
// buf is headerSize bytes of room and then the payload of count records.
func (h header) seal(buf []byte, count uint32) []byte {
	le := binary.LittleEndian
	copy(buf, magic)
	buf[offVersion] = formatVersion
	buf[offFlags] = h.flags()
	le.PutUint16(buf[offReserved:], 0)
	le.PutUint64(buf[offIndex:], h.index)
	le.PutUint64(buf[offGeneration:], h.generation)
	le.PutUint32(buf[offPart:], h.part)
	le.PutUint32(buf[offCount:], count)
	le.PutUint32(buf[offPayload:], uint32(len(buf)-headerSize))
	return le.AppendUint64(buf, xxhash.Sum64(buf))
}

func (h header) flags() byte {
	if h.checkpoint {
		return flagCheckpoint
	}
	return 0
}

// room is buf, emptied, with room for the header of a frame.
func room(buf []byte) []byte { return append(buf[:0], make([]byte, headerSize)...) }

// recordSize is how many bytes a record with a body of n bytes takes.
func recordSize(n int) int { return uvarintLen(uint64(n)) + 1 + n }

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
	header
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
	le := binary.LittleEndian
	f = frame{
		header: header{
			index:      le.Uint64(b[offIndex:]),
			generation: le.Uint64(b[offGeneration:]),
			part:       le.Uint32(b[offPart:]),
			checkpoint: b[offFlags]&flagCheckpoint != 0,
		},
		count:   le.Uint32(b[offCount:]),
		payload: b[headerSize:end],
	}
	if v, flags := b[offVersion], b[offFlags]; v != formatVersion || flags&^knownFlags != 0 {
		return f, n, &flaw{reason: "another format", intact: true, newer: true, ver: v, flags: flags}
	}
	if p := le.Uint32(b[offPayload:]); uint64(p) != uint64(len(f.payload)) {
		return f, n, &flaw{reason: fmt.Sprintf("the payload has %d bytes, the frame says %d", len(f.payload), p), intact: true}
	}
	if r := le.Uint16(b[offReserved:]); r != 0 {
		return f, n, &flaw{reason: fmt.Sprintf("the reserved bytes are %#x", r), intact: true}
	}
	return f, n, nil
}

// headerExtent is the size of the entry that b begins with if its header,
// taken by itself, is that of frame number h.index of the generation's log or
// checkpoint. The header says the size twice and the index a second time after
// the file's name, so a header that agrees in all is that of a write which was
// begun here: its bytes end where it says, even if they are not all there.
func headerExtent(b []byte, h header) (n uint64, ok bool) {
	size, k := uvarint(b)
	if k == 0 || len(b)-k < headerSize {
		return 0, false
	}
	b = b[k:]
	ok = string(b[:len(magic)]) == magic &&
		b[offVersion] == formatVersion && b[offFlags] == h.flags() &&
		binary.LittleEndian.Uint64(b[offIndex:]) == h.index &&
		binary.LittleEndian.Uint64(b[offGeneration:]) == h.generation &&
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
