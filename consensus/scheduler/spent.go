package scheduler

import (
	"fmt"

	"shoal/consensus/job"
)

// spent lists the ended tasks of a slot that nobody will look at again: of another content than the service's, still meant
// to run, beside a task that lives. Such is the successor that failed once its update was taken back.
func (s *service) spent(sl *slot) (out []*task) {
	if len(sl.tasks) < 2 || !sl.sum.wanted || s.isBatch() {
		return nil
	}
	if cur := sl.current(); cur == nil || cur.ended() {
		return nil
	}
	for _, t := range sl.tasks {
		if t.Desired == job.DesiredRun && t.ended() && t.Digest != s.digest {
			out = append(out, t)
		}
	}
	return out
}

// noteSpent keeps the set of slots with spent tasks.
func (s *service) noteSpent(sl *slot) {
	if len(s.spent(sl)) == 0 {
		delete(s.withSpent, sl)
		return
	}
	if s.withSpent == nil {
		s.withSpent = map[*slot]struct{}{}
	}
	s.withSpent[sl] = struct{}{}
}

// putToRest no longer wants spent tasks: else `ps` would show a failed task as the present one of its slot for ever.
func (w *work) putToRest(s *service) {
	if len(s.withSpent) == 0 {
		return
	}
	sls := make([]*slot, 0, len(s.withSpent))
	for sl := range s.withSpent {
		sls = append(sls, sl)
	}
	sortSlots(sls)
	for _, sl := range sls {
		if sl.phase == excess || sl.phase == double {
			continue // all of it is stopped already
		}
		for _, t := range s.spent(sl) {
			if !w.stop(t, job.DesiredStop, fmt.Sprintf("its slot is kept by task %s", sl.current().ID)) {
				return
			}
		}
	}
}
