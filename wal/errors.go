package wal

import (
	"errors"
	"fmt"
)

// ErrInUse says that another log, in this process or another, has the
// directory open.
var ErrInUse = errors.New("the log directory is in use")

// ErrRecord marks an error of Options.Replay that means: the record is intact,
// and cannot be. Opening then fails with a [DamageError].
var ErrRecord = errors.New("the record cannot be")

// DamageError says where a log is damaged in a way that is not a torn tail, so
// that it cannot be opened without losing records that may have been
// acknowledged. Nothing was changed on disk.
type DamageError struct {
	File   string // segment or checkpoint, or directory if a segment is missing or does not belong there
	Offset int64  // of the entry that cannot be used
	Reason string
	Err    error // of Options.Replay, if that is where the damage showed
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("log damaged: %s at offset %d: %s (\"sneck log verify\" shows what is wrong, \"sneck log repair\" what can be kept)", e.File, e.Offset, e.Reason)
}

func (e *DamageError) Unwrap() error { return e.Err }

// VersionError says that a log holds something intact that this version of the
// program does not know: a format version, a flag, or a kind of record.
type VersionError struct {
	File    string
	Offset  int64 // of the entry
	Version uint8 // format version of the frame
	Flags   uint8 // flags of the frame; known ones are 0
	Kind    Kind  // the unknown kind, if version and flags are known; else 0
}

func (e *VersionError) Error() string {
	what := fmt.Sprintf("format version %d, this program knows %d", e.Version, formatVersion)
	switch {
	case e.Version != formatVersion:
	case e.Flags != 0:
		what = fmt.Sprintf("unknown flags %#x", e.Flags)
	default:
		what = fmt.Sprintf("unknown kind of record %d", uint8(e.Kind))
	}
	return fmt.Sprintf("log written by another version: %s at offset %d: %s", e.File, e.Offset, what)
}
