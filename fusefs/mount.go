package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"sneck"
)

// fsType is the mount's subtype: "fuse.sneck" in /proc/mounts.
const fsType = "sneck"

// Options say what to mount where.
type Options struct {
	Source     string         // the folder that is served
	MountPoint string         // a folder; what is in it is hidden while mounted
	Client     string         // the client that all locks of this mount belong to; see [ClientName]
	Manager    *sneck.Manager // where the locks live; stays the caller's
	Logger     *slog.Logger   // nil = silent
	Debug      bool           // log every request
	MaxNodes   int            // how many files may take a descriptor just for being known to the kernel; default half of RLIMIT_NOFILE
}

// ClientPrefix begins the client name of every mount.
const ClientPrefix = "fuse:"

// ClientName is the client name of one life of a mount. Descriptors do not
// survive the server, so each life is a client of its own.
func ClientName(mountPoint string, epoch uint64) string {
	return fmt.Sprintf("%s%s@%d", ClientPrefix, mountPoint, epoch)
}

// Server is a mounted file system.
type Server struct {
	mountPoint string
	fs         *passthrough
	done       chan struct{}
}

// Mount mounts o.Source on o.MountPoint and serves it until it is unmounted,
// by [Server.Unmount] or by anybody else.
func Mount(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.Source, o.MountPoint, err = Check(o.Source, o.MountPoint); err != nil {
		return nil, err
	}
	p, err := newPassthrough(o)
	if err != nil {
		return nil, err
	}
	server, err := mount(p, o)
	if err != nil {
		p.OnUnmount()
		return nil, fmt.Errorf("mount on %s: %w", o.MountPoint, err)
	}
	s := &Server{mountPoint: o.MountPoint, fs: p, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		server.Serve()
	}()
	if err := server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount on %s: %w", o.MountPoint, err), s.Detach())
	}
	return s, nil
}

// mount mounts directly where allowed, else by fusermount3.
func mount(p *passthrough, o Options) (*fuse.Server, error) {
	options := fuse.MountOptions{
		FsName:            "sneck",
		Name:              fsType,
		Options:           []string{"default_permissions"},
		AllowOther:        p.asRoot,
		EnableLocks:       true,
		EnableAcl:         true, // the kernel checks the source's POSIX ACLs too
		MaxBackground:     64,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO,
		Debug:             o.Debug,
		Logger:            log.New(logWriter{o.Logger}, "", 0),
	}
	if !p.asRoot {
		return fuse.NewServer(p, o.MountPoint, &options)
	}
	options.DirectMountStrict = true
	server, err := mountDirect(p, o.MountPoint, &options)
	if !errors.Is(err, unix.EPERM) {
		return server, err
	}
	options.DirectMountStrict = false // root without CAP_SYS_ADMIN
	server, ferr := fuse.NewServer(p, o.MountPoint, &options)
	if ferr != nil {
		return nil, fmt.Errorf("%w; by fusermount3: %w", err, ferr)
	}
	return server, nil
}

// mountDirect keeps the descriptor of /dev/fuse from programs that this
// process starts, which go-fuse does for fusermount only. A child with a copy
// would keep the mount half alive after the death of its server, with whoever
// uses it stuck for ever.
func mountDirect(p *passthrough, mountPoint string, options *fuse.MountOptions) (*fuse.Server, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	server, err := fuse.NewServer(p, mountPoint, options)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		var fd int
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == "/dev/fuse" {
			if _, err := fmt.Sscan(e.Name(), &fd); err == nil {
				unix.CloseOnExec(fd)
			}
		}
	}
	return server, err
}

// logWriter turns go-fuse's log lines into records.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Info(string(bytes.TrimRight(line, "\n")), "from", "fuse")
	return len(line), nil
}

// MountPoint is the absolute path that the file system is mounted on.
func (s *Server) MountPoint() string { return s.mountPoint }

// Open is how many files and folders are open now.
func (s *Server) Open() int { return s.fs.handles.len() }

// Done is closed when the kernel has ended the connection and the last request
// was answered. Mostly the file system is no longer mounted then.
func (s *Server) Done() <-chan struct{} { return s.done }

// Wait waits for Done.
func (s *Server) Wait() { <-s.done }

// Unmount unmounts and waits for the end of the last request. It fails with
// EBUSY while somebody uses the file system. The kernel lets go of files a
// moment after they were closed, so it tries for a moment.
func (s *Server) Unmount() error {
	var err error
	for pause := 5 * time.Millisecond; pause < 200*time.Millisecond; pause *= 2 {
		if err = unmount(s.mountPoint, false); err == nil {
			<-s.done
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		select {
		case <-s.done:
			return nil
		case <-time.After(pause):
		}
	}
	select {
	case <-s.done: // somebody else was faster
		return nil
	default:
		return fmt.Errorf("unmount %s: %w", s.mountPoint, err)
	}
}

// Detach takes the file system out of the tree of folders at once. It is
// served until the last file is closed; Done tells.
func (s *Server) Detach() error {
	if err := unmount(s.mountPoint, true); err != nil {
		return fmt.Errorf("detach %s: %w", s.mountPoint, err)
	}
	return nil
}

func unmount(mountPoint string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(mountPoint, flags)
	if err != unix.EPERM {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	out, ferr := exec.Command("fusermount3", append(args, mountPoint)...).CombinedOutput()
	if ferr != nil {
		if strings.Contains(string(out), "busy") {
			return unix.EBUSY
		}
		return fmt.Errorf("fusermount3: %w: %s", ferr, bytes.TrimSpace(out))
	}
	return nil
}

func shareName(source string) string { return filepath.Base(source) }
