package compose

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
)

// conversion makes a spec of a project. It goes on after a problem, so that all are told at once.
type conversion struct {
	project  *types.Project
	dict     map[string]any // what the files say, before compose-go's defaults
	platform string
	in       *input
	problems []string
	warnings []Warning
}

func (c *conversion) problem(at, format string, args ...any) {
	w := c.in.locate(finding{keys: splitPath(at)})
	w.Path, w.Message = at, fmt.Sprintf(format, args...)
	c.problems = append(c.problems, w.String())
}

func (c *conversion) warn(at, format string, args ...any) {
	w := c.in.locate(finding{keys: splitPath(at)})
	w.Path, w.Message = at, fmt.Sprintf(format, args...)
	c.warnings = append(c.warnings, w)
}

// splitPath turns "services.web.ports[0]" into keys; names with dots are not found and have no line, which is all.
func splitPath(at string) []string {
	var keys []string
	for k := range strings.SplitSeq(at, ".") {
		name, _, isList := strings.Cut(k, "[")
		if keys = append(keys, name); isList {
			return append(keys, "[]")
		}
	}
	return keys
}

func (c *conversion) spec() *job.Spec {
	spec := &job.Spec{Name: c.project.Name}
	volumes := map[string]job.Volume{}
	for _, name := range slices.Sorted(maps.Keys(c.project.Services)) {
		s := c.project.Services[name]
		spec.Services = append(spec.Services, c.service(name, &s, volumes))
	}
	for _, v := range slices.Sorted(maps.Keys(volumes)) {
		spec.Volumes = append(spec.Volumes, volumes[v])
	}
	if len(spec.Services) == 0 {
		if len(c.project.DisabledServices) > 0 {
			c.problem("services", "all of them are in profiles that are not enabled; use --profile")
		} else {
			c.problem("services", "there is none; a job needs at least one")
		}
	}
	return spec
}

func (c *conversion) service(name string, s *types.ServiceConfig, volumes map[string]job.Volume) job.Service {
	at := "services." + name
	out := job.Service{
		Name:       name,
		Image:      s.Image,
		Entrypoint: c.args(at+".entrypoint", s.Entrypoint),
		Command:    c.args(at+".command", s.Command),
		Env:        c.env(at, s.Environment),
		Labels:     s.Labels,
		WorkingDir: s.WorkingDir,
		User:       s.User,
		Hostname:   s.Hostname,
		TTY:        s.Tty,
		Stdin:      s.StdinOpen,
		Init:       s.Init != nil && *s.Init,
		ReadOnly:   s.ReadOnly,
		StopSignal: s.StopSignal,
		CapAdd:     s.CapAdd,
		CapDrop:    s.CapDrop,
		Ports:      c.ports(at, s.Ports),
		Mounts:     c.mounts(at, s, volumes),
		Health:     c.health(s.HealthCheck),
		Log:        c.logging(at, s.Logging),
		DependsOn:  c.dependsOn(at, s.DependsOn),
		Failover:   c.failover(at, s.Extensions),
		Rebalance:  c.rebalance(at, s.Extensions),
	}
	if err := checkImage(s.Image); err != nil {
		c.problem(at+".image", "%v", err)
	}
	if s.Platform != "" && s.Platform != c.platform && s.Platform != "linux" {
		c.problem(at+".platform", "%q is not the platform of this cluster, %s; remove it", s.Platform, c.platform)
	}
	if s.StopGracePeriod != nil {
		// Zero means "kill at once" in the file and "the default" in the spec.
		out.StopGrace = max(time.Duration(*s.StopGracePeriod), time.Millisecond)
		if *s.StopGracePeriod < 0 {
			c.problem(at+".stop_grace_period", "%s is negative", time.Duration(*s.StopGracePeriod))
		}
	}
	c.scale(at, s, &out)
	c.deploy(at, s, &out)
	c.placement(at, s, &out)
	c.restart(at, s, &out)
	c.keys(at, s, &out)
	if h := c.probe(at, s); h != nil {
		out.Health = h
	}
	c.batch(at, s, &out)
	out.Autoscale = c.autoscale(at, s.Extensions)
	if s.Deploy != nil {
		out.Update = updateOf(s.Deploy.UpdateConfig)
		out.Rollback = updateOf(s.Deploy.RollbackConfig)
	}
	c.changing(at, s, &out)
	return out
}

// args keeps nil (the image's own) apart from an empty list, which asks for no arguments at all.
func (c *conversion) args(at string, args []string) []string {
	if args != nil && len(args) == 0 {
		c.problem(at, "an empty list is not honoured by this version; remove it to use the image's, or name a program")
	}
	return args
}

func checkImage(image string) error {
	if image == "" {
		return fmt.Errorf("is missing; name the image to run")
	}
	if _, err := reference.ParseAnyReference(image); err != nil {
		return fmt.Errorf("%.120q: %v; write name[:tag] or name@digest", image, err)
	}
	return nil
}

func (c *conversion) env(at string, env types.MappingWithEquals) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if env[k] == nil {
			c.warn(at+".environment."+k, "has no value here and is not set in the container")
			continue
		}
		out = append(out, k+"="+*env[k])
	}
	return out
}

func (c *conversion) ports(at string, ports []types.ServicePortConfig) []job.Port {
	var out []job.Port
	for i, p := range ports {
		here := fmt.Sprintf("%s.ports[%d]", at, i)
		if p.Mode != "" && p.Mode != "ingress" && p.Mode != "host" {
			c.problem(here, "mode %q is not known; use ingress or host", p.Mode)
			continue
		}
		text := strconv.FormatUint(uint64(p.Target), 10)
		if p.Published != "" && p.Published != "0" || p.HostIP != "" {
			published := p.Published
			if published == "0" {
				published = ""
			}
			text = published + ":" + text
		}
		if p.HostIP != "" {
			ip := p.HostIP
			if strings.Contains(ip, ":") {
				ip = "[" + strings.Trim(ip, "[]") + "]"
			}
			text = ip + ":" + text
		}
		if p.Protocol != "" {
			text += "/" + p.Protocol
		}
		parsed, err := job.ParsePort(text)
		if err != nil {
			c.problem(here, "%v", err)
			continue
		}
		out = append(out, parsed...)
	}
	return out
}

func (c *conversion) health(h *types.HealthCheckConfig) *job.Health {
	switch {
	case h == nil:
		return nil
	case h.Disable:
		return &job.Health{Test: []string{"NONE"}}
	}
	out := &job.Health{
		Test:          h.Test,
		Interval:      duration(h.Interval),
		Timeout:       duration(h.Timeout),
		StartPeriod:   duration(h.StartPeriod),
		StartInterval: duration(h.StartInterval),
	}
	if h.Retries != nil {
		out.Retries = int(min(*h.Retries, job.MaxHealthTries+1)) // Validate says that it is too much
	}
	return out
}

func duration(d *types.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}

func (c *conversion) logging(at string, l *types.LoggingConfig) job.LogLimits {
	var out job.LogLimits
	if l == nil {
		return out
	}
	out.None = l.Driver == "none"
	if s := l.Options["max-size"]; s != "" {
		n, err := job.ParseBytes(s)
		if err != nil {
			c.problem(at+".logging.options.max-size", "%v", err)
		}
		out.MaxBytes = n
	}
	if s := l.Options["max-file"]; s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			c.problem(at+".logging.options.max-file", "%.40q is not a number of files; use 1 to %d", s, job.MaxLogFiles)
		}
		out.MaxFiles = n
	}
	return out
}

func (c *conversion) dependsOn(at string, deps types.DependsOnConfig) []job.Dependency {
	var out []job.Dependency
	for _, name := range slices.Sorted(maps.Keys(deps)) {
		d := deps[name]
		if _, there := c.project.Services[name]; !there && !d.Required {
			continue
		}
		out = append(out, job.Dependency{Service: name, Condition: d.Condition, Restart: d.Restart})
	}
	return out
}
