package wal

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"time"
)

// Begun takes the body of a KindBegin apart: which generation's checkpoint
// begins, and when it was begun.
func (e Entry) Begun() (generation uint64, at time.Time, err error) {
	generation, n := binary.Uvarint(e.Body)
	micros, k := int64(0), 0
	if n > 0 {
		micros, k = binary.Varint(e.Body[n:])
	}
	if k <= 0 || n+k != len(e.Body) {
		return 0, at, fmt.Errorf("begin record % x", e.Body)
	}
	return generation, time.UnixMicro(micros), nil
}

// Number takes the body of a record apart that is one number: of a KindEpoch
// the epoch, of a KindWalked the generation, of a KindCut how many bytes were
// cut out.
func (e Entry) Number() (uint64, error) {
	x, n := binary.Uvarint(e.Body)
	if n <= 0 || n != len(e.Body) {
		return 0, fmt.Errorf("%s record % x", e.Kind, e.Body)
	}
	return x, nil
}

// Size is how many bytes the files in a log directory have.
func Size(dir string) (int64, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return 0, err
	}
	return sizeOfTree(dir)
}
