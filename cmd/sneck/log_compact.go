package main

import (
	"fmt"
	"log/slog"

	"sneck"
)

// compactCmd is "sneck log compact".
type compactCmd struct{ logDir }

// Help is what "--help" says besides.
func (*compactCmd) Help() string {
	return `Opens the log as a server does, which begins a new epoch, writes a checkpoint of
what is held, and removes what that replaces. No lock is released. A server does
this by itself when its log has grown; this is for one that is not running. The
log must not be in use.

Example:
  sneck log compact /var/lib/server/locks

Exit code: 0 done; 1 it failed, the log is in use, damaged, or is not there;
2 wrong usage.`
}

// Run makes a checkpoint and prints what it saved.
func (c *compactCmd) Run(s streams) error {
	p := newProgress(s.Err)
	logger := slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := sneck.Compact(c.Dir, p.tell(), logger)
	p.clear()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "%s before, %s now; epoch %d, %s on %s\n",
		count(r.Before, "byte"), count(r.After, "byte"), r.Epoch, count(r.Locks, "lock"), count(r.Files, "file"))
	return err
}
