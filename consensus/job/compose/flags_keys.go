package compose

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"
)

// KeyFlags are the flags of `shoal run IMAGE` that few containers need, as the person typed them, in docker's words.
type KeyFlags struct {
	Privileged                     bool
	SecurityOpt                    []string
	Network, PID, IPC, UTS, UserNS string
	CgroupNS                       string
	GroupAdd, Devices, DeviceRules []string
	Sysctls, Ulimits               []string // NAME=VALUE; NAME=SOFT[:HARD]

	CgroupParent, CPUSet             string
	CPUShares, CPUPeriod, CPUQuota   int64
	MemorySwap, ShmSize, Swappiness  string // as job.ParseBytes; MemorySwap may be -1
	OOMScore                         int
	BlockWeight                      uint
	BlockWeights, ReadBps, WriteBps  []string // PATH:VALUE
	ReadIOps, WriteIOps              []string
	DNS, DNSSearch, DNSOptions       []string
	Hosts                            []string // NAME:ADDRESS or NAME=ADDRESS
	Domain, MAC                      string
	LogDriver                        string
	LogOptions                       []string // max-size=SIZE, max-file=N
	HealthHTTP, HealthTCP, HealthRPC string   // PORT[/PATH], PORT, PORT[/SERVICE]
	HealthStartInterval              time.Duration
}

// keys fills in what KeyFlags say.
func (c *flagConversion) keys(s *job.Service) {
	f := &c.f.Keys
	s.NetworkMode = f.Network
	s.Isolation = c.isolation()
	s.Tuning = c.tuning(s)
	s.Naming = &job.Naming{DNS: f.DNS, DNSSearch: f.DNSSearch, DNSOptions: f.DNSOptions, Domain: f.Domain, MAC: f.MAC}
	for _, h := range f.Hosts {
		name, addr, ok := strings.Cut(h, "=")
		if !ok {
			name, addr, ok = strings.Cut(h, ":")
		}
		if !ok {
			c.problem("--add-host", fmt.Errorf("%.80q is not NAME:ADDRESS", h))
		}
		s.Naming.Hosts = append(s.Naming.Hosts, job.Host{Name: name, Address: strings.Trim(addr, "[]")})
	}
	c.logging(&s.Log)
	c.probes(s)
}

func (c *flagConversion) isolation() *job.Isolation {
	f := &c.f.Keys
	i := &job.Isolation{PID: f.PID, IPC: f.IPC, UTS: f.UTS, Cgroup: f.CgroupNS, UserNS: f.UserNS, Groups: f.GroupAdd, DeviceRules: f.DeviceRules}
	if err := setPrivileges(i, f.Privileged, f.SecurityOpt, c.f.Dir); err != nil {
		c.problem("--security-opt", err)
	}
	for _, text := range f.Devices {
		d, err := job.ParseDevice(text)
		if err != nil {
			c.problem("--device", err)
		}
		i.Devices = append(i.Devices, d)
	}
	for _, text := range f.Sysctls {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			c.problem("--sysctl", fmt.Errorf("%.80q is not NAME=VALUE", text))
		}
		if i.Sysctls == nil {
			i.Sysctls = map[string]string{}
		}
		i.Sysctls[name] = value
	}
	for _, text := range f.Ulimits {
		u, err := job.ParseUlimit(text)
		if err != nil {
			c.problem("--ulimit", err)
		}
		i.Ulimits = append(i.Ulimits, u)
	}
	return i
}

func (c *flagConversion) tuning(s *job.Service) *job.Tuning {
	f := &c.f.Keys
	t := &job.Tuning{CgroupParent: f.CgroupParent, CPUSet: f.CPUSet, CPUShares: f.CPUShares, CPUPeriod: f.CPUPeriod, OOMScore: f.OOMScore}
	if f.CPUQuota != 0 {
		if s.Limits.NanoCPUs != 0 {
			c.problem("--cpu-quota", fmt.Errorf("--cpus limits the same; remove one"))
		}
		s.Limits.NanoCPUs = quotaCPUs(f.CPUQuota, f.CPUPeriod)
	}
	if t.SwapBytes = -1; f.MemorySwap != "-1" {
		t.SwapBytes = c.bytes("--memory-swap", f.MemorySwap)
	}
	t.ShmBytes = c.bytes("--shm-size", f.ShmSize)
	if f.Swappiness != "" && f.Swappiness != "-1" {
		n, err := strconv.ParseInt(f.Swappiness, 10, 64)
		if err != nil {
			c.problem("--memory-swappiness", fmt.Errorf("%.40q is not a number from 0 to 100", f.Swappiness))
		}
		t.Swappiness = &n
	}
	size := func(s string) (uint64, error) {
		n, err := job.ParseBytes(s)
		return uint64(n), err
	}
	number := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
	b := &job.BlockIO{
		Weight:   uint16(min(f.BlockWeight, 1<<16-1)),
		Weights:  c.rates("--blkio-weight-device", f.BlockWeights, number),
		ReadBps:  c.rates("--device-read-bps", f.ReadBps, size),
		WriteBps: c.rates("--device-write-bps", f.WriteBps, size),
		ReadIOps: c.rates("--device-read-iops", f.ReadIOps, number), WriteIOps: c.rates("--device-write-iops", f.WriteIOps, number),
	}
	t.BlockIO = b
	return t
}

func (c *flagConversion) rates(flag string, texts []string, parse func(string) (uint64, error)) []job.DeviceRate {
	var out []job.DeviceRate
	for _, text := range texts {
		path, value, _ := strings.Cut(text, ":")
		n, err := parse(value)
		if err != nil {
			c.problem(flag, fmt.Errorf("%.80q is not DEVICE:VALUE", text))
		}
		out = append(out, job.DeviceRate{Path: path, Rate: n})
	}
	return out
}

func (c *flagConversion) logging(l *job.LogLimits) {
	switch d := c.f.Keys.LogDriver; d {
	case "", "json-file", "local":
	case "none":
		l.None = true
	default:
		c.problem("--log-driver", fmt.Errorf("%.40q is not honoured; use json-file, local or none", d))
	}
	for _, o := range c.f.Keys.LogOptions {
		switch key, value, _ := strings.Cut(o, "="); key {
		case "max-size":
			l.MaxBytes = c.bytes("--log-opt", value)
		case "max-file":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				c.problem("--log-opt", fmt.Errorf("max-file %.40q is not a number of files", value))
			}
			l.MaxFiles = n
		default:
			c.problem("--log-opt", fmt.Errorf("%.40q is not honoured; use max-size and max-file", key))
		}
	}
}

// probes reads the checks from outside; the times are those of the check that is executed inside.
func (c *flagConversion) probes(s *job.Service) {
	f := &c.f.Keys
	for _, p := range []struct{ kind, flag, text string }{
		{job.ProbeHTTP, "--health-http", f.HealthHTTP}, {job.ProbeTCP, "--health-tcp", f.HealthTCP}, {job.ProbeGRPC, "--health-grpc", f.HealthRPC},
	} {
		if p.text == "" {
			continue
		}
		if s.Health != nil {
			c.problem(p.flag, fmt.Errorf("there is another health check; remove one"))
			continue
		}
		port, rest, hasRest := strings.Cut(p.text, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || hasRest && p.kind == job.ProbeTCP {
			c.problem(p.flag, fmt.Errorf("%.80q does not begin with a port, such as 8080/healthz", p.text))
		}
		b := &job.Probe{Kind: p.kind, Port: uint16(n)}
		if p.kind == job.ProbeHTTP {
			b.Path = "/" + rest
		} else {
			b.Service = rest
		}
		s.Health = &job.Health{Probe: b}
		c.healthTimes(s.Health)
	}
	if s.Health != nil {
		s.Health.StartInterval = cmp.Or(f.HealthStartInterval, s.Health.StartInterval)
	}
}

func (c *flagConversion) healthTimes(h *job.Health) {
	f := &c.f
	h.Interval, h.Timeout, h.StartPeriod, h.Retries = f.HealthInterval, f.HealthTimeout, f.HealthStartPeriod, f.HealthRetries
}
