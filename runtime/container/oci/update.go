package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func updateCommand() *cli.Command {
	return &cli.Command{
		Name: "update", Usage: "change a container's limits", ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "resources", Aliases: []string{"r"}, Usage: "`FILE` with the limits as in config.json, or - for standard input; other flags are then ignored"},
			&cli.IntFlag{Name: "blkio-weight", Usage: "10 to 1000"},
			&cli.StringFlag{Name: "cpu-period", Usage: "microseconds"},
			&cli.StringFlag{Name: "cpu-quota", Usage: "microseconds in a period"},
			&cli.StringFlag{Name: "cpu-burst", Usage: "microseconds"},
			&cli.StringFlag{Name: "cpu-share", Usage: "relative weight"},
			&cli.StringFlag{Name: "cpu-rt-period", Usage: "microseconds"},
			&cli.StringFlag{Name: "cpu-rt-runtime", Usage: "microseconds"},
			&cli.StringFlag{Name: "cpu-idle", Usage: "1: SCHED_IDLE"},
			&cli.StringFlag{Name: "cpuset-cpus"},
			&cli.StringFlag{Name: "cpuset-mems"},
			&cli.StringFlag{Name: "memory", Usage: "`BYTES`, -1 for no limit"},
			&cli.StringFlag{Name: "memory-reservation", Usage: "`BYTES`"},
			&cli.StringFlag{Name: "memory-swap", Usage: "`BYTES` of memory and swap together, -1 for no limit"},
			&cli.StringFlag{Name: "kernel-memory", Hidden: true, Usage: "ignored"},
			&cli.StringFlag{Name: "kernel-memory-tcp", Hidden: true, Usage: "ignored"},
			&cli.IntFlag{Name: "pids-limit"},
		},
		Action: update,
	}
}

func update(c *cli.Context) error {
	if err := want(c, 1, 1); err != nil {
		return err
	}
	cont, err := load(c)
	if err != nil {
		return err
	}
	status, err := cont.Status()
	if err != nil {
		return err
	}
	if status == libcontainer.Stopped {
		return fmt.Errorf("container %s is not running", cont.ID())
	}
	r, err := wantedLimits(c)
	if err != nil {
		return err
	}
	config := cont.Config()
	to := config.Cgroups.Resources
	setCPU(to, r.CPU)
	setMemory(to, r.Memory)
	setBlockIO(to, r.BlockIO)
	if r.Pids != nil {
		to.PidsLimit = r.Pids.Limit
	}
	to.Unified = r.Unified
	config.Cgroups.SkipDevices = true // device rules cannot be changed here, and somebody else may have added some
	return cont.Set(config)
}

// wantedLimits reads the flags, or the file.
func wantedLimits(c *cli.Context) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{}, Pids: &specs.LinuxPids{}}
	if file := c.String("resources"); file != "" {
		from := os.Stdin
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			from = f
		}
		if err := json.NewDecoder(from).Decode(r); err != nil {
			return nil, fmt.Errorf("read the limits: %w", err)
		}
		return r, nil
	}
	if w := c.Int("blkio-weight"); w != 0 {
		weight := uint16(w)
		r.BlockIO.Weight = &weight
	}
	r.CPU.Cpus, r.CPU.Mems = c.String("cpuset-cpus"), c.String("cpuset-mems")
	for flag, to := range map[string]**uint64{
		"cpu-burst": &r.CPU.Burst, "cpu-period": &r.CPU.Period, "cpu-rt-period": &r.CPU.RealtimePeriod, "cpu-share": &r.CPU.Shares,
	} {
		if err := number(c, flag, to, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }); err != nil {
			return nil, err
		}
	}
	for flag, to := range map[string]**int64{"cpu-quota": &r.CPU.Quota, "cpu-rt-runtime": &r.CPU.RealtimeRuntime, "cpu-idle": &r.CPU.Idle} {
		if err := number(c, flag, to, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }); err != nil {
			return nil, err
		}
	}
	for flag, to := range map[string]**int64{"memory": &r.Memory.Limit, "memory-swap": &r.Memory.Swap, "memory-reservation": &r.Memory.Reservation} {
		if err := number(c, flag, to, func(s string) (int64, error) {
			if s == "-1" {
				return -1, nil
			}
			return units.RAMInBytes(s)
		}); err != nil {
			return nil, err
		}
	}
	if c.IsSet("pids-limit") {
		limit := c.Int64("pids-limit")
		r.Pids.Limit = &limit
	}
	return r, nil
}

func number[T any](c *cli.Context, flag string, to **T, parse func(string) (T, error)) error {
	s := c.String(flag)
	if s == "" {
		return nil
	}
	n, err := parse(s)
	if err != nil {
		return fmt.Errorf("--%s %q: %w", flag, s, err)
	}
	*to = &n
	return nil
}

// set copies what is given.
func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func setCPU(to *cgroups.Resources, cpu *specs.LinuxCPU) {
	if cpu == nil {
		return
	}
	var period uint64
	var quota int64
	set(&period, cpu.Period)
	set(&quota, cpu.Quota)
	// The kernel wants both together; of two that are not there both go back to none.
	if period != 0 || quota == 0 {
		to.CpuPeriod = period
	}
	if quota != 0 || period == 0 {
		to.CpuQuota = quota
	}
	to.CpuBurst, to.CPUIdle = cpu.Burst, cpu.Idle
	if cpu.Shares != nil {
		to.CpuShares, to.CpuWeight = *cpu.Shares, cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
	} else if cpu.Idle != nil {
		to.CpuShares = 0 // a weight is refused beside it
	}
	set(&to.CpuRtPeriod, cpu.RealtimePeriod)
	set(&to.CpuRtRuntime, cpu.RealtimeRuntime)
	to.CpusetCpus, to.CpusetMems = cpu.Cpus, cpu.Mems
}

func setMemory(to *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		to.MemorySwap = 0 // it cannot be limited without a limit of memory
	}
	set(&to.Memory, m.Limit)
	set(&to.MemoryReservation, m.Reservation)
	set(&to.MemorySwap, m.Swap)
	set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
}

func setBlockIO(to *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	set(&to.BlkioWeight, b.Weight)
	set(&to.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		to.BlkioWeightDevice = withWeight(to.BlkioWeightDevice, d)
	}
	for _, t := range []struct {
		to   *[]*cgroups.ThrottleDevice
		from []specs.LinuxThrottleDevice
	}{
		{&to.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice}, {&to.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice},
		{&to.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice}, {&to.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			*t.to = slices.DeleteFunc(*t.to, func(o *cgroups.ThrottleDevice) bool { return o.Major == d.Major && o.Minor == d.Minor })
			*t.to = append(*t.to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
	}
}

// withWeight sets the weights of a device that are given, and keeps the others.
func withWeight(all []*cgroups.WeightDevice, d specs.LinuxWeightDevice) []*cgroups.WeightDevice {
	i := slices.IndexFunc(all, func(o *cgroups.WeightDevice) bool { return o.Major == d.Major && o.Minor == d.Minor })
	if i < 0 {
		all = append(all, cgroups.NewWeightDevice(d.Major, d.Minor, 0, 0))
		i = len(all) - 1
	}
	set(&all[i].Weight, d.Weight)
	set(&all[i].LeafWeight, d.LeafWeight)
	return all
}
