package fusefs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Only what can have been made by this process in this call is given to the
// caller.
func TestJustMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	began := time.Now()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	others := st
	others.Uid++
	for _, tc := range []struct {
		name  string
		st    syscall.Stat_t
		kind  uint32
		began time.Time
		want  bool
	}{
		{"made now", st, unix.S_IFREG, began, true},
		{"of another kind", st, unix.S_IFDIR, began, false},
		{"somebody else's", others, unix.S_IFREG, began, false},
		{"there before", st, unix.S_IFREG, began.Add(time.Second), false},
	} {
		if got := justMade(fd, &tc.st, tc.kind, tc.began); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
