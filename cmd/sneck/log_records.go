package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sneck"
	"sneck/lock"
)

// recordWriter returns a function that prints a record of the log in dir.
func recordWriter(w io.Writer, dir string, asJSON bool) func(sneck.LogRecord) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return func(r sneck.LogRecord) error { return enc.Encode(recordOf(dir, r)) }
	}
	return func(r sneck.LogRecord) error {
		_, err := fmt.Fprintf(w, "%-41s %9d %6d %-6s %s\n", within(dir, r.Entry.File), r.Offset, r.Frame, r.Kind, says(r))
		return err
	}
}

// within is a file of the log by its name within the log.
func within(dir, file string) string {
	if name, err := filepath.Rel(dir, file); err == nil {
		return name
	}
	return file
}

// says is what a record says, in a line.
func says(r sneck.LogRecord) string {
	switch {
	case r.Err != nil:
		return fmt.Sprintf("cannot be read: %v", r.Err)
	case r.Change != nil:
		first := ""
		if r.Change.First {
			first = " first"
		}
		parts := make([]string, len(r.Change.Parts))
		for i := range parts {
			parts[i] = partSays(r.Change.Parts[i])
		}
		return fmt.Sprintf("%s version %d%s: %s", word(string(r.Change.File)), r.Change.Version, first, strings.Join(parts, "; "))
	case r.State != nil:
		locks := make([]string, len(r.State.Locks))
		for i, h := range r.State.Locks {
			locks[i] = fmt.Sprintf("%s %s %s id %d epoch %d since %s", h.Range, h.Mode, ownerSays(h.Owner), h.ID, h.Epoch, stamp(h.Since))
		}
		return fmt.Sprintf("%s version %d: %s", word(string(r.State.File)), r.State.Version, strings.Join(locks, "; "))
	}
	switch r.Kind.String() {
	case "begin":
		return fmt.Sprintf("generation %d, %s", r.Generation, stamp(r.Begun))
	case "walked":
		return fmt.Sprintf("generation %d", r.Number)
	case "cut":
		return count(r.Number, "byte")
	}
	return strconv.FormatUint(r.Number, 10)
}

func partSays(p sneck.LogPart) string {
	switch op := p.Op.String(); op {
	case "lock":
		return fmt.Sprintf("%s %s %s %s id %d", op, p.Range, p.Mode, ownerSays(p.Owner), p.ID)
	case "unlock":
		return fmt.Sprintf("%s %s %s", op, p.Range, ownerSays(p.Owner))
	case "release owner":
		return fmt.Sprintf("%s %s", op, ownerSays(p.Owner))
	case "release client":
		return fmt.Sprintf("%s %s", op, word(p.Client))
	default:
		return op
	}
}

func ownerSays(o lock.Owner) string {
	pid := ""
	if o.PID != 0 {
		pid = fmt.Sprintf(" pid %d", o.PID)
	}
	return fmt.Sprintf("%s %s of %s%s", o.Semantics, word(o.ID), word(o.Client), pid)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// word is plain(s) as one word: several of them are in a line.
func word(s string) string {
	if strings.ContainsAny(s, " ;") {
		return strconv.Quote(s)
	}
	return plain(s)
}

// recordJSON is one record in machine-readable listings: where it is, its kind,
// and then by kind
//
//	file    file, version, empty_before (nothing was held on it), parts
//	state   file, version, locks
//	epoch   epoch
//	begin   generation, time
//	walked  generation
//	cut     bytes
//
// or error, if it cannot be read.
type recordJSON struct {
	Segment string `json:"segment"` // or checkpoint; relative to the folder of the log
	Offset  int64  `json:"offset"`  // of the frame
	Frame   uint64 `json:"frame"`
	Kind    string `json:"kind"`
	Error   string `json:"error,omitempty"`

	File       string     `json:"file,omitempty"`
	FileHex    string     `json:"file_hex,omitempty"`
	Version    uint64     `json:"version,omitempty"`
	Empty      *bool      `json:"empty_before,omitempty"`
	Parts      []partJSON `json:"parts,omitempty"`
	Locks      []heldJSON `json:"locks,omitempty"`
	Epoch      uint64     `json:"epoch,omitempty"`
	Generation uint64     `json:"generation,omitempty"`
	Time       *time.Time `json:"time,omitempty"`
	Bytes      *uint64    `json:"bytes,omitempty"`
}

// partJSON is one part of a change. Op is "lock", "unlock", "release owner",
// "release client" or "release file".
type partJSON struct {
	Op string `json:"op"`
	*clientJSON
	*ownerJSON
	*rangeJSON
	ID    lock.ID    `json:"id,omitempty"`
	Spare lock.ID    `json:"spare,omitempty"`
	Since *time.Time `json:"since,omitempty"`
}

// heldJSON is one lock of a state: lockJSON without its file.
type heldJSON struct {
	ID lock.ID `json:"id"`
	clientJSON
	ownerJSON
	rangeJSON
	Epoch uint64    `json:"epoch"`
	Since time.Time `json:"since"`
}

func recordOf(dir string, r sneck.LogRecord) recordJSON {
	j := recordJSON{Segment: within(dir, r.Entry.File), Offset: r.Offset, Frame: r.Frame, Kind: r.Kind.String()}
	switch {
	case r.Err != nil:
		j.Error = r.Err.Error()
	case r.Change != nil:
		j.file(r.Change.File, r.Change.Version)
		j.Empty = &r.Change.First
		for _, p := range r.Change.Parts {
			j.Parts = append(j.Parts, partOf(p))
		}
	case r.State != nil:
		j.file(r.State.File, r.State.Version)
		for _, h := range r.State.Locks {
			j.Locks = append(j.Locks, heldJSON{ID: h.ID, clientJSON: clientOf(h.Owner.Client), ownerJSON: ownerOf(h.Owner), rangeJSON: rangeOf(h.Range, h.Mode), Epoch: h.Epoch, Since: h.Since.UTC()})
		}
	case j.Kind == "epoch":
		j.Epoch = r.Number
	case j.Kind == "begin":
		at := r.Begun.UTC()
		j.Generation, j.Time = r.Generation, &at
	case j.Kind == "walked":
		j.Generation = r.Number
	case j.Kind == "cut":
		j.Bytes = &r.Number
	}
	return j
}

func (j *recordJSON) file(f lock.FileKey, version uint64) {
	j.File, j.FileHex, j.Version = string(f), hexed(string(f)), version
}

func partOf(p sneck.LogPart) partJSON {
	j := partJSON{Op: p.Op.String(), ID: p.ID, Spare: p.Spare}
	client := clientOf(p.Client)
	switch j.Op {
	case "lock", "unlock":
		r := rangeOf(p.Range, p.Mode)
		j.rangeJSON = &r
		fallthrough
	case "release owner":
		o := ownerOf(p.Owner)
		client, j.ownerJSON = clientOf(p.Owner.Client), &o
		fallthrough
	case "release client":
		j.clientJSON = &client
	}
	if j.Op == "lock" {
		at := p.Since.UTC()
		j.Since = &at
	}
	return j
}
