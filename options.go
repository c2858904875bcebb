package sneck

import (
	"fmt"
	"log/slog"

	"sneck/lock"
)

// Durability says when a change is acknowledged.
type Durability uint8

const (
	Sync Durability = iota // acknowledged after its record is on stable storage (group commit); the default
)

func (d Durability) String() string {
	if d == Sync {
		return "sync"
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}

// ParseDurability is the durability with that name: "sync".
func ParseDurability(name string) (Durability, error) {
	if name == Sync.String() {
		return Sync, nil
	}
	return 0, &lock.InvalidError{Field: "Durability", Reason: fmt.Sprintf("%q is not one of: sync", name)}
}

// Options say how a Manager is opened. The zero value is a table in memory.
type Options struct {
	Dir        string       // log directory; "" = memory only, nothing survives
	Durability Durability   // default Sync
	Shards     int          // rounded up to a power of two; default 4 × GOMAXPROCS, at least 16; at most 65536
	Logger     *slog.Logger // nil = silent
}

const maxShards = 1 << 16

func (o *Options) validate() error {
	if o.Durability != Sync {
		return &lock.InvalidError{Field: "Options.Durability", Reason: fmt.Sprintf("%d is not a durability", uint8(o.Durability))}
	}
	if o.Shards < 0 || o.Shards > maxShards {
		return &lock.InvalidError{Field: "Options.Shards", Reason: fmt.Sprintf("%d is not in 0..%d", o.Shards, maxShards)}
	}
	return nil
}
