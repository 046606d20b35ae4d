package stage

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

type (
	dirEntry = fs.DirEntry
	fileMode = fs.FileMode
)

// thisMachine is the name under which people know this node, unless they gave the agent another.
func thisMachine() string {
	name, err := os.Hostname()
	if err != nil {
		return "here"
	}
	return name
}

// tune applies the spec's Tuning to an OCI configuration that has everything else.
func tune(spec *specs.Spec, s *runtime.Spec) error {
	t := s.Tuning
	if t == nil {
		return nil
	}
	r := spec.Linux.Resources
	if t.CPUSet != "" || t.CPUShares > 0 || t.CPUPeriod > 0 {
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.Cpus = t.CPUSet
		if t.CPUShares > 0 {
			shares := uint64(t.CPUShares)
			r.CPU.Shares = &shares
		}
		if n := s.Resources.NanoCPUs; t.CPUPeriod > 0 && n > 0 {
			quota, period := n*t.CPUPeriod/1e9, uint64(t.CPUPeriod)
			r.CPU.Quota, r.CPU.Period = &quota, &period
		}
	}
	if t.SwapBytes != 0 && SwapAccounted() {
		r.Memory.Swap = &t.SwapBytes
	}
	if t.Swappiness != nil && !cgroups.IsCgroup2UnifiedMode() {
		n := uint64(*t.Swappiness)
		r.Memory.Swappiness = &n
	}
	score := OOMScore(t.OOMScore)
	spec.Process.OOMScoreAdj = &score
	if t.ShmBytes > 0 {
		for k, m := range spec.Mounts {
			if m.Destination == "/dev/shm" && m.Source == "shm" {
				spec.Mounts[k].Options = append(m.Options[:len(m.Options)-1:len(m.Options)-1], fmt.Sprintf("size=%d", t.ShmBytes))
			}
		}
	}
	if t.BlockIO != nil {
		var err error
		r.BlockIO, err = blockIO(t.BlockIO)
		return err
	}
	return nil
}

// OOMScore is as low as this process may set it.
func OOMScore(want int) int {
	if want >= 0 || HasCapability(unix.CAP_SYS_RESOURCE) {
		return want
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return max(want, min(own, 0))
}

// blockIO resolves the devices of this machine.
func blockIO(b *runtime.BlockIO) (*specs.LinuxBlockIO, error) {
	out := &specs.LinuxBlockIO{}
	if b.Weight > 0 && HasIOWeight() {
		out.Weight = &b.Weight
	}
	for _, d := range b.Weights {
		dev, err := BlockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		if weight := uint16(d.Rate); HasIOWeightDevice() {
			w := specs.LinuxWeightDevice{Weight: &weight}
			w.Major, w.Minor = int64(unix.Major(dev)), int64(unix.Minor(dev))
			out.WeightDevice = append(out.WeightDevice, w)
		}
	}
	for _, l := range []struct {
		from []runtime.DeviceRate
		to   *[]specs.LinuxThrottleDevice
	}{
		{b.ReadBps, &out.ThrottleReadBpsDevice}, {b.WriteBps, &out.ThrottleWriteBpsDevice},
		{b.ReadIOps, &out.ThrottleReadIOPSDevice}, {b.WriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, d := range l.from {
			dev, err := BlockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = int64(unix.Major(dev)), int64(unix.Minor(dev))
			*l.to = append(*l.to, t)
		}
	}
	return out, nil
}

// BlockDevice gives the number of the block device at a path. ErrDenied if there is none.
func BlockDevice(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, Cannot("blkio_config", path, err.Error())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, Cannot("blkio_config", path, "it is not a block device")
	}
	return uint64(st.Rdev), nil
}

// HasIOWeight says whether block IO can be weighed: on v1 that takes the bfq scheduler, on v2 the io controller.
func HasIOWeight() bool { return hasIO("blkio.weight", "blkio.bfq.io_serviced") }

// HasIOWeightDevice is the same for one device.
func HasIOWeightDevice() bool { return hasIO("blkio.weight_device", "blkio.bfq.io_serviced") }

// hasIO looks for the io controller of v2, or files in the root of v1: bfq's own weight is not there, its counters are.
func hasIO(v1 ...string) bool {
	if cgroups.IsCgroup2UnifiedMode() {
		b, err := os.ReadFile(filepath.Join(CgroupRoot, "cgroup.controllers"))
		return err == nil && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " io ")
	}
	for _, f := range v1 {
		if _, err := os.Stat(filepath.Join(CgroupRoot, "blkio", f)); err == nil {
			return true
		}
	}
	return false
}
