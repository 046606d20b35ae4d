package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// Docker's defaults of a health check (docs.docker.com/reference/dockerfile, HEALTHCHECK).
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
)

// checker judges a sequence of probes as Docker does: failures in the start period do not count, one success makes
// healthy and ends that period, Retries failures in a row make unhealthy. After as many again it asks for a restart.
type checker struct {
	h       job.Health
	started time.Time // of the container
	state   job.Healthiness
	streak  int // failures in a row
}

func newChecker(h job.Health, started time.Time, state job.Healthiness) *checker {
	h.Interval = cmp.Or(h.Interval, defaultInterval)
	h.Timeout = cmp.Or(h.Timeout, defaultTimeout)
	h.StartInterval = cmp.Or(h.StartInterval, defaultStartInterval)
	h.Retries = cmp.Or(h.Retries, defaultRetries)
	c := &checker{h: h, started: started, state: cmp.Or(state, job.HealthStarting)}
	if c.state == job.Unhealthy {
		c.streak = h.Retries
	}
	return c
}

func (c *checker) inStartPeriod(now time.Time) bool {
	return c.state == job.HealthStarting && now.Sub(c.started) < c.h.StartPeriod
}

// wait tells how long it is to the next probe.
func (c *checker) wait(now time.Time) time.Duration {
	wait := c.h.Interval
	if c.inStartPeriod(now) {
		wait = c.h.StartInterval
	}
	if c.early(now) {
		wait = min(wait, earlyProbe)
	}
	return wait
}

// take judges a probe that began at a time; restart says that it has been unhealthy for too long.
func (c *checker) take(began time.Time, ok bool) (restart bool) {
	switch {
	case ok:
		c.state, c.streak = job.Healthy, 0
	case c.inStartPeriod(began), c.early(began):
	default:
		if c.streak++; c.streak >= c.h.Retries {
			c.state = job.Unhealthy
		}
	}
	return c.streak >= 2*c.h.Retries
}

// command is what a probe executes.
func command(test []string) []string {
	if test[0] == "CMD-SHELL" {
		return []string{"/bin/sh", "-c", test[1]}
	}
	return test[1:]
}

// prober is the worker that probes one run of one container.
type prober struct {
	starts int // which run
	h      job.Health
	cancel context.CancelFunc
}

// probed is a verdict on its way to Run's goroutine.
type probed struct {
	task    *task
	prober  *prober
	state   job.Healthiness
	ok      bool
	output  string
	restart bool
}

// watchHealth starts and ends the prober of a task as it must be.
func (r *Reconciler) watchHealth(ctx context.Context, t *task) {
	h := t.check()
	wanted := h != nil && t.running() && !t.hooksDue() && !t.info.Paused && t.assigned && !t.leaving(r.complete) && !t.status.State.Terminal() && !t.unwell
	if t.probe != nil && (!wanted || t.probe.starts != t.info.Starts || !reflect.DeepEqual(t.probe.h, *h)) {
		t.probe.cancel()
		t.probe = nil
	}
	if !wanted || t.probe != nil {
		return
	}
	p := &prober{starts: t.info.Starts, h: *h}
	ctx, p.cancel = context.WithCancel(ctx)
	t.probe = p
	state := t.status.Health
	if t.status.Ready() { // it has got a check while it served: it serves until that says otherwise
		state = job.Healthy
	}
	c := newChecker(*h, t.info.StartedAt, state)
	id, at := t.info.ID, probeAddress(t)
	r.workers.Go(func() {
		defer p.cancel()
		for {
			select {
			case <-time.After(c.wait(time.Now())):
			case <-ctx.Done():
				return
			}
			began := time.Now()
			ok, output, judged := r.probe(ctx, id, at, c.h)
			if !judged {
				continue
			}
			restart := c.take(began, ok)
			select {
			case r.probeCh <- probed{t, p, c.state, ok, output, restart}:
			case <-ctx.Done():
				return
			}
			if restart {
				return
			}
		}
	})
}

// probe executes the check once. judged is false when it says nothing of the container: it was ending, or the machine
// was short of something.
func (r *Reconciler) probe(ctx context.Context, id runtime.ID, at netip.Addr, h job.Health) (ok bool, output string, judged bool) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	if h.Probe != nil {
		return askFromOutside(ctx, at, h)
	}
	var out head
	code, err := r.cfg.Runtime.Exec(ctx, id, runtime.Exec{Args: command(h.Test), Stdout: &out, Stderr: &out})
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return false, fmt.Sprintf("timed out after %v", h.Timeout), true
	case ctx.Err() != nil, errors.Is(err, runtime.ErrNotFound), errors.Is(err, runtime.ErrConflict), errors.Is(err, runtime.ErrBusy):
		return false, "", false
	case err != nil:
		return false, err.Error(), true
	case code != 0:
		return false, strings.TrimSpace(fmt.Sprintf("exit code %d: %s", code, out.text())), true
	default:
		return true, "", true
	}
}

// probed takes a verdict.
func (r *Reconciler) probed(p probed) {
	t := p.task
	if t.probe != p.prober || !t.running() || t.status.State != job.Running {
		return // of a run that has ended
	}
	if p.state != t.status.Health {
		r.log.Info("task is "+string(p.state), "task", t.Task.ID, "name", t.Task.Name(), "output", p.output)
	}
	t.status.Health = p.state
	switch {
	case p.state == job.Healthy && p.ok:
		t.wasHealthy = true
		t.status.Message = t.allIsWell()
		t.at(time.Now(), job.State(job.Healthy))
	case p.state == job.Unhealthy:
		t.say("health check: %s", p.output)
	}
	t.unwell = p.restart
}

// head keeps the beginning of what is written. Safe for concurrent use: a process has two streams.
type head struct {
	mu sync.Mutex
	b  []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, p[:min(len(p), maxMessage-len(h.b))]...)
	return len(p), nil
}

func (h *head) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(h.b), ""))
}
