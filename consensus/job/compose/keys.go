package compose

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// keys converts what makes a container special: how it is isolated, weighed and named.
func (c *conversion) keys(at string, s *types.ServiceConfig, out *job.Service) {
	out.NetworkMode = s.NetworkMode
	out.Isolation = c.isolation(at, s)
	out.Tuning = c.tuning(at, s, out)
	out.Naming = naming(s)
	out.PostStart = c.hooks(at+".post_start", s.PostStart)
	out.PreStop = c.hooks(at+".pre_stop", s.PreStop)
}

func (c *conversion) isolation(at string, s *types.ServiceConfig) *job.Isolation {
	i := &job.Isolation{
		PID: s.Pid, IPC: s.Ipc, UTS: s.Uts, Cgroup: s.Cgroup, UserNS: s.UserNSMode,
		Groups: s.GroupAdd, DeviceRules: s.DeviceCgroupRules, Sysctls: s.Sysctls, Umask: s.Umask,
	}
	if own, _ := s.Extensions["x-userns"].(string); own != "" {
		i.UserNS = own
	}
	if err := setPrivileges(i, s.Privileged, s.SecurityOpt, c.project.WorkingDir); err != nil {
		c.problem(at+".security_opt", "%v", err)
	}
	for k, d := range s.Devices {
		dev, err := job.ParseDevice(strings.Join([]string{d.Source, cmp.Or(d.Target, d.Source), cmp.Or(d.Permissions, "rwm")}, ":"))
		if err != nil {
			c.problem(fmt.Sprintf("%s.devices[%d]", at, k), "%v", err)
		}
		i.Devices = append(i.Devices, dev)
	}
	for name, u := range s.Ulimits {
		if u == nil {
			continue
		}
		lim := job.Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			lim.Soft, lim.Hard = int64(u.Single), int64(u.Single)
		}
		i.Ulimits = append(i.Ulimits, lim)
	}
	return i
}

// setPrivileges reads `privileged` and `security_opt`. As with Docker, privileged containers have no filter of system calls
// unless they name one, and their programs may gain rights unless that is ruled out.
func setPrivileges(i *job.Isolation, privileged bool, options []string, dir string) error {
	i.Privileged, i.NewPrivileges = privileged, privileged
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		if k, v, colon := strings.Cut(o, ":"); colon && (!has || len(k) < len(key)) {
			key, value, has = k, v, true
		}
		switch key {
		case "no-new-privileges":
			switch value {
			case "", "true":
				i.NewPrivileges = false
			case "false":
				i.NewPrivileges = true
			default:
				return fmt.Errorf("no-new-privileges:%.40q is neither true nor false", value)
			}
		case "seccomp":
			profile, err := seccompProfile(value, dir)
			if err != nil {
				return err
			}
			i.Seccomp = profile
		case "apparmor":
			if value == "" {
				return fmt.Errorf("apparmor names no profile; write apparmor=NAME or apparmor=%s", job.AppArmorOff)
			}
			i.AppArmor = value
		case "label": // of SELinux, under which nothing is labelled here: what asks for that is so
			if value != "disable" {
				return fmt.Errorf("%.80q: containers get no SELinux labels; only label:disable is honoured", o)
			}
		default:
			return fmt.Errorf("%.80q is not honoured; use no-new-privileges, seccomp, apparmor or label:disable", o)
		}
	}
	return nil
}

// seccompProfile is the word for none or the built-in one, or the content of the file that is named, without its spaces.
func seccompProfile(value, dir string) (string, error) {
	switch value {
	case job.SeccompOff:
		return value, nil
	case "builtin", "":
		return "", nil
	}
	if !filepath.IsAbs(value) {
		value = filepath.Join(dir, value)
	}
	f, err := os.Open(value)
	if err != nil {
		return "", fileError(value, err)
	}
	defer f.Close() // read only: nothing is lost
	const most = 4 * job.MaxSeccompBytes
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", fileError(value, err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil && len(text) <= most {
		return "", fmt.Errorf("seccomp profile %s is not JSON: %v", value, err)
	}
	if len(text) > most || b.Len() > job.MaxSeccompBytes {
		return "", fmt.Errorf("seccomp profile %s is larger than %s, the most that a job carries; leave out what the default action says anyway",
			value, job.FormatBytes(job.MaxSeccompBytes))
	}
	var has struct{ DefaultAction string }
	if err := json.Unmarshal(b.Bytes(), &has); err != nil || has.DefaultAction == "" {
		return "", fmt.Errorf("seccomp profile %s has no defaultAction; write it as Docker's default profile is", value)
	}
	return b.String(), nil
}

func (c *conversion) tuning(at string, s *types.ServiceConfig, out *job.Service) *job.Tuning {
	t := &job.Tuning{
		CgroupParent: s.CgroupParent, CPUSet: s.CPUSet, CPUShares: s.CPUShares, CPUPeriod: s.CPUPeriod,
		SwapBytes: int64(s.MemSwapLimit), ShmBytes: int64(s.ShmSize), OOMScore: int(max(min(s.OomScoreAdj, math.MaxInt16), math.MinInt16)),
		BlockIO: blockIO(s.BlkioConfig),
	}
	if v, there := c.said(at, "mem_swappiness"); there && v != nil {
		n := int64(s.MemSwappiness)
		t.Swappiness = &n
	}
	if s.CPUQuota != 0 {
		if out.Limits.NanoCPUs != 0 {
			c.problem(at+".cpu_quota", "`cpus` limits the same; remove one")
		}
		out.Limits.NanoCPUs = quotaCPUs(s.CPUQuota, s.CPUPeriod)
	}
	return t
}

// said is what the files say of a service's key, before defaults; there tells whether they do.
func (c *conversion) said(at, key string) (v any, there bool) {
	services, _ := c.dict["services"].(map[string]any)
	service, _ := services[strings.TrimPrefix(at, "services.")].(map[string]any)
	v, there = service[key]
	return v, there
}

// quotaCPUs is the number of CPUs that a quota of microseconds in each period is; below 0: no limit.
func quotaCPUs(quota, period int64) int64 {
	if quota < 0 {
		return 0
	}
	period = cmp.Or(period, 100_000)
	if quota > math.MaxInt64/1_000_000_000 {
		return math.MaxInt64
	}
	return (quota*1_000_000_000 + period - 1) / period
}

func blockIO(b *types.BlkioConfig) *job.BlockIO {
	if b == nil {
		return nil
	}
	rates := func(list []types.ThrottleDevice) []job.DeviceRate {
		var out []job.DeviceRate
		for _, d := range list {
			out = append(out, job.DeviceRate{Path: d.Path, Rate: uint64(max(0, d.Rate))})
		}
		return out
	}
	out := &job.BlockIO{
		Weight: b.Weight, ReadBps: rates(b.DeviceReadBps), WriteBps: rates(b.DeviceWriteBps),
		ReadIOps: rates(b.DeviceReadIOps), WriteIOps: rates(b.DeviceWriteIOps),
	}
	for _, d := range b.WeightDevice {
		out.Weights = append(out.Weights, job.DeviceRate{Path: d.Path, Rate: uint64(d.Weight)})
	}
	return out
}

func naming(s *types.ServiceConfig) *job.Naming {
	n := &job.Naming{DNS: s.DNS, DNSSearch: s.DNSSearch, DNSOptions: s.DNSOpts, Domain: s.DomainName, MAC: s.MacAddress}
	for _, name := range slices.Sorted(maps.Keys(s.ExtraHosts)) {
		for _, a := range s.ExtraHosts[name] {
			n.Hosts = append(n.Hosts, job.Host{Name: name, Address: a})
		}
	}
	return n
}

func (c *conversion) hooks(at string, hooks []types.ServiceHook) []job.Hook {
	var out []job.Hook
	for _, h := range hooks {
		out = append(out, job.Hook{Command: h.Command, User: h.User, WorkingDir: h.WorkingDir, Env: c.env(at, h.Environment)})
	}
	return out
}
