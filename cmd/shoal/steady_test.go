package main

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestAProgramThatCrashedMustRunForAWhile(t *testing.T) {
	at := time.Unix(1000, 0)
	tasks := func(index uint64, restarts, attempt int, health job.Healthiness) *api.TaskList {
		var k api.Task
		k.ID, k.Index, k.Attempt, k.Desired = "a", index, attempt, job.DesiredRun
		k.Status = &job.Status{State: job.Running, Restarts: restarts, Health: health}
		return &api.TaskList{Tasks: []api.Task{k}}
	}
	s := &steadiness{submitted: 10}
	if left := s.left(tasks(10, 0, 0, job.HealthNone), at); left != freshFor {
		t.Errorf("a new one: %v more", left)
	}
	if left := s.left(tasks(10, 0, 0, job.HealthNone), at.Add(freshFor)); left > 0 {
		t.Errorf("a new one that runs for a while: %v more", left)
	}
	if left := (&steadiness{submitted: 10}).left(tasks(9, 0, 0, job.HealthNone), at); left > 0 {
		t.Errorf("one that ran before is waited for %v more", left)
	}
	if left := s.left(tasks(10, 1, 0, job.HealthNone), at); left != steadyFor {
		t.Errorf("after a crash: %v more", left)
	}
	if left := s.left(tasks(10, 1, 0, job.HealthNone), at.Add(steadyFor)); left > 0 {
		t.Errorf("after it ran for long: %v more", left)
	}
	if left := s.left(tasks(10, 2, 0, job.HealthNone), at.Add(steadyFor)); left != steadyFor {
		t.Errorf("after one more crash: %v more", left)
	}
	s.unwell()
	if left := s.left(tasks(10, 2, 0, job.HealthNone), at.Add(2*steadyFor)); left != steadyFor {
		t.Errorf("after it was unwell: %v more", left)
	}
	for what, list := range map[string]*api.TaskList{
		"one with a passing check":       tasks(10, 5, 1, job.Healthy),
		"one that crashed long ago only": tasks(9, 5, 1, job.HealthNone),
	} {
		if left := (&steadiness{submitted: 10}).left(list, at); left > 0 {
			t.Errorf("%s is waited for %v", what, left)
		}
	}
	if left := (&steadiness{submitted: 10}).left(tasks(12, 0, 1, job.HealthNone), at); left != steadyFor {
		t.Errorf("one that takes the place of a failed one: %v more", left)
	}
}
