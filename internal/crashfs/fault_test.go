package crashfs

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// try says what an operation fails with, or that it does not.
func try(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestFault(t *testing.T) {
	m := mount(t)
	f := m.open("f", 0)
	write := func() error { _, err := f.Write([]byte("x")); return err }

	m.Inject(Fault{After: 2})
	try(t, "first", write(), nil)
	try(t, "second", f.Sync(), nil)
	try(t, "third", write(), unix.EIO)
	try(t, "fourth", write(), nil)

	m.Inject(Fault{After: 1, Errno: unix.ENOSPC, Kinds: []Kind{Sync, SyncDir}})
	try(t, "write", write(), nil)
	try(t, "first sync", f.Sync(), nil)
	try(t, "write", write(), nil)
	try(t, "second sync", syncPath(m.dir), unix.ENOSPC)
	try(t, "third sync", f.Sync(), nil)

	m.Inject(Fault{Sticky: true})
	for what, err := range map[string]error{
		"write":    write(),
		"sync":     f.Sync(),
		"sync dir": syncPath(m.dir),
		"truncate": f.Truncate(1),
		"mkdir":    os.Mkdir(m.path("d"), 0o700),
		"create":   os.WriteFile(m.path("g"), nil, 0o600),
		"rename":   os.Rename(m.path("f"), m.path("g")),
		"unlink":   unix.Unlink(m.path("f")),
		"O_TRUNC":  os.WriteFile(m.path("f"), nil, 0o600),
	} {
		try(t, what, err, unix.EIO)
	}
	m.Mark("marks do not fail")
	if h := m.History(); h[len(h)-1].Err != 0 {
		t.Error(h[len(h)-1])
	}
	m.want("nothing has changed", Kept, tree{"f": "xxxx"})
	m.Clear()
	try(t, "write", write(), nil)
	m.want("after Clear", Kept, tree{"f": "xxxxx"})
	same(t, "mount", m.shown(), tree{"f": "xxxxx"})
}

func TestShortWrite(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		m := mount(t)
		f := m.open("f", 0)
		m.sync("f", ".")
		m.Inject(Fault{After: 1, Errno: unix.ENOSPC, Kinds: []Kind{Write, Sync}, ShortWrite: true, Sticky: sticky})
		if n, err := f.Write([]byte("01234567")); n != 8 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := f.Write([]byte("abcdefgh")); n != 4 || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%d, %v", n, err)
		}
		if at, err := f.Seek(0, io.SeekCurrent); at != 12 || err != nil {
			t.Errorf("at %d, %v", at, err)
		}
		m.want("short", Kept, tree{"f": "01234567abcd"})
		m.want("short", Lost, tree{"f": ""})
		if sticky {
			try(t, "sync", f.Sync(), unix.ENOSPC)
			if n, err := f.Write([]byte("ij")); n != 0 || !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%d, %v", n, err)
			}
			continue
		}
		try(t, "sync", f.Sync(), nil)
		m.want("synced", Lost, tree{"f": "01234567abcd"})
		m.Inject(Fault{ShortWrite: true})
		if n, err := f.Write([]byte("i")); n != 0 || !errors.Is(err, unix.EIO) {
			t.Errorf("a byte has no half: %d, %v", n, err)
		}
	}
}

// A fault that strikes once strikes the rest of the write that it cut short,
// whatever comes between.
func TestShortWriteStrikesTheRest(t *testing.T) {
	m := mount(t)
	f := m.open("f", 0)
	m.Inject(Fault{Errno: unix.ENOSPC, ShortWrite: true})
	if n, err := unix.Write(int(f.Fd()), []byte("12345")); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	try(t, "sync", f.Sync(), nil)
	_, err := f.WriteString("345")
	try(t, "write", err, unix.ENOSPC)
	try(t, "sync", f.Sync(), nil)
	m.want("kept", Kept, tree{"f": "12"})
}

// What was written before a failed sync stays readable and is never made
// durable by a later one, unless it is written again.
func TestFailedSync(t *testing.T) {
	m := mount(t)
	m.write("f", 0, "base")
	m.sync("f", ".")
	m.write("f", 4, "+lost")
	m.Inject(Fault{Kinds: []Kind{Sync}})
	try(t, "sync", syncPath(m.path("f")), unix.EIO)
	m.sync("f")
	m.want("synced again", Lost, tree{"f": "base"})
	m.want("synced again", Kept, tree{"f": "base+lost"})
	same(t, "mount", m.shown(), tree{"f": "base+lost"})

	m.write("f", 9, "+more")
	m.sync("f")
	m.want("a hole", Lost, tree{"f": "base\x00\x00\x00\x00\x00+more"})
	same(t, "mount", m.shown(), tree{"f": "base+lost+more"})
	gone, there := 0, 0
	for seed := range uint64(100) {
		got := treeOf(m.Image(m.Len(), Random, seeded(seed)))["f"]
		if !strings.HasPrefix(got, "base") || !strings.HasSuffix(got, "+more") || len(got) != 14 {
			t.Fatalf("synced data is missing: %q", got)
		}
		switch got {
		case "base+lost+more":
			there++
		case "base\x00\x00\x00\x00\x00+more":
			gone++
		}
	}
	if gone == 0 || there == 0 {
		t.Errorf("never synced data: gone %d times, there %d times", gone, there)
	}

	m.write("f", 4, "+lost")
	m.sync("f")
	m.want("written again", Lost, tree{"f": "base+lost+more"})
}

// A failed sync says nothing about metadata: the next one makes it durable.
func TestFailedSyncOfMetadata(t *testing.T) {
	m := mount(t)
	m.write("f", 0, "base")
	m.sync("f")
	m.truncate("f", 2)
	m.Inject(Fault{Kinds: []Kind{Sync, SyncDir}, Sticky: true})
	try(t, "sync", syncPath(m.path("f")), unix.EIO)
	try(t, "sync dir", syncPath(m.dir), unix.EIO)
	m.want("nothing is durable", Lost, tree{})
	m.Clear()
	m.sync(".")
	m.want("the entry", Lost, tree{"f": "base"})
	m.sync("f")
	m.want("the size", Lost, tree{"f": "ba"})
}

func TestWriteWithSync(t *testing.T) {
	m := mount(t)
	m.open("f", 0)
	m.sync(".")
	for _, flag := range []int{unix.O_SYNC, unix.O_DSYNC} {
		f := m.open("f", flag|os.O_TRUNC)
		if _, err := f.WriteString("sync"); err != nil {
			t.Fatal(err)
		}
		m.want("written", Lost, tree{"f": "sync"})
		m.Inject(Fault{Kinds: []Kind{Sync}})
		_, err := f.WriteString("!")
		try(t, "write", err, unix.EIO)
		m.want("sync failed", Lost, tree{"f": "sync"})
	}
}
