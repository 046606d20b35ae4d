package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
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
			out := statsOf(s.CgroupStats)
			out.NetReceived, out.NetSent = netBytes(c.info().PID)
			return out, nil
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
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			out.BlockRead += int64(e.Value)
		case "write":
			out.BlockWritten += int64(e.Value)
		}
	}
	if m.Usage.Limit < noLimit {
		out.MemoryLimit = int64(m.Usage.Limit)
	}
	return out
}

// netBytes adds up what the interfaces of a process's network namespace carried, but for lo; zeros when it is gone.
func netBytes(pid int) (received, sent int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, figures, ok := strings.Cut(line, ":")
		f := strings.Fields(figures)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		in, _ := strconv.ParseInt(f[0], 10, 64) // the kernel's own numbers
		out, _ := strconv.ParseInt(f[8], 10, 64)
		received, sent = received+in, sent+out
	}
	return received, sent
}
