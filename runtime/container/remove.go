package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// monitorPatience is what a monitor gets to report the end of its container.
const monitorPatience = 5 * time.Second

// Remove kills if needed and removes everything of the container but named volumes.
func (r *Runtime) Remove(ctx context.Context, id runtime.ID) error {
	if !validID.MatchString(string(id)) {
		return nil // no container can have that id, and it must not become a path
	}
	c, err := r.hold(ctx, id)
	if errors.Is(err, runtime.ErrNotFound) {
		// An earlier Remove may have failed half-way.
		if _, err := os.Lstat(r.containerDir(id)); err == nil {
			return r.wipe(ctx, id)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer c.release()
	// Before the first thing is gone: whatever happens from here on, this is not a container any more.
	if err := os.Remove(filepath.Join(c.dir, stage.FileRecord)); err != nil && !isAbsent(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	reach("remove record")
	defer r.forget(c)
	c.mu.Lock()
	c.removed = true
	c.tellLocked()
	running, pid, ended := c.state == runtime.Running, c.start.PID, c.ended
	c.killed = true
	c.mu.Unlock()
	if running {
		if err := r.endRun(ctx, c, pid, ended); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	reach("remove ended")
	if err := r.wipe(ctx, id); err != nil {
		return err
	}
	reach("remove directory")
	r.mu.Lock()
	last := len(r.containers) == 1
	r.mu.Unlock()
	if last {
		r.dropMonitorsCgroup()
	}
	return nil
}

// endRun ends a run in the ordinary way, so that the monitor reports and whoever waits for the exit hears of it; if the
// monitor does not, it is killed too.
func (r *Runtime) endRun(ctx context.Context, c *container, pid int, ended <-chan struct{}) error {
	if err := r.signalFirst(c, pid, unix.SIGKILL); err != nil {
		return err
	}
	done, err := r.awaitEnd(ctx, c, ended, monitorPatience)
	if done || err != nil {
		return err
	}
	return r.forceEnd(ctx, c, ended)
}

// wipe removes all that can exist under an id, in any state of completeness, in an order in which nothing works on what
// is gone. It is repeated until it succeeds: by Remove, by Create of the same id, by the next New.
func (r *Runtime) wipe(ctx context.Context, id runtime.ID) error {
	dir := r.containerDir(id)
	if err := r.clearRun(id, dir); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	reach("remove cleared")
	var errs []error
	if r.cfg.Network != nil {
		errs = append(errs, r.cfg.Network.Detach(ctx, string(id)))
	}
	reach("remove detached")
	if r.cfg.Volumes != nil {
		errs = append(errs, r.cfg.Volumes.Release(string(id)))
	}
	reach("remove volumes")
	r.cfg.Images.Release(string(id))
	reach("remove image")
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := removeTree(dir); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// removeTree removes a directory. A mount in somebody else's namespace can hold an entry for a moment.
func removeTree(dir string) error {
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(wait)
	}
	return err
}
