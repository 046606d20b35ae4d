package main

import (
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// steadyFor is how long a program without a health check that has crashed while somebody waited must run before its job
// is called healthy. A program that never crashes is not waited for.
const steadyFor = 3 * time.Second

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
	crashes := 0
	for i := range list.Tasks {
		crashes += s.crashesOf(&list.Tasks[i])
	}
	if crashes == 0 {
		return 0
	}
	if s.since.IsZero() || crashes != s.crashes {
		s.since, s.crashes = now, crashes
	}
	return steadyFor - now.Sub(s.since)
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
