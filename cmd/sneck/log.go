package main

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"sneck"
	"sneck/lock"
)

// logCmd is "sneck log".
type logCmd struct {
	Inspect inspectCmd `cmd:"" help:"Show the locks that a log holds. Changes nothing; the log may be in use."`
}

// inspectCmd is "sneck log inspect".
type inspectCmd struct {
	Dir  string `arg:"" help:"Folder of the log."`
	JSON bool   `name:"json" help:"One JSON object a line for each lock."`
}

// Run prints the table that a replay gives, by file and first byte.
func (c *inspectCmd) Run(s streams) error {
	snap, err := sneck.Inspect(c.Dir)
	if err != nil {
		return err
	}
	locks := slices.SortedFunc(snap.Locks(lock.Filter{}), func(x, y lock.Held) int {
		return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Range.First(), y.Range.First()), cmp.Compare(x.ID, y.ID))
	})
	if t := snap.Log.TornTail; t != nil {
		fmt.Fprintf(s.Err, "sneck: %s ends in %d bytes from offset %d that belong to no complete frame (%s); the next start cuts them off\n",
			t.File, t.Bytes, t.Offset, t.Reason)
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

// lockJSON is one lock in machine-readable listings. Offsets are numbers, but
// for a last byte of "EOF", and null for one of a zero-length range. Names that
// are not UTF-8 are given in hexadecimal as well.
type lockJSON struct {
	ID        lock.ID   `json:"id"`
	File      string    `json:"file"`
	FileHex   string    `json:"file_hex,omitempty"`
	Client    string    `json:"client"`
	ClientHex string    `json:"client_hex,omitempty"`
	Owner     string    `json:"owner"`
	OwnerHex  string    `json:"owner_hex,omitempty"`
	Semantics string    `json:"semantics"`
	Share     string    `json:"share,omitempty"`
	ShareHex  string    `json:"share_hex,omitempty"`
	PID       uint32    `json:"pid"`
	First     uint64    `json:"first"`
	Last      any       `json:"last"`
	Mode      string    `json:"mode"`
	Epoch     uint64    `json:"epoch"`
	Since     time.Time `json:"since"`
}

func writeJSON(w io.Writer, locks []lock.Held) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, h := range locks {
		j := lockJSON{
			ID: h.ID, File: string(h.File), Client: h.Owner.Client, Owner: h.Owner.ID, Semantics: h.Owner.Semantics.String(),
			Share: h.Owner.Share, PID: h.Owner.PID, First: h.Range.First(), Mode: h.Mode.String(), Epoch: h.Epoch, Since: h.Since.UTC(),
		}
		j.FileHex, j.ClientHex, j.OwnerHex, j.ShareHex = hexed(j.File), hexed(j.Client), hexed(j.Owner), hexed(j.Share)
		switch {
		case h.Range.ToEOF():
			j.Last = "EOF"
		case !h.Range.IsEmpty():
			j.Last = h.Range.Last()
		}
		if err := enc.Encode(j); err != nil {
			return err
		}
	}
	return nil
}

// hexed is s in hexadecimal if JSON cannot carry it.
func hexed(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return hex.EncodeToString([]byte(s))
}

func writeTable(w io.Writer, locks []lock.Held) error {
	if len(locks) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "FILE\tRANGE\tMODE\tPID\tSEMANTICS\tOWNER\tCLIENT\tEPOCH\tSINCE")
	for _, h := range locks {
		pid := "-"
		if h.Owner.PID != 0 {
			pid = strconv.FormatUint(uint64(h.Owner.PID), 10)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", plain(string(h.File)), h.Range, h.Mode, pid,
			h.Owner.Semantics, plain(h.Owner.ID), plain(h.Owner.Client), h.Epoch, h.Since.UTC().Format(time.RFC3339))
	}
	return tw.Flush()
}

// plain is s as it is if it can be printed in one column, else quoted: keys and
// owners are opaque bytes from clients, and a terminal obeys some of them.
func plain(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` || s == "" {
		return q
	}
	return s
}
