package nodetest

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// What the first simulations did not have: disks that fail, clocks that are set, jobs that end by themselves, run by the
// clock, or scale themselves. Seeds of before go without it, so that their scripts stay as they were.

// FailDisk makes every write of the machine's log fail until it is called with nil. Its agent ends with the first.
func (m *Machine) FailDisk(err error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.err = err
	m.disk.failed = m.disk.failed || err != nil
}

// diskFailed tells whether the disk failed since the agent's start, and that is why the agent ended with err; and whether
// the disk is well again.
func (m *Machine) diskFailed(err error) (so, well bool) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	text := fmt.Sprint(err)
	why := strings.Contains(text, errEIO.Err.Error()) || strings.Contains(text, errFull.Err.Error())
	return m.disk.failed && why && strings.Contains(text, "raft"), m.disk.err == nil
}

var (
	errEIO  = &fs.PathError{Op: "sync", Path: "raft.db", Err: syscall.EIO}
	errFull = &fs.PathError{Op: "write", Path: "raft.db", Err: syscall.ENOSPC}
)

func (s *sim) moreFaults() []namedFault {
	return []namedFault{
		{"failing disk", 4, func(m *Machine) {
			if !s.idle(m) {
				return
			}
			s.note("%s: writes of the log fail", m.Name)
			m.FailDisk(errEIO)
			s.after(time.Second, time.Minute, func() { m.FailDisk(nil); s.revive(m) })
		}},
		{"full disk", 2, func(m *Machine) {
			s.note("%s: disk full", m.Name)
			m.FailDisk(errFull)
			s.after(time.Second, time.Minute, func() { m.FailDisk(nil); s.revive(m) }) // one that was started meanwhile ended
		}},
		{"clock", 5, func(m *Machine) {
			ahead := time.Duration(math.Pow(10, s.r.Float64()*7) * float64(time.Second)) // up to four months: longer than a certificate lasts
			if s.r.IntN(2) == 0 {
				ahead = -ahead
			}
			s.note("%s: clock %v off", m.Name, ahead.Round(time.Second))
			m.SetClock(ahead)
			s.steadyClocks = false
			if s.r.IntN(2) == 0 {
				s.after(time.Second, time.Minute, func() { s.note("%s: clock right", m.Name); m.SetClock(0) })
			}
		}},
		{"rebalance", 2, func(*Machine) {
			s.admin("rebalance", func(ctx context.Context, c *api.Client) error { _, err := c.Rebalance(ctx, false); return err })
		}},
		{"leader gone", 4, func(*Machine) {
			if l := s.believedLeader(); l != nil {
				s.powerOff(l, l.PowerCut, "power cut of the leader")
			}
		}},
		{"batch", 6, func(*Machine) { s.submitBatch() }},
		{"cron", 3, func(*Machine) { s.submitOther(s.cronSpec()) }},
		{"autoscale", 3, func(*Machine) { s.submitOther(s.scaledSpec()) }},
		{"run", 2, func(*Machine) {
			s.admin("run c/c by hand", func(ctx context.Context, c *api.Client) error {
				_, err := c.StartRun(ctx, api.NewKey(), "c", "c")
				return err
			})
		}},
		{"restart", 2, func(*Machine) {
			name := fmt.Sprintf("j%d", 1+s.r.IntN(4))
			s.admin("restart "+name, func(ctx context.Context, c *api.Client) error {
				_, err := c.RestartJob(ctx, api.NewKey(), name, api.RestartRequest{})
				return err
			})
		}},
	}
}

func (s *sim) submitOther(spec job.Spec) {
	key := api.NewKey()
	s.admin(fmt.Sprintf("submit %s %+v", spec.Name, spec.Services[0]), func(ctx context.Context, c *api.Client) error {
		_, err := c.Submit(ctx, key, api.SubmitRequest{Spec: spec})
		return err
	})
}

// submitBatch gives new work to one of two batches.
func (s *sim) submitBatch() {
	n := 1 + s.r.IntN(8)
	sv := job.Service{
		Name: "b", Mode: job.ReplicatedJob, Replicas: n, Image: "web:1", Command: []string{"sleep", fmt.Sprint(1 + s.r.IntN(20))},
		Env:   []string{fmt.Sprintf("RUN=%d", s.r.IntN(1000))},
		Batch: &job.Batch{Parallelism: s.r.IntN(4), Retries: new(50), MaxBackoff: 5 * time.Second},
	}
	if s.r.IntN(4) == 0 {
		sv.Mode, sv.Replicas = job.GlobalJob, 0
	}
	s.submitOther(job.Spec{Name: fmt.Sprintf("b%d", 1+s.r.IntN(2)), Services: []job.Service{sv}})
}

func (s *sim) cronSpec() job.Spec {
	return job.Spec{Name: "c", Services: []job.Service{{
		Name: "c", Mode: job.ReplicatedJob, Replicas: 1 + s.r.IntN(2), Image: "web:1", Command: []string{"sleep", fmt.Sprint(1 + s.r.IntN(90))},
		Schedule: &job.Schedule{Cron: "* * * * *", Overlap: []job.Overlap{job.OverlapForbid, job.OverlapAllow, job.OverlapReplace}[s.r.IntN(3)]},
		Batch:    &job.Batch{Retries: new(50), MaxBackoff: 5 * time.Second, KeepComplete: 30, KeepFailed: 30},
	}}}
}

// scaledSpec is a service whose tasks use a hundredth of a core each, in the scripted runtime: which is half or twice
// of its target.
func (s *sim) scaledSpec() job.Spec {
	sv := job.Service{
		Name: "a", Mode: job.Replicated, Replicas: 1 + s.r.IntN(5), Image: "web:1",
		Autoscale: &job.Autoscale{Min: 1 + s.r.IntN(2), Max: 4 + s.r.IntN(3), CPU: 50, Window: 15 * time.Second,
			Up: job.ScaleLimit{Cooldown: 10 * time.Second}, Down: job.ScaleLimit{Cooldown: 20 * time.Second}},
	}
	sv.Reservations.NanoCPUs = []int64{1e7, 1e9}[s.r.IntN(2)]
	return job.Spec{Name: "a", Services: []job.Service{sv}}
}

// expectedScale is where a service of scaledSpec must end.
func expectedScale(sv *job.Service) int {
	if sv.Reservations.NanoCPUs == 1e7 {
		return sv.Autoscale.Max // each uses all that is reserved for it, and should use half
	}
	return sv.Autoscale.Min
}

// checkRuns asks what must hold of batches at any time, on the newest copy there is.
func (s *sim) checkRuns(runs []*job.Run) {
	for _, r := range runs {
		k := place{r.Job, r.Service, fmt.Sprint(r.Seq)}
		done := len(r.DoneNodes)
		for i := range r.Slots {
			if r.HasDone(r.First+1+i, "") {
				done++
			}
		}
		was, known := s.runs[k]
		switch {
		case done != r.Completed:
			s.fail("run %v has %d completions, of which %d are put down", k, r.Completed, done)
		case r.Slots > 0 && r.Completed > r.Slots:
			s.fail("run %v of %d has %d completions", k, r.Slots, r.Completed)
		case r.Status == job.RunComplete && r.Completed < r.Slots:
			s.fail("run %v is complete with %d of %d", k, r.Completed, r.Slots)
		case known && was.Created.Equal(r.Created) && was.Index == r.Index && (r.Completed < was.Completed || was.Status != job.RunRunning && r.Status != was.Status):
			s.fail("run %v was %+v and is %+v", k, *was, *r)
		}
		s.runs[k] = r
		if !r.Due.IsZero() && r.Cause != "" {
			for o, w := range s.runs {
				if o != k && o.job == r.Job && o.service == r.Service && w.Due.Equal(r.Due) && w.Version == r.Version {
					s.fail("run %v and run %v are both for %v", o, k, r.Due)
				}
			}
		}
	}
}

// endMore ends what never comes to rest by itself, after it has shown in peace that it works.
func (s *sim) endMore() {
	s.recoverClocks()
	l := s.awaitLeader()
	v := l.node.State().View()
	if j := v.Job("c"); j != nil && !j.Stopped && s.steadyClocks {
		// The schedule goes on once all is well: two more due times, each with its run or an overlap as the reason for none.
		from := time.Now()
		s.Await(4*time.Minute, "a scheduled run to begin in peace", func() bool {
			l := s.Leader()
			return l != nil && slices.ContainsFunc(l.node.State().View().Runs("c", "c"), func(r *job.Run) bool { return r.Due.After(from) || r.Active() })
		})
	}
	for try := 0; ; try++ {
		err := s.admin("rm c", func(ctx context.Context, c *api.Client) error { return c.RemoveJob(ctx, "c") })
		if err == nil || job.KindOf(err) == job.NotFound {
			return
		}
		if try > 60 {
			s.fail("job c cannot be removed in peace: %v", err)
		}
		time.Sleep(time.Second)
	}
}

func (s *sim) recoverClocks() {
	for _, m := range s.Machines {
		m.SetClock(0)
	}
}

func (s *sim) awaitLeader() *Machine {
	var l *Machine
	s.Await(2*time.Minute, "a leader in peace", func() bool { l = s.Leader(); return l != nil })
	return l
}

// wrongOthers says what of batches and of services that scale themselves is not at its end, "" for nothing.
func (c *Cluster) wrongOthers(s *shadow, runs []*job.Run) string {
	for _, r := range runs {
		if j := s.jobs[r.Job]; r.Active() && j != nil && !j.Stopped {
			if sv := j.Spec.Service(r.Service); sv == nil || !s.hopeless(sv) {
				return fmt.Sprintf("run %d of %s/%s is under way: %d of %d", r.Seq, r.Job, r.Service, r.Completed, r.Slots)
			}
		}
	}
	for _, j := range s.jobs {
		for i := range j.Spec.Services {
			sv := &j.Spec.Services[i]
			if sv.Autoscale == nil || j.Stopped {
				continue
			}
			if sv.Replicas < sv.Autoscale.Min || sv.Replicas > sv.Autoscale.Max {
				return fmt.Sprintf("%s/%s has %d replicas, out of %d to %d", j.Name, sv.Name, sv.Replicas, sv.Autoscale.Min, sv.Autoscale.Max)
			}
			if want := expectedScale(sv); sv.Replicas != want && !s.hopeless(sv) {
				return fmt.Sprintf("%s/%s has %d replicas, and should scale to %d", j.Name, sv.Name, sv.Replicas, want)
			}
		}
	}
	return ""
}

// hopeless tells whether one more task of a service fits nowhere.
func (s *shadow) hopeless(sv *job.Service) bool {
	for _, n := range s.nodes {
		if !s.tooMuch(sv, n) {
			return false
		}
	}
	return true
}
