package main

import (
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// How long programs without a health check must run before their job is called healthy: one that is new, because a
// program that cannot work mostly says so at once, and one that has crashed while somebody waited.
const (
	freshFor  = time.Second
	steadyFor = 3 * time.Second
)

// steadiness tells a job that runs from one that is only between two crashes at the moment.
type steadiness struct {
	submitted uint64 // raft index
	before    map[job.TaskID]int
	crashes   int
	since     time.Time // when all was well with so many crashes; zero: it is not
}

// unwell says that the job is not healthy at the moment.
func (s *steadiness) unwell() { s.since = time.Time{} }

// left is how much longer a job that is healthy by this list must stay so; not above 0: no longer.
func (s *steadiness) left(list *api.TaskList, now time.Time) time.Duration {
	crashes, limit := 0, time.Duration(0)
	for i := range list.Tasks {
		crashes += s.crashesOf(&list.Tasks[i])
		if s.fresh(&list.Tasks[i]) {
			limit = freshFor
		}
	}
	if crashes > 0 {
		limit = steadyFor
	}
	if limit == 0 {
		return 0
	}
	if s.since.IsZero() || crashes != s.crashes {
		s.since, s.crashes = now, crashes
	}
	return limit - now.Sub(s.since)
}

// fresh tells of a task that came with the submit and that nothing but its running speaks for.
func (s *steadiness) fresh(t *api.Task) bool {
	return t.Index >= s.submitted && t.Desired == job.DesiredRun && t.Status != nil && t.Status.Health == job.HealthNone && t.State() == job.Running
}

// crashesOf counts those since the submit; those that a task had before are none of the waiter's business.
func (s *steadiness) crashesOf(t *api.Task) int {
	if t.Status == nil || t.Desired != job.DesiredRun || t.Status.Health == job.Healthy || t.State() == job.Complete {
		return 0
	}
	if t.Index >= s.submitted {
		return t.Status.Restarts + t.Attempt
	}
	if s.before == nil {
		s.before = map[job.TaskID]int{}
	}
	if _, seen := s.before[t.ID]; !seen {
		s.before[t.ID] = t.Status.Restarts
	}
	return t.Status.Restarts - s.before[t.ID]
}
