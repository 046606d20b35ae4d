package fake

import (
	"context"
	"fmt"
	"maps"

	"shoal/runtime"
)

// Update changes what can be changed of a container. A memory limit under what it uses (Stats) is refused.
func (m *machine) Update(ctx context.Context, id runtime.ID, t runtime.Change) (runtime.Info, error) {
	if err := m.enter(ctx, CallUpdate, string(id), m.latency); err != nil {
		return runtime.Info{}, fmt.Errorf("update %s: %w", id, err)
	}
	c, err := m.take(ctx, id)
	if err != nil {
		return runtime.Info{}, fmt.Errorf("update %s: %w", id, err)
	}
	defer c.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	spec := c.spec.With(t)
	if err := check(spec); err != nil {
		return c.infoLocked(), fmt.Errorf("update %s: %w", id, err)
	}
	if limit := t.Resources.MemoryBytes; limit > 0 && c.proc != nil && c.usesLocked() > limit {
		return c.infoLocked(), fmt.Errorf("update %s: it uses %d bytes of memory, which do not fit under a limit of %d: %w", id, c.usesLocked(), limit, runtime.ErrConflict)
	}
	c.spec = spec
	c.info.Labels, c.info.Resources = maps.Clone(t.Labels), t.Resources
	return c.infoLocked(), nil
}
