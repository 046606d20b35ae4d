package container

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// Boot is the kernel's CLOCK_BOOTTIME.
func (r *Runtime) Boot() time.Duration { return stage.BootTime() }

// Renew tells the container's monitor until when it may live. A signal carries it, so there is nothing that could be
// full, blocked or left over: an agent that adopts a container needs only its monitor's pidfd.
func (r *Runtime) Renew(_ context.Context, id runtime.ID, until time.Duration) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	if c.rec.Spec.Lease <= 0 {
		return conflictf("renew container %s: it has no lease", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = max(c.until, until)
	switch {
	case c.state == runtime.Stopped:
		return nil // for its next start
	case c.state != runtime.Running || c.pidfd < 0:
		return nil
	}
	if err := stage.SendLease(c.pidfd, c.until); err != nil && err != unix.ESRCH {
		return fmt.Errorf("renew container %s: %w", id, err)
	}
	return nil
}

// awaitMonitor waits for a launcher whose command runs to become the monitor, because a launcher would not hear of
// renewals: a millisecond. One that does not is ending, which is noticed as of any.
func awaitMonitor(pid int) {
	for end := time.Now().Add(adoptPatience); !isMonitor(pid) && time.Now().Before(end); {
		if _, state, err := stage.ProcessStat(pid); err != nil || state == 'Z' {
			return
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// leaseForStart gives until when a start may let the container live; 0 when it needs no lease.
func (c *container) leaseForStart() (time.Duration, error) {
	if c.rec.Spec.Lease <= 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until <= stage.BootTime() {
		return 0, conflictf("start container %s: its lease has ended, or it was never renewed", c.id)
	}
	return c.until, nil
}
