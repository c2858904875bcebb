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
		var held []string
		for _, h := range r.State.Locks {
			held = append(held, fmt.Sprintf("%s %s %s id %d epoch %d since %s", h.Range, h.Mode, ownerSays(h.Owner), h.ID, h.Epoch, stamp(h.Since)))
		}
		for _, sh := range r.State.Shares {
			old := ""
			if sh.OldAccess|sh.OldDeny != 0 {
				old = fmt.Sprintf(" and from before %s deny %s", sh.OldAccess, sh.OldDeny)
			}
			held = append(held, fmt.Sprintf("share %s deny %s%s %s id %d since %s", sh.Access, sh.Deny, old, ownerSays(sh.Owner), sh.ID, stamp(sh.Since)))
		}
		return fmt.Sprintf("%s version %d: %s", word(string(r.State.File)), r.State.Version, strings.Join(held, "; "))
	case r.Client != nil:
		return clientSays(r.Client)
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
	spare := ""
	if p.Spare != 0 {
		spare = fmt.Sprintf(" spare %d", p.Spare)
	}
	switch op := p.Op.String(); op {
	case "lock", "reclaim":
		return fmt.Sprintf("%s %s %s %s id %d%s since %s", op, p.Range, p.Mode, ownerSays(p.Owner), p.ID, spare, stamp(p.Since))
	case "unlock":
		return fmt.Sprintf("%s %s %s%s", op, p.Range, ownerSays(p.Owner), spare)
	case "release owner", "close share":
		return fmt.Sprintf("%s %s", op, ownerSays(p.Owner))
	case "release client":
		return fmt.Sprintf("%s %s", op, word(p.Client))
	case "open share":
		reclaim := ""
		if p.Reclaim {
			reclaim = " reclaim"
		}
		return fmt.Sprintf("%s%s %s deny %s %s id %d since %s", op, reclaim, p.Access, p.Deny, ownerSays(p.Owner), p.ID, stamp(p.Since))
	case "release unconfirmed":
		return fmt.Sprintf("%s of before epoch %d", op, p.Epoch)
	case "revoke":
		return fmt.Sprintf("%s id %d %s", op, p.ID, ownerSays(p.Owner))
	default:
		return op
	}
}

func clientSays(c *sneck.LogClient) string {
	switch c.What.String() {
	case "mark":
		return fmt.Sprintf("%s number %d", c.What, c.Seq)
	case "ended":
		return fmt.Sprintf("%s %s generation %d number %d", c.What, word(c.Client.ID), c.Generation, c.Seq)
	default:
		return fmt.Sprintf("%s %s adapter %s addr %s ttl %v generation %d number %d",
			c.What, word(c.Client.ID), word(c.Client.Adapter), word(c.Client.Addr), c.Client.TTL, c.Generation, c.Seq)
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
//	state   file, version, locks, shares
//	client  change ("began", "updated", "ended" or "mark"), number, and but for a
//	        mark generation, client, and but for an end adapter, addr, ttl_ns
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
	Shares     []openJSON `json:"shares,omitempty"`
	Epoch      uint64     `json:"epoch,omitempty"`
	Change     string     `json:"change,omitempty"`
	Number     uint64     `json:"number,omitempty"`
	Generation uint64     `json:"generation,omitempty"`
	*clientJSON
	*connectionJSON
	Time  *time.Time `json:"time,omitempty"`
	Bytes *uint64    `json:"bytes,omitempty"`
}

// connectionJSON is how a client has connected.
type connectionJSON struct {
	Adapter    string        `json:"adapter"`
	AdapterHex string        `json:"adapter_hex,omitempty"`
	Addr       string        `json:"addr"`
	AddrHex    string        `json:"addr_hex,omitempty"`
	TTL        time.Duration `json:"ttl_ns"` // 0: its adapter's
}

// partJSON is one part of a change. Op is "lock", "unlock", "release owner",
// "release client", "release file", "open share", "close share", "reclaim",
// "release unconfirmed" or "revoke".
type partJSON struct {
	Op string `json:"op"`
	*clientJSON
	*ownerJSON
	*rangeJSON
	*accessJSON
	Reclaim *bool      `json:"reclaim,omitempty"`
	ID      lock.ID    `json:"id,omitempty"`
	Spare   lock.ID    `json:"spare,omitempty"`
	Epoch   uint64     `json:"epoch,omitempty"` // what is released was held before it
	Since   *time.Time `json:"since,omitempty"`
}

// accessJSON is what an open may do, and what it denies others: "read", "write",
// "delete".
type accessJSON struct {
	Access []string `json:"access"`
	Deny   []string `json:"deny"`
}

func accessOf(access, deny lock.Access) accessJSON { return accessJSON{bitsOf(access), bitsOf(deny)} }

func bitsOf(a lock.Access) []string {
	if a == 0 {
		return []string{}
	}
	return strings.Split(a.String(), "+")
}

// openJSON is one share reservation of a state. Access and deny are of the epoch
// of its last open, which has the id; the old ones from before it, not reclaimed
// yet.
type openJSON struct {
	ID lock.ID `json:"id"`
	clientJSON
	ownerJSON
	accessJSON
	OldAccess []string  `json:"old_access"`
	OldDeny   []string  `json:"old_deny"`
	Epoch     uint64    `json:"epoch"`
	Since     time.Time `json:"since"`
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
		for _, sh := range r.State.Shares {
			j.Shares = append(j.Shares, openJSON{
				ID: sh.ID, clientJSON: clientOf(sh.Owner.Client), ownerJSON: ownerOf(sh.Owner), accessJSON: accessOf(sh.Access, sh.Deny),
				OldAccess: bitsOf(sh.OldAccess), OldDeny: bitsOf(sh.OldDeny), Epoch: sh.Epoch, Since: sh.Since.UTC(),
			})
		}
	case r.Client != nil:
		j.client(r.Client)
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

func (j *recordJSON) client(c *sneck.LogClient) {
	j.Change, j.Number, j.Generation = c.What.String(), c.Seq, c.Generation
	if j.Change == "mark" {
		return
	}
	id := clientOf(c.Client.ID)
	j.clientJSON = &id
	if j.Change != "ended" {
		j.connectionJSON = &connectionJSON{
			Adapter: c.Client.Adapter, AdapterHex: hexed(c.Client.Adapter),
			Addr: c.Client.Addr, AddrHex: hexed(c.Client.Addr), TTL: c.Client.TTL,
		}
	}
}

func partOf(p sneck.LogPart) partJSON {
	j := partJSON{Op: p.Op.String(), ID: p.ID, Spare: p.Spare, Epoch: p.Epoch}
	client := clientOf(p.Client)
	switch j.Op {
	case "lock", "reclaim", "unlock":
		r := rangeOf(p.Range, p.Mode)
		j.rangeJSON = &r
	case "open share":
		a := accessOf(p.Access, p.Deny)
		j.accessJSON, j.Reclaim = &a, &p.Reclaim
	}
	switch j.Op {
	case "lock", "reclaim", "unlock", "open share", "close share", "release owner", "revoke":
		o := ownerOf(p.Owner)
		client, j.ownerJSON = clientOf(p.Owner.Client), &o
		j.clientJSON = &client
	case "release client":
		j.clientJSON = &client
	}
	switch j.Op {
	case "lock", "reclaim", "open share":
		at := p.Since.UTC()
		j.Since = &at
	}
	return j
}
