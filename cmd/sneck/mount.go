package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"sneck"
	"sneck/fusefs"
	"sneck/lock"
)

// mountCmd is "sneck mount". It runs until the file system is unmounted.
type mountCmd struct {
	Source     string `arg:"" help:"Folder to serve."`
	MountPoint string `arg:"" name:"mountpoint" help:"Folder to mount it on."`
	Log        string `required:"" placeholder:"DIR" help:"Folder for the log of the lock table; made if missing."`
	Durability string `default:"sync" enum:"sync,interval,none" help:"When a lock is acknowledged: sync (its record is on stable storage), interval (at once; synced every 10 ms), none (its record is written, never synced)."`
	Debug      bool   `help:"Log every request of the kernel."`
}

// Validate refuses what Abs would take for the current folder.
func (c *mountCmd) Validate() error {
	if c.Log == "" {
		return errors.New("--log: the path is empty")
	}
	return nil
}

// Run mounts, serves and unmounts.
func (c *mountCmd) Run(s streams) (err error) {
	// From here on: a signal during the start must not leave a mount behind.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(unix.SIGPIPE) // nor must a reader of our output that has gone

	prepareProcess()
	if err := c.prepareFolders(s); err != nil {
		return err
	}
	durability, err := sneck.ParseDurability(c.Durability)
	if err != nil {
		return err
	}
	m, err := sneck.Open(sneck.Options{Dir: c.Log, Durability: durability, Logger: s.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()

	client := fusefs.ClientName(c.MountPoint, m.Epoch())
	if err := releasePredecessors(m, s); err != nil {
		return err
	}
	server, err := fusefs.Mount(fusefs.Options{
		Source: c.Source, MountPoint: c.MountPoint,
		Client: client, Manager: m, Logger: s.logger(), Debug: c.Debug,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "sneck: mounted %s on %s (log %s, durability %s)\n", c.Source, c.MountPoint, c.Log, durability)
	if err := serve(server, signals, s); err != nil {
		return err
	}
	// Whoever ended the connection need not have unmounted (umount -f of what is
	// in use does not).
	if _, err := fusefs.DetachStale(c.MountPoint); err != nil {
		return err
	}
	// Whatever the kernel no longer told us about: every descriptor is gone.
	if _, err := m.ReleaseClient(context.Background(), client); err != nil {
		return fmt.Errorf("release the locks of the mount: %w", err)
	}
	fmt.Fprintf(s.Out, "sneck: unmounted %s\n", c.MountPoint)
	return nil
}

// prepareProcess sets what belongs to the whole process: the kernel has
// applied the umask of whoever makes a file, and each file that the kernel
// knows takes a descriptor.
func prepareProcess() {
	unix.Umask(0)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	const most = 1 << 20 // what /proc/sys/fs/nr_open allows by default
	for _, max := range []uint64{most, limit.Max} {
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max, Max: max}) == nil {
			return
		}
	}
}

// prepareFolders makes the three paths absolute, clears a dead mount out of
// the way, and makes sure that the log is not behind the mount that needs it.
func (c *mountCmd) prepareFolders(s streams) error {
	stale, err := fusefs.DetachStale(c.MountPoint)
	if err != nil {
		return err
	}
	if stale {
		fmt.Fprintf(s.Out, "sneck: detached a dead mount from %s\n", c.MountPoint)
	}
	// Before the log is made or changed: what cannot be mounted leaves no trace.
	if c.Source, c.MountPoint, err = fusefs.Check(c.Source, c.MountPoint); err != nil {
		return err
	}
	if c.Log, err = filepath.Abs(c.Log); err != nil {
		return err
	}
	// The log may not exist yet: what counts is the part of its path that does.
	existing := c.Log
	for {
		resolved, err := fusefs.Resolve(existing)
		if err == nil {
			if fusefs.Within(resolved, c.MountPoint) {
				return fmt.Errorf("log %s: it lies behind the mount point %s", c.Log, c.MountPoint)
			}
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("log: %w", err)
		}
		existing = filepath.Dir(existing)
	}
}

// releasePredecessors releases the locks of all earlier mounts on this log:
// their descriptors are dead, so nobody can let go of them, or reclaim them. When
// nobody else has used the log that is the end of the grace period too.
func releasePredecessors(m *sneck.Manager, s streams) error {
	clients := make(map[string]bool)
	add := func(client string) {
		if strings.HasPrefix(client, fusefs.ClientPrefix) {
			clients[client] = true
		}
	}
	for held := range m.Locks(lock.Filter{}) {
		add(held.Owner.Client)
	}
	for share := range m.Shares(lock.Filter{}) {
		add(share.Owner.Client)
	}
	released := 0
	for client := range clients {
		n, err := m.ReleaseClient(context.Background(), client)
		if err != nil {
			return fmt.Errorf("release the locks of a previous mount: %w", err)
		}
		released += n
	}
	if m.Epoch() > 1 {
		plural := "s"
		if released == 1 {
			plural = ""
		}
		fmt.Fprintf(s.Out, "sneck: epoch %d: released %d lock%s of a previous mount\n", m.Epoch(), released, plural)
	}
	return nil
}

// serve waits until the file system is unmounted by anybody. The first signal
// unmounts it, or detaches it if it is in use; the second gives up on whoever
// still uses it.
func serve(server *fusefs.Server, signals <-chan os.Signal, s streams) error {
	select {
	case <-server.Done():
		return nil
	case sig := <-signals:
		fmt.Fprintf(s.Out, "sneck: %v: unmounting %s\n", sig, server.MountPoint())
	}
	err := server.Unmount()
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	fmt.Fprintf(s.Err, "sneck: %s is in use (%d open): detached it; serving until the last user is gone, a second signal ends that\n",
		server.MountPoint(), server.Open())
	if err := server.Detach(); err != nil {
		return err
	}
	select {
	case <-server.Done():
		return nil
	case sig := <-signals:
		// The end of the process closes /dev/fuse, and with it the mount.
		return fmt.Errorf("%v: ended with %d files and folders still open", sig, server.Open())
	}
}
