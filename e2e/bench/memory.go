package main

import (
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

const (
	manyContainers = 50
	memoryMachines = 3
)

var memoryGroup = group{
	name: "memory",
	how: "smaps_rollup. Idle: all agents of three, the leader among them, 5 s after they formed, a sample each second. With 50 containers: " +
		"the agent of the machine that runs them all (and leads). Monitors: each of these 50. PSS divides pages among all processes that map them.",
	run: func(b *bench) error { return b.withCluster(memoryMachines, measureMemory) },
}

func measureMemory(c *cluster) error {
	idle := newUsages("agent, idle", MiB, &Goal{Bound: 60})
	busy := newUsages("agent, 50 containers", MiB, nil)
	monitors := newUsages("monitor of a container", KiB, nil)
	monitors.pss.goal = &Goal{Bound: 256}
	if err := c.pause(5 * time.Second); err != nil {
		return err
	}
	for range c.samples {
		if err := c.pause(time.Second); err != nil {
			return err
		}
		for _, m := range c.net.Machines() {
			if err := idle.sample(m.AgentPID()); err != nil {
				return err
			}
		}
	}
	if err := c.loadImage(); err != nil {
		return err
	}
	leader := c.net.Leader()
	if leader == nil {
		return fmt.Errorf("no machine leads")
	}
	spec := sleepers("many", manyContainers)
	spec.Services[0].Constraints = []job.Constraint{{Key: "node.hostname", Op: "==", Value: leader.Name}}
	if _, err := c.start(leader, spec); err != nil {
		return err
	}
	if err := c.pause(5 * time.Second); err != nil {
		return err
	}
	for range c.samples {
		if err := c.pause(time.Second); err != nil {
			return err
		}
		if err := busy.sample(leader.AgentPID()); err != nil {
			return err
		}
	}
	for _, pid := range leader.Monitors() {
		if err := monitors.sample(pid); err != nil {
			return err
		}
	}
	if got := len(monitors.rss.samples); got != manyContainers {
		return fmt.Errorf("%d containers have %d monitors", manyContainers, got)
	}
	return c.keep("memory", append(append(idle.all(), busy.all()...), monitors.all()...)...)
}

// usages are the three ways to count memory, for one kind of process.
type usages struct{ rss, pss, private *series }

func newUsages(what string, unit Unit, rssGoal *Goal) *usages {
	return &usages{
		rss:     &series{name: what + ": RSS", unit: unit, goal: rssGoal},
		pss:     &series{name: what + ": PSS", unit: unit},
		private: &series{name: what + ": private", unit: unit},
	}
}

func (u *usages) all() []*series { return []*series{u.rss, u.pss, u.private} }

func (u *usages) sample(pid int) error {
	v, err := machines.ReadMemory(pid)
	if err != nil {
		return err
	}
	scale := 1.0
	if u.rss.unit == MiB {
		scale = 1024
	}
	u.rss.add(v.RSS / scale)
	u.pss.add(v.PSS / scale)
	u.private.add(v.Private / scale)
	return nil
}
