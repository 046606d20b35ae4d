package job

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of the keys of one service that few services need.
const (
	MaxSeccompBytes = 64 << 10
	MaxDevices      = 100
	MaxDeviceRules  = 100
	MaxSysctls      = 100
	MaxGroups       = 100
	MaxHosts        = 200
	MaxDNS          = 16
	MaxDNSOptions   = 32
	MaxHooks        = 16
	MinCPUPeriod    = 1_000 // microseconds (Documentation/scheduler/sched-bwc.rst)
	MaxCPUPeriod    = 1_000_000
	MaxCPUShares    = 262144
)

func compareHosts(a, b Host) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Address, b.Address))
}
func compareDevices(a, b Device) int {
	return cmp.Or(strings.Compare(a.Target, b.Target), strings.Compare(a.Source, b.Source))
}
func compareUlimits(a, b Ulimit) int   { return strings.Compare(a.Name, b.Name) }
func compareRates(a, b DeviceRate) int { return strings.Compare(a.Path, b.Path) }

// ulimitNames are Docker's (docker/go-units).
var ulimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime",
	"sigpending", "stack",
}

// ParseDevice reads /dev/x[:/dev/y][:rwm] as Docker does.
func ParseDevice(s string) (Device, error) {
	parts := strings.Split(s, ":")
	d := Device{Source: parts[0], Target: parts[0], Access: "rwm"}
	switch len(parts) {
	case 1:
	case 2:
		if validAccess(parts[1]) {
			d.Access = parts[1]
		} else {
			d.Target = parts[1]
		}
	case 3:
		d.Target, d.Access = parts[1], parts[2]
	default:
		return d, Errorf(Invalid, "device %.80q has too many colons; write /dev/x[:/dev/y][:rwm]", s)
	}
	d.Source, d.Target = path.Clean(d.Source), path.Clean(cmp.Or(d.Target, d.Source))
	return d, d.check()
}

func validAccess(s string) bool {
	return s != "" && len(s) <= 3 && strings.Trim(s, "rwm") == ""
}

func (d Device) check() error {
	switch {
	case strings.Contains(d.Source, "=") && !path.IsAbs(d.Source):
		return Errorf(Invalid, "device %.80q: CDI devices are not honoured; name the device's file", d.Source)
	case !path.IsAbs(d.Source) || !path.IsAbs(d.Target) || d.Target == "/":
		return Errorf(Invalid, "device %.80q: a device is an absolute path, such as /dev/fuse", d.Source)
	case badPath(d.Source) || badPath(d.Target):
		return Errorf(Invalid, "device %.80q: the path is not UTF-8, holds a NUL byte or is too long", d.Source)
	case !validAccess(d.Access):
		return Errorf(Invalid, "device %.80q: access %.20q is not made of r, w and m", d.Source, d.Access)
	}
	return nil
}

var deviceRule = regexp.MustCompile(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`)

// ParseUlimit reads NAME=SOFT[:HARD] as docker run does.
func ParseUlimit(s string) (Ulimit, error) {
	name, values, ok := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	a, errA := strconv.ParseInt(soft, 10, 64)
	b, errB := strconv.ParseInt(hard, 10, 64)
	if !ok || errA != nil || errB != nil {
		return Ulimit{}, Errorf(Invalid, "ulimit %.80q is not NAME=SOFT[:HARD], such as nofile=1024:2048", s)
	}
	u := Ulimit{Name: strings.ToLower(name), Soft: a, Hard: b}
	return u, u.check()
}

func (u Ulimit) check() error {
	switch {
	case !slices.Contains(ulimitNames, u.Name):
		return Errorf(Invalid, "ulimit %.40q is not known; use one of %s", u.Name, strings.Join(ulimitNames, ", "))
	case u.Soft < -1 || u.Hard < -1:
		return Errorf(Invalid, "ulimit %s: %d:%d is negative; -1 is no limit", u.Name, u.Soft, u.Hard)
	case u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1):
		return Errorf(Invalid, "ulimit %s: the soft limit %d is above the hard limit %d", u.Name, u.Soft, u.Hard)
	}
	return nil
}

// sysctlNames are those besides net.* and fs.mqueue.* that belong to a namespace (sysctl(5), namespaces(7)).
var sysctlNames = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
	"kernel.shm_rmid_forced",
}

// checkSysctl refuses what is the node's rather than the container's.
func (s *Service) checkSysctl(name string) error {
	i := s.Isolation
	switch {
	case strings.ContainsAny(name, "\x00 /\\") || strings.Contains(name, "..") || len(name) > MaxTextBytes:
		return fmt.Errorf("is not the name of a sysctl; write it with dots, as net.core.somaxconn")
	case strings.HasPrefix(name, "net."):
		if s.NetworkMode != NetworkBridge && s.NetworkMode != NetworkNone {
			return fmt.Errorf("belongs to the network, which is not the container's own with network_mode %s; remove one", s.NetworkMode)
		}
	case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(sysctlNames, name):
		if i.IPC == ModeHost || joined(i.IPC) != "" {
			return fmt.Errorf("belongs to the IPC namespace, which is not the container's own with ipc %s; remove one", i.IPC)
		}
	default:
		return fmt.Errorf("is the node's, not a container's; set it on the nodes (containers have net.*, fs.mqueue.*, %s)", strings.Join(sysctlNames, ", "))
	}
	return nil
}

func (s *Service) validateKeys(p *problems, at string, spec *Spec) {
	if s.Isolation != nil {
		s.validateIsolation(p, at, spec)
	}
	if s.Tuning != nil {
		s.validateTuning(p, at)
	}
	if s.Naming != nil {
		s.validateNaming(p, at)
	}
	validateHooks(p, at+".post_start", s.PostStart)
	validateHooks(p, at+".pre_stop", s.PreStop)
}

func (s *Service) validateIsolation(p *problems, at string, spec *Spec) {
	i := s.Isolation
	p.atMost(at+".security_opt", len(i.Seccomp), MaxSeccompBytes, "bytes of a seccomp profile")
	if i.Seccomp != "" && i.Seccomp != SeccompOff && !strings.HasPrefix(strings.TrimSpace(i.Seccomp), "{") {
		p.add(at+".security_opt", "the seccomp profile is not JSON; give the file of a profile, or %s", SeccompOff)
	}
	p.text(at+".security_opt", i.AppArmor, MaxTextBytes)
	s.validateNamespaces(p, at, spec)
	s.validateUserNS(p, at)
	p.atMost(at+".group_add", len(i.Groups), MaxGroups, "groups")
	for _, g := range i.Groups {
		if p.text(at+".group_add", g, MaxTextBytes); g == "" {
			p.add(at+".group_add", "a group has no name; give its number or name")
		}
	}
	p.atMost(at+".devices", len(i.Devices), MaxDevices, "devices")
	for k, d := range i.Devices {
		if err := d.check(); err != nil {
			p.add(at+".devices", "%v", err)
		}
		if k > 0 && i.Devices[k-1].Target == d.Target {
			p.add(at+".devices", "two devices are to be at %s; remove one", d.Target)
		}
	}
	p.atMost(at+".device_cgroup_rules", len(i.DeviceRules), MaxDeviceRules, "rules")
	for _, r := range i.DeviceRules {
		if !deviceRule.MatchString(r) {
			p.add(at+".device_cgroup_rules", "%q is not a rule; write TYPE MAJOR:MINOR ACCESS, as %q", shorten(r), "c 10:200 rwm")
		}
	}
	p.atMost(at+".sysctls", len(i.Sysctls), MaxSysctls, "sysctls")
	for _, k := range sortedKeys(i.Sysctls) {
		if err := s.checkSysctl(k); err != nil {
			p.add(at+".sysctls."+quoteIfOdd(k), "%v", err)
		}
		if v := i.Sysctls[k]; strings.ContainsRune(v, 0) || len(v) > MaxTextBytes {
			p.add(at+".sysctls."+quoteIfOdd(k), "the value holds a NUL byte or is longer than %d bytes", MaxTextBytes)
		}
	}
	for k, u := range i.Ulimits {
		if err := u.check(); err != nil {
			p.add(at+".ulimits", "%v", err)
		}
		if k > 0 && i.Ulimits[k-1].Name == u.Name {
			p.add(at+".ulimits", "%s is there twice; remove one", u.Name)
		}
	}
	if i.Umask != nil && *i.Umask > 0o777 {
		p.add(at+".umask", "%#o is not within 0 and 0777", *i.Umask)
	}
}

func (s *Service) validateNamespaces(p *problems, at string, spec *Spec) {
	i := s.Isolation
	for _, ns := range []struct {
		key, mode string
		others    []string
	}{
		{"pid", i.PID, nil}, {"ipc", i.IPC, []string{ModeNone}}, {"uts", i.UTS, nil}, {"cgroup", i.Cgroup, nil},
	} {
		here, on := at+"."+ns.key, joined(ns.mode)
		switch joinable := ns.key == "pid" || ns.key == "ipc"; {
		case ns.mode == "" || ns.mode == ModeHost || slices.Contains(ns.others, ns.mode):
		case on == "" || !joinable:
			p.add(here, "%q is not known; use %s", shorten(ns.mode), strings.Join(append([]string{"private", ModeHost}, ns.others...), ", "))
		default:
			s.validateJoin(p, here, on, spec)
		}
	}
	if i.UTS == ModeHost && (s.Hostname != "" || s.Naming != nil && s.Naming.Domain != "") {
		p.add(at+".uts", "with the node's own names, `hostname` and `domainname` cannot be set; remove them")
	}
}

func (s *Service) validateUserNS(p *problems, at string) {
	i := s.Isolation
	at += ".userns_mode"
	switch i.UserNS {
	case "":
		return
	case UserNSAuto:
	default:
		p.add(at, "%q is not known; use %s or %s", shorten(i.UserNS), ModeHost, UserNSAuto)
		return
	}
	switch {
	case i.Privileged:
		p.add(at, "a privileged container has the node's users; remove one of both")
	case s.NetworkMode != NetworkBridge && s.NetworkMode != NetworkNone, i.PID != "", i.IPC != "" && i.IPC != ModeNone, i.UTS != "":
		p.add(at, "a container with users of its own has no namespace of another's: remove network_mode, pid, ipc and uts")
	}
}

func (s *Service) validateTuning(p *problems, at string) {
	t := s.Tuning
	if c := t.CgroupParent; c != "" && (badPath(c) || strings.Contains("/"+c+"/", "/../") || path.Clean("/"+c) == "/" || strings.ContainsAny(c, "\n")) {
		p.add(at+".cgroup_parent", "%q is not the path of a cgroup; write it as /name or /name/name", shorten(c))
	}
	if t.CPUSet != "" {
		if _, err := ParseCPUSet(t.CPUSet); err != nil {
			p.add(at+".cpuset", "%v", err)
		}
	}
	if t.CPUShares != 0 && (t.CPUShares < 2 || t.CPUShares > MaxCPUShares) {
		p.add(at+".cpu_shares", "%d is not within 2 and %d", t.CPUShares, MaxCPUShares)
	}
	if t.CPUPeriod != 0 && (t.CPUPeriod < MinCPUPeriod || t.CPUPeriod > MaxCPUPeriod) {
		p.add(at+".cpu_period", "%d µs is not within %d and %d", t.CPUPeriod, MinCPUPeriod, MaxCPUPeriod)
	}
	if n := s.Limits.NanoCPUs; t.CPUPeriod != 0 && n != 0 && n*t.CPUPeriod/1e9 < 1000 {
		p.add(at+".cpu_quota", "%s CPUs of %d µs are less than 1 ms, the kernel's least; raise one", FormatCPUs(n), t.CPUPeriod)
	}
	switch m := s.Limits.MemoryBytes; {
	case t.SwapBytes == 0 || t.SwapBytes == -1 && m > 0:
	case m == 0:
		p.add(at+".memswap_limit", "there is no limit on memory; set `mem_limit` too")
	case t.SwapBytes < m || t.SwapBytes > MaxMemoryBytes:
		p.add(at+".memswap_limit", "%s counts memory and swap together, so it is at least the limit on memory, %s", FormatBytes(t.SwapBytes), FormatBytes(m))
	}
	if t.Swappiness != nil && (*t.Swappiness < 0 || *t.Swappiness > 100) {
		p.add(at+".mem_swappiness", "%d is not within 0 and 100", *t.Swappiness)
	}
	if t.ShmBytes < 0 || t.ShmBytes > MaxTmpfsBytes {
		p.add(at+".shm_size", "%d is not within 0 and %s", t.ShmBytes, FormatBytes(MaxTmpfsBytes))
	}
	if i := s.Isolation; t.ShmBytes != 0 && i != nil && i.IPC != "" {
		p.add(at+".shm_size", "with ipc %s the container has no /dev/shm of its own; remove one", i.IPC)
	}
	if t.OOMScore < -1000 || t.OOMScore > 1000 {
		p.add(at+".oom_score_adj", "%d is not within -1000 and 1000", t.OOMScore)
	}
	if t.BlockIO != nil {
		t.BlockIO.validate(p, at+".blkio_config")
	}
}

func (b *BlockIO) validate(p *problems, at string) {
	if b.Weight != 0 && (b.Weight < 10 || b.Weight > 1000) {
		p.add(at+".weight", "%d is not within 10 and 1000", b.Weight)
	}
	for k, list := range b.lists() {
		key := []string{"weight_device", "device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops"}[k]
		p.atMost(at+"."+key, len(*list), MaxDevices, "devices")
		for _, d := range *list {
			switch {
			case !path.IsAbs(d.Path) || badPath(d.Path):
				p.add(at+"."+key, "%q is not the absolute path of a device", shorten(d.Path))
			case k == 0 && (d.Rate < 10 || d.Rate > 1000):
				p.add(at+"."+key, "%s: weight %d is not within 10 and 1000", quoteIfOdd(d.Path), d.Rate)
			case d.Rate == 0:
				p.add(at+"."+key, "%s: the rate is missing", quoteIfOdd(d.Path))
			}
		}
	}
}

func (s *Service) validateNaming(p *problems, at string) {
	n := s.Naming
	p.atMost(at+".dns", len(n.DNS), MaxDNS, "servers")
	for _, d := range n.DNS {
		if a, err := netip.ParseAddr(d); err != nil || a.Zone() != "" {
			p.add(at+".dns", "%q is not an address", shorten(d))
		}
	}
	p.atMost(at+".dns_search", len(n.DNSSearch), MaxDNS, "domains")
	for _, d := range n.DNSSearch {
		if d != "." && !validDomain(strings.TrimSuffix(d, ".")) {
			p.add(at+".dns_search", "%q is not a domain", shorten(d))
		}
	}
	p.atMost(at+".dns_opt", len(n.DNSOptions), MaxDNSOptions, "options")
	for _, o := range n.DNSOptions {
		if o == "" || len(o) > MaxHostname || strings.ContainsFunc(o, func(r rune) bool { return r <= ' ' || r > '~' }) {
			p.add(at+".dns_opt", "%q is not an option of resolv.conf, such as ndots:2", shorten(o))
		}
	}
	p.atMost(at+".extra_hosts", len(n.Hosts), MaxHosts, "hosts")
	for _, h := range n.Hosts {
		if h.Name == "" || len(h.Name) > 255 || strings.ContainsFunc(h.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
			p.add(at+".extra_hosts", "%q is not a host's name", shorten(h.Name))
		}
		if _, err := netip.ParseAddr(h.Address); err != nil && h.Address != HostGateway {
			p.add(at+".extra_hosts", "%s: %q is neither an address nor %s", quoteIfOdd(h.Name), shorten(h.Address), HostGateway)
		}
	}
	if n.Domain != "" && (!validDomain(n.Domain) || len(n.Domain) > MaxHostname) {
		p.add(at+".domainname", "%q is not a domain of at most %d bytes", shorten(n.Domain), MaxHostname)
	}
	if n.MAC != "" {
		hw, err := net.ParseMAC(n.MAC)
		switch {
		case err != nil || len(hw) != 6:
			p.add(at+".mac_address", "%q is not an address such as 02:42:ac:11:00:02", shorten(n.MAC))
		case hw[0]&1 != 0:
			p.add(at+".mac_address", "%s is a group's address: the first byte must be even", n.MAC)
		case s.NetworkMode != NetworkBridge:
			p.add(at+".mac_address", "with network_mode %s there is no interface of its own; remove one", s.NetworkMode)
		case s.Mode.PerNode() || s.Replicas > 1:
			p.add(at+".mac_address", "is for one container, and the service has more; remove it, or run one replica")
		}
	}
}

// validDomain is wider than a host's name: labels may begin with an underscore.
func validDomain(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

func validateHooks(p *problems, at string, hooks []Hook) {
	p.atMost(at, len(hooks), MaxHooks, "hooks")
	for i, h := range hooks {
		here := fmt.Sprintf("%s[%d]", at, i)
		if len(h.Command) == 0 || h.Command[0] == "" {
			p.add(here+".command", "is missing; name the program to run")
		}
		validateArgs(p, here+".command", h.Command)
		validateArgs(p, here+".environment", h.Env)
		p.text(here+".user", h.User, MaxTextBytes)
		p.text(here+".working_dir", h.WorkingDir, MaxPathBytes)
	}
}

// maxCPUs is more processors than a kernel has (CONFIG_NR_CPUS).
const maxCPUs = 8192

// ParseCPUSet reads a list of processors such as "0-2,4"; sorted, each once.
func ParseCPUSet(s string) ([]int, error) {
	var has [maxCPUs]bool // a list may name the same range many times
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if errA != nil || errB != nil || b < a || b >= maxCPUs {
			return nil, Errorf(Invalid, "%.80q is not a list of processors; write it as 0-2,4", s)
		}
		for c := a; c <= b; c++ {
			has[c] = true
		}
	}
	var out []int
	for c := range has {
		if has[c] {
			out = append(out, c)
		}
	}
	return out, nil
}
