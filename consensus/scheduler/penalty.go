package scheduler

import (
	"time"

	"shoal/consensus/job"
)

// A node on which tasks of a service fail again and again is worse for that service than others, for as long as the failures
// are remembered. One failure is forgiven: it may be the task's own.
const (
	penaltyWindow = 10 * time.Minute
	penaltyFrom   = 2  // failures
	maxPenalty    = 16 // failures that are remembered for a service and node
)

// noteFailure remembers that a task that was meant to run has failed. The time is the leader's; what a new leader finds
// has only its node's.
func (p *Planner) noteFailure(t *task) {
	if t.state() != job.Failed || t.Desired != job.DesiredRun && p.now.IsZero() {
		return
	}
	var at time.Time // of the next plan, which looks at this service
	if p.now.IsZero() {
		at = t.st.At[job.Failed]
	}
	if t.svc.failures == nil {
		t.svc.failures = map[job.NodeID][]time.Time{}
	}
	f := append(t.svc.failures[t.Node], at)
	t.svc.failures[t.Node] = f[max(0, len(f)-maxPenalty):]
}

// penalty is how much worse a node is for a service than others, 0 for as good: for what its tasks did there before. It
// outweighs all but the spread over labels. It does not change while a plan is made.
func (p *Planner) penalty(s *service, n *node) (failures int) {
	if p.flapping(n) {
		return flapPenalty
	}
	for _, at := range s.failures[n.n.ID] {
		if at.IsZero() || p.now.Sub(at) <= penaltyWindow {
			failures++
		}
	}
	if failures < penaltyFrom {
		return 0
	}
	return failures
}

// forgive gives new failures their time, and drops those that are over or on nodes that are gone.
func (p *Planner) forgive(s *service) {
	for id, f := range s.failures {
		for i := range f {
			if f[i].IsZero() || f[i].After(p.now) { // later: by a node's clock that is ahead
				f[i] = p.now
			}
		}
		if p.nodes[id] == nil || p.now.Sub(f[len(f)-1]) > penaltyWindow {
			delete(s.failures, id)
		}
	}
}
