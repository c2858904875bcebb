package main

import (
	"errors"
	"fmt"

	"sneck"
)

// logCmd is "sneck log".
type logCmd struct {
	Inspect inspectCmd `cmd:"" help:"Print the records of a log, or the locks that it says are held."`
	Verify  verifyCmd  `cmd:"" help:"Read and replay all of a log, and say what is damaged."`
	Repair  repairCmd  `cmd:"" help:"Show what has to be cut out of a damaged log, or cut it out."`
	Compact compactCmd `cmd:"" help:"Replace a log by a checkpoint of what is held."`
}

// logDir is the argument of every "sneck log" command.
type logDir struct {
	Dir string `arg:"" help:"Folder of the log."`
}

// Validate refuses what would be taken for the current folder.
func (d *logDir) Validate() error {
	if d.Dir == "" {
		return errors.New("<dir>: the path is empty")
	}
	return nil
}

// tornTail says what the next start cuts off, if anything.
func tornTail(log sneck.LogSummary) string {
	t := log.TornTail
	if t == nil {
		return ""
	}
	return fmt.Sprintf("%s ends in %d bytes from offset %d that belong to no complete frame (%s); the next start cuts them off",
		plain(t.File), t.Bytes, t.Offset, t.Reason)
}

// count is a number and what it counts.
func count[N int | int64 | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
