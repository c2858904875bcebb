package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"sneck/lock"
)

// lockJSON is one lock in machine-readable listings.
type lockJSON struct {
	ID      lock.ID `json:"id"`
	File    string  `json:"file"`
	FileHex string  `json:"file_hex,omitempty"`
	clientJSON
	ownerJSON
	rangeJSON
	Epoch uint64    `json:"epoch"`
	Since time.Time `json:"since"`
}

// Names that are not UTF-8 are given in hexadecimal as well.
type (
	clientJSON struct {
		Client    string `json:"client"`
		ClientHex string `json:"client_hex,omitempty"`
	}
	ownerJSON struct { // but for its client
		Owner     string `json:"owner"`
		OwnerHex  string `json:"owner_hex,omitempty"`
		Semantics string `json:"semantics"`
		Share     string `json:"share,omitempty"`
		ShareHex  string `json:"share_hex,omitempty"`
		PID       uint32 `json:"pid"`
	}
)

// rangeJSON is bytes, and how they are locked. Offsets are numbers, but for a
// last byte of "EOF", and null for one of a zero-length range.
type rangeJSON struct {
	First uint64 `json:"first"`
	Last  any    `json:"last"`
	Mode  string `json:"mode,omitempty"`
}

func clientOf(client string) clientJSON { return clientJSON{client, hexed(client)} }

func ownerOf(o lock.Owner) ownerJSON {
	return ownerJSON{
		Owner: o.ID, OwnerHex: hexed(o.ID), Semantics: o.Semantics.String(),
		Share: o.Share, ShareHex: hexed(o.Share), PID: o.PID,
	}
}

func rangeOf(r lock.Range, m lock.Mode) rangeJSON {
	j := rangeJSON{First: r.First()}
	if m != 0 {
		j.Mode = m.String()
	}
	switch {
	case r.ToEOF():
		j.Last = "EOF"
	case !r.IsEmpty():
		j.Last = r.Last()
	}
	return j
}

func writeJSON(w io.Writer, locks []lock.Held) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, h := range locks {
		err := enc.Encode(lockJSON{
			ID: h.ID, File: string(h.File), FileHex: hexed(string(h.File)), clientJSON: clientOf(h.Owner.Client),
			ownerJSON: ownerOf(h.Owner), rangeJSON: rangeOf(h.Range, h.Mode), Epoch: h.Epoch, Since: h.Since.UTC(),
		})
		if err != nil {
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
