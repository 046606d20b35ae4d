package scheduler

import (
	"fmt"
	"maps"
	"slices"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// behind counts the wanted slots that do not run the present content yet, whatever its state.
func (s *service) behind() int {
	n := 0
	for _, ph := range []phase{missing, ending, failing, deserted, held, outdated, tuning, double, handing, preparing, prepared, waiting} {
		n += len(s.sets[ph])
	}
	return n
}

// updateGate says which dependency holds back the slots of a service that changes, "" if none does: one that changes in the
// same version comes first, until all of its slots have the new content and reached the condition. A way back goes in the
// same order. What takes the place of a task that was lost or had to move is never held back (see begins).
func (w *work) updateGate(s *service) string {
	if !s.rolling() {
		return ""
	}
	for _, d := range s.spec.DependsOn {
		o := s.job.services[d.Service]
		if o != nil && o.isBatch() {
			if text := w.batchGate(s, d, o); text != "" {
				return text
			}
			continue
		}
		if o == nil || o.spec == nil || o.rollout == nil || o.rollout.Version != s.rollout.Version {
			continue
		}
		switch r := o.rollout; {
		case r.Status == job.RolloutComplete:
			if d.Condition == job.DependCompleted && o.completed < o.wanted {
				return fmt.Sprintf("waits for %s to complete", d.Service)
			}
		case r.Status == job.RolloutPaused:
			return fmt.Sprintf("waits for %s, whose update is paused: %s", d.Service, r.Reason)
		case r.Canaries > 0 && o.behind() > 0:
			return fmt.Sprintf("waits for %s, whose canaries come first", d.Service)
		case o.behind() > 0:
			return fmt.Sprintf("waits for the update of %s, on which it depends", d.Service)
		case d.Condition == job.DependHealthy && o.ready < o.wanted:
			return fmt.Sprintf("waits for %s to be healthy with its new content", d.Service)
		case d.Condition == job.DependCompleted && o.completed < o.wanted:
			return fmt.Sprintf("waits for %s to complete with its new content", d.Service)
		case o.started < o.wanted:
			return fmt.Sprintf("waits for %s to start with its new content", d.Service)
		}
	}
	return ""
}

// takeAlong takes the services back too that depend on s, changed in the same version, and have not ended their change:
// they were made for the content that failed.
func (w *work) takeAlong(s *service, why string) {
	back := map[string]bool{s.name: true}
	names := slices.Sorted(maps.Keys(s.job.services))
	for range names { // a chain is at most as long
		for _, name := range names {
			o := s.job.services[name]
			if back[name] || o.spec == nil || !o.rolling() || o.rollout.RollbackOf != 0 || o.rollout.Version != s.rollout.Version || o.rollout.From == 0 {
				continue
			}
			if slices.ContainsFunc(o.spec.DependsOn, func(d job.Dependency) bool { return back[d.Service] }) {
				back[name] = true
				w.step(o, state.RolloutStep{Status: job.RolloutPaused, Rollback: true, Reason: why})
			}
		}
	}
}
