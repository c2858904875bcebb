package crashfs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// What is not synced is lost, and only that.
func TestLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(m *mounted)
		want tree
	}{
		{"nothing", func(m *mounted) {}, tree{}},
		{"create", func(m *mounted) { m.write("f", 0, "data") }, tree{}},
		{"a synced file has no name", func(m *mounted) { m.write("f", 0, "data"); m.sync("f") }, tree{}},
		{"a durable name has no data", func(m *mounted) { m.write("f", 0, "data"); m.sync(".") }, tree{"f": ""}},
		{"both", func(m *mounted) { m.write("f", 0, "data"); m.sync("f", ".") }, tree{"f": "data"}},
		{"written after the sync", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.write("f", 0, "DATA and more")
		}, tree{"f": "data"}},
		{"another file's sync", func(m *mounted) {
			m.write("f", 0, "data")
			m.write("g", 0, "data")
			m.sync("g", ".")
		}, tree{"f": "", "g": "data"}},
		{"truncate", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.truncate("f", 1)
		}, tree{"f": "data"}},
		{"synced truncate", func(m *mounted) {
			m.write("f", 0, "data")
			m.truncate("f", 1)
			m.truncate("f", 3)
			m.sync("f", ".")
		}, tree{"f": "d\x00\x00"}},
		{"O_TRUNC", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.open("f", os.O_TRUNC)
		}, tree{"f": "data"}},
		{"synced O_TRUNC", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.open("f", os.O_TRUNC)
			m.sync("f")
		}, tree{"f": ""}},
		{"rename", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.rename("f", "g")
		}, tree{"f": "data"}},
		{"synced rename over a name", func(m *mounted) {
			m.write("f", 0, "old")
			m.write("g", 0, "new")
			m.sync("f", "g", ".")
			m.rename("g", "f")
			m.sync(".")
		}, tree{"f": "new"}},
		{"rename over a name", func(m *mounted) {
			m.write("f", 0, "old")
			m.sync("f", ".")
			m.write("g", 0, "new")
			m.sync("g")
			m.rename("g", "f")
		}, tree{"f": "old"}},
		{"renamed without its data", func(m *mounted) {
			m.write("f", 0, "old")
			m.sync("f", ".")
			m.write("g", 0, "new")
			m.rename("g", "f")
			m.sync(".")
		}, tree{"f": ""}},
		{"unlink", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.remove("f")
		}, tree{"f": "data"}},
		{"synced unlink", func(m *mounted) {
			m.write("f", 0, "data")
			m.sync("f", ".")
			m.remove("f")
			m.sync(".")
		}, tree{}},
		{"made anew", func(m *mounted) {
			m.write("f", 0, "old")
			m.sync("f", ".")
			m.remove("f")
			m.write("f", 0, "new")
			m.sync("f")
		}, tree{"f": "old"}},
		{"mkdir", func(m *mounted) { m.mkdir("d"); m.sync("d") }, tree{}},
		{"synced mkdir", func(m *mounted) { m.mkdir("d"); m.sync(".") }, tree{"d/": ""}},
		{"in a lost directory", func(m *mounted) {
			m.mkdir("d")
			m.write("d/f", 0, "data")
			m.sync("d/f", "d")
		}, tree{}},
		{"in a directory that is durable later", func(m *mounted) {
			m.mkdir("d")
			m.write("d/f", 0, "data")
			m.sync("d/f", "d", ".")
		}, tree{"d/": "", "d/f": "data"}},
		{"in another directory than the one synced", func(m *mounted) {
			m.mkdir("d")
			m.write("d/f", 0, "data")
			m.sync("d/f", ".")
		}, tree{"d/": ""}},
		{"in a renamed directory", func(m *mounted) {
			m.mkdir("d")
			m.sync(".")
			m.rename("d", "e")
			m.write("e/f", 0, "data")
			m.sync("e/f", "e")
		}, tree{"d/": "", "d/f": "data"}},
		{"rmdir", func(m *mounted) { m.mkdir("d"); m.sync("."); m.remove("d") }, tree{"d/": ""}},
		{"synced rmdir", func(m *mounted) { m.mkdir("d"); m.sync("."); m.remove("d"); m.sync(".") }, tree{}},
		{"unlink and rmdir", func(m *mounted) {
			m.mkdir("d")
			m.write("d/f", 0, "data")
			m.sync("d/f", "d", ".")
			m.remove("d/f")
			m.remove("d")
		}, tree{"d/": "", "d/f": "data"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := mount(t)
			tt.do(m)
			m.want("lost", Lost, tt.want)
			same(t, "kept", m.now(Kept), m.shown())
		})
	}
}

// An image looks back from its own moment: a later sync does not count.
func TestImageOfEarlierMoment(t *testing.T) {
	m := mount(t)
	m.write("f", 0, "data")
	m.sync(".")
	n := m.Len()
	m.sync("f")
	m.write("f", 4, "more")
	same(t, "then", treeOf(m.Image(n, Lost, nil)), tree{"f": ""})
	same(t, "then", treeOf(m.Image(n, Kept, nil)), tree{"f": "data"})
	same(t, "begin", treeOf(m.Image(0, Kept, nil)), tree{})
	defer func() {
		if recover() == nil {
			t.Error("an image of what has not happened yet")
		}
	}()
	m.Image(m.Len()+1, Lost, nil)
}

func TestImageFiles(t *testing.T) {
	m := mount(t)
	m.mkdir("d")
	m.write("d/f", 3, "data")
	m.write("e", 0, "")
	im := m.Image(m.Len(), Kept, nil)
	if got, want := im.String(), "d/\nd/f 7\ne 0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := m.Image(0, Kept, nil).String(); got != "(nothing)" {
		t.Errorf("%q", got)
	}
	dir := t.TempDir()
	m.must(im.WriteTo(dir))
	same(t, "written", treeIn(t, dir), tree{"d/": "", "d/f": "\x00\x00\x00data", "e": ""})
	if err := im.WriteTo(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "d")) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
}

func TestDeterminism(t *testing.T) {
	m := mount(t)
	for i := range 30 {
		name := fmt.Sprint("f", i%7)
		m.write(name, int64(i*10), strings.Repeat("x", 2000))
		if i%5 == 4 {
			m.rename(name, fmt.Sprint("f", i%3))
		}
	}
	different := 0
	for seed := range uint64(20) {
		first := treeOf(m.Image(m.Len(), Random, seeded(seed)))
		same(t, "same seed", treeOf(m.Image(m.Len(), Random, seeded(seed))), first)
		if fmt.Sprint(first) != fmt.Sprint(treeOf(m.Image(m.Len(), Random, seeded(seed+1)))) {
			different++
		}
	}
	if different == 0 {
		t.Error("all seeds give the same image")
	}
}
