package scheduler

import (
	"fmt"

	"shoal/consensus/job"
)

// fence writes the service's fail-over policy into a new task. "" stands for fast.
func fence(t *job.Task, s *job.Service) {
	if f := s.FailoverPolicy(); f.Mode != job.FailoverFast {
		t.Failover, t.Lease = f.Mode, f.Lease
	}
}

// holding says what slots wait for whose node is not there and whose task may not be given up yet.
func (w *work) holding(s *service) (why reason) {
	for _, sl := range s.in(held) {
		t := sl.current()
		if before, _ := sl.pair(); before != nil { // t waits for its end, or shall take over
			t = before
		}
		why.slots++
		if why.text != "" {
			continue
		}
		if t.Failover == job.FailoverManual {
			why.text = fmt.Sprintf("waits for an admin, because x-failover is manual: %s, where task %s of %s ran; when that machine is surely off, `shoal failover %s/%s` places it anew",
				w.nodeCause(t), t.ID, t.Name(), s.job.name, s.name)
			continue
		}
		why.text = fmt.Sprintf("waits for the lease of task %s of %s to end: %s; that takes at most %v and a margin", t.ID, t.Name(), w.nodeCause(t), t.Lease)
	}
	return why
}
