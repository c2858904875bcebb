package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A repair leaves out what is damaged, and what cannot be understood without it:
//
//	log         ━━━━━━━━━╳━━━━━━━━  ▶  ━━━━━━━━━            a prefix: what is behind it may build on it
//	checkpoint  ━━ ━━ ╳╳ ━━ ━━     ▶  ━━ ━━ ━━ ━━ cut      files do not depend on each other
//
// That something was left out of a checkpoint is in it as a record (KindCut):
// the changes of a file whose state is lost have to be passed over, up to one
// that says that nothing was held before.

// SalvageOptions say how to plan a repair.
type SalvageOptions struct {
	// Check returns a function that says whether the log can be opened with a
	// record: what Options.Replay would be. Each has its own state, which is
	// empty at first. One that refuses a record of a checkpoint with [ErrRecord]
	// must be as if it had not been asked.
	Check func() func(Entry) error
	// Lost is called for each record that will be lost and can be read; nil =
	// not. Unless it is sure, a client may have made the record up.
	Lost func(e Entry, sure bool)
	// Copied is told how far the copy of the directory has come; nil = nobody.
	Copied func(done, total int64)
}

// Repair is what has to be done so that a damaged log can be opened. It holds
// the directory's lock until Close.
type Repair struct {
	// Steps are in the order of the log; there are none if the log can be opened
	// as it is. They are carried out from the last one to the first: if that is
	// interrupted, the log is damaged still, in the same place, and not whole
	// with a hole in it.
	Steps []Step
	// Copy is the directory that Apply keeps the log in as it was; "" before.
	Copy string

	dir        string
	o          SalvageOptions
	lock       *os.File // nil: there is no lock file, so nobody has the log open
	checkpoint *salvage // what a Renew writes
	add        []addition
}

// Action is what a step does.
type Action uint8

const (
	CutOff         Action = iota + 1 // the end of a segment
	Remove                           // a segment, a log, or what does not belong there
	Renew                            // a checkpoint: written again without what is damaged
	MakeCheckpoint                   // one that says that all was cut out of it
	MakeLog                          // a log without segments
)

func (a Action) String() string {
	switch a {
	case CutOff:
		return "cut off"
	case Remove:
		return "removed"
	case Renew:
		return "written again"
	case MakeCheckpoint, MakeLog:
		return "made"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Step is one thing that a repair does.
type Step struct {
	Action  Action
	File    string // segment, checkpoint or directory
	Offset  int64  // CutOff: of the first byte that goes
	Bytes   int64  // that go
	Frames  uint64 // that go and are intact
	Records uint64 // that go and are intact
	First   uint64 // number of the first of these frames, in its generation
	Last    uint64 // and of the last
	Kept    uint64 // Renew: records that stay
	Reason  string // what is damaged; "" for what goes because of the step before
}

type addition struct {
	kind Kind
	body Body
}

// PlanRepair works out how the log in dir can be opened again. It only reads,
// but fails with [ErrInUse] if the log is open elsewhere, and keeps it from being
// opened until Close. What another version wrote is not touched: [VersionError].
func PlanRepair(dir string, o SalvageOptions) (*Repair, error) {
	r, err := planRepair(dir, o)
	if err != nil {
		return nil, fmt.Errorf("repair log %s: %w", dir, err)
	}
	return r, nil
}

func planRepair(dir string, o SalvageOptions) (_ *Repair, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	r := &Repair{dir: dir, o: o}
	if r.lock, err = lockExisting(dir); err != nil {
		return nil, err
	}
	p := planner{r: r}
	if err = p.plan(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// lockExisting takes the lock of a directory if it has a lock file. Whoever has
// a log open has made one.
func lockExisting(dir string) (*os.File, error) {
	f, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return flocked(f)
}

// Close gives the directory free.
func (r *Repair) Close() error {
	if r.lock == nil {
		return nil
	}
	return r.lock.Close()
}

// Append has Apply add a record to the end of what is left of the log.
func (r *Repair) Append(k Kind, b Body) { r.add = append(r.add, addition{k, b}) }

// planner finds the steps of a repair.
type planner struct {
	r      *Repair
	y      layout
	c      looseChain
	logs   []uint64 // that are read: those of the chain up to the last one that was written to
	reason string   // what is wrong with the checkpoint
}

// place is where a log is to be cut.
type place struct {
	log, segment int // which of planner.logs, and which of its segments
	path         string
	offset       int64
}

func (p *planner) plan() error {
	y, strange, err := looseLayout(p.r.dir)
	if err != nil {
		return err
	}
	p.y, p.c = y, y.looseChain()
	if len(y.logs)+len(y.checkpoints)+len(strange) == 0 {
		return &fs.PathError{Op: "open", Path: y.log(1), Err: fs.ErrNotExist}
	}
	last, err := lastWritten(&y, p.c.logs)
	if err != nil {
		return err
	}
	for _, n := range p.c.logs {
		if n <= last {
			p.logs = append(p.logs, n)
		}
		_, more, err := looseSegments(y.log(n))
		if err != nil {
			return err
		}
		strange = append(strange, more...)
	}
	if p.c.noCheckpoint {
		p.reason = p.c.missing[0].Reason
		p.r.checkpoint = newSalvage(y.checkpoint(p.c.base), p.c.base)
	}
	at, damage, s, err := p.judge()
	if err != nil {
		return err
	}
	if c := p.r.checkpoint; c != nil {
		step := Step{Action: Renew, File: c.path, Bytes: c.lost, Kept: c.kept, Reason: p.reason}
		if p.c.noCheckpoint {
			step.Action = MakeCheckpoint
		}
		if err := c.forgone(&step, p.r.o.Lost); err != nil {
			return err
		}
		p.r.Steps = append(p.r.Steps, step)
	}
	if p.c.noLog {
		p.r.Steps = append(p.r.Steps, Step{Action: MakeLog, File: y.log(p.c.base), Reason: p.c.gap().Reason})
	}
	if err := p.cut(at, damage, s); err != nil {
		return err
	}
	for _, d := range strange { // first of all: it may have the name of something that is made
		if err := p.step(Step{Action: Remove, File: d.File, Reason: d.Reason}); err != nil {
			return err
		}
	}
	return nil
}

// judge finds out from where on the logs cannot be used: damage is nil if they
// can. What is handed to a check may be damage only at the second record of a
// frame, which goes as a whole: so they are read again, up to there, until that
// is no news.
func (p *planner) judge() (at *place, damage *DamageError, s *scanner, err error) {
	for {
		again, d, s, err := p.pass(at)
		var bad *DamageError
		switch {
		case errors.As(err, &bad) && p.r.checkpoint == nil:
			p.reason = bad.Reason
			p.r.checkpoint = newSalvage(p.y.checkpoint(p.c.base), p.c.base)
			if err := p.r.checkpoint.load(); err != nil {
				return nil, nil, nil, err
			}
		case err != nil:
			return nil, nil, nil, err
		case again == nil || at != nil && *again == *at:
			return at, damage, s, nil
		default:
			at, damage = again, d
		}
	}
}

// errStop ends a pass where the log is to be cut.
var errStop = errors.New("up to here")

// pass reads all that a replay would, up to until. It returns where it had to
// stop, and why. An error that is damage is one of the checkpoint.
func (p *planner) pass(until *place) (*place, *DamageError, *scanner, error) {
	check := p.r.o.Check()
	s := &scanner{fn: check}
	s.sum.Base = p.c.base
	if c := p.r.checkpoint; c != nil {
		s.cut = true // it is written anew, and says so
		if err := c.records(check, nil); err != nil {
			return nil, nil, s, err
		}
	} else if p.c.base > 0 {
		if err := s.checkpoint(p.y.checkpoint(p.c.base), p.c.base); err != nil {
			return nil, nil, s, err
		}
	}
	if until != nil {
		s.fn = func(e Entry) error {
			if e.File == until.path && e.Offset == until.offset {
				return errStop
			}
			return check(e)
		}
	}
	for i, n := range p.logs {
		at, err := p.log(s, i, n)
		var d *DamageError
		switch {
		case err == nil:
		case errors.Is(err, errStop):
			return until, nil, s, s.complete(&p.y)
		case errors.As(err, &d):
			if until != nil && *at == *until {
				err = s.complete(&p.y)
				return at, d, s, err
			}
			return at, d, s, nil
		default:
			return nil, nil, s, err
		}
	}
	return nil, nil, s, s.complete(&p.y)
}

// log reads one log. If it fails, at is where.
func (p *planner) log(s *scanner, i int, generation uint64) (at *place, err error) {
	dir := p.y.log(generation)
	segs, _, err := looseSegments(dir)
	if err != nil {
		return nil, err
	}
	s.begin(generation)
	for k, seg := range segs {
		at = &place{log: i, segment: k, path: seg.path}
		if seg.index != s.next {
			return at, s.misplaced(dir, seg)
		}
		err = s.segment(seg, i == len(p.logs)-1 && k == len(segs)-1)
		var d *DamageError
		if errors.As(err, &d) {
			at.offset = d.Offset
		}
		if err != nil {
			return at, err
		}
	}
	return nil, nil
}

// cut adds the steps that cut the logs at a place, if there is one, up to which
// s has read them.
func (p *planner) cut(at *place, damage *DamageError, s *scanner) error {
	v := newSurveyor(nil, p.r.o.Lost)
	behind, reason := p.c.behind, ""
	if len(behind) > 0 {
		reason = p.c.gap().Reason
	}
	if at != nil {
		generation := p.logs[at.log]
		dir := p.y.log(generation)
		segs, _, err := looseSegments(dir)
		if err != nil {
			return err
		}
		v.s.generation, v.s.next, v.s.lastPart = generation, s.next, s.lastPart
		reason = damage.Reason
		for k := at.segment; k < len(segs); k++ {
			step := Step{Action: Remove, File: segs[k].path, Reason: reason}
			if k == at.segment && at.offset > 0 {
				step.Action, step.Offset = CutOff, at.offset
			}
			err := p.lose(v, step, func() error { return v.segments(dir, segs[k:k+1], step.Offset, false) })
			if err != nil {
				return err
			}
			reason = ""
		}
		later := p.c.logs[at.log+1:] // with those that nobody has written to, which p.logs has not
		behind = slices.Concat(later, behind)
	}
	for _, n := range behind {
		step := Step{Action: Remove, File: p.y.log(n), Reason: reason}
		if err := p.lose(v, step, func() error { return v.log(step.File, n, false) }); err != nil {
			return err
		}
		reason = ""
	}
	return nil
}

// lose adds a step that removes what walk walks over.
func (p *planner) lose(v *surveyor, step Step, walk func() error) error {
	before := v.s.sum
	v.first, v.last = 0, 0
	if err := walk(); err != nil {
		return err
	}
	if v.newer != nil {
		return v.newer
	}
	step.First, step.Last = v.first, v.last
	step.Frames, step.Records = v.s.sum.Frames-before.Frames, v.s.sum.Records-before.Records
	return p.step(step)
}

// step adds a step that removes a file, from an offset on, or a directory.
func (p *planner) step(step Step) error {
	size, err := sizeOfTree(step.File)
	step.Bytes = size - step.Offset
	p.r.Steps = append(p.r.Steps, step)
	return err
}

// sizeOfTree is how many bytes the files at and below a path have.
func sizeOfTree(root string) (size int64, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var fi fs.FileInfo
			if fi, err = d.Info(); err == nil {
				size += fi.Size()
			}
		}
		if path != root && errors.Is(err, fs.ErrNotExist) { // a log in use loses files
			return nil
		}
		return err
	})
	return size, err
}
