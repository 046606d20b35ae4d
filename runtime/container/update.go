package container

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	"github.com/docker/go-units"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// cpuPeriod is the kernel's and Docker's: 100 ms.
const cpuPeriod = 100_000

// memoryHeadroom is what must be free under a limit that is lowered: what a container uses moves while we look.
const memoryHeadroom = 1 << 20

// Update changes what can be changed. The record is written before the kernel is told: a crash between the two leaves a
// container that has the new limits from its next start on, and whoever asked asks again.
func (r *Runtime) Update(ctx context.Context, id runtime.ID, t runtime.Change) (runtime.Info, error) {
	c, err := r.hold(ctx, id)
	if err != nil {
		return runtime.Info{}, err
	}
	defer c.release()
	r.refresh(c)
	old := c.rec.Spec
	spec := old.With(t)
	if err := checkSpec(spec); err != nil {
		return c.info(), fmt.Errorf("update container %s: %w", id, err)
	}
	running := c.info().State == runtime.Running
	if running && spec.Resources != old.Resources {
		if err := r.roomUnder(ctx, c, spec.Resources, old.Resources); err != nil {
			return c.info(), err
		}
	}
	if err := c.record(spec); err != nil {
		return c.info(), kindOf(fmt.Errorf("update container %s: %w", id, err))
	}
	if !running || spec.Resources == old.Resources {
		return c.info(), nil
	}
	if err := r.limit(&spec); err != nil {
		if r.refresh(c); c.info().State != runtime.Running {
			return c.info(), nil // it ended meanwhile; the record counts
		}
		_ = r.limit(&old) // as far as it goes
		if rerr := c.record(old); rerr != nil {
			r.log.Warn("the limits of a container differ from what is noted of them", "container", id, "err", rerr)
		}
		return c.info(), fmt.Errorf("update container %s: %w: %v", id, runtime.ErrConflict, err)
	}
	r.log.Info("container updated", "container", id, "memory", spec.Resources.MemoryBytes, "nanoCPUs", spec.Resources.NanoCPUs, "pids", spec.Resources.PIDs)
	return c.info(), nil
}

// record writes a container's spec down, on disk first.
func (c *container) record(spec runtime.Spec) error {
	rec := c.rec
	rec.Spec = spec
	return c.rewrite(rec)
}

// recordAddress writes down the address that the container has on the network, if that is not known yet.
func (c *container) recordAddress(addr netip.Addr) error {
	if c.rec.Address == addr {
		return nil
	}
	rec := c.rec
	rec.Address = addr
	return c.rewrite(rec)
}

// rewrite replaces the record, on disk first. The caller has the container's op.
func (c *container) rewrite(rec stage.Record) error {
	if err := stage.WriteJSON(c.dir, stage.FileRecord, rec); err != nil {
		return err
	}
	c.mu.Lock()
	c.rec = rec
	c.mu.Unlock()
	return nil
}

// roomUnder refuses a lower limit of memory that is under what the container uses now: v1 fails halfway then, and v2 kills.
// What the kernel can drop at once does not count.
func (r *Runtime) roomUnder(ctx context.Context, c *container, to, from runtime.Resources) error {
	if to.MemoryBytes == 0 || from.MemoryBytes != 0 && to.MemoryBytes >= from.MemoryBytes {
		return nil
	}
	s, err := r.Stats(ctx, c.id)
	if err != nil {
		return nil // it has just ended; the kernel has the last word
	}
	if s.MemoryBytes+memoryHeadroom > to.MemoryBytes {
		return conflictf("update container %s: it uses %s of memory, which does not fit under a limit of %s", c.id,
			units.BytesSize(float64(s.MemoryBytes)), units.BytesSize(float64(to.MemoryBytes)))
	}
	return nil
}

// limit tells the kernel, and libcontainer's notes.
func (r *Runtime) limit(s *runtime.Spec) error {
	to, t := s.Resources, s.Tuning
	if t == nil {
		t = &runtime.Tuning{}
	}
	cont, err := libcontainer.Load(r.cfg.StateDir, string(s.ID))
	if err != nil {
		return err
	}
	config := cont.Config()
	res := *config.Cgroups.Resources
	cg := *config.Cgroups
	cg.Resources, config.Cgroups = &res, &cg
	res.SkipDevices = true // they do not change, and on v2 each write adds a program
	const none = -1
	period := cmp.Or(t.CPUPeriod, cpuPeriod)
	res.CpuQuota, res.CpuPeriod = none, uint64(period)
	if to.NanoCPUs > 0 {
		res.CpuQuota = to.NanoCPUs * period / 1e9
	}
	res.Memory, res.MemorySwap = none, 0
	if to.MemoryBytes > 0 {
		res.Memory = to.MemoryBytes
	}
	if stage.SwapAccounted() {
		res.MemorySwap = cmp.Or(t.SwapBytes, res.Memory)
	}
	pids := int64(none)
	if to.PIDs > 0 {
		pids = to.PIDs
	}
	res.PidsLimit = &pids
	switch {
	case to.MemoryReservationBytes > 0:
		res.MemoryReservation = to.MemoryReservationBytes
	case cgroups.IsCgroup2UnifiedMode():
		// "No reservation" is no protection there, for which libcontainer has no word but this.
		res.MemoryReservation = 0
		res.Unified = map[string]string{"memory.low": "0"}
	default:
		res.MemoryReservation = none
	}
	return cont.Set(config)
}
