package scheduler

import (
	"shoal/consensus/job"
)

// homeID tells the homes of one volume apart.
type homeID struct {
	node         job.NodeID
	job, service string
	slot         int
}

func homeIDOf(h *job.VolumeHome) homeID { return homeID{h.Node, h.Job, h.Service, h.Slot} }

// putHome takes in where data of a volume lies.
func (p *Planner) putHome(was, is *job.VolumeHome) {
	if is != nil {
		if p.homes[is.Volume] == nil {
			p.homes[is.Volume] = map[homeID]*job.VolumeHome{}
		}
		p.homes[is.Volume][homeIDOf(is)] = is
		p.freed = p.freed || len(p.homes[is.Volume]) > 1 // who waited for another node may go to this one
		return
	}
	delete(p.homes[was.Volume], homeIDOf(was))
	if len(p.homes[was.Volume]) == 0 {
		delete(p.homes, was.Volume)
	}
	p.freed = true // who waited for that node may go elsewhere
}

// home is where a slot's data lies: where the slot itself used one of its volumes last, else where another service with
// the same slot did, else for the only task of a service where it was used last. nil if it has none. Of several volumes
// the one that was used last decides.
func (p *Planner) home(s *service, id slotID) (best *job.VolumeHome) {
	rank := func(h *job.VolumeHome) int {
		switch {
		case h.Job == s.job.name && h.Service == s.name:
			if h.Slot == id.n {
				return 3
			}
			if s.spec.Replicas == 1 {
				return 1
			}
			return 0 // another slot's
		case h.Slot == id.n:
			return 2
		case s.spec.Replicas == 1:
			return 1
		}
		return 0
	}
	for _, v := range s.info.volumes {
		for _, h := range p.homes[v] {
			r := rank(h)
			if r == 0 || p.nodes[h.Node] == nil {
				continue
			}
			if best == nil || r > rank(best) || r == rank(best) && (h.Index > best.Index || h.Index == best.Index && (h.Node < best.Node || h.Node == best.Node && h.Slot < best.Slot)) {
				best = h
			}
		}
	}
	return best
}

// leavesHome tells whether a slot may be placed where its data is not, when the data's node takes no tasks: only when the
// file says that fail-over does not wait for it.
func (s *service) leavesHome() bool {
	f := s.spec.Failover
	return f != nil && (f.Mode == job.FailoverFast || f.Mode == job.FailoverFenced)
}
