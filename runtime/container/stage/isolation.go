package stage

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// isolationOf is the spec's, or what every container gets.
func isolationOf(s *runtime.Spec) runtime.Isolation {
	if s.Isolation == nil {
		return runtime.Isolation{}
	}
	return *s.Isolation
}

// RecordCapabilities are those of a container's processes.
func RecordCapabilities(s *runtime.Spec) ([]string, error) {
	if isolationOf(s).Privileged {
		return Capabilities([]string{"ALL"}, nil)
	}
	return Capabilities(s.CapAdd, s.CapDrop)
}

// namespaces are those of a container: its own, those of another container, or, where one is missing, the machine's.
func namespaces(job Launch) ([]specs.LinuxNamespace, error) {
	s, i := &job.Record.Spec, isolationOf(&job.Record.Spec)
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		mode string
		file string
	}{
		{specs.PIDNamespace, i.PID, "pid"}, {specs.NetworkNamespace, s.Network, "net"}, {specs.IPCNamespace, i.IPC, "ipc"},
		{specs.UTSNamespace, i.UTS, "uts"},
	} {
		if n.mode == runtime.ModeHost {
			continue
		}
		ns := specs.LinuxNamespace{Type: n.kind}
		if id := runtime.Joined(n.mode); id != "" {
			pid := job.Joined[id]
			if pid <= 0 {
				return nil, WithKind(runtime.ErrBusy, fmt.Errorf("join the %s namespace of container %s: it does not run", n.file, id))
			}
			ns.Path = fmt.Sprintf("/proc/%d/ns/%s", pid, n.file)
		}
		out = append(out, ns)
	}
	if cgroups.IsCgroup2UnifiedMode() && i.Cgroup != runtime.ModeHost {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if i.UserNS == runtime.UserNSAuto {
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return out, nil
}

// isolate applies the spec's Isolation to an OCI configuration that has everything else.
func isolate(spec *specs.Spec, job Launch) error {
	s := &job.Record.Spec
	if s.Isolation == nil {
		return nil
	}
	i := s.Isolation
	spec.Process.NoNewPrivileges = !i.NewPrivileges
	spec.Process.User.Umask = i.Umask
	if i.AppArmor != runtime.Unconfined {
		spec.Process.ApparmorProfile = i.AppArmor
	}
	for k, v := range i.Sysctls {
		spec.Linux.Sysctl[k] = v
	}
	if i.UTS == runtime.ModeHost {
		spec.Hostname, spec.Domainname = "", ""
	}
	if i.Privileged {
		privilege(spec)
	}
	if i.UserNS == runtime.UserNSAuto {
		spec.Linux.UIDMappings = userMap(job.Record.UserBase)
		spec.Linux.GIDMappings = userMap(job.Record.UserBase)
	}
	for _, d := range i.Devices {
		if err := addDevices(spec, d); err != nil {
			return err
		}
	}
	for _, rule := range i.DeviceRules {
		r, err := parseDeviceRule(rule)
		if err != nil {
			return err
		}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, r)
	}
	return nil
}

// privilege gives all of the machine, as docker's --privileged does.
func privilege(spec *specs.Spec) {
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for k, m := range spec.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			spec.Mounts[k].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	// What cannot be looked at is not given.
	devices, _ := devicesBelow("/dev")
	for _, d := range devices {
		spec.Linux.Devices = append(spec.Linux.Devices, nodeOf(d.path, d.stat))
	}
}

// seccompOf is the filter of system calls that the spec asks for; nil: none.
func seccompOf(spec *specs.Spec, s *runtime.Spec) (*specs.LinuxSeccomp, error) {
	switch i := isolationOf(s); {
	case i.Seccomp == runtime.Unconfined, i.Seccomp == "" && i.Privileged:
		return nil, nil
	case i.Seccomp != "":
		return givenSeccomp(spec, i.Seccomp)
	}
	return seccompProfile(spec)
}

// givenSeccomp reads a job's profile. moby/profiles v0.2.4 panics for one with null among its syscalls.
func givenSeccomp(spec *specs.Spec, profile string) (p *specs.LinuxSeccomp, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, Invalidf("seccomp profile: it is not of the form of Docker's (%v)", r)
		}
	}()
	if p, err = seccomp.LoadProfile(profile, spec); err != nil {
		return nil, Invalidf("seccomp profile: %v", err)
	}
	return p, nil
}

type hostDevice struct {
	path string
	stat unix.Stat_t
}

// devicesBelow lists the devices in a directory of the machine but for those that every container has of its own.
func devicesBelow(dir string) ([]hostDevice, error) {
	var out []hostDevice
	err := filepath.WalkDir(dir, func(path string, e dirEntry, err error) error {
		if err != nil {
			return nil // it went, or is nobody's to see
		}
		if e.IsDir() {
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				return filepath.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || path == "/dev/console" {
			return nil
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
			out = append(out, hostDevice{path, st})
		}
		return nil
	})
	return out, err
}

func nodeOf(path string, st unix.Stat_t) specs.LinuxDevice {
	kind := "c"
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "b"
	}
	mode := fileMode(st.Mode & 0o7777)
	return specs.LinuxDevice{
		Path: path, Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}
}

// addDevices gives the container a device of the machine, or those of a directory.
func addDevices(spec *specs.Spec, d runtime.Device) error {
	found, err := FindDevices(d.Source)
	if err != nil {
		return err
	}
	for _, h := range found {
		node := nodeOf(d.Target+strings.TrimPrefix(h.path, d.Source), h.stat)
		spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == node.Path })
		spec.Linux.Devices = append(spec.Linux.Devices, node)
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor, Access: d.Access,
		})
	}
	return nil
}

// FindDevices finds the device at a path of this machine, or all below a directory. ErrDenied if there is none.
func FindDevices(source string) ([]hostDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return nil, Cannot("devices", source, err.Error())
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return []hostDevice{{source, st}}, nil
	case unix.S_IFDIR:
		found, err := devicesBelow(source)
		if err == nil && len(found) == 0 {
			return nil, Cannot("devices", source, "there is no device in it")
		}
		return found, err
	}
	return nil, Cannot("devices", source, "it is not a device")
}

// parseDeviceRule reads "c 10:200 rwm".
func parseDeviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	var out specs.LinuxDeviceCgroup
	f := strings.Fields(s)
	if len(f) != 3 {
		return out, Invalidf("device_cgroup_rules: %q is not TYPE MAJOR:MINOR ACCESS", s)
	}
	major, minor, _ := strings.Cut(f[1], ":")
	number := func(text string) *int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil { // "*"
			n = config.Wildcard
		}
		return &n
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Major: number(major), Minor: number(minor), Access: f[2]}, nil
}

var rlimits = map[string]int{
	"core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// Rlimits are a container's, and what of them this process may not give: without CAP_SYS_RESOURCE no hard limit can be
// raised, so they are as high as they can be.
func Rlimits(s *runtime.Spec) (limits []configs.Rlimit, short []string) {
	i := isolationOf(s)
	if !slices.ContainsFunc(i.Ulimits, func(u runtime.Ulimit) bool { return u.Name == "nofile" }) {
		limits = append(limits, openFiles())
	}
	if len(i.Ulimits) == 0 {
		return limits, nil
	}
	mayRaise := HasCapability(unix.CAP_SYS_RESOURCE)
	for _, u := range i.Ulimits {
		l := configs.Rlimit{Type: rlimits[u.Name], Soft: uint64(u.Soft), Hard: uint64(u.Hard)} // -1 is RLIM_INFINITY
		var own unix.Rlimit
		if !mayRaise && unix.Getrlimit(l.Type, &own) == nil && own.Max < l.Hard {
			short = append(short, fmt.Sprintf("ulimits: %s is %d instead of %d: this agent may not raise it (CAP_SYS_RESOURCE)", u.Name, own.Max, u.Hard))
			l.Hard, l.Soft = own.Max, min(l.Soft, own.Max)
		}
		limits = append(limits, l)
	}
	return limits, short
}

// CheckIsolation refuses what no machine can do.
func CheckIsolation(s *runtime.Spec) error {
	i := s.Isolation
	for _, r := range i.DeviceRules {
		if _, err := parseDeviceRule(r); err != nil {
			return err
		}
	}
	for _, u := range i.Ulimits {
		if _, known := rlimits[u.Name]; !known {
			return Invalidf("ulimits: %q is not known", u.Name)
		}
	}
	if i.Seccomp == "" || i.Seccomp == runtime.Unconfined {
		return nil
	}
	caps, err := RecordCapabilities(s)
	if err != nil {
		return err
	}
	_, err = seccompOf(&specs.Spec{Process: &specs.Process{Capabilities: capabilitySets(caps, 0)}, Linux: &specs.Linux{}}, s)
	return err
}

// Cannot is what this machine cannot do of a spec: the key, its value, and why. Another machine may.
func Cannot(key, value, why string) error {
	return WithKind(runtime.ErrDenied, fmt.Errorf("%s: %s: node %s cannot: %s", key, value, thisMachine(), why))
}
