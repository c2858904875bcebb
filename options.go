package sneck

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"sneck/lock"
)

// Durability says when a change is acknowledged.
type Durability uint8

const (
	// Sync acknowledges a change after its record is on stable storage. Changes
	// that come while one is being synced share the next sync. The default.
	Sync Durability = iota
	// Interval acknowledges a change once its record is in the log's buffer,
	// which is written and synced every SyncInterval: a crash, also of the
	// process alone, may lose what was acknowledged since.
	Interval
	// None acknowledges a change after its record was written, and never syncs
	// by itself: what was acknowledged survives the process, not the machine.
	None
)

var durabilities = [...]string{"sync", "interval", "none"}

func (d Durability) String() string {
	if int(d) < len(durabilities) {
		return durabilities[d]
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}

// ParseDurability is the durability with that name: "sync", "interval" or "none".
func ParseDurability(name string) (Durability, error) {
	if i := slices.Index(durabilities[:], name); i >= 0 {
		return Durability(i), nil
	}
	return 0, &lock.InvalidError{Field: "Durability", Reason: fmt.Sprintf("%q is not one of: %s", name, strings.Join(durabilities[:], ", "))}
}

// Options say how a Manager is opened. The zero value is a table in memory.
type Options struct {
	Dir          string        // log directory; "" = memory only, nothing survives
	Durability   Durability    // default Sync
	SyncInterval time.Duration // for Interval: how long a change stays in memory, about; default 10 ms
	Shards       int           // rounded up to a power of two; default 4 × GOMAXPROCS, at least 16; at most 65536
	Logger       *slog.Logger  // nil = silent

	// CheckpointAfter is how many bytes of log there may be before a checkpoint
	// replaces them by what is held: the disk then has the locks that are held,
	// twice while a checkpoint is written, and about so many bytes. When a
	// checkpoint is larger than that, the next one waits until the log is as
	// large. Default 64 MiB; < 0 = only when Manager.Checkpoint is called.
	CheckpointAfter int64
	// SegmentSize is the size in bytes of a file of the log, about. The one that
	// is written is also in memory. Default 4 MiB; at most 1 GiB.
	SegmentSize int
}

const (
	maxShards  = 1 << 16
	maxSegment = 1 << 30
)

func (o *Options) validate() error {
	if o.Durability > None {
		return &lock.InvalidError{Field: "Options.Durability", Reason: fmt.Sprintf("%d is not a durability", uint8(o.Durability))}
	}
	if o.Shards < 0 || o.Shards > maxShards {
		return &lock.InvalidError{Field: "Options.Shards", Reason: fmt.Sprintf("%d is not in 0..%d", o.Shards, maxShards)}
	}
	if o.SyncInterval < 0 {
		return &lock.InvalidError{Field: "Options.SyncInterval", Reason: fmt.Sprintf("%v is negative", o.SyncInterval)}
	}
	if o.SegmentSize < 0 || o.SegmentSize > maxSegment {
		return &lock.InvalidError{Field: "Options.SegmentSize", Reason: fmt.Sprintf("%d is not in 0..%d", o.SegmentSize, maxSegment)}
	}
	return nil
}
