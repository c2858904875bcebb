package sneck

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"sneck/lock"
	"sneck/shard"
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

	// GracePeriod is how long the owners of locks that were held before a restart
	// have to reclaim them. Default 90 s; < 0 = no grace period: they are released
	// at Open.
	GracePeriod time.Duration
	StrictGrace bool                      // refuse every new lock in grace, not only those that may collide
	Limits      Limits                    // how much there may be
	Adapters    map[string]AdapterOptions // by Client.Adapter

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

const defaultGrace = 90 * time.Second

// Limits say how much there may be of what; 0 = the default, < 0 = as much as
// comes. What counts are ranges held; for a client and in all also requests in
// line, each of which has the place of the range that it will be. What asks for
// more is refused with a [lock.LimitError] that says which limit; on a file also
// somebody in line, when his turn comes. An unlock is never refused: one that cuts
// a range in two leaves two, also if there are more then than the limit allows. Nor
// is a reclaim.
type Limits struct {
	LocksPerFile   int // default 1,000
	LocksPerClient int // default 10,000
	LocksTotal     int // default 1,000,000
	WaitersPerFile int // default 1,000
	WaitersTotal   int // default 100,000
}

// complete fills in the defaults.
func (l Limits) complete() shard.Limits {
	or := func(n, otherwise int) int {
		if n == 0 {
			return otherwise
		}
		return max(n, 0)
	}
	return shard.Limits{
		LocksPerFile: or(l.LocksPerFile, 1000), LocksPerClient: or(l.LocksPerClient, 10_000), LocksTotal: or(l.LocksTotal, 1_000_000),
		WaitersPerFile: or(l.WaitersPerFile, 1000), WaitersTotal: or(l.WaitersTotal, 100_000),
	}
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
	for name, a := range o.Adapters {
		if a.TTL < 0 || a.MaxConnections < 0 {
			return &lock.InvalidError{Field: fmt.Sprintf("Options.Adapters[%q]", name), Reason: fmt.Sprintf("TTL %v, MaxConnections %d: negative", a.TTL, a.MaxConnections)}
		}
	}
	if o.SyncInterval < 0 {
		return &lock.InvalidError{Field: "Options.SyncInterval", Reason: fmt.Sprintf("%v is negative", o.SyncInterval)}
	}
	if o.SegmentSize < 0 || o.SegmentSize > maxSegment {
		return &lock.InvalidError{Field: "Options.SegmentSize", Reason: fmt.Sprintf("%d is not in 0..%d", o.SegmentSize, maxSegment)}
	}
	return nil
}
