package job

import "time"

// FailoverMode says when a task of a node that is lost is placed anew.
type FailoverMode string

// Modes. The zero value is FailoverFenced for a service of one replica that writes a named volume, else FailoverFast.
const (
	FailoverDefault FailoverMode = ""
	// FailoverFast: as soon as the node is down. A machine that was only cut off runs its task on until it is back.
	FailoverFast FailoverMode = "fast"
	// FailoverFenced: when the task's lease has surely ended. Its container dies without the leader's word by itself, so
	// a slot never has two that run.
	FailoverFenced FailoverMode = "fenced"
	// FailoverManual: when an admin says so.
	FailoverManual FailoverMode = "manual"
)

// Bounds of a lease. A shorter one than MinLease would die of an election; a longer one than MaxLease is FailoverManual.
const (
	DefaultLease = 10 * time.Second
	MinLease     = 3 * time.Second
	MaxLease     = 10 * time.Minute
)

// Failover is how a service's tasks are brought back from a node that is lost.
type Failover struct {
	Mode FailoverMode `json:"mode,omitempty"`
	// Lease is how long a fenced task's container runs without the leader's word, and how long the cluster waits before
	// it places the task anew; 0: DefaultLease. Longer survives longer outages of agent and leader in place; shorter
	// moves sooner.
	Lease time.Duration `json:"lease,omitempty"`
}

// FailoverPolicy is the service's Failover with all defaults filled in: Mode is fast, fenced or manual, and Lease is set
// where it is fenced.
func (s *Service) FailoverPolicy() Failover {
	var f Failover
	if s.Failover != nil {
		f = *s.Failover
	}
	if f.Mode == FailoverDefault {
		f.Mode = FailoverFast
		if f.Lease > 0 || !s.Mode.PerNode() && s.Replicas == 1 && s.writesVolume() {
			f.Mode = FailoverFenced
		}
	}
	switch {
	case f.Mode != FailoverFenced:
		f.Lease = 0
	case f.Lease == 0:
		f.Lease = DefaultLease
	}
	return f
}

// writesVolume tells whether the service writes to a volume that others may have too.
func (s *Service) writesVolume() bool {
	for _, m := range s.Mounts {
		if m.Type == MountVolume && m.Source != "" && !m.ReadOnly {
			return true
		}
	}
	return false
}

func (s *Service) validateFailover(p *problems, at string) {
	f := s.Failover
	if f == nil {
		return
	}
	switch f.Mode {
	case FailoverDefault, FailoverFast, FailoverFenced, FailoverManual:
	default:
		p.add(at, "%q is not known; use %s, %s or %s", shorten(string(f.Mode)), FailoverFast, FailoverFenced, FailoverManual)
		return
	}
	mode := s.FailoverPolicy().Mode
	switch {
	case f.Lease != 0 && mode != FailoverFenced:
		p.add(at+".lease", "only %s has a lease, and this is %s; remove it", FailoverFenced, mode)
	case f.Lease != 0 && (f.Lease < MinLease || f.Lease > MaxLease):
		p.add(at+".lease", "%v is not within %v and %v", f.Lease, MinLease, MaxLease)
	case s.Mode.PerNode() && mode != FailoverFast:
		p.add(at, "a task of a global service is never moved; remove it")
	case mode == FailoverFenced && s.Update != nil && s.Update.Order == StartFirst:
		p.add(at, "%s never has two tasks in one slot, and update_config.order is %s: change one of them", FailoverFenced, StartFirst)
	}
}

// Held tells whether a task whose node is not there may not be given up yet: its container may still run. One that waits
// for another's end does not.
func (t *Task) Held() bool {
	return t.Wait == WaitNone && t.Released == 0 && (t.Failover == FailoverFenced || t.Failover == FailoverManual)
}

// Rebalances tells whether tasks of the service may be moved to nodes that join or return.
func (s *Service) Rebalances() bool {
	if s.Rebalance != nil {
		return *s.Rebalance
	}
	return s.FailoverPolicy().Mode == FailoverFast
}
