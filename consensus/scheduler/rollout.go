package scheduler

import (
	"fmt"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// rolling tells whether an update or rollback of the service is under way.
func (s *service) rolling() bool { return s.rollout.Live() }

// policy says how the service's tasks are replaced now.
func (s *service) policy() job.Update {
	return s.spec.UpdatePolicy(s.rollout != nil && s.rollout.RollbackOf != 0)
}

// changing names the change that is under way, for people.
func (s *service) changing() string {
	switch r := s.rollout; {
	case r == nil:
		return fmt.Sprintf("the update to version %d", s.job.job.Version)
	case r.RollbackOf != 0:
		return fmt.Sprintf("the rollback from version %d", r.RollbackOf)
	default:
		return fmt.Sprintf("the update to version %d", r.Version)
	}
}

// updateCause says why a task of another content is replaced.
func (s *service) updateCause() string {
	switch r := s.rollout; {
	case r == nil:
		return fmt.Sprintf("updated to version %d", s.job.job.Version)
	case r.RollbackOf != 0:
		return fmt.Sprintf("rolled back from version %d", r.RollbackOf)
	default:
		return fmt.Sprintf("updated to version %d", r.Version)
	}
}

// counts tells whether a task's failure is one of the rollout's.
func (s *service) counts(t *task) bool {
	if t.Digest != s.digest || max(t.Index, t.Watched) <= s.rollout.Index {
		return false
	}
	return t.state() == job.Failed || t.Desired == job.DesiredRun && t.state() == job.Running && t.st.Health == job.Unhealthy
}

// failedIn tells whether a slot counts as failed in the rollout that runs.
func (s *service) failedIn(sl *slot) bool {
	if !s.rolling() {
		return false
	}
	for _, t := range sl.tasks {
		if s.counts(t) {
			return true
		}
	}
	return false
}

// lastFailure is the newest task of the present content that failed beside one of a former content, nil if there is none.
// It counts also when no rollout runs, as after a stop and a start: what keeps failing is tried less and less often.
func (s *service) lastFailure(sl *slot) *task {
	for i := len(sl.tasks) - 1; i >= 0; i-- {
		t := sl.tasks[i]
		if t.ended() && t.state() == job.Failed && t.Digest == s.digest && (!s.rolling() || s.counts(t)) {
			return t
		}
	}
	return nil
}

// judge ends a rollout of which too much has failed: back to where it came from, or paused. It tells whether it did.
func (w *work) judge(s *service) bool {
	if s.spec == nil || !s.rolling() {
		return false
	}
	u := s.policy()
	late := w.allLate(s)
	bad := s.failed + len(late)
	if u.Failure == job.FailContinue || float64(bad) <= u.MaxFailureRatio*float64(s.wanted) {
		return false
	}
	why := w.failure(s, late, bad)
	w.step(s, state.RolloutStep{Status: job.RolloutPaused, Rollback: u.Failure == job.FailRollback, Reason: why})
	if u.Failure == job.FailRollback {
		w.takeAlong(s, why)
	}
	return true
}

func (w *work) step(s *service, st state.RolloutStep) {
	st.Job, st.Service, st.Version = s.job.name, s.name, s.rollout.Version
	w.plan.Rollouts = append(w.plan.Rollouts, st)
	w.again(s)
}

// late tells whether the new task in a slot has not become ready for too long, and has it looked at again before.
func (w *work) late(s *service, sl *slot) bool {
	switch sl.phase {
	case handing, preparing, unready:
	default:
		return false
	}
	if sl.current().Index <= s.rollout.Index {
		return false
	}
	at := sl.since.Add(progressDeadline)
	if at.After(w.now) {
		w.wakeAt(s, at)
		return false
	}
	return true
}

// allLate lists the slots that are late and have not failed.
func (w *work) allLate(s *service) (late []*slot) {
	for _, ph := range []phase{handing, preparing, unready} {
		for _, sl := range s.in(ph) {
			if !sl.sum.failed && w.late(s, sl) {
				late = append(late, sl)
			}
		}
	}
	return late
}

// failure says what failed: "web.2 failed: exit code 1, and 2 more".
func (w *work) failure(s *service, late []*slot, bad int) string {
	var failed []*slot
	for _, sl := range s.slots {
		if sl.sum.failed {
			failed = append(failed, sl)
		}
	}
	sortSlots(failed)
	var text string
	if len(failed) > 0 {
		for _, t := range failed[0].tasks { // the first failure tells more than its repetitions
			if s.counts(t) {
				text = failureOf(t)
				break
			}
		}
	} else {
		t := late[0].current()
		text = fmt.Sprintf("%s was not ready after %v", t.Name(), progressDeadline)
		if t.st != nil && t.st.Message != "" {
			text += ": " + t.st.Message
		}
	}
	if bad > 1 {
		text += fmt.Sprintf(", and %d more", bad-1)
	}
	return text
}

func failureOf(t *task) string {
	text := t.Name() + " failed"
	if t.state() != job.Failed {
		text = t.Name() + " is unhealthy"
	}
	switch {
	case t.st.Message != "":
		text += ": " + t.st.Message
	case t.st.ExitCode != nil:
		text += fmt.Sprintf(": exit code %d", *t.st.ExitCode)
	}
	return text
}
