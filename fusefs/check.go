package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors of [Mount] that say what is not usable.
var (
	ErrNotFolder      = errors.New("not a folder")
	ErrStale          = errors.New("a dead mount is in the way")
	ErrAlreadyMounted = errors.New("already mounted by sneck")
	ErrNested         = errors.New("the mount point lies inside the source")
	ErrNoDevice       = errors.New("/dev/fuse is not usable")
)

// Check makes both paths absolute and free of symbolic links, and says whether
// they, and /dev/fuse, can be used as they are now.
func Check(source, mountPoint string) (absSource, absMountPoint string, err error) {
	if absSource, err = folder("source", source); err != nil {
		return "", "", err
	}
	if absMountPoint, err = folder("mount point", mountPoint); err != nil {
		return "", "", err
	}
	switch typ, err := mountedOn(absMountPoint); {
	case err != nil:
		return "", "", err
	case typ == "fuse."+fsType:
		return "", "", fmt.Errorf("mount point %s: %w", absMountPoint, ErrAlreadyMounted)
	}
	// On the source itself is fine: the source was opened before it was hidden.
	if absMountPoint != absSource && Within(absMountPoint, absSource) {
		return "", "", fmt.Errorf("mount point %s, source %s: %w", absMountPoint, absSource, ErrNested)
	}
	return absSource, absMountPoint, checkDevice()
}

// folder resolves a path that must be a folder.
func folder(what, path string) (string, error) {
	if isStale(path) {
		return "", fmt.Errorf("%s %s: %w", what, path, ErrStale)
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", what, err)
	case !st.IsDir():
		return "", fmt.Errorf("%s %s: %w", what, path, ErrNotFolder)
	}
	return Resolve(path)
}

// Resolve makes a path absolute and free of symbolic links.
func Resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// Within reports whether the resolved path is the resolved folder or in it.
func Within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// mountedOn is the type of the topmost file system mounted on path, "" if
// there is none.
func mountedOn(path string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	typ := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// id parent major:minor root mountpoint options [tags] - type ...
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && unescape.Replace(fields[4]) == path {
			typ, _, _ = strings.Cut(after, " ")
		}
	}
	return typ, nil
}

// unescape undoes what the kernel does to blanks in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// DetachStale detaches a FUSE mount on mountPoint whose server died. It
// reports whether there was one.
func DetachStale(mountPoint string) (bool, error) {
	found := false
	for {
		if !isStale(mountPoint) {
			return found, nil
		}
		path, err := filepath.Abs(mountPoint)
		if err != nil {
			return found, err
		}
		if err := unmount(path, true); err != nil {
			return found, fmt.Errorf("detach the dead mount on %s: %w", path, err)
		}
		found = true
	}
}

// isStale asks for what the kernel does not keep: stat(2) of a dead mount may
// still be answered from its cache.
func isStale(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == unix.ENOTCONN
}

// checkDevice tells early and clearly what mount(2) would tell late.
func checkDevice() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: it does not exist; is the fuse module loaded?", ErrNoDevice)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoDevice, err)
	}
	return f.Close()
}
