package compose

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"shoal/consensus/job"

	"github.com/distribution/reference"
)

// Flags are those of `shoal run IMAGE [CMD...]`, as the person typed them. Only Image is required.
type Flags struct {
	Name     string // of the job and its service; "": made from the image's
	Image    string
	Command  []string
	Replicas int    // ignored when global
	Mode     string // "service" (the default), "global", "batch": so many completions, or "global-batch": one on every node
	Dir      string // what relative mount sources are relative to, absolute

	Env         []string // KEY=VALUE, or KEY to take it from Environ
	Environ     []string // the caller's environment
	Labels      []string // KEY=VALUE or KEY
	Ports       []string // as job.ParsePort
	Mounts      []string // as job.ParseMount; a volume has just the name that is given
	Tmpfs       []string // /path[:size=64m,mode=1777]
	Constraints []string // as job.ParseConstraint

	Entrypoint        string // one program
	Restart           string // no, always, on-failure[:tries], unless-stopped; "": always, or no for batch
	CPUs              string // limit, as job.ParseCPUs
	Memory            string // limit, as job.ParseBytes
	ReserveCPUs       string
	ReserveMemory     string
	PIDs              int64
	User              string
	WorkingDir        string
	Hostname          string
	StopSignal        string
	StopGrace         time.Duration // 0: 10 s
	CapAdd, CapDrop   []string
	TTY, Stdin        bool
	Init, ReadOnly    bool
	HealthCmd         string // run by the image's shell
	HealthInterval    time.Duration
	HealthTimeout     time.Duration
	HealthRetries     int
	HealthStartPeriod time.Duration
	NoHealthcheck     bool
	Keys              KeyFlags

	// Of a batch: how it goes, without Retries what Restart says or none; and by what schedule, "": at once.
	Batch    job.Batch
	Schedule string
	TimeZone string
}

// FromFlags makes a job of one service, normalized and valid. Errors are of kind job.Invalid and list everything that is
// wrong, one a line.
func FromFlags(f Flags) (*job.Spec, error) {
	c := &flagConversion{f: f}
	spec := c.spec()
	switch len(c.problems) {
	case 0:
	case 1:
		return nil, job.Errorf(job.Invalid, "run %s: %s", f.Image, c.problems[0])
	default:
		return nil, job.Errorf(job.Invalid, "run %s:\n  %s", f.Image, strings.Join(c.problems, "\n  "))
	}
	spec.Normalize()
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return spec, nil
}

type flagConversion struct {
	f        Flags
	problems []string
}

func (c *flagConversion) problem(flag string, err error) {
	c.problems = append(c.problems, fmt.Sprintf("%s: %v", flag, err))
}

func (c *flagConversion) spec() *job.Spec {
	f := &c.f
	if err := checkImage(f.Image); err != nil {
		c.problem("image", err)
	}
	if f.Name == "" {
		f.Name = nameOf(f.Image)
	}
	s := job.Service{
		Name: f.Name, Image: f.Image, Command: f.Command, Replicas: f.Replicas,
		User: f.User, WorkingDir: f.WorkingDir, Hostname: f.Hostname, StopSignal: f.StopSignal, StopGrace: f.StopGrace,
		CapAdd: f.CapAdd, CapDrop: f.CapDrop, TTY: f.TTY, Stdin: f.Stdin, Init: f.Init, ReadOnly: f.ReadOnly,
		Env: c.env(), Labels: c.labels(), Ports: c.ports(), Constraints: c.constraints(), Health: c.health(),
		Limits:       job.Resources{NanoCPUs: c.cpus("--cpus", f.CPUs), MemoryBytes: c.bytes("--memory", f.Memory), PIDs: f.PIDs},
		Reservations: job.Resources{NanoCPUs: c.cpus("--reserve-cpus", f.ReserveCPUs), MemoryBytes: c.bytes("--reserve-memory", f.ReserveMemory)},
	}
	if f.Entrypoint != "" {
		s.Entrypoint = []string{f.Entrypoint}
	}
	c.mode(&s)
	c.keys(&s)
	spec := &job.Spec{Name: f.Name}
	spec.Volumes = c.mounts(&s)
	spec.Services = []job.Service{s}
	return spec
}

func (c *flagConversion) mode(s *job.Service) {
	switch c.f.Mode {
	case "batch", string(job.ReplicatedJob):
		s.Mode = job.ReplicatedJob
	case "global-batch", string(job.GlobalJob):
		s.Mode = job.GlobalJob
	case "", "service":
		if c.f.Schedule != "" {
			s.Mode = job.ReplicatedJob
		}
	}
	if s.IsBatch() {
		c.batch(s)
		return
	}
	r, err := parseRestart(c.f.Restart)
	if err != nil {
		c.problem("--restart", err)
	}
	s.Restart = r
	switch c.f.Mode {
	case "", "service", "replicated":
		s.Mode = job.Replicated
	case "global":
		s.Mode = job.Global
	default:
		c.problem("--mode", fmt.Errorf("%.40q is not known; use service, global, batch or global-batch", c.f.Mode))
	}
	if c.f.Schedule != "" {
		c.problem("--schedule", fmt.Errorf("mode %s runs for ever; use --mode batch or global-batch", c.f.Mode))
	}
}

// batch is what a person asks for with --mode batch: without a word on failures none is tried again, as with docker run.
func (c *flagConversion) batch(s *job.Service) {
	b := c.f.Batch
	retries, err := retriesOf(c.f.Restart)
	switch {
	case err != nil:
		c.problem("--restart", err)
	case b.Retries == nil && c.f.Restart == "":
		b.Retries = new(int)
	case b.Retries == nil:
		b.Retries = retries
	}
	s.Batch = &b
	if c.f.Schedule != "" {
		s.Schedule = &job.Schedule{Cron: c.f.Schedule, TimeZone: c.f.TimeZone}
	} else if c.f.TimeZone != "" {
		c.problem("--time-zone", fmt.Errorf("goes with --schedule"))
	}
}

func (c *flagConversion) env() []string {
	environ := map[string]string{}
	for _, e := range c.f.Environ {
		k, v, _ := strings.Cut(e, "=")
		environ[k] = v
	}
	var out []string
	for _, e := range c.f.Env {
		k, _, hasValue := strings.Cut(e, "=")
		if v, set := environ[k]; !hasValue && set {
			e = k + "=" + v
		} else if !hasValue {
			c.problem("-e "+k, fmt.Errorf("is not set here; write %s=VALUE", k))
			continue
		}
		out = append(out, e)
	}
	return out
}

func (c *flagConversion) labels() map[string]string {
	if len(c.f.Labels) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, l := range c.f.Labels {
		k, v, _ := strings.Cut(l, "=")
		out[k] = v
	}
	return out
}

func (c *flagConversion) ports() []job.Port {
	var out []job.Port
	for _, text := range c.f.Ports {
		p, err := job.ParsePort(text)
		if err != nil {
			c.problem("-p", err)
		}
		out = append(out, p...)
	}
	return out
}

// mounts fills the service's and returns the named volumes.
func (c *flagConversion) mounts(s *job.Service) []job.Volume {
	var volumes []job.Volume
	for _, text := range c.f.Mounts {
		m, err := job.ParseMount(text)
		if err != nil {
			c.problem("-v", err)
			continue
		}
		if m.Type == job.MountBind && !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(c.f.Dir, m.Source)
		}
		if m.Type == job.MountVolume && m.Source != "" {
			volumes = append(volumes, job.Volume{Name: m.Source})
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, text := range c.f.Tmpfs {
		m, err := parseTmpfs(text)
		if err != nil {
			c.problem("--tmpfs", err)
			continue
		}
		s.Mounts = append(s.Mounts, m)
	}
	return volumes
}

func (c *flagConversion) constraints() []job.Constraint {
	var out []job.Constraint
	for _, text := range c.f.Constraints {
		con, err := job.ParseConstraint(text)
		if err != nil {
			c.problem("--constraint", err)
			continue
		}
		out = append(out, con)
	}
	return out
}

func (c *flagConversion) health() *job.Health {
	f := &c.f
	times := f.HealthInterval != 0 || f.HealthTimeout != 0 || f.HealthStartPeriod != 0 || f.HealthRetries != 0
	switch {
	case f.NoHealthcheck && (f.HealthCmd != "" || times):
		c.problem("--no-healthcheck", fmt.Errorf("contradicts the other flags of the health check; remove one"))
	case f.NoHealthcheck:
		return &job.Health{Test: []string{"NONE"}}
	case f.HealthCmd == "" && f.Keys.HealthHTTP+f.Keys.HealthTCP+f.Keys.HealthRPC != "": // see probes
	case f.HealthCmd == "" && times:
		c.problem("--health-cmd", fmt.Errorf("is missing; give the command that the other flags are about"))
	case f.HealthCmd != "":
		return &job.Health{Test: []string{"CMD-SHELL", f.HealthCmd}, Interval: f.HealthInterval, Timeout: f.HealthTimeout,
			StartPeriod: f.HealthStartPeriod, Retries: f.HealthRetries}
	}
	return nil
}

func (c *flagConversion) cpus(flag, s string) int64 {
	if s == "" {
		return 0
	}
	n, err := job.ParseCPUs(s)
	if err != nil {
		c.problem(flag, err)
	}
	return n
}

func (c *flagConversion) bytes(flag, s string) int64 {
	if s == "" {
		return 0
	}
	n, err := job.ParseBytes(s)
	if err != nil {
		c.problem(flag, err)
	}
	return n
}

// nameOf makes a job's name of an image's: the last part of its path, without tag and digest.
func nameOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "job"
	}
	path := reference.Path(named)
	base := strings.ReplaceAll(path[strings.LastIndexByte(path, '/')+1:], ".", "-")
	if len(base) > 63 {
		base = base[:63]
	}
	if !job.ValidName(base) {
		return "job"
	}
	return base
}
