package sneck

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"time"

	"sneck/conn"
	"sneck/lock"
	"sneck/shard"
	"sneck/wal"
)

// What a log has to say of itself, by names of this package.
type (
	LogSummary = wal.Summary // what a walk over a log met
	LogDamage  = wal.Damage  // a stretch of a log that cannot be used
	LogPart    = shard.Part  // one step of a change of a file
	LogClient  = conn.Change // a change of a client
	RepairStep = wal.Step    // one thing that a repair does
)

// ErrLogChanged says that the log is in use, and a checkpoint has replaced it
// while it was read.
var ErrLogChanged = wal.ErrChanged

// Progress is told how much of a log has been read, or copied, in bytes. A log
// may be read more than once: then it begins again. nil = nobody is told.
type Progress func(done, total int64)

// over is fn for the records of the log in dir, and tells p where they are.
func (p Progress) over(dir string, fn func(wal.Entry) error) func(wal.Entry) error {
	if p == nil {
		return fn
	}
	total, _ := wal.Size(dir) // who reads it says what is wrong
	var file string
	var before, size, at int64
	return func(e wal.Entry) error {
		if e.File != file {
			before += size
			file, size, at = e.File, 0, -1
			if fi, err := os.Stat(file); err == nil {
				size = fi.Size()
			}
		}
		if e.Offset != at {
			at = e.Offset
			p(min(before+at, total), total)
		}
		return fn(e)
	}
}

// LogRecord is one record of a log, taken apart.
type LogRecord struct {
	wal.Entry

	Change *shard.Change    // KindFile
	State  *shard.FileState // KindState
	Client *LogClient       // KindClient
	Begun  time.Time        // KindBegin: when; Generation says of what
	Number uint64           // KindEpoch: the epoch; KindWalked: the generation; KindCut: how many bytes
	Err    error            // why it cannot be taken apart
}

func describe(e wal.Entry) LogRecord {
	r := LogRecord{Entry: e}
	switch e.Kind {
	case wal.KindFile:
		c, err := shard.DescribeChange(e.Body)
		r.Change, r.Err = &c, err
	case wal.KindState:
		s, err := shard.DescribeState(e.Body)
		r.State, r.Err = &s, err
	case wal.KindClient:
		c, err := conn.ParseChange(e.Body)
		r.Client, r.Err = &c, err
	case wal.KindBegin:
		_, r.Begun, r.Err = e.Begun()
	default:
		r.Number, r.Err = e.Number()
	}
	return r
}

// Records calls fn for each record of the log in dir, in the order of the log.
// It changes nothing there, and the log may be in use. It ends with fn's error,
// or at the first damage ([wal.DamageError]), or with [ErrLogChanged] after the
// first record; before that it begins again.
func Records(dir string, p Progress, fn func(LogRecord) error) (sum LogSummary, err error) {
	begun := false
	var result error
	err = unchanged(func() error {
		sum, result = wal.Read(dir, p.over(dir, func(e wal.Entry) error {
			begun = true
			return fn(describe(e))
		}))
		if begun {
			return nil
		}
		return result
	})
	if begun {
		err = result
	}
	return sum, err
}

// LogReport is what Verify found.
type LogReport struct {
	Log    LogSummary  // of what is intact
	Held   *Snapshot   // what a replay gives; nil if the log is damaged
	Damage []LogDamage // the first MaxDamage stretches that cannot be used
	More   int         // how many there are besides
}

// MaxDamage is how many stretches of damage Verify describes.
const MaxDamage = 100

// Verify reads all of the log in dir and replays it, and goes on behind damage
// to find out what else is damaged. It changes nothing, and the log may be in
// use. An error says that the log cannot be judged.
func Verify(dir string, p Progress) (LogReport, error) {
	held, err := InspectProgress(dir, p)
	if err == nil {
		return LogReport{Log: held.Log, Held: held}, nil
	}
	var first *wal.DamageError
	if !errors.As(err, &first) {
		return LogReport{}, err
	}
	var r LogReport
	err = unchanged(func() (err error) {
		known := false // a walk that replays nothing does not find a record that cannot be
		r = LogReport{}
		seen := p.over(dir, func(wal.Entry) error { return nil })
		r.Log, err = wal.Survey(dir, func(d wal.Damage) {
			known = known || d.File == first.File && d.Offset <= first.Offset && first.Offset < d.Offset+max(1, d.Bytes)
			if len(r.Damage) < MaxDamage {
				r.Damage = append(r.Damage, d)
			} else {
				r.More++
			}
		}, func(e wal.Entry) { _ = seen(e) })
		if !known {
			r.Damage = append([]wal.Damage{{File: first.File, Offset: first.Offset, Reason: first.Reason}}, r.Damage...)
		}
		return err
	})
	return r, err
}

// RepairReport says what a repair does, or would do.
type RepairReport struct {
	Steps []RepairStep // in the order of the log; none: there is nothing to do
	Lost  LostRecords
	Held  *Snapshot // what the log says is held then
	Copy  string    // the directory that has the log as it was; "" if nothing was done
}

// LostRecords is what can still be read of what a repair cuts out.
type LostRecords struct {
	Changes int // of a file, each
	States  int // of a file, in a checkpoint
	Files   int // that they are of
	Clients int // of a client, each

	epoch uint64 // the last one that they know of, or what is kept
	files map[lock.FileKey]struct{}
}

func (l *LostRecords) add(e wal.Entry, sure bool) {
	r := describe(e)
	if r.Err != nil {
		return
	}
	var file lock.FileKey
	switch e.Kind {
	case wal.KindFile:
		l.Changes++
		file = r.Change.File
	case wal.KindState:
		l.States++
		file = r.State.File
	case wal.KindClient:
		if r.Client.What != conn.Mark {
			l.Clients++
		}
	}
	if file != "" {
		l.files[file] = struct{}{}
		l.Files = len(l.files)
	}
	if sure {
		l.epoch = max(l.epoch, r.epoch())
	}
}

// epoch is the last server epoch that a record knows of.
func (r *LogRecord) epoch() (epoch uint64) {
	switch {
	case r.Err != nil:
	case r.Change != nil:
		for _, part := range r.Change.Parts {
			epoch = max(epoch, shard.EpochOf(max(part.ID, part.Spare)))
			if part.Epoch <= shard.MaxEpoch {
				epoch = max(epoch, part.Epoch)
			}
		}
	case r.State != nil:
		for _, h := range r.State.Locks {
			epoch = max(epoch, shard.EpochOf(h.ID))
		}
		for _, sh := range r.State.Shares {
			epoch = max(epoch, shard.EpochOf(sh.ID))
		}
	case r.Kind == wal.KindEpoch && r.Number <= shard.MaxEpoch:
		epoch = r.Number
	}
	return epoch
}

// Repair works out what has to be cut out of the log in dir so that Open takes
// it again, and does so if write is set, after it has copied the directory to
// one beside it. What is left of a log is what was there up to the damage; of a
// damaged checkpoint, the files whose records are whole. What another version
// has written is not repaired ([wal.VersionError]), nor is a log in use
// ([wal.ErrInUse]). If it fails and Copy is set, the log is in there.
func Repair(dir string, write bool, p Progress) (r RepairReport, err error) {
	r.Lost.files = make(map[lock.FileKey]struct{})
	var last *replay
	seen := p.over(dir, func(wal.Entry) error { return nil })
	plan, err := wal.PlanRepair(dir, wal.SalvageOptions{
		Check: func() func(wal.Entry) error {
			last = &replay{table: shard.New(0), clients: conn.New(nil)}
			return p.over(dir, func(e wal.Entry) error {
				err := last.record(e)
				if err == nil { // a replay may pass over it, but not this
					d := describe(e)
					r.Lost.epoch = max(r.Lost.epoch, d.epoch())
				}
				return err
			})
		},
		Lost: func(e wal.Entry, sure bool) {
			_ = seen(e) // it has no error
			r.Lost.add(e, sure)
		},
		Copied: p,
	})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	r.Steps = plan.Steps
	r.Held = snapshotOf(last)
	r.Held.Epoch = max(r.Held.Epoch, r.Lost.epoch)
	if len(plan.Steps) == 0 || !write {
		return r, nil
	}
	// An epoch that has been must not come again: ids are made of it.
	if r.Lost.epoch > last.lastEpoch() {
		plan.Append(wal.KindEpoch, epochBody(r.Lost.epoch))
	}
	err = plan.Apply()
	r.Copy = plan.Copy
	if err != nil {
		return r, err
	}
	r.Held, err = InspectProgress(dir, p)
	if errors.Is(err, fs.ErrNotExist) { // there was nothing but what did not belong there
		r.Held, err = snapshotOf(&replay{table: shard.New(0), clients: conn.New(nil)}), nil
	}
	return r, err
}

// CompactReport says what Compact did.
type CompactReport struct {
	Before, After int64 // bytes on disk
	Epoch         uint64
	Locks, Files  int // that are held
}

// Compact opens the log in dir, which begins a new epoch, and replaces it by
// what is held. Nothing is released, and nothing confirmed: the grace period, the
// deadlines of the clients with it, lasts for longer than this takes, and the next
// Open begins another. The log must be there, and not in use.
func Compact(dir string, p Progress, l *slog.Logger) (c CompactReport, err error) {
	// Open would make a log where there is none.
	if _, err := InspectProgress(dir, p); err != nil {
		return c, err
	}
	if c.Before, err = wal.Size(dir); err != nil {
		return c, err
	}
	m, err := Open(Options{Dir: dir, CheckpointAfter: -1, GracePeriod: math.MaxInt64, Logger: l})
	if err != nil {
		return c, err
	}
	err = m.Checkpoint(context.Background())
	st := m.Stats()
	c.Epoch, c.Locks, c.Files = st.Epoch, st.Locks, st.Files
	if err = errors.Join(err, m.Close()); err != nil {
		return c, err
	}
	c.After, err = wal.Size(dir)
	return c, err
}
