package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"sneck"
	"sneck/lock"
)

// inspectCmd is "sneck log inspect".
type inspectCmd struct {
	logDir
	JSON  bool `name:"json" help:"One JSON object a line."`
	Locks bool `help:"The locks that are held after the last record, not the records."`
}

// Help is what "--help" says besides.
func (*inspectCmd) Help() string {
	return `Changes nothing; the log may be in use.

Examples:
  sneck log inspect /var/lib/server/locks                  every record: where it is, what it says
  sneck log inspect /var/lib/server/locks --json           the same, for programs
  sneck log inspect /var/lib/server/locks --locks          who holds what, and the epoch

A line has the file and offset of the frame, the number of the frame in its
generation, the kind of record, and what it says: epoch (the server was started),
file (one change of one file: its key, version and parts; "first" if nothing was
held before), client (one change of one client: began, updated or ended), walked
(the checkpoint has been read up to here), and in a checkpoint begin, epoch,
client (with a mark: up to that number they are all there), state (what is held on
one file) and cut (a repair has left something out).

Exit code: 0 done; 1 the log could not be read to its end, because it is damaged
or is not there: what was printed is what comes before; 2 wrong usage.`
}

// Run prints the records, or the table that their replay gives.
func (c *inspectCmd) Run(s streams) error {
	if c.Locks {
		return c.locks(s)
	}
	p := newProgress(s.Err)
	if isTerminal(s.Out) { // the records show how far it is
		p = nil
	}
	defer p.clear()
	printed, unreadable := 0, 0
	out := bufio.NewWriterSize(s.Out, 1<<16)
	put := recordWriter(out, c.Dir, c.JSON)
	sum, err := sneck.Records(c.Dir, p.tell(), func(r sneck.LogRecord) error {
		printed++
		if r.Err != nil {
			unreadable++
		}
		return put(r)
	})
	p.clear()
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	if errors.Is(err, sneck.ErrLogChanged) {
		err = fmt.Errorf("%w: the %s above are not all; run it again", err, count(printed, "record"))
	}
	if err != nil {
		return err
	}
	if t := tornTail(sum); t != "" {
		fmt.Fprintln(s.Err, "sneck:", t)
	}
	if unreadable > 0 {
		return fmt.Errorf("log %s: %s cannot be read (\"sneck log verify\" shows what is wrong)", c.Dir, count(unreadable, "record"))
	}
	return nil
}

// locks prints the table that a replay gives, by file and first byte.
func (c *inspectCmd) locks(s streams) error {
	p := newProgress(s.Err)
	snap, err := sneck.InspectProgress(c.Dir, p.tell())
	p.clear()
	if err != nil {
		return err
	}
	locks := slices.SortedFunc(snap.Locks(lock.Filter{}), func(x, y lock.Held) int {
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Range.First(), y.Range.First()), cmp.Compare(x.ID, y.ID))
	})
	if t := tornTail(snap.Log); t != "" {
		fmt.Fprintln(s.Err, "sneck:", t)
	}
	if c.JSON {
		return writeJSON(s.Out, locks)
	}
	if _, err := fmt.Fprintf(s.Out, "epoch %d, %d locks, %d records in %d segments (%d bytes)\n",
		snap.Epoch, len(locks), snap.Log.Records, snap.Log.Segments, snap.Log.Bytes); err != nil {
		return err
	}
	return writeTable(s.Out, locks)
}
