// Program sneck serves and inspects lock tables.
//
// Exit codes: 0 done, 1 it failed or a log is damaged (the last line on standard
// error says why), 2 the command line makes no sense.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/alecthomas/kong"
)

// cli is the command line: one field per subcommand.
type cli struct {
	Mount mountCmd `cmd:"" help:"Mount a folder; the kernel's file locks on it live in a lock table that survives."`
	Log   logCmd   `cmd:"" help:"Look into a log folder, check it, repair it, make it smaller."`
}

// streams are where a command writes: Out what it was asked for, Err what went
// wrong and the log.
type streams struct {
	Out, Err io.Writer
}

func (s streams) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s.Err, nil))
}

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], streams{Out: os.Stdout, Err: os.Stderr}))
}

// run runs one command line and returns the exit code.
func run(args []string, s streams) int {
	var c cli
	helped := false
	parser, err := kong.New(&c,
		kong.Name("sneck"),
		kong.Description("A lock manager for file servers."),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(int) { helped = true }), // --help, in the middle of parsing
		kong.Bind(s),
	)
	if err != nil {
		fmt.Fprintln(s.Err, "sneck:", err)
		return exitFailed
	}
	ctx, err := parser.Parse(args)
	if helped {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(s.Err, "sneck: %v (see sneck --help)\n", err)
		return exitUsage
	}
	if err := ctx.Run(); err != nil {
		fmt.Fprintln(s.Err, "sneck:", err)
		return exitFailed
	}
	return exitOK
}
