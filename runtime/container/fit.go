package container

import (
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// checkSettings refuses what runs nowhere; what only this machine cannot do is for fit.
func checkSettings(s runtime.Spec) error {
	switch {
	case s.Network == "", s.Network == runtime.NetworkNone, s.Network == runtime.NetworkHost, runtime.Joined(s.Network) != "":
	default:
		return stage.Invalidf("container %s: network %q is not known", s.ID, s.Network)
	}
	if s.Network != "" && len(s.Ports) > 0 {
		return stage.Invalidf("container %s: ports are published of a container on the node's network only, not with network %s", s.ID, s.Network)
	}
	if n := s.Naming; n != nil && n.MAC != "" {
		if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			return stage.Invalidf("container %s: mac_address: %q is not the address of one interface", s.ID, n.MAC)
		}
	}
	if i := s.Isolation; i != nil {
		if i.UserNS != "" && i.UserNS != runtime.UserNSAuto {
			return stage.Invalidf("container %s: userns_mode: %q is not known", s.ID, i.UserNS)
		}
		if i.UserNS != "" && (i.Privileged || s.Network == runtime.NetworkHost || len(s.Joins()) > 0 || i.PID != "" || i.UTS != "") {
			return stage.Invalidf("container %s: userns_mode: with users of its own it is not privileged and joins nobody's namespace", s.ID)
		}
		if err := stage.CheckIsolation(&s); err != nil {
			return fmt.Errorf("container %s: %w", s.ID, err)
		}
	}
	return nil
}

// fit compares what the container asks for with what this machine can do: what it cannot do is an error, or a warning
// where Docker warns. It decides what is the same for each start. It costs nothing for a container without settings.
func (r *Runtime) fit(c *container) error {
	s := &c.rec.Spec
	if err := checkControllers(s); err != nil {
		return err
	}
	if s.Isolation == nil && s.Tuning == nil {
		return nil
	}
	if i := s.Isolation; i != nil {
		if err := r.fitIsolation(c, i); err != nil {
			return err
		}
	}
	if t := s.Tuning; t != nil {
		warnings, err := fitTuning(t)
		if err != nil {
			return err
		}
		c.decide(func(rec *stage.Record) { rec.Warnings = append(rec.Warnings, warnings...) })
	}
	for _, w := range c.rec.Warnings {
		r.log.Warn("a setting of a container is left out", "container", c.id, "setting", w)
	}
	return nil
}

func (r *Runtime) fitIsolation(c *container, i *runtime.Isolation) error {
	_, short := stage.Rlimits(&c.rec.Spec)
	c.decide(func(rec *stage.Record) { rec.Warnings = append(rec.Warnings, short...) })
	for _, d := range i.Devices {
		if _, err := stage.FindDevices(d.Source); err != nil {
			return err
		}
	}
	if err := checkAppArmor(i.AppArmor); err != nil {
		return err
	}
	for name := range i.Sysctls {
		file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if _, err := os.Stat(file); err != nil && !strings.HasPrefix(name, "net.") { // those of a network may come with an interface
			return stage.Cannot("sysctls", name, "its kernel has no "+file)
		}
	}
	if i.UserNS == runtime.UserNSAuto {
		base, err := r.takeUsers(c.id)
		if err != nil {
			return err
		}
		if err := r.canMapUsers(base); err != nil {
			return stage.Cannot("userns_mode", i.UserNS, err.Error())
		}
		c.decide(func(rec *stage.Record) { rec.UserBase = base })
	}
	return nil
}

const appArmorProfiles = "/sys/kernel/security/apparmor/profiles"

// checkAppArmor sees that a profile is loaded. Unconfined is so without AppArmor too.
func checkAppArmor(profile string) error {
	if profile == "" || profile == runtime.Unconfined {
		return nil
	}
	if !hasAppArmor() {
		return stage.Cannot("security_opt", "apparmor="+profile, "its kernel runs without AppArmor")
	}
	loaded, err := os.ReadFile(appArmorProfiles)
	if err != nil {
		return stage.Cannot("security_opt", "apparmor="+profile, err.Error())
	}
	for line := range strings.Lines(string(loaded)) {
		if name, _, _ := strings.Cut(line, " ("); name == profile {
			return nil
		}
	}
	return stage.Cannot("security_opt", "apparmor="+profile, "no such profile is loaded; load it with apparmor_parser")
}

func hasAppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y")
}

func fitTuning(t *runtime.Tuning) (warnings []string, err error) {
	warn := func(key, why string) { warnings = append(warnings, key+": left out: "+why) }
	if t.CPUSet != "" {
		if err := checkCPUs(t.CPUSet); err != nil {
			return nil, err
		}
	}
	if t.SwapBytes != 0 && !stage.SwapAccounted() {
		warn("memswap_limit", "the kernel does not account swap (swapaccount=1)")
	}
	if t.Swappiness != nil && cgroups.IsCgroup2UnifiedMode() {
		warn("mem_swappiness", "cgroup v2 has none")
	}
	if got := stage.OOMScore(t.OOMScore); got != t.OOMScore {
		warnings = append(warnings, fmt.Sprintf("oom_score_adj: %d instead of %d: this agent may not go lower (CAP_SYS_RESOURCE)", got, t.OOMScore))
	}
	if c := t.CgroupParent; c != "" && (path.Clean("/"+c) == "/" || strings.Contains("/"+c+"/", "/../")) {
		return nil, stage.Invalidf("cgroup_parent: %q is not the path of a cgroup", c)
	}
	b := t.BlockIO
	if b == nil {
		return warnings, nil
	}
	if b.Weight > 0 && !stage.HasIOWeight() {
		warn("blkio_config.weight", "this node's block IO is not weighed (no bfq scheduler, or no io controller)")
	}
	if len(b.Weights) > 0 && !stage.HasIOWeightDevice() {
		warn("blkio_config.weight_device", "this node's block IO is not weighed (no bfq scheduler, or no io controller)")
	}
	for _, d := range slices.Concat(b.Weights, b.ReadBps, b.WriteBps, b.ReadIOps, b.WriteIOps) {
		if _, err := stage.BlockDevice(d.Path); err != nil {
			return nil, err
		}
	}
	if !controllers().io {
		return nil, stage.Cannot("blkio_config", "device rates", "it has no controller for block IO")
	}
	return warnings, nil
}

// controllers are those of this machine's cgroups; they come with the boot.
var controllers = sync.OnceValue(func() (c struct{ cpu, memory, pids, cpuset, io bool }) {
	c.cpu, c.memory, c.pids, c.cpuset = hasController("cpu"), hasController("memory"), hasController("pids"), hasController("cpuset")
	c.io = hasController("io") || hasController("blkio")
	return c
})

// checkControllers sees that each limit has a controller that keeps it.
func checkControllers(s *runtime.Spec) error {
	have, r, t := controllers(), s.Resources, s.Tuning
	if t == nil {
		t = &runtime.Tuning{}
	}
	for _, c := range []struct {
		key, name   string
		asked, have bool
	}{
		{"cpus", "cpu", r.NanoCPUs > 0, have.cpu}, {"cpu_shares", "cpu", t.CPUShares > 0, have.cpu},
		{"mem_limit", "memory", r.MemoryBytes > 0, have.memory}, {"mem_reservation", "memory", r.MemoryReservationBytes > 0, have.memory},
		{"pids_limit", "pids", r.PIDs > 0, have.pids}, {"cpuset", "cpuset", t.CPUSet != "", have.cpuset},
	} {
		if c.asked && !c.have {
			return stage.Cannot(c.key, "a limit", "its cgroups have no "+c.name+" controller")
		}
	}
	return nil
}

// checkCPUs sees that this machine has the processors of a list such as "0-2,4", as Docker does.
func checkCPUs(list string) error {
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil // the kernel will tell
	}
	have, err := parseCPUs(strings.TrimSpace(string(online)))
	if err != nil {
		return nil
	}
	want, err := parseCPUs(list)
	if err != nil {
		return stage.Invalidf("cpuset: %q is not a list of processors: %v", list, err)
	}
	for c := range want {
		if !have[c] {
			return stage.Cannot("cpuset", list, "its processors are "+strings.TrimSpace(string(online)))
		}
	}
	return nil
}

const maxProcessors = 8192 // CONFIG_NR_CPUS at most

func parseCPUs(list string) (map[int]bool, error) {
	out := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil || a < 0 || b < a || b >= maxProcessors {
			return nil, fmt.Errorf("%.40q", part)
		}
		for c := a; c <= b; c++ {
			out[c] = true
		}
	}
	return out, nil
}

// Ranges of users for containers that want their own: above those of systemd-nspawn and homed, below its foreign ones
// (systemd, UIDS-GIDS.md).
const (
	firstUser  = 0x70000000
	userRanges = 0xffd
)

// takeUsers finds a range that no other container has; forget gives it back.
func (r *Runtime) takeUsers(id runtime.ID) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := map[uint32]bool{}
	for _, base := range r.users {
		taken[base] = true
	}
	for k := range uint32(userRanges) {
		if base := firstUser + k*stage.UserCount; !taken[base] {
			r.users[id] = base
			return base, nil
		}
	}
	return 0, stage.WithKind(runtime.ErrBusy, fmt.Errorf("userns_mode: auto: all %d ranges of users are taken", userRanges))
}

// canMapUsers tries an idmapped mount of the directory that containers and layers are in.
func (r *Runtime) canMapUsers(base uint32) error {
	ns, err := stage.OpenUserNS(base)
	if err != nil {
		return err
	}
	defer ns.Close()
	fd, err := stage.MapTree(r.cfg.Dir, int(ns.Fd()))
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// cgroupParent is the path, without slashes at its ends, below which a container's cgroup is. What a crash left of a
// container has no record, but a note of a parent of its own.
func (r *Runtime) cgroupParent(id runtime.ID) string {
	parent := ""
	if c, err := r.find(id); err == nil {
		if c.rec.Spec.Tuning != nil {
			parent = c.rec.Spec.Tuning.CgroupParent
		}
	} else if b, err := os.ReadFile(filepath.Join(r.containerDir(id), fileCgroupParent)); err == nil {
		parent = string(b)
	}
	if parent = strings.Trim(path.Clean("/"+parent), "/"); parent != "" {
		return parent
	}
	return r.cfg.CgroupParent
}

const fileCgroupParent = "cgroup-parent"

func noteCgroupParent(c *container) error {
	t := c.rec.Spec.Tuning
	if t == nil || t.CgroupParent == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(c.dir, fileCgroupParent), []byte(t.CgroupParent), 0o600)
}
