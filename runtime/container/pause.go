package container

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/cgroups"

	"shoal/runtime"
)

// Pause freezes all processes of a container.
func (r *Runtime) Pause(ctx context.Context, id runtime.ID) error { return r.setFrozen(ctx, id, true) }

// Resume lets them go on.
func (r *Runtime) Resume(ctx context.Context, id runtime.ID) error {
	return r.setFrozen(ctx, id, false)
}

func (r *Runtime) setFrozen(ctx context.Context, id runtime.ID, frozen bool) error {
	what := map[bool]string{true: "pause", false: "resume"}[frozen]
	c, err := r.find(id)
	if err != nil {
		return err
	}
	if r.refresh(c); c.info().State != runtime.Running { // a copy of it must not end for that
		return conflictf("%s container %s: it is not running", what, id)
	}
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	r.refresh(c)
	c.mu.Lock()
	running, was := c.state == runtime.Running, c.paused
	c.mu.Unlock()
	if !running {
		return conflictf("%s container %s: it is not running", what, id)
	}
	if was == frozen {
		return nil
	}
	if err := r.freeze(id, frozen); err != nil {
		if r.refresh(c); c.info().State != runtime.Running {
			return conflictf("%s container %s: it has ended", what, id)
		}
		return kindOf(fmt.Errorf("%s container %s: %w", what, id, err))
	}
	c.mu.Lock()
	c.paused = frozen && c.state == runtime.Running
	c.mu.Unlock()
	r.log.Info("container "+what+"d", "container", id)
	r.events.publish(runtime.Event{Kind: runtime.EventPaused, ID: id, At: time.Now()})
	return nil
}

func (r *Runtime) freeze(id runtime.ID, frozen bool) error {
	m, err := r.cgroupOf(id)
	if err != nil {
		return err
	}
	if frozen {
		return m.Freeze(cgroups.Frozen)
	}
	return m.Freeze(cgroups.Thawed)
}

// isFrozen asks the kernel: an agent before us may have paused it.
func (r *Runtime) isFrozen(id runtime.ID) bool {
	m, err := r.cgroupOf(id)
	if err != nil {
		return false
	}
	s, err := m.GetFreezerState()
	return err == nil && s == cgroups.Frozen
}

// thaw lets a paused container go on for its end.
func (r *Runtime) thaw(c *container) {
	c.mu.Lock()
	was := c.paused
	c.paused = false
	c.mu.Unlock()
	if !was {
		return
	}
	if err := r.freeze(c.id, false); err != nil {
		r.log.Warn("a paused container could not be resumed for its end", "container", c.id, "err", err)
	}
}
