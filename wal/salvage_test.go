package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tape is a Check that takes every record but those that say "refuse": what it
// took.
type tape struct{ took []string }

func (p *tape) check() func(Entry) error {
	p.took = nil
	return func(e Entry) error {
		said := e.Kind.String()
		switch e.Kind {
		case KindFile, KindState:
			said = string(e.Body)
		case KindCut:
			n, err := e.Number()
			if err != nil {
				return err
			}
			said = fmt.Sprint("cut ", n)
		}
		if strings.HasPrefix(said, "refuse") {
			return fmt.Errorf("%w: %s", ErrRecord, said)
		}
		p.took = append(p.took, said)
		return nil
	}
}

// mended repairs dir and returns the steps, and what a replay says then.
func mended(t *testing.T, dir string) ([]Step, []string) {
	t.Helper()
	var p tape
	r, err := PlanRepair(dir, SalvageOptions{Check: p.check})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	planned := p.took
	if err := r.Apply(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir, p.check()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.took, planned) {
		t.Errorf("a replay says %q, planned was %q", p.took, planned)
	}
	if len(r.Steps) > 0 {
		if r.Copy == "" {
			t.Error("there is no copy")
		}
		if err := os.RemoveAll(r.Copy); err != nil {
			t.Fatal(err)
		}
	}
	return r.Steps, p.took
}

// surveyed lists the damage in dir, by file name and offset.
func surveyed(t *testing.T, dir string) (out []string) {
	t.Helper()
	_, err := Survey(dir, func(d Damage) {
		out = append(out, fmt.Sprint(filepath.Base(d.File), " ", d.Offset, "+", d.Bytes))
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkpointData is a checkpoint with a frame for each of the bodies, where each
// frame begins, and where the end begins.
func checkpointData(t *testing.T, generation uint64, bodies ...string) (data []byte, at []int) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	w := newCheckpointWriter(f, generation)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.add(KindBegin, beginBody{generation: generation}))
	for _, b := range bodies {
		at = append(at, int(w.size))
		must(w.add(KindState, text(b)))
		must(w.flush())
	}
	at = append(at, int(w.size))
	must(w.end())
	return get(t, f.Name()), at
}

// withCheckpoint makes a log with a checkpoint of generation 2 and a change.
func withCheckpoint(t *testing.T, data []byte) (dir, path string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	y := layout{dir: dir}
	if err := os.MkdirAll(y.log(2), dirPerm); err != nil {
		t.Fatal(err)
	}
	path = y.checkpoint(2)
	put(t, path, data)
	h := header{index: 1, generation: 2}
	put(t, filepath.Join(y.log(2), segmentName(1)), withSize(h.seal(appendRecord(room(nil), KindFile, []byte("change")), 1)))
	return dir, path
}

// Every frame of a checkpoint that is not damaged is kept, whichever is.
func TestSalvageCheckpoint(t *testing.T) {
	bodies := []string{"a", "b", "c", strings.Repeat("long ", 1000), "e"}
	data, at := checkpointData(t, 2, bodies...)
	without := func(gone ...int) (want []string) {
		want = append(want, "begin")
		for i, b := range bodies {
			if !slices.Contains(gone, i) {
				want = append(want, b)
			}
		}
		return want
	}
	flip := func(data []byte, at ...int) []byte {
		data = slices.Clone(data)
		for _, i := range at {
			data[i] ^= 4
		}
		return data
	}
	piece := func(i int) []byte { return data[at[i]:at[i+1]] }
	end := data[at[5]:]
	for name, tc := range map[string]struct {
		data []byte
		gone []int
	}{
		"payload of the first":    {flip(data, at[0]+headerSize+10), []int{0}},
		"header of the first":     {flip(data, at[0]+offIndex), []int{0}},
		"payload of the second":   {flip(data, at[1]+headerSize+3), []int{1}},
		"header of the second":    {flip(data, at[1]+3), []int{1}},
		"checksum of the second":  {flip(data, at[2]-1), []int{1}},
		"payloads of two":         {flip(data, at[1]+headerSize+3, at[3]+1000), []int{1, 3}},
		"header, then payload":    {flip(data, at[1]+3, at[3]+1000), []int{1, 2, 3}}, // what is between could be a client's
		"payload, then header":    {flip(data, at[1]+headerSize+3, at[3]+3), []int{1, 3}},
		"all headers":             {flip(data, at[0]+3, at[1]+3, at[2]+3, at[3]+3, at[4]+3), []int{0, 1, 2, 3, 4}},
		"end":                     {flip(data, at[5]+headerSize+2), nil},
		"header of the end":       {flip(data, at[5]+3), nil},
		"cut in the second":       {data[:at[2]-4], []int{1, 2, 3, 4}},
		"cut before the end":      {data[:at[5]], nil},
		"cut and a header":        {flip(data[:at[5]], at[1]+3), []int{1, 2, 3, 4}},
		"something in the middle": {slices.Concat(data[:at[2]], []byte("something"), data[at[2]:]), nil},
		"zeros behind":            {append(slices.Clone(data), make([]byte, 100)...), nil},
		"one twice":               {slices.Concat(data[:at[2]], piece(1), data[at[2]:]), nil},
		"two the other way round": {slices.Concat(data[:at[1]], piece(2), piece(1), data[at[3]:]), []int{1}},
		"one missing":             {slices.Concat(data[:at[1]], data[at[2]:]), []int{1}},
		"the end twice":           {slices.Concat(data, end), nil},
		"nothing":                 {nil, []int{0, 1, 2, 3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := withCheckpoint(t, tc.data)
			if d := surveyed(t, dir); len(d) == 0 || !strings.HasPrefix(d[0], filepath.Base(path)) {
				t.Errorf("Survey finds %q", d)
			}
			steps, took := mended(t, dir)
			if len(steps) != 1 || steps[0].Action != Renew || steps[0].File != path {
				t.Fatalf("steps %+v", steps)
			}
			want := without(tc.gone...)
			got := slices.DeleteFunc(took, func(s string) bool { return strings.HasPrefix(s, "cut ") })
			if len(got) == len(took) || !slices.Equal(got, append(want, "change")) {
				t.Errorf("what is left is %.30q, want %.30q", got, want)
			}
			if n := uint64(len(want)); steps[0].Kept != n && steps[0].Kept != n-1 { // a begin that was lost is made
				t.Errorf("%d records kept, want %d", steps[0].Kept, n)
			}
			if again, _ := mended(t, dir); len(again) > 0 {
				t.Errorf("a second repair would do %+v", again)
			}
			if d := surveyed(t, dir); len(d) > 0 {
				t.Errorf("Survey finds %q", d)
			}
		})
	}
}

// What a client has chosen to be called is not taken for a frame, whatever else
// is damaged.
func TestSalvageBelievesNoClient(t *testing.T) {
	forged := func(index uint64) []byte {
		h := header{index: index, generation: 2, checkpoint: true}
		return withSize(h.seal(appendRecord(room(nil), KindState, []byte("forged")), 1))
	}
	ended := header{index: 4, generation: 2, checkpoint: true}
	end := withSize(ended.seal(appendRecord(room(nil), kindEnd, number(2).AppendTo(nil)), 1))
	evil := strings.Repeat("x", 50) + string(slices.Concat(forged(2), forged(3), end)) + "x"
	data, at := checkpointData(t, 2, "a", evil, "c", "d", "e")
	for name, spots := range map[string][]int{
		"size":                {at[1]},
		"header":              {at[1] + 5},
		"payload":             {at[1] + headerSize + 20},
		"checksum":            {at[2] - 2},
		"header, and another": {at[1] + 5, at[3] + 5},
		"all that is before":  {0, at[1] + 5},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := slices.Clone(data)
			for _, i := range spots {
				damaged[i] ^= 1
			}
			dir, _ := withCheckpoint(t, damaged)
			if _, took := mended(t, dir); slices.Contains(took, "forged") || !slices.Contains(took, "e") {
				t.Errorf("what is left is %.20q", took)
			}
		})
	}
	t.Run("cut", func(t *testing.T) { // anywhere, with the header gone
		for n := at[1] + 10; n < at[2]; n++ {
			damaged := slices.Clone(data[:n])
			damaged[at[1]+5] ^= 1
			dir, path := withCheckpoint(t, damaged)
			c := newSalvage(path, 2)
			if err := c.load(); err != nil {
				t.Fatal(err)
			}
			// Cut right behind what the client made, nothing tells it from an end.
			if n != bytes.Index(data, end)+len(end) && len(c.frames) != 1 {
				t.Fatalf("cut at %d: %d frames of %s are believed", n, len(c.frames), dir)
			}
		}
	})
}

// Records that a replay refuses go, from a checkpoint alone, from a log with the
// rest of it: by whole frames.
func TestSalvageRefused(t *testing.T) {
	data, _ := checkpointData(t, 2, "a", "refuse me", "c")
	dir, path := withCheckpoint(t, data)
	steps, took := mended(t, dir)
	if len(steps) != 1 || steps[0].File != path || steps[0].Bytes != int64(len("refuse me")) {
		t.Errorf("steps %+v", steps)
	}
	if want := []string{"begin", "a", "c", "cut 9", "change"}; !slices.Equal(took, want) {
		t.Errorf("what is left is %q, want %q", took, want)
	}

	first := slices.Concat(entry(1, 0, "a"), entry(2, 0, "b", "refuse", "c"))
	dir = logOf(t, map[uint64][]byte{1: slices.Concat(first, entry(3, 0, "d")), 4: entry(4, 0, "refuse", "e")})
	var lost []string
	var p tape
	r, err := PlanRepair(dir, SalvageOptions{Check: p.check, Lost: func(e Entry, sure bool) {
		if !sure {
			t.Errorf("%q is not sure", e.Body)
		}
		lost = append(lost, string(e.Body))
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if want := []string{"b", "refuse", "c", "d", "refuse", "e"}; !slices.Equal(lost, want) {
		t.Errorf("lost is %q, want %q", lost, want)
	}
	at := int64(len(entry(1, 0, "a")))
	if s := r.Steps; len(s) != 2 || s[0].Action != CutOff || s[0].Offset != at || s[0].First != 2 || s[0].Last != 3 || s[0].Records != 4 ||
		s[1].Action != Remove || s[1].Frames != 1 || s[1].Bytes != int64(len(entry(4, 0, "refuse", "e"))) {
		t.Errorf("steps %+v", s)
	}
	if _, err := PlanRepair(dir, SalvageOptions{Check: p.check}); err != nil { // there is no lock file
		t.Error(err)
	}
	if err := r.Apply(); err != nil {
		t.Fatal(err)
	}
	if _, err := PlanRepair(dir, SalvageOptions{Check: p.check}); !errors.Is(err, ErrInUse) {
		t.Errorf("while it is repaired: %v", err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("Open while it is repaired: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	mustReplay(t, dir, "a")
}

// A repair that ends anywhere in the middle leaves a log that is damaged, or one
// that says what it would have said: never one with a hole in it.
func TestRepairInterrupted(t *testing.T) {
	build := func(t *testing.T) string {
		dir := logOf(t, map[uint64][]byte{
			1: slices.Concat(entry(1, 0, "a"), entry(2, 0, "b")),
			3: slices.Concat(entry(3, 0, "c"), entry(4, 0, "bad"), entry(5, 0, "e")),
			6: entry(6, 0, "f"),
			7: entry(7, 0, "g"),
		})
		data := get(t, segmentPath(dir, 3))
		data[len(entry(3, 0, "c"))+headerSize+3] ^= 1
		put(t, segmentPath(dir, 3), data)
		y := layout{dir: dir}
		for generation := uint64(2); generation <= 3; generation++ {
			if err := os.Mkdir(y.log(generation), dirPerm); err != nil {
				t.Fatal(err)
			}
			for index := uint64(1); index <= 2; index++ {
				h := header{index: index, generation: generation}
				frame := h.seal(appendRecord(room(nil), KindFile, []byte("later")), 1)
				put(t, filepath.Join(y.log(generation), segmentName(index)), withSize(frame))
			}
		}
		put(t, filepath.Join(generationDir(dir), "stranger"), nil)
		return dir
	}
	var p tape
	for done := 0; ; done++ {
		dir := build(t)
		r, err := PlanRepair(dir, SalvageOptions{Check: p.check})
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := range done {
			if err := r.do(r.Steps[len(r.Steps)-1-i], fi); err != nil {
				t.Fatal(err)
			}
		}
		_, err = Read(dir, p.check())
		var d *DamageError
		if !errors.As(err, &d) && (err != nil || !slices.Equal(p.took, []string{"a", "b", "c"})) {
			t.Errorf("after %d of %d steps: %q, %v", done, len(r.Steps), p.took, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, took := mended(t, dir); !slices.Equal(took, []string{"a", "b", "c"}) {
			t.Errorf("after %d of %d steps and a repair: %q", done, len(r.Steps), took)
		}
		if done == len(r.Steps) {
			break
		}
	}
}

// All that is damaged is found, and what is behind it is counted.
func TestSurvey(t *testing.T) {
	e := func(i uint64) []byte { return entry(i, 0, fmt.Sprint("body of ", i)) }
	n := len(e(1))
	bad := func(i uint64) []byte { b := e(i); b[headerSize+4] ^= 1; return b }
	lost := func(i uint64) []byte { b := e(i); b[3] ^= 1; return b }
	dir := logOf(t, map[uint64][]byte{
		1: slices.Concat(e(1), bad(2), e(3), lost(4), bad(5), e(6), e(6), e(7)),
		8: slices.Concat(lost(8), e(9)),
		// 10 is missing
		11: slices.Concat(e(11), bad(12)),
		13: {},
		14: slices.Concat(e(14), entry(16, 0, "early"), e(17)),
		18: slices.Concat(e(18), bad(19), e(20), bad(21)),
	})
	put(t, filepath.Join(generationDir(dir), "x"), nil)
	put(t, filepath.Join(dir, "log-x"), nil)
	// There is no generation 2.
	y := layout{dir: dir}
	if err := os.Mkdir(y.log(3), dirPerm); err != nil {
		t.Fatal(err)
	}
	h := header{index: 1, generation: 3}
	put(t, filepath.Join(y.log(3), segmentName(1)), withSize(h.seal(appendRecord(room(nil), KindFile, []byte("x")), 1))[:30])

	var got []string
	records := 0
	sum, err := Survey(dir, func(d Damage) {
		got = append(got, fmt.Sprint(filepath.Base(d.File), " ", d.Offset, "+", d.Bytes, " ", d.Reason[:5]))
	}, func(Entry) { records++ })
	if err != nil {
		t.Fatal(err)
	}
	at := func(segment uint64, frame, frames int, why string) string {
		return fmt.Sprint(segmentName(segment), " ", frame*n, "+", frames*n, " ", why)
	}
	early := len(entry(16, 0, "early"))
	want := []string{
		"log-x 0+0 not a",
		generationName(2) + " 0+0 the l",
		"x 0+0 not a",
		at(1, 1, 1, "check"), at(1, 3, 2, "no fr"), at(1, 6, 1, "frame"),
		at(8, 0, 1, "no fr"),
		segmentName(10) + " 0+0 the s",
		fmt.Sprint(segmentName(11), " ", n+1, "+", n+1, " check"),
		segmentName(13) + " 0+0 the s", // it has nothing, so frame 13 is missing
		fmt.Sprint(segmentName(14), " ", n+1, "+", early, " frame"),
		fmt.Sprint(segmentName(18), " ", n+1, "+", n+1, " check"),
		fmt.Sprint(segmentName(18), " ", 3*(n+1), "+", n+1, " check"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if sum.Segments != 7 || sum.TornTail == nil || sum.Frames != 10 || records != 10 {
		t.Errorf("%+v, %d records", sum, records)
	}
}

// A lock file is made only where a repair needs one.
func TestRepairLocks(t *testing.T) {
	var p tape
	data := entry(1, 0, "refuse")
	dir := logOf(t, map[uint64][]byte{1: data})
	r, err := PlanRepair(dir, SalvageOptions{Check: p.check})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := os.Stat(filepath.Join(dir, lockName)); err == nil {
		t.Error("a plan made a lock file")
	}
	// Somebody opens it before the repair goes on.
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	group(t, l, "new")
	mustClose(t, l)
	if err := r.Apply(); !errors.Is(err, ErrInUse) {
		t.Errorf("Apply: %v", err)
	}
	mustReplay(t, dir, "refuse", "new")
}
