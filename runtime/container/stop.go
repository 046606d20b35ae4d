package container

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// refreshEvery is how often a waiting Stop looks for itself, in case nobody runs Run.
const refreshEvery = 200 * time.Millisecond

// Stop asks the container to end, and makes it after the grace period.
func (r *Runtime) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	c, err := r.hold(ctx, id)
	if err != nil {
		return err
	}
	defer c.release()
	r.refresh(c)
	c.mu.Lock()
	running, pid, ended := c.state == runtime.Running, c.start.PID, c.ended
	c.mu.Unlock()
	if !running {
		return nil
	}
	if grace < 0 {
		grace = stopGrace(c.rec)
	}
	r.thaw(c) // frozen, it would not hear
	if grace > 0 {
		if err := r.signalFirst(c, pid, stopSignal(c.rec)); err != nil {
			return fmt.Errorf("stop container %s: %w", id, err)
		}
		reach("stop signalled")
		if done, err := r.awaitEnd(ctx, c, ended, grace); done || err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.killed = true
	c.mu.Unlock()
	if err := r.signalFirst(c, pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	done, err := r.awaitEnd(ctx, c, ended, killPatience)
	if done || err != nil {
		return err
	}
	if err := r.forceEnd(ctx, c, ended); err != nil {
		return fmt.Errorf("stop container %s: %w", id, err)
	}
	return nil
}

// forceEnd ends a run whose first process was killed and whose monitor does not say so: it is stopped itself, or cannot
// write. Or the process cannot be killed: then this fails.
func (r *Runtime) forceEnd(ctx context.Context, c *container, ended <-chan struct{}) error {
	if err := r.killMonitor(c.dir); err != nil {
		return err
	}
	r.refresh(c)
	done, err := r.awaitEnd(ctx, c, ended, 2*killPatience)
	if err == nil && !done {
		err = fmt.Errorf("its end is not noticed %v after its monitor was killed", 2*killPatience)
	}
	return err
}

// awaitEnd waits for the end of a run; false when the limit passed first.
func (r *Runtime) awaitEnd(ctx context.Context, c *container, ended <-chan struct{}, limit time.Duration) (bool, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	look := time.NewTicker(refreshEvery)
	defer look.Stop()
	for {
		select {
		case <-ended:
			return true, nil
		case <-look.C:
			r.refresh(c)
		case <-timeout.C:
			r.refresh(c)
			select {
			case <-ended:
				return true, nil
			default:
				return false, nil
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// Signal sends a signal to the container's first process.
func (r *Runtime) Signal(ctx context.Context, id runtime.ID, signal string) error {
	sig, err := stage.ParseSignal(signal)
	if err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	c, err := r.find(id)
	if err != nil {
		return err
	}
	r.refresh(c)
	c.mu.Lock()
	running, pid := c.state == runtime.Running, c.start.PID
	if running && sig == unix.SIGKILL {
		c.killed = true
	}
	c.mu.Unlock()
	if !running {
		return conflictf("signal container %s: it is not running", id)
	}
	if err := r.signalFirst(c, pid, sig); err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// signalFirst signals the first process of a running container. Its pid cannot have been used anew while its monitor
// lives, which has not waited for it: so the monitor is looked at after the pid is pinned.
func (r *Runtime) signalFirst(c *container, pid int, sig unix.Signal) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	c.mu.Lock()
	gone := c.pidfd < 0 || readable(c.pidfd)
	c.mu.Unlock()
	if gone {
		return nil // it ended meanwhile
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return err
	}
	if sig == unix.SIGKILL {
		r.thaw(c) // on cgroup v1 a frozen process does not die
	}
	return nil
}
