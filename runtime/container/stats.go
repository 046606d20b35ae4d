package container

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"

	"shoal/runtime"
)

// noLimit is more than any machine has: cgroup v1 tells a missing limit as a number near 2^63, rounded to pages.
const noLimit = 1 << 60

// Stats tells live figures.
func (r *Runtime) Stats(ctx context.Context, id runtime.ID) (runtime.Stats, error) {
	c, err := r.find(id)
	if err != nil {
		return runtime.Stats{}, err
	}
	r.refresh(c)
	if in := c.info(); in.State != runtime.Running {
		return runtime.Stats{}, conflictf("stats of container %s: it is not running", id)
	}
	cont, err := libcontainer.Load(r.cfg.StateDir, string(id))
	if err == nil {
		var s *libcontainer.Stats
		if s, err = cont.Stats(); err == nil {
			return statsOf(s.CgroupStats), nil
		}
	}
	r.refresh(c)
	if in := c.info(); in.State != runtime.Running {
		return runtime.Stats{}, conflictf("stats of container %s: it is not running", id)
	}
	return runtime.Stats{}, fmt.Errorf("stats of container %s: %w", id, err)
}

func statsOf(s *cgroups.Stats) runtime.Stats {
	m := s.MemoryStats
	// What the kernel can drop at once does not count: Docker subtracts the inactive file cache too.
	inactive := m.Stats["inactive_file"]
	if v, ok := m.Stats["total_inactive_file"]; ok { // v1, with what is below
		inactive = v
	}
	out := runtime.Stats{
		CPU:         time.Duration(s.CpuStats.CpuUsage.TotalUsage),
		MemoryBytes: int64(m.Usage.Usage - min(inactive, m.Usage.Usage)),
		PIDs:        int64(s.PidsStats.Current),
	}
	if m.Usage.Limit < noLimit {
		out.MemoryLimit = int64(m.Usage.Limit)
	}
	return out
}
