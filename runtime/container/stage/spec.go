package stage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

const (
	defaultLogBytes = 10 << 20
	defaultLogFiles = 3
	cpuPeriod       = 100_000 // microseconds; the kernel's default
	// defaultOpenFiles is what Docker's service file has given to containers for years.
	defaultOpenFiles = 1 << 20
)

// Docker's (moby, daemon/pkg/oci/defaults.go, v28).
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	baseMounts    = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
	}
)

// containerConfig is what libcontainer needs, and what it wants to be told with each process.
type containerConfig struct {
	config *configs.Config
	cwd    string
}

// buildConfig turns a launch into libcontainer's configuration, by way of the OCI one.
func buildConfig(job Launch, root string, who identity, initSource string) (*containerConfig, LateQuota, error) {
	caps, err := RecordCapabilities(&job.Record.Spec)
	if err != nil {
		return nil, LateQuota{}, err
	}
	spaces, err := namespaces(job)
	if err != nil {
		return nil, LateQuota{}, err
	}
	cwd := job.Record.Spec.WorkingDir
	if cwd == "" {
		cwd = job.Record.Config.WorkingDir
	}
	cwd = path.Clean("/" + cwd)
	spec := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: root, Readonly: job.Record.Spec.ReadOnly},
		Hostname: Hostname(job.Record.Spec), Domainname: domain(&job.Record.Spec),
		Process: &specs.Process{
			Terminal: job.Record.Spec.TTY, Cwd: cwd, NoNewPrivileges: true,
			User: specs.User{UID: uint32(who.UID), GID: uint32(who.GID)}, Capabilities: capabilitySets(caps, who.UID),
			OOMScoreAdj: new(int),
		},
		Mounts: mounts(job, initSource),
		Linux: &specs.Linux{
			CgroupsPath: job.Cgroup, Namespaces: spaces, MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
			Resources: resources(job.Record.Spec.Resources),
			Sysctl:    map[string]string{}, RootfsPropagation: rootPropagation(&job.Record.Spec),
		},
	}
	if job.HasNetwork { // Docker's: in a namespace of its own, low ports and ping are nobody else's business
		spec.Linux.Sysctl["net.ipv4.ip_unprivileged_port_start"] = "0"
		if job.Record.UserBase == 0 { // else there are not that many groups
			spec.Linux.Sysctl["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	if err := errors.Join(isolate(spec, job), tune(spec, &job.Record.Spec)); err != nil {
		return nil, LateQuota{}, err
	}
	if spec.Linux.Seccomp, err = seccompOf(spec, &job.Record.Spec); err != nil {
		return nil, LateQuota{}, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: string(job.ID), Spec: spec})
	if err != nil {
		return nil, LateQuota{}, err
	}
	config.Rlimits, _ = Rlimits(&job.Record.Spec)
	return &containerConfig{config: config, cwd: cwd}, TakeQuota(config), nil
}

// capabilitySets gives a user other than root the bounding set only, as Docker does: it gains by executing a file that
// has capabilities, which no-new-privileges forbids, so it has none.
func capabilitySets(caps []string, uid int) *specs.LinuxCapabilities {
	sets := &specs.LinuxCapabilities{Bounding: caps}
	if uid == 0 {
		sets.Permitted, sets.Effective = caps, caps
	}
	return sets
}

// processCapabilities is the same for a process that libcontainer starts later.
func processCapabilities(caps []string, uid int) *configs.Capabilities {
	s := capabilitySets(caps, uid)
	return &configs.Capabilities{Bounding: s.Bounding, Permitted: s.Permitted, Effective: s.Effective}
}

// seccompProfile is Docker's default for the native architecture only: the foreign ones cost 20 ms in each start and exec.
func seccompProfile(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	p.Architectures = p.Architectures[:min(1, len(p.Architectures))] // the native one comes first
	return p, nil
}

func resources(r runtime.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // libcontainer adds Docker's list behind
		Memory:  &specs.LinuxMemory{},
	}
	if r.MemoryBytes > 0 {
		out.Memory.Limit = &r.MemoryBytes
		if SwapAccounted() {
			out.Memory.Swap = &r.MemoryBytes // memory and swap together: no swap
		}
	}
	if r.MemoryReservationBytes > 0 {
		out.Memory.Reservation = &r.MemoryReservationBytes
	}
	if r.NanoCPUs > 0 {
		quota, period := r.NanoCPUs*cpuPeriod/1e9, uint64(cpuPeriod)
		out.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if r.PIDs > 0 {
		out.Pids = &specs.LinuxPids{Limit: &r.PIDs}
	}
	return out
}

// SwapAccounted says whether the kernel can limit swap: v1 needs swapaccount=1, v2 CONFIG_SWAP.
func SwapAccounted() bool {
	if cgroups.IsCgroup2UnifiedMode() {
		return true // libcontainer ignores a missing memory.swap.max when the limit means "none"
	}
	_, err := os.Stat(filepath.Join(CgroupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
}

// openFiles is the limit on open files, clamped to what this process may give: without CAP_SYS_RESOURCE a hard limit
// cannot be raised.
func openFiles() configs.Rlimit {
	limit := uint64(defaultOpenFiles)
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil && own.Max < limit && !HasCapability(unix.CAP_SYS_RESOURCE) {
		limit = own.Max
	}
	return configs.Rlimit{Type: unix.RLIMIT_NOFILE, Hard: limit, Soft: limit}
}

func HasCapability(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[c/32].Effective&(1<<(c%32)) != 0
}

// HasMountSetattr is false before Linux 5.12; a read-only bind mount then leaves writable what is mounted below its source.
func HasMountSetattr() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}) != unix.ENOSYS
}
