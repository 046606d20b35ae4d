package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
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

// usage is the memory of a process in KiB.
type usage struct{ rss, pss, private float64 }

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
	for _, pid := range monitorsOf(leader) {
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
	v, err := readUsage(pid)
	if err != nil {
		return err
	}
	scale := 1.0
	if u.rss.unit == MiB {
		scale = 1024
	}
	u.rss.add(v.rss / scale)
	u.pss.add(v.pss / scale)
	u.private.add(v.private / scale)
	return nil
}

func readUsage(pid int) (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(b)
}

// parseUsage reads smaps_rollup (proc(5)).
func parseUsage(b []byte) (usage, error) {
	found := map[string]float64{}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[2] == "kB" {
			v, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				return usage{}, fmt.Errorf("smaps_rollup: %w", err)
			}
			found[strings.TrimSuffix(f[0], ":")] = v
		}
	}
	u := usage{found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"]}
	if u.rss == 0 {
		return u, fmt.Errorf("smaps_rollup has no Rss")
	}
	return u, nil
}

// monitorsOf finds the monitor processes of a machine's containers by the name that they give themselves.
func monitorsOf(m *machines.Machine) []int {
	var out []int
	for pid := range m.Processes() {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) == "shoal-monitor" {
			out = append(out, pid)
		}
	}
	return out
}
