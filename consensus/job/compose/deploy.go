package compose

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// scale converts how many tasks a service has.
func (c *conversion) scale(at string, s *types.ServiceConfig, out *job.Service) {
	out.Mode, out.Replicas = job.Replicated, s.GetScale()
	if s.Deploy == nil {
		return
	}
	switch s.Deploy.Mode {
	case "", "replicated":
	case string(job.ReplicatedJob):
		out.Mode = job.ReplicatedJob
	case string(job.Global), string(job.GlobalJob):
		out.Mode = job.Mode(s.Deploy.Mode)
		if s.Deploy.Replicas != nil || s.Scale != nil {
			c.problem(at+".deploy.mode", "a global service has one task on every node; remove `replicas` and `scale`, or `mode: global`")
		}
	default:
		c.problem(at+".deploy.mode", "%.40q is not known; use replicated, global, replicated-job or global-job", s.Deploy.Mode)
	}
}

// deploy converts resources and placement, from `deploy` and from the keys that were there before it. compose-go has
// checked that they do not contradict each other.
func (c *conversion) deploy(at string, s *types.ServiceConfig, out *job.Service) {
	out.Limits = c.resources(at, s.CPUS, s.MemLimit, s.PidsLimit)
	out.Reservations = job.Resources{MemoryBytes: int64(s.MemReservation)}
	if s.Deploy == nil {
		return
	}
	if r := s.Deploy.Resources.Limits; r != nil {
		out.Limits = over(out.Limits, c.resources(at+".deploy.resources.limits", r.NanoCPUs.Value(), r.MemoryBytes, r.Pids))
	}
	if r := s.Deploy.Resources.Reservations; r != nil {
		out.Reservations = over(out.Reservations, c.resources(at+".deploy.resources.reservations", r.NanoCPUs.Value(), r.MemoryBytes, r.Pids))
	}
}

func (c *conversion) resources(at string, cpus float32, memory types.UnitBytes, pids int64) job.Resources {
	r := job.Resources{MemoryBytes: int64(memory), PIDs: pids}
	if pids == -1 { // Docker's way to say "no limit"
		r.PIDs = 0
	}
	if cpus != 0 {
		// By way of its shortest text: 0.1 as a float32 times 1e9 is 100000001.
		n, err := job.ParseCPUs(strconv.FormatFloat(float64(cpus), 'f', -1, 32))
		if err != nil {
			c.problem(at+".cpus", "%v", err)
		}
		r.NanoCPUs = n
	}
	return r
}

// over takes each amount from b where it has one, else from a.
func over(a, b job.Resources) job.Resources {
	if b.NanoCPUs != 0 {
		a.NanoCPUs = b.NanoCPUs
	}
	if b.MemoryBytes != 0 {
		a.MemoryBytes = b.MemoryBytes
	}
	if b.PIDs != 0 {
		a.PIDs = b.PIDs
	}
	return a
}

// restart converts `deploy.restart_policy`, or without it `restart`. With neither a service is restarted always, as one
// is meant to run; but Compose's default (never) holds where another service waits for this one to complete.
func (c *conversion) restart(at string, s *types.ServiceConfig, out *job.Service) {
	if out.IsBatch() || s.Extensions["x-batch"] != nil || s.Extensions["x-schedule"] != nil {
		return // batch says what follows a failure
	}
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		c.restartPolicy(at+".deploy.restart_policy", s.Deploy.RestartPolicy, &out.Restart)
		return
	}
	r, err := parseRestart(s.Restart)
	if err != nil {
		c.problem(at+".restart", "%v", err)
	}
	out.Restart = r
	if s.Restart == "" && c.isWaitedFor(s.Name) {
		out.Restart.Policy = job.RestartNever
		c.warn(at, "runs once, because another service waits for its completion; say so with `restart: \"no\"`, or `on-failure` to try again")
	}
}

func (c *conversion) restartPolicy(at string, p *types.RestartPolicy, r *job.Restart) {
	switch p.Condition {
	case "", "any", "always", "unless-stopped":
	case "on-failure":
		r.Policy = job.RestartOnFailure
	case "none", "no":
		r.Policy = job.RestartNever
	default:
		c.problem(at+".condition", "%.40q is not known; use none, on-failure or any", p.Condition)
	}
	r.Delay, r.Window = duration(p.Delay), duration(p.Window)
	if p.MaxAttempts != nil {
		r.Max = int(min(*p.MaxAttempts, job.MaxRestarts+1)) // Validate says that it is too much
	}
	if p.Delay != nil && time.Duration(*p.Delay) > job.MaxRestartDelay {
		c.problem(at+".delay", "%s is more than %s, the longest that a restart waits; lower it", duration(p.Delay), job.MaxRestartDelay)
		r.Delay = 0
	}
}

// parseRestart reads Compose's and docker run's word for a restart policy.
func parseRestart(s string) (job.Restart, error) {
	policy, tries, hasTries := strings.Cut(s, ":")
	var r job.Restart
	switch policy {
	case "", "always", "unless-stopped":
	case "no", "none", "never":
		r.Policy = job.RestartNever
	case "on-failure":
		r.Policy = job.RestartOnFailure
		if hasTries {
			n, err := strconv.Atoi(tries)
			if err != nil || n < 1 || n > job.MaxRestarts {
				return r, fmt.Errorf("%.40q is not a number of tries; use 1 to %d", tries, job.MaxRestarts)
			}
			r.Max, hasTries = n, false
		}
	default:
		return r, fmt.Errorf("%.40q is not known; use no, always, on-failure[:tries] or unless-stopped", s)
	}
	if hasTries {
		return r, fmt.Errorf("%.40q: only on-failure takes a number of tries", s)
	}
	return r, nil
}

func (c *conversion) isWaitedFor(name string) bool {
	for _, s := range c.project.Services {
		if d, ok := s.DependsOn[name]; ok && d.Condition == job.DependCompleted {
			return true
		}
	}
	return false
}
