package job

import (
	"reflect"
	"time"
)

// UpdateOrder says which of two tasks in a slot comes first.
type UpdateOrder string

// Orders. The zero value starts first where nothing of the service can be there only once (see CanStartFirst), and falls
// back to stopping first where there is no room for two.
const (
	OrderAuto  UpdateOrder = ""
	StartFirst UpdateOrder = "start-first"
	StopFirst  UpdateOrder = "stop-first"
)

// FailureAction is what follows when too many tasks of an update fail.
type FailureAction string

// Failure actions. The zero value is FailRollback for an update and FailPause for a rollback, which is never rolled back.
const (
	FailRollback FailureAction = "rollback"
	FailPause    FailureAction = "pause"
	FailContinue FailureAction = "continue"
)

// Update says how a service's tasks are replaced. The zero value, like a nil pointer, means the defaults.
type Update struct {
	Parallelism int           `json:"parallelism,omitempty"` // slots at a time; 0: 1, AllAtOnce: no limit
	Delay       time.Duration `json:"delay,omitempty"`       // between one slot's success and the next slot's begin
	Order       UpdateOrder   `json:"order,omitempty"`
	// Monitor is how long a new task must have been ready to count as good; 0: DefaultMonitor.
	Monitor time.Duration `json:"monitor,omitempty"`
	// MaxFailureRatio is the share of slots, 0 to 1, that may fail before Failure is done.
	MaxFailureRatio float64       `json:"maxFailureRatio,omitempty"`
	Failure         FailureAction `json:"failure,omitempty"`
	// Canaries is how many slots get the new content first; the others wait until somebody promotes the update. 0: none.
	Canaries int `json:"canaries,omitempty"`
	// AutoPromote lets the update go on by itself once all canaries have been ready for the monitor time.
	AutoPromote bool `json:"autoPromote,omitempty"`
}

// AllAtOnce as a Parallelism is Compose's 0.
const AllAtOnce = -1

// DefaultMonitor is Docker's.
const DefaultMonitor = 5 * time.Second

// UpdatePolicy is the service's Update, or its Rollback on the way back, with all defaults filled in.
func (s *Service) UpdatePolicy(rollback bool) Update {
	var u Update
	switch {
	case rollback && s.Rollback != nil:
		u = *s.Rollback
	case !rollback && s.Update != nil:
		u = *s.Update
	}
	switch {
	case u.Parallelism == AllAtOnce:
		u.Parallelism = MaxReplicas
	case u.Parallelism <= 0:
		u.Parallelism = 1
	}
	if u.Monitor <= 0 {
		u.Monitor = DefaultMonitor
	}
	switch {
	case u.Failure == "" && !rollback:
		u.Failure = FailRollback
	case u.Failure != FailContinue && rollback:
		u.Failure = FailPause
	}
	return u
}

// CanStartFirst tells whether two tasks of the service can run side by side wherever they are, without getting in each
// other's way: it fixes no port of the node, writes to no named volume and is not fenced.
func (s *Service) CanStartFirst() bool {
	if s.FailoverPolicy().Mode == FailoverFenced {
		return false
	}
	for _, p := range s.Ports {
		if p.Published != 0 {
			return false
		}
	}
	for _, m := range s.Mounts {
		if m.Type == MountVolume && m.Source != "" && !m.ReadOnly {
			return false
		}
	}
	return true
}

// CanMoveFirst tells whether a task of the service may be there twice, on two nodes, while it moves.
func (s *Service) CanMoveFirst() bool {
	stopFirst := s.Update != nil && s.Update.Order == StopFirst
	return !s.Mode.PerNode() && !s.IsBatch() && !stopFirst && s.FailoverPolicy().Mode != FailoverFenced && !s.writesVolume()
}

// SameUpdate tells whether two services are updated, and chosen nodes for, and run where they are batches, in the
// same way: all that is no part of the Digest but the number of replicas.
func SameUpdate(a, b *Service) bool {
	return reflect.DeepEqual(a.Update, b.Update) && reflect.DeepEqual(a.Rollback, b.Rollback) &&
		a.Rebalances() == b.Rebalances() && a.PriorityOf() == b.PriorityOf() && a.Strategy == b.Strategy && sameBatch(a, b) && sameAutoscale(a, b)
}

// KeepRenewals takes the counts of restarts over from what a job was, because a submit does not know of them.
func (s *Spec) KeepRenewals(old *Spec) {
	s.keepAutoscaled(old)
	for i := range s.Services {
		v := &s.Services[i]
		v.Renewal = 0
		if old == nil {
			continue
		}
		if o := old.Service(v.Name); o != nil {
			v.Renewal = o.Renewal
		}
	}
}

// RolloutStatus is where a rollout stands.
type RolloutStatus string

// Statuses of a rollout.
const (
	RolloutRunning  RolloutStatus = "running"
	RolloutCanary   RolloutStatus = "canary" // the canaries are well, and the others wait for somebody to promote them
	RolloutComplete RolloutStatus = "complete"
	RolloutPaused   RolloutStatus = "paused"
)

// Live tells whether a rollout is under way: it brings slots to its content, or its canaries are watched.
func (r *Rollout) Live() bool {
	return r != nil && (r.Status == RolloutRunning || r.Status == RolloutCanary)
}

// Rollout is how a service comes from one content to another. Apply begins it with the version that brings the content;
// the leader ends it. How far it is, the tasks tell: those with its Digest were placed by it. A service that was never
// changed has none; a new change replaces the row.
type Rollout struct {
	Job     string `json:"job"`
	Service string `json:"service"`
	Version uint64 `json:"version"`        // that brings the content
	Digest  Digest `json:"digest"`         // of the content
	From    uint64 `json:"from,omitempty"` // the version with the last content that is held to be good; 0: there is none to go back to
	// FromDigest is of the content in From: what slots keep that no canary has taken, also when their task is lost.
	FromDigest Digest `json:"fromDigest,omitempty"`
	// Canaries is how many slots get the content before it is promoted; 0: it needs no promotion, or was promoted.
	Canaries int           `json:"canaries,omitempty"`
	Status   RolloutStatus `json:"status"`
	// RollbackOf is the version from which this is the way back; 0: it is none.
	RollbackOf uint64 `json:"rollbackOf,omitempty"`
	// RollbackTo is the version whose content it brings again, when it is a way back.
	RollbackTo uint64 `json:"rollbackTo,omitempty"`
	// Automatic: the leader decided the way back.
	Automatic bool      `json:"automatic,omitempty"`
	Reason    string    `json:"reason,omitempty"` // why it was paused, or why the way back was taken
	Started   time.Time `json:"started"`
	Ended     time.Time `json:"ended,omitzero"`
	// Index is the raft index of its begin, or of the word to go on: failures of tasks placed before do not count.
	Index uint64 `json:"index"`
}
