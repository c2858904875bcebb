package crashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// fileOp is a write, or a truncate if data is nil.
type fileOp struct {
	at      int
	data    []byte
	certain bool // it was synced
}

// possible is the bytes that may be at offset i after these operations, where
// 0 is also nothing.
func possible(ops []fileOp, i int) []byte {
	set := []byte{0}
	for _, o := range ops {
		var b byte
		switch {
		case o.data == nil && o.at <= i: // cut off
		case o.data != nil && o.at <= i && i < o.at+len(o.data):
			b = o.data[i-o.at]
		default:
			continue
		}
		if o.certain {
			set = set[:0]
		}
		set = append(set, b)
	}
	return set
}

// Each byte of each image is the synced one, or one that was written there
// since, or a zero where there may be a hole; what was synced is there.
func TestRandomFile(t *testing.T) {
	const most = 3000
	for seed := range uint64(4) {
		r := seeded(seed)
		m := mount(t)
		f := m.open("f", 0)
		m.sync(".")
		var ops []fileOp
		var dirty []int // ops that the next sync makes certain
		for range 40 {
			switch k := r.IntN(12); {
			case k < 7:
				o := fileOp{at: r.IntN(most), data: make([]byte, 1+r.IntN(most))}
				for i := range o.data {
					o.data[i] = byte(1 + r.IntN(255))
				}
				_, err := f.WriteAt(o.data, int64(o.at))
				m.must(err)
				dirty, ops = append(dirty, len(ops)), append(ops, o)
			case k < 9:
				o := fileOp{at: r.IntN(2 * most)}
				m.truncate("f", int64(o.at))
				dirty, ops = append(dirty, len(ops)), append(ops, o)
			case k < 10:
				m.Inject(Fault{Kinds: []Kind{Sync}})
				if err := f.Sync(); err == nil {
					t.Fatal("no fault")
				}
				dirty = slices.DeleteFunc(dirty, func(i int) bool { return ops[i].data != nil })
			default:
				m.must(f.Sync())
				for _, i := range dirty {
					ops[i].certain = true
				}
				dirty = nil
			}
			checkBytes(t, m, ops, r)
		}
		same(t, "kept", m.now(Kept), m.shown())
	}
}

func checkBytes(t *testing.T, m *mounted, ops []fileOp, r *rand.Rand) {
	t.Helper()
	var images []string
	images = append(images, m.now(Lost)["f"], m.now(Kept)["f"])
	for range 8 {
		images = append(images, treeOf(m.Image(m.Len(), Random, r))["f"])
	}
	size := 0
	for _, o := range ops {
		size = max(size, o.at+len(o.data))
	}
	for i := range size {
		may := possible(ops, i)
		for n, im := range images {
			var b byte
			if i < len(im) {
				b = im[i]
			}
			if len(im) > size || !slices.Contains(may, b) {
				t.Fatalf("image %d of %d bytes: byte %d is %d, may be %d\n%v", n, len(im), i, b, may, m.History())
			}
		}
	}
}

// One volatile write can fare in many ways, and all of them happen.
func TestRandomWrite(t *testing.T) {
	m := mount(t)
	old, data := strings.Repeat("a", 2000), strings.Repeat("b", 2000)
	m.write("f", 0, old)
	m.sync("f", ".")
	m.write("f", 1000, data)
	zeros := strings.Repeat("\x00", 1000)
	seen := make(map[string]int)
	for seed := range uint64(500) {
		got := treeOf(m.Image(m.Len(), Random, seeded(seed)))["f"]
		tail := got[1000:]
		torn := strings.LastIndexByte(got, 'b') + 1
		switch {
		case tail == data:
			seen["whole"]++
		case got == old:
			seen["gone"]++
		case got == old+zeros:
			seen["grown only"]++
		case strings.HasPrefix(tail, "b") && !strings.Contains(strings.TrimLeft(tail, "b"), "b") && torn%sector != 0:
			seen["torn"]++
			if len(got) > torn && len(got) > 2000 {
				seen["torn, size kept"]++
			}
		case strings.Contains(tail, "ab"):
			seen["sectors out of order"]++
			if at := strings.Index(tail, "ab") + 1001; at%sector != 0 {
				t.Errorf("a sector is torn at %d", at)
			}
		}
	}
	for _, fate := range []string{"whole", "gone", "grown only", "torn", "torn, size kept", "sectors out of order"} {
		if seen[fate] == 0 {
			t.Errorf("never %s: %v", fate, seen)
		}
	}
}

// A later write can be there without an earlier one.
func TestRandomOutOfOrder(t *testing.T) {
	m := mount(t)
	m.open("f", 0)
	m.sync(".")
	m.write("f", 0, "one")
	m.write("f", 3, "two")
	seen := make(map[string]bool)
	for seed := range uint64(200) {
		seen[treeOf(m.Image(m.Len(), Random, seeded(seed)))["f"]] = true
	}
	for _, want := range []string{"", "one", "onetwo", "\x00\x00\x00two", "\x00\x00\x00\x00\x00\x00"} {
		if !seen[want] {
			t.Errorf("never %q: %v", want, seen)
		}
	}
}

// The usual way to replace a file, without the sync of the directory: the old
// or the new one, with or without the temporary name, but never both names for
// the new one, and never none at all.
func TestRandomReplace(t *testing.T) {
	m := mount(t)
	m.write("f", 0, "old")
	m.sync("f", ".")
	m.write("tmp", 0, "new")
	m.sync("tmp")
	m.rename("tmp", "f")
	seen := make(map[string]bool)
	for seed := range uint64(200) {
		seen[fmt.Sprint(treeOf(m.Image(m.Len(), Random, seeded(seed))))] = true
	}
	for _, want := range []tree{{"f": "old"}, {"f": "old", "tmp": "new"}, {"f": "new"}} {
		if !seen[fmt.Sprint(want)] {
			t.Errorf("never %v", want)
		}
		delete(seen, fmt.Sprint(want))
	}
	if len(seen) != 0 {
		t.Errorf("%v", seen)
	}
}

// known is what is known of a file of which all data is synced.
type known struct {
	names   []string // that it may have: the one last synced, and all since
	durable bool     // it had a name at the last sync of the directory
	live    string   // its name on the mount, "" if it was removed
}

// After random changes of a directory a file has one name at most, of those
// that it may have; and one at least if it had one at the last sync and was not
// removed since.
func TestRandomNames(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	for seed := range uint64(4) {
		r := seeded(seed)
		m := mount(t)
		m.mkdir("d")
		m.sync(".")
		var files []*known
		find := func(name string) *known {
			i := slices.IndexFunc(files, func(k *known) bool { return k.live == name })
			if i < 0 {
				return nil
			}
			return files[i]
		}
		for range 60 {
			name, to := names[r.IntN(len(names))], names[r.IntN(len(names))]
			k := find(name)
			switch n := r.IntN(10); {
			case k == nil && n < 9:
				m.write("d/"+name, 0, fmt.Sprint(len(files)))
				m.sync("d/" + name)
				files = append(files, &known{names: []string{name}, live: name})
			case k != nil && n < 3:
				m.remove("d/" + name)
				k.live = ""
			case k != nil && n < 9 && to != name:
				m.rename("d/"+name, "d/"+to)
				if replaced := find(to); replaced != nil {
					replaced.live = ""
				}
				k.live, k.names = to, append(k.names, to)
			case n == 9:
				m.sync("d")
				for _, k := range files {
					k.durable, k.names = k.live != "", nil
					if k.durable {
						k.names = []string{k.live}
					}
				}
			}
			for range 5 {
				checkNames(t, m, files, treeOf(m.Image(m.Len(), Random, r)))
			}
			checkNames(t, m, files, m.now(Lost))
		}
		same(t, "kept", m.now(Kept), m.shown())
	}
}

func checkNames(t *testing.T, m *mounted, files []*known, im tree) {
	t.Helper()
	for i, k := range files {
		var got []string
		for name, data := range im {
			if data == fmt.Sprint(i) {
				got = append(got, strings.TrimPrefix(name, "d/"))
			}
		}
		switch {
		case len(got) > 1:
			t.Fatalf("file %d is %q\n%q\n%v", i, got, im, m.History())
		case len(got) == 0 && k.durable && k.live != "":
			t.Fatalf("file %d has no name, may have %q\n%q\n%v", i, k.names, im, m.History())
		case len(got) == 1 && !slices.Contains(k.names, got[0]):
			t.Fatalf("file %d is %q, may be %q\n%q\n%v", i, got, k.names, im, m.History())
		}
	}
	if _, ok := im["d/"]; !ok {
		t.Fatal("the directory is missing")
	}
}

// A write keeps what it was made with, whatever the program does to its buffer.
func TestBufferUsedAgain(t *testing.T) {
	m := mount(t)
	f := m.open("f", 0)
	m.sync(".")
	buf := bytes.Repeat([]byte("x"), 5000)
	for range 20 {
		_, err := f.Write(buf)
		m.must(err)
		clear(buf)
		_, err = f.WriteAt(buf, 200_000)
		m.must(err)
		copy(buf, bytes.Repeat([]byte("x"), 5000))
	}
	m.must(f.Sync())
	if got := m.now(Lost)["f"]; got[:100_000] != strings.Repeat("x", 100_000) {
		t.Error("data of another write")
	}
}
