package job

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Validate tells whether the spec can be run as it stands. It reports all problems in one error of kind Invalid, one a
// line, each with the service and the key (as the Compose file calls it where they differ in no more than case), and
// what to do. Call Normalize first: order is part of what is checked, because the Digest depends on it.
func (s *Spec) Validate() error {
	p := &problems{}
	if !ValidName(s.Name) {
		p.add("name", "%s; choose another with --name or `name:`", nameProblem(s.Name))
	}
	p.atMost("source", len(s.Source), MaxSourceBytes, "bytes")
	switch {
	case len(s.Services) == 0:
		p.add("services", "there is none; a job needs at least one")
	case len(s.Services) > MaxServices:
		p.add("services", "%d are more than %d; split the job", len(s.Services), MaxServices)
		return p.err("job", s.Name)
	}
	if !slices.IsSortedFunc(s.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) }) {
		p.add("services", "they are not sorted by name; sort them")
	}
	s.validateVolumes(p)
	seen := map[string]bool{}
	for i := range s.Services {
		v := &s.Services[i]
		if seen[v.Name] {
			p.add("services."+v.Name, "the name is taken twice; rename one")
		}
		seen[v.Name] = true
		v.validate(p, s)
	}
	s.validateDependencies(p)
	return p.err("job", s.Name)
}

func (s *Spec) validateVolumes(p *problems) {
	p.atMost("volumes", len(s.Volumes), MaxVolumes, "volumes")
	seen := map[string]bool{}
	for _, v := range s.Volumes {
		if !ValidVolumeName(v.Name) {
			p.add("volumes."+quoteIfOdd(v.Name), "not a volume's name; use letters, digits, _ . - and at most %d of them", maxVolumeName)
		}
		if seen[v.Name] {
			p.add("volumes."+quoteIfOdd(v.Name), "is declared twice; remove one")
		}
		seen[v.Name] = true
	}
}

func (s *Service) validate(p *problems, spec *Spec) {
	at := "services." + quoteIfOdd(s.Name)
	if !ValidName(s.Name) {
		p.add(at, "%s; rename the service", nameProblem(s.Name))
	}
	switch s.Mode {
	case "", Replicated:
		if s.Replicas < 0 || s.Replicas > MaxReplicas {
			p.add(at+".replicas", "%d is not within 0 and %d", s.Replicas, MaxReplicas)
		}
	case Global, ReplicatedJob, GlobalJob:
	default:
		p.add(at+".mode", "%q is not known; use %q, %q, %q or %q", s.Mode, Replicated, Global, ReplicatedJob, GlobalJob)
	}
	s.validateBatch(p, at)
	s.validateAutoscale(p, at+".x-autoscale")
	s.validateProcess(p, at)
	s.validateEnv(p, at)
	s.validateLabels(p, at)
	s.validatePorts(p, at)
	s.validateNetwork(p, at, spec)
	s.validatePlacement(p, at, spec)
	s.validateKeys(p, at, spec)
	s.validateMounts(p, at, spec)
	validateCaps(p, at+".cap_add", s.CapAdd)
	validateCaps(p, at+".cap_drop", s.CapDrop)
	if s.Health != nil {
		s.Health.validate(p, at+".healthcheck")
		s.validateReach(p, at)
	}
	s.Restart.validate(p, at+".restart")
	s.Limits.validate(p, at+".limits", MinMemoryBytes)
	s.Reservations.validate(p, at+".reservations", 1)
	s.validateReservations(p, at)
	p.atMost(at+".constraints", len(s.Constraints), MaxConstraints, "constraints")
	for i, c := range s.Constraints {
		if err := c.check(); err != nil {
			p.add(fmt.Sprintf("%s.constraints[%d]", at, i), "%v", err)
		}
	}
	s.Log.validate(p, at+".logging")
	s.validateFailover(p, at+".x-failover")
	s.Update.validate(p, at+".update_config", FailRollback)
	s.Rollback.validate(p, at+".rollback_config", FailPause)
}

// validate checks one way to update; usual is the failure action that is its default.
func (u *Update) validate(p *problems, at string, usual FailureAction) {
	if u == nil {
		return
	}
	if u.Parallelism < AllAtOnce || u.Parallelism > MaxReplicas {
		p.add(at+".parallelism", "%d is not within 0 and %d", u.Parallelism, MaxReplicas)
	}
	p.duration(at+".delay", u.Delay, 0, MaxUpdateTime)
	p.duration(at+".monitor", u.Monitor, 0, MaxUpdateTime)
	if u.Canaries < 0 || u.Canaries > MaxReplicas {
		p.add(at+".x-canary", "%d is not within 0 and %d", u.Canaries, MaxReplicas)
	}
	if u.Canaries > 0 && usual == FailPause {
		p.add(at+".x-canary", "a way back has no canaries; remove it")
	}
	switch u.Order {
	case OrderAuto, StartFirst, StopFirst:
	default:
		p.add(at+".order", "%q is not known; use %s or %s", shorten(string(u.Order)), StartFirst, StopFirst)
	}
	if math.IsNaN(u.MaxFailureRatio) || u.MaxFailureRatio < 0 || u.MaxFailureRatio > 1 {
		p.add(at+".max_failure_ratio", "%v is not within 0 and 1", u.MaxFailureRatio)
	}
	switch {
	case u.Failure == "", u.Failure == usual, u.Failure == FailPause, u.Failure == FailContinue:
	case u.Failure == FailRollback:
		p.add(at+".failure_action", "a rollback is never rolled back; use %s or %s", FailPause, FailContinue)
	default:
		p.add(at+".failure_action", "%q is not known; use %s, %s or %s", shorten(string(u.Failure)), FailRollback, FailPause, FailContinue)
	}
}

func (s *Service) validateProcess(p *problems, at string) {
	if s.Image == "" {
		p.add(at+".image", "is missing; name the image to run")
	} else {
		p.text(at+".image", s.Image, MaxTextBytes)
		if strings.ContainsAny(s.Image, " \t") {
			p.add(at+".image", "%q has a space in it; an image is name[:tag] or name@digest", s.Image)
		}
	}
	validateArgs(p, at+".entrypoint", s.Entrypoint)
	validateArgs(p, at+".command", s.Command)
	p.text(at+".user", s.User, MaxTextBytes)
	p.text(at+".working_dir", s.WorkingDir, MaxPathBytes)
	if s.WorkingDir != "" && !path.IsAbs(s.WorkingDir) {
		p.add(at+".working_dir", "%q is not absolute; begin it with /", s.WorkingDir)
	}
	if s.Hostname != "" && !validHostname(s.Hostname) {
		p.add(at+".hostname", "%q is not a host name; use letters, digits, - and . and at most %d of them", s.Hostname, MaxHostname)
	}
	if s.StopSignal != "" && !ValidSignal(s.StopSignal) {
		p.add(at+".stop_signal", "%q is not a signal; use a name such as SIGTERM or a number from 1 to 64", s.StopSignal)
	}
	p.duration(at+".stop_grace_period", s.StopGrace, 0, MaxGrace)
	if s.Drain != NoDrain {
		p.duration(at+".x-drain", s.Drain, 0, MaxDrain)
	}
}

func validateArgs(p *problems, at string, args []string) {
	p.atMost(at, len(args), MaxArgs, "arguments")
	size := 0
	for _, a := range args {
		size += len(a) + 1
		if strings.ContainsRune(a, 0) {
			p.add(at, "an argument holds a NUL byte; remove it")
			break
		}
		if !utf8.ValidString(a) {
			p.add(at, "%q is not UTF-8; write it as UTF-8", a)
			break
		}
	}
	p.atMost(at, size, MaxArgBytes, "bytes")
}

func (s *Service) validateEnv(p *problems, at string) {
	at += ".environment"
	p.atMost(at, len(s.Env), MaxEnv, "variables")
	size, last := 0, ""
	for i, e := range s.Env {
		size += len(e) + 1
		key, _, ok := strings.Cut(e, "=")
		switch {
		case !ok || key == "":
			p.add(fmt.Sprintf("%s[%d]", at, i), "%q is not KEY=VALUE", shorten(e))
		case strings.ContainsRune(e, 0) || !utf8.ValidString(e):
			p.add(at+"."+quoteIfOdd(key), "holds a NUL byte or is not UTF-8; encode the value, for example as base64")
		case i > 0 && key == last:
			p.add(at+"."+quoteIfOdd(key), "is set twice; remove one")
		}
		last = key
	}
	if !slices.IsSortedFunc(s.Env, compareEnv) {
		p.add(at, "the variables are not sorted; sort them by name")
	}
	p.atMost(at, size, MaxEnvBytes, "bytes")
}

func (s *Service) validateLabels(p *problems, at string) {
	at += ".labels"
	p.atMost(at, len(s.Labels), MaxLabels, "labels")
	for _, k := range sortedKeys(s.Labels) {
		v := s.Labels[k]
		switch {
		case k == "":
			p.add(at, "a label has no name; give it one")
		case !utf8.ValidString(k) || !utf8.ValidString(v):
			p.add(at+"."+quoteIfOdd(k), "is not UTF-8; write it as UTF-8")
		}
		p.atMost(at+"."+quoteIfOdd(k), len(k)+len(v), MaxLabelBytes, "bytes")
	}
}

func (s *Service) validatePorts(p *problems, at string) {
	at += ".ports"
	p.atMost(at, len(s.Ports), MaxPorts, "ports")
	if len(s.Ports) > MaxPorts {
		return
	}
	bound := map[string][]netip.Addr{}
	for i, o := range s.Ports {
		here := fmt.Sprintf("%s[%d]", at, i)
		if o.Target == 0 {
			p.add(here, "the container's port is missing; use 1 to 65535")
		}
		if o.Protocol != "tcp" && o.Protocol != "udp" {
			p.add(here, "protocol %q is not known; use tcp or udp", o.Protocol)
		}
		if o.HostIP.Zone() != "" {
			p.add(here, "address %s has a zone; leave it out", o.HostIP)
		}
		if o.Published == 0 {
			continue
		}
		key := fmt.Sprintf("%d/%s", o.Published, o.Protocol)
		for _, a := range bound[key] {
			if overlaps(a, o.HostIP) {
				p.add(here, "port %s is published twice; remove one", key)
				break
			}
		}
		bound[key] = append(bound[key], o.HostIP)
	}
}

// overlaps tells whether two listeners on the same port would take each other's address.
func overlaps(a, b netip.Addr) bool {
	any := func(x netip.Addr) bool { return !x.IsValid() || x.IsUnspecified() }
	return any(a) || any(b) || a.Unmap() == b.Unmap()
}

func (s *Service) validateMounts(p *problems, at string, spec *Spec) {
	at += ".volumes"
	p.atMost(at, len(s.Mounts), MaxMounts, "mounts")
	declared := map[string]bool{}
	for _, v := range spec.Volumes {
		declared[v.Name] = true
	}
	targets := map[string]bool{}
	for i, m := range s.Mounts {
		here := fmt.Sprintf("%s[%d]", at, i)
		if m.Target != "" {
			here = at + "." + quoteIfOdd(m.Target)
		}
		if err := m.check(); err != nil {
			p.add(here, "%v", err)
		}
		if m.Type == MountVolume && m.Source != "" && !declared[m.Source] {
			p.add(here, "volume %q is not among the job's volumes; declare it under the top-level `volumes:`", m.Source)
		}
		t := path.Clean(m.Target)
		if targets[t] {
			p.add(here, "something else is mounted there too; remove one")
		}
		targets[t] = true
	}
}

func (m Mount) check() error {
	switch {
	case !path.IsAbs(m.Target) || path.Clean(m.Target) == "/":
		return fmt.Errorf("target %q must be an absolute path other than /", m.Target)
	case badPath(m.Target) || badPath(m.Source):
		return fmt.Errorf("a path holds a NUL byte, is not UTF-8 or is longer than %d bytes", MaxPathBytes)
	}
	switch m.Type {
	case MountBind:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("source %q must be an absolute path on the node", m.Source)
		}
	case MountVolume:
		if m.Source != "" && !ValidVolumeName(m.Source) {
			return fmt.Errorf("%q is not a volume's name; use letters, digits, _ . - and at most %d of them; a path begins with a slash or a dot", m.Source, maxVolumeName)
		}
	case MountTmpfs:
		if m.Source != "" {
			return fmt.Errorf("a tmpfs has no source; remove %q", m.Source)
		}
		if m.ReadOnly {
			return fmt.Errorf("a tmpfs that is read-only stays empty; remove the option")
		}
	default:
		return fmt.Errorf("type %q is not known; use %s, %s or %s", m.Type, MountBind, MountVolume, MountTmpfs)
	}
	if err := m.checkOptions(); err != nil {
		return err
	}
	if m.Type != MountTmpfs && (m.SizeBytes != 0 || m.FileMode != 0) {
		return fmt.Errorf("size and mode are for tmpfs only; remove them")
	}
	if m.SizeBytes < 0 || m.SizeBytes > MaxTmpfsBytes {
		return fmt.Errorf("a size of %d bytes is not within 0 and %s", m.SizeBytes, FormatBytes(MaxTmpfsBytes))
	}
	if m.FileMode > MaxFileModeBits {
		return fmt.Errorf("mode %#o has more than permission bits (%#o)", m.FileMode, MaxFileModeBits)
	}
	return nil
}

func validateCaps(p *problems, at string, caps []string) {
	p.atMost(at, len(caps), len(capabilities)+1, "capabilities")
	for _, c := range caps {
		if !ValidCapability(c) {
			p.add(at, "%q is not a capability; use a name such as NET_ADMIN, or ALL", shorten(c))
		}
	}
}

func (h *Health) validate(p *problems, at string) {
	kind := ""
	if len(h.Test) > 0 {
		kind = h.Test[0]
	}
	switch {
	case h.Probe != nil:
		h.validateProbe(p, at)
	case len(h.Test) == 0: // the image's
	case kind == "NONE":
		if len(h.Test) > 1 {
			p.add(at+".test", "NONE takes no arguments; remove them")
		}
	case kind == "CMD":
		if len(h.Test) < 2 || h.Test[1] == "" {
			p.add(at+".test", "CMD wants a program to run")
		}
	case kind == "CMD-SHELL":
		if len(h.Test) != 2 {
			p.add(at+".test", "CMD-SHELL wants one command line, not %d", len(h.Test)-1)
		}
	default:
		p.add(at+".test", "begins with %q; use CMD, CMD-SHELL or NONE", shorten(kind))
	}
	validateArgs(p, at+".test", h.Test)
	p.duration(at+".interval", h.Interval, MinHealthTime, MaxHealthTime)
	p.duration(at+".timeout", h.Timeout, MinHealthTime, MaxHealthTime)
	p.duration(at+".start_period", h.StartPeriod, MinHealthTime, MaxHealthTime)
	p.duration(at+".start_interval", h.StartInterval, MinHealthTime, MaxHealthTime)
	if h.Retries < 0 || h.Retries > MaxHealthTries {
		p.add(at+".retries", "%d is not within 0 and %d", h.Retries, MaxHealthTries)
	}
}

func (r Restart) validate(p *problems, at string) {
	switch r.Policy {
	case RestartAny, RestartOnFailure, RestartNever:
	default:
		p.add(at, "%q is not known; use %q, %q or leave it out", r.Policy, RestartOnFailure, RestartNever)
	}
	if r.Max < 0 || r.Max > MaxRestarts {
		p.add(at+".max", "%d attempts are not within 0 and %d", r.Max, MaxRestarts)
	}
	p.duration(at+".delay", r.Delay, 0, MaxRestartDelay)
	p.duration(at+".window", r.Window, 0, MaxWindow)
}

func (r Resources) validate(p *problems, at string, minMemory int64) {
	if r.NanoCPUs != 0 && (r.NanoCPUs < MinNanoCPUs || r.NanoCPUs > MaxNanoCPUs) {
		p.add(at+".cpus", "%s is not within %s and %s", FormatCPUs(r.NanoCPUs), FormatCPUs(MinNanoCPUs), FormatCPUs(MaxNanoCPUs))
	}
	if r.MemoryBytes != 0 && (r.MemoryBytes < minMemory || r.MemoryBytes > MaxMemoryBytes) {
		p.add(at+".memory", "%s is not within %s and %s; a container does not start with less than %s", FormatBytes(r.MemoryBytes),
			FormatBytes(minMemory), FormatBytes(MaxMemoryBytes), FormatBytes(MinMemoryBytes))
	}
	if r.PIDs < 0 || r.PIDs > MaxPIDs {
		p.add(at+".pids", "%d is not within 0 and %d; leave it out for no limit", r.PIDs, MaxPIDs)
	}
}

// validateReservations refuses a reservation that the limit does not let the container use.
func (s *Service) validateReservations(p *problems, at string) {
	l, r := s.Limits, s.Reservations
	if l.NanoCPUs > 0 && r.NanoCPUs > l.NanoCPUs {
		p.add(at+".reservations.cpus", "%s is more than the limit of %s; lower one or raise the other", FormatCPUs(r.NanoCPUs), FormatCPUs(l.NanoCPUs))
	}
	if l.MemoryBytes > 0 && r.MemoryBytes > l.MemoryBytes {
		p.add(at+".reservations.memory", "%s is more than the limit of %s; lower one or raise the other", FormatBytes(r.MemoryBytes), FormatBytes(l.MemoryBytes))
	}
	if l.PIDs > 0 && r.PIDs > l.PIDs {
		p.add(at+".reservations.pids", "%d is more than the limit of %d; lower one or raise the other", r.PIDs, l.PIDs)
	}
}

func (l LogLimits) validate(p *problems, at string) {
	if l.MaxBytes != 0 && (l.MaxBytes < MinLogBytes || l.MaxBytes > MaxLogBytes) {
		p.add(at+".max-size", "%s is not within %s and %s", FormatBytes(l.MaxBytes), FormatBytes(MinLogBytes), FormatBytes(MaxLogBytes))
	}
	if l.None && (l.MaxBytes != 0 || l.MaxFiles != 0) {
		p.add(at+".driver", "with none nothing is kept; remove max-size and max-file")
	}
	if l.MaxFiles < 0 || l.MaxFiles > MaxLogFiles {
		p.add(at+".max-file", "%d is not within 1 and %d", l.MaxFiles, MaxLogFiles)
	}
}

// validateDependencies checks that every dependency can come true: it exists, has no cycle, and its condition fits.
func (s *Spec) validateDependencies(p *problems) {
	for i := range s.Services {
		v := &s.Services[i]
		at := "services." + quoteIfOdd(v.Name) + ".depends_on"
		for j, d := range v.DependsOn {
			if j > 0 && v.DependsOn[j-1].Service >= d.Service {
				p.add(at, "%q is out of order or there twice; sort them by service", d.Service)
			}
			on := s.Service(d.Service)
			switch {
			case on == nil:
				p.add(at, "service %q is not in the job; add it or remove the dependency", shorten(d.Service))
				continue
			case on.Name == v.Name:
				p.add(at, "the service waits for itself; remove it")
			}
			switch d.Condition {
			case DependStarted:
			case DependHealthy:
				if on.Health != nil && len(on.Health.Test) > 0 && on.Health.Test[0] == "NONE" {
					p.add(at, "%s has its health check disabled and never becomes healthy; use %s", d.Service, DependStarted)
				}
			case DependCompleted:
				if on.Schedule != nil {
					p.add(at, "%s runs by its x-schedule, so it never completes for good; use %s or remove it", d.Service, DependStarted)
				} else if on.Restart.Policy == RestartAny {
					p.add(at, "%s is restarted for ever and never completes; give it `restart: \"no\"` or `on-failure`", d.Service)
				}
			default:
				p.add(at, "condition %q is not known; use %s, %s or %s", shorten(d.Condition), DependStarted, DependHealthy, DependCompleted)
			}
		}
	}
	if cycle := s.cycle(dependencies); cycle != nil {
		p.add("services."+cycle[0]+".depends_on", "services wait for each other: %s; remove one of these dependencies", strings.Join(cycle, " -> "))
	} else if cycle := s.cycle(s.waits); cycle != nil {
		p.add("services."+cycle[0]+".x-placement.with", "services wait for each other to be placed: %s; one that is with another, depends on it or joins its network waits for it, so say it on one side only", strings.Join(cycle, " -> "))
	}
}

// dependencies names what a service depends on.
func dependencies(v *Service) (out []string) {
	for _, d := range v.DependsOn {
		out = append(out, d.Service)
	}
	return out
}

// waits names the services of its own job that must run before a service can be placed.
func (s *Spec) waits(v *Service) []string {
	out := v.Together()
	for _, name := range dependencies(v) {
		if on := s.Service(name); on != nil && on.Schedule == nil { // else there is nothing that it must have done
			out = append(out, name)
		}
	}
	if v.Placement == nil {
		return out
	}
	for _, r := range v.Placement.Peers {
		if !r.Apart && r.Weight == 0 {
			out = append(out, strings.TrimPrefix(r.Service, s.Name+"/"))
		}
	}
	return out
}

// cycle returns one cycle of edges, its first service repeated at the end, or nil. A service that waits for itself is
// reported elsewhere.
func (s *Spec) cycle(edges func(*Service) []string) []string {
	const visiting, done = 1, 2
	mark := map[string]int{}
	var trail []string
	var visit func(v *Service) []string
	visit = func(v *Service) []string {
		mark[v.Name] = visiting
		trail = append(trail, v.Name)
		for _, name := range edges(v) {
			on := s.Service(name)
			if on == nil || on.Name == v.Name {
				continue
			}
			switch mark[on.Name] {
			case visiting:
				return append(slices.Clone(trail[slices.Index(trail, on.Name):]), on.Name)
			case 0:
				if c := visit(on); c != nil {
					return c
				}
			}
		}
		trail = trail[:len(trail)-1]
		mark[v.Name] = done
		return nil
	}
	for i := range s.Services {
		if mark[s.Services[i].Name] == 0 {
			if c := visit(&s.Services[i]); c != nil {
				return c
			}
		}
	}
	return nil
}

// problems collects what Validate found, in the order of finding.
type problems struct {
	list []string
	more int
}

func (p *problems) add(at, format string, args ...any) {
	if len(p.list) == MaxProblems {
		p.more++
		return
	}
	p.list = append(p.list, at+": "+fmt.Sprintf(format, args...))
}

func (p *problems) atMost(at string, n, limit int, what string) {
	if n > limit {
		p.add(at, "%d %s are more than %d; make it smaller", n, what, limit)
	}
}

func (p *problems) text(at, s string, limitBytes int) {
	p.atMost(at, len(s), limitBytes, "bytes")
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
		p.add(at, "%q holds control characters or is not UTF-8; remove them", shorten(s))
	}
}

// duration checks a duration that may be 0 for "the default".
func (p *problems) duration(at string, d, least, most time.Duration) {
	if d != 0 && (d < least || d > most) {
		p.add(at, "%s is not within %s and %s", d, least, most)
	}
}

func (p *problems) err(what, name string) error {
	if len(p.list) == 0 {
		return nil
	}
	if p.more > 0 {
		p.list = append(p.list, fmt.Sprintf("and %d more problems", p.more))
	}
	if len(p.list) == 1 {
		return &Error{Kind: Invalid, Message: fmt.Sprintf("%s %s: %s", what, quoteIfOdd(name), p.list[0])}
	}
	return &Error{Kind: Invalid, Message: fmt.Sprintf("%s %s:\n  %s", what, quoteIfOdd(name), strings.Join(p.list, "\n  "))}
}

func badPath(s string) bool {
	return len(s) > MaxPathBytes || strings.ContainsRune(s, 0) || !utf8.ValidString(s)
}

// quoteIfOdd keeps a name from outside readable in a message, whatever is in it.
func quoteIfOdd(s string) string {
	if s == "" || len(s) > 80 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return strconv.Quote(shorten(s))
	}
	return s
}

func shorten(s string) string {
	if len(s) <= 80 {
		return s
	}
	return s[:77] + "..."
}
