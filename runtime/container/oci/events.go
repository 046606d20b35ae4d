package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/types"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "print figures of a container from time to time, and when it runs out of memory", ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "`TIME` between figures"},
			&cli.BoolFlag{Name: "stats", Usage: "print the figures once"},
		},
		Action: events,
	}
}

func events(c *cli.Context) error {
	if err := want(c, 1, 1); err != nil {
		return err
	}
	cont, err := load(c)
	if err != nil {
		return err
	}
	interval := c.Duration("interval")
	if interval <= 0 {
		return errors.New("--interval must be more than nothing")
	}
	status, err := cont.Status()
	if err != nil {
		return err
	}
	if status == libcontainer.Stopped {
		return fmt.Errorf("container %s is not running", cont.ID())
	}
	out := json.NewEncoder(os.Stdout)
	figures := func() error {
		s, err := cont.Stats()
		if err != nil {
			return err
		}
		return out.Encode(types.Event{Type: "stats", ID: cont.ID(), Data: figuresOf(s)})
	}
	if c.Bool("stats") {
		return figures()
	}
	oom, err := cont.NotifyOOM()
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok { // the cgroup is gone
				return nil
			}
			if err := out.Encode(types.Event{Type: "oom", ID: cont.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			if err := figures(); err != nil {
				logrus.Error(err)
			}
		}
	}
}

// figuresOf brings libcontainer's figures into the shape that runc prints.
func figuresOf(ls *libcontainer.Stats) *types.Stats {
	cg := ls.CgroupStats
	if cg == nil {
		return nil
	}
	var s types.Stats
	s.Pids = types.Pids{Current: cg.PidsStats.Current, Limit: cg.PidsStats.Limit}
	use := cg.CpuStats.CpuUsage
	s.CPU.Usage = types.CpuUsage{
		Total: use.TotalUsage, Percpu: use.PercpuUsage, PercpuKernel: use.PercpuUsageInKernelmode, PercpuUser: use.PercpuUsageInUsermode,
		Kernel: use.UsageInKernelmode, User: use.UsageInUsermode,
	}
	throttled := cg.CpuStats.ThrottlingData
	s.CPU.Throttling = types.Throttling{Periods: throttled.Periods, ThrottledPeriods: throttled.ThrottledPeriods, ThrottledTime: throttled.ThrottledTime}
	s.CPU.PSI = cg.CpuStats.PSI
	s.CPUSet = types.CPUSet(cg.CPUSetStats)
	m := cg.MemoryStats
	s.Memory = types.Memory{
		Cache: m.Cache, Kernel: memoryEntry(m.KernelUsage), KernelTCP: memoryEntry(m.KernelTCPUsage), Swap: memoryEntry(m.SwapUsage),
		Usage: memoryEntry(m.Usage), Raw: m.Stats, PSI: m.PSI,
	}
	b := cg.BlkioStats
	s.Blkio = types.Blkio{
		IoServiceBytesRecursive: blockEntries(b.IoServiceBytesRecursive), IoServicedRecursive: blockEntries(b.IoServicedRecursive),
		IoQueuedRecursive: blockEntries(b.IoQueuedRecursive), IoServiceTimeRecursive: blockEntries(b.IoServiceTimeRecursive),
		IoWaitTimeRecursive: blockEntries(b.IoWaitTimeRecursive), IoMergedRecursive: blockEntries(b.IoMergedRecursive),
		IoTimeRecursive: blockEntries(b.IoTimeRecursive), SectorsRecursive: blockEntries(b.SectorsRecursive), PSI: b.PSI,
	}
	s.Hugetlb = map[string]types.Hugetlb{}
	for size, h := range cg.HugetlbStats {
		s.Hugetlb[size] = types.Hugetlb{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	s.NetworkInterfaces = ls.Interfaces
	return &s
}

func memoryEntry(m cgroups.MemoryData) types.MemoryEntry {
	return types.MemoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
}

func blockEntries(all []cgroups.BlkioStatEntry) []types.BlkioEntry {
	out := make([]types.BlkioEntry, 0, len(all))
	for _, e := range all {
		out = append(out, types.BlkioEntry(e))
	}
	return out
}
