package fake

import (
	"context"
	"fmt"
	"time"

	"shoal/runtime"
)

// Boot counts from when the machine was made, by package time.
func (m *machine) Boot() time.Duration { return time.Since(m.booted) }

// Renew moves the moment at which the machine itself, and nobody's handle on it, kills a leased container.
func (m *machine) Renew(_ context.Context, id runtime.ID, until time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	switch {
	case c == nil:
		return fmt.Errorf("renew %s: %w", id, runtime.ErrNotFound)
	case c.spec.Lease <= 0:
		return fmt.Errorf("renew %s: it has no lease: %w", id, runtime.ErrConflict)
	}
	c.until = max(c.until, until)
	return nil
}

// leaseLocked refuses a start without a lease, and ends the run of p when its lease does.
func (c *container) leaseLocked(p *process) error {
	if c.spec.Lease <= 0 {
		return nil
	}
	if c.until <= c.m.Boot() {
		return fmt.Errorf("its lease has ended, or it was never renewed: %w", runtime.ErrConflict)
	}
	if p == nil {
		return nil
	}
	c.m.programs.Go(func() {
		for {
			c.m.mu.Lock()
			left := c.until - c.m.Boot()
			if left <= 0 {
				p.expired = true
			}
			c.m.mu.Unlock()
			if left <= 0 {
				p.kill(128 + 9)
				return
			}
			select {
			case <-time.After(left):
			case <-p.gone:
				return
			}
		}
	})
	return nil
}

// RunningLeased lists the leased containers that run, for tests that look all the time.
func (m *machine) RunningLeased() (out []runtime.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		if c.spec.Lease > 0 && c.proc != nil {
			out = append(out, runtime.Info{ID: c.info.ID, Name: c.info.Name, Labels: c.info.Labels}) // labels never change
		}
	}
	return out
}
