package stage

import (
	"fmt"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// LateQuota is a CPU quota that is set after the first process is parked: it would slow that one's preparation down
// fivefold, measured at 0.05 CPU. The zero value is no quota.
type LateQuota struct {
	quota  int64
	period uint64
}

// TakeQuota takes the quota out of a configuration with which a container is about to be created.
func TakeQuota(config *configs.Config) LateQuota {
	r := config.Cgroups.Resources
	late := LateQuota{r.CpuQuota, r.CpuPeriod}
	if late.quota > 0 {
		r.CpuQuota, r.CpuPeriod = 0, 0
	}
	return late
}

// Apply sets the quota on a container whose first process is parked.
func (l LateQuota) Apply(c *libcontainer.Container) error {
	if l.quota <= 0 {
		return nil
	}
	config := c.Config()
	resources := *config.Cgroups.Resources
	resources.CpuQuota, resources.CpuPeriod = l.quota, l.period
	cg := *config.Cgroups
	cg.Resources, config.Cgroups = &resources, &cg
	if err := c.Set(config); err != nil {
		return fmt.Errorf("limit the cpu: %w", err)
	}
	return nil
}

// applyTo is the same for a container around an init that waited.
func (l LateQuota) applyTo(b *built, id string, config *configs.Config) error {
	if l.quota <= 0 {
		return nil
	}
	r := config.Cgroups.Resources
	r.CpuQuota, r.CpuPeriod = l.quota, l.period
	if err := b.cgroup.Set(r); err != nil {
		return fmt.Errorf("limit the cpu: %w", err)
	}
	return b.save(id, config)
}
