package main

import (
	"fmt"
	"io"

	"sneck"
)

// verifyCmd is "sneck log verify".
type verifyCmd struct{ logDir }

// Help is what "--help" says besides.
func (*verifyCmd) Help() string {
	return `Reads the checkpoint and every segment, checks every frame and record, and
replays them. It goes on behind damage and lists what else is damaged, by file
and offset, on standard error. An incomplete frame at the very end is what a
crash leaves, and no damage. Changes nothing; the log may be in use.

Examples:
  sneck log verify /var/lib/server/locks
  sneck log verify /var/lib/server/locks >/dev/null || alert

Exit code: 0 the server can open the log; 1 it is damaged, or is not there or of
another version; 2 wrong usage.`
}

// Run walks over the log and prints what there is, and what is damaged.
func (c *verifyCmd) Run(s streams) error {
	p := newProgress(s.Err)
	r, err := sneck.Verify(c.Dir, p.tell())
	p.clear()
	if err != nil {
		return err
	}
	if err := writeReport(s.Out, r); err != nil {
		return err
	}
	if len(r.Damage) == 0 {
		return nil
	}
	for _, d := range r.Damage {
		fmt.Fprintln(s.Err, "sneck:", damageSays(d))
	}
	if r.More > 0 {
		fmt.Fprintf(s.Err, "sneck: and %d more\n", r.More)
	}
	return fmt.Errorf("log %s is damaged in %s (\"sneck log repair\" shows what can be kept)", c.Dir, count(len(r.Damage)+r.More, "place"))
}

func damageSays(d sneck.LogDamage) string {
	size := ""
	if d.Bytes > 0 {
		size = ", " + count(d.Bytes, "byte")
	}
	return fmt.Sprintf("%s at offset %d%s: %s", plain(d.File), d.Offset, size, d.Reason)
}

// writeReport prints what is intact.
func writeReport(w io.Writer, r sneck.LogReport) error {
	l := r.Log
	out := fmt.Sprintf("generation  %d\n", l.Generation)
	if l.Base > 0 {
		out += fmt.Sprintf("checkpoint  of generation %d: %s, %s, %s\n", l.Base,
			count(l.Checkpoint.Frames, "frame"), count(l.Checkpoint.Records, "record"), count(l.Checkpoint.Bytes, "byte"))
	} else {
		out += "checkpoint  none\n"
	}
	out += fmt.Sprintf("log         %s: %s, %s, %s\n", count(l.Segments, "segment"),
		count(l.Frames, "frame"), count(l.Records, "record"), count(l.Bytes, "byte"))
	if t := tornTail(l); t != "" {
		out += "torn tail   " + t + "\n"
	}
	for _, path := range l.Stale {
		out += fmt.Sprintf("left over   %s; the next start removes it\n", plain(path))
	}
	if r.Held != nil {
		locks, files := r.Held.Held()
		shares, clients := r.Held.Known()
		out += fmt.Sprintf("held        %s on %s, epoch %d\n", count(locks, "lock"), count(files, "file"), r.Held.Epoch)
		out += fmt.Sprintf("besides     %s, %s\n", count(shares, "share reservation"), count(clients, "client"))
		out += "no damage\n"
	} else {
		out += "held        cannot be told: the log is damaged\n"
	}
	_, err := io.WriteString(w, out)
	return err
}
