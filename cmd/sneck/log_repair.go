package main

import (
	"fmt"
	"io"
	"strings"

	"sneck"
)

// repairCmd is "sneck log repair".
type repairCmd struct {
	logDir
	Write bool `help:"Do it, after copying the folder to DIR.before-repair-TIME."`
}

// Help is what "--help" says besides.
func (*repairCmd) Help() string {
	return `Shows what has to go so that the server can open a damaged log, and what would
be held then; changes nothing without --write. What is behind damage in a log
goes, since it may build on what is damaged. Of a damaged checkpoint only what
is damaged goes: the other files' locks stay. Locks that are lost are free:
whoever held them has to be told, or started again. The log must not be in use.

Examples:
  sneck log repair /var/lib/server/locks            what would be lost
  sneck log repair /var/lib/server/locks --write    keep a copy of the folder, and repair it

Exit code: 0 it was shown or done, or there is nothing to do; 1 it failed, the
log is in use, not there, or of another version; 2 wrong usage.`
}

// Run shows or does what makes the log whole.
func (c *repairCmd) Run(s streams) error {
	p := newProgress(s.Err)
	r, err := sneck.Repair(c.Dir, c.Write, p.tell())
	p.clear()
	if err != nil {
		if r.Copy != "" {
			return fmt.Errorf("%w; the log as it was is in %s", err, r.Copy)
		}
		return err
	}
	if len(r.Steps) == 0 {
		_, err := fmt.Fprintln(s.Out, "nothing to do: the log is not damaged")
		return err
	}
	return writeRepair(s.Out, c.Dir, r)
}

// writeRepair prints what a repair has done, or would do.
func writeRepair(w io.Writer, dir string, r sneck.RepairReport) error {
	done := r.Copy != ""
	var out strings.Builder
	toBe, then := "to be ", "would be held then"
	if done {
		toBe, then = "", "are held now"
		fmt.Fprintf(&out, "%s has the log as it was\n", plain(r.Copy))
	}
	for _, step := range r.Steps {
		fmt.Fprintf(&out, "%s: %s%s\n", plain(step.File), toBe, stepSays(step))
	}
	fmt.Fprintf(&out, "of what goes can be read: %s and %s of a checkpoint, of %s; %s of clients\n",
		count(r.Lost.Changes, "change"), count(r.Lost.States, "state"), count(r.Lost.Files, "file"), count(r.Lost.Clients, "change"))
	locks, files := r.Held.Held()
	shares, clients := r.Held.Known()
	fmt.Fprintf(&out, "%s on %s %s, epoch %d; besides %s, %s\n", count(locks, "lock"), count(files, "file"), then, r.Held.Epoch,
		count(shares, "share reservation"), count(clients, "client"))
	if !done {
		fmt.Fprintf(&out, "nothing was changed: \"sneck log repair --write %s\" does it, and keeps a copy\n", plain(dir))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// stepSays is what happens to a step's file.
func stepSays(s sneck.RepairStep) string {
	out := s.Action.String()
	if s.Offset > 0 {
		out += fmt.Sprintf(" from offset %d on", s.Offset)
	}
	if s.Kept > 0 {
		out += " with " + count(s.Kept, "record") + " that can be used"
	}
	if s.Bytes > 0 {
		out += "; " + count(s.Bytes, "byte") + " go"
	}
	if s.Frames > 0 {
		out += fmt.Sprintf(", with frames %d to %d, of which %d can be read", s.First, s.Last, s.Frames)
	}
	if s.Records > 0 {
		out += " (" + count(s.Records, "record") + ")"
	}
	if s.Reason != "" {
		out += ": " + s.Reason
	}
	return out
}
