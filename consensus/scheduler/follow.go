package scheduler

import (
	"shoal/consensus/job"
)

// A service that joins a namespace of another one (`network_mode: service:x`) follows it: slot k is where slot k of the
// other is, and moves along with it. The other one is placed where both have room.

// setTogether brings up to date which services of a job follow which.
func (js *jobState) setTogether() {
	for _, s := range js.services {
		s.together, s.followers = nil, nil
	}
	for _, name := range sortedNames(js.services) {
		s := js.services[name]
		if s.spec == nil {
			continue
		}
		for _, on := range s.spec.Together() {
			if o := js.services[on]; o != nil && o.spec != nil {
				s.together = append(s.together, o)
				o.followers = append(o.followers, s)
			}
		}
	}
}

// seat is where the task of a slot is that others follow: of a hand-over the former, until it is gone. nil if there is none.
func (p *Planner) seat(s *service, id slotID) *node {
	sl := s.slots[id]
	if sl == nil {
		return nil
	}
	for _, t := range sl.tasks {
		if t.Desired == job.DesiredRun && !t.ended() {
			if n := p.nodes[t.Node]; n != nil && n.n.State == job.NodeReady {
				return n
			}
		}
	}
	return p.seats[sl]
}

// follow is the node where a slot of a following service must be, nil if that is not known (yet): then who is waited for.
func (p *Planner) follow(s *service, id slotID) (n *node, waits *service) {
	for _, o := range s.together {
		seat := p.seat(o, id)
		if seat == nil || n != nil && seat != n {
			return nil, o
		}
		n = seat
	}
	return n, nil
}

// strayed tells whether a task of a following service is not where it belongs, and where that is.
func (p *Planner) strayed(t *task) (to *node, led *service) {
	for _, o := range t.svc.together {
		if n := p.seat(o, t.slot.id); n != nil && n.n.ID != t.Node {
			return n, o
		}
	}
	return nil, nil
}

// touchFollowers has the same slots of following services looked at.
func (p *Planner) touchFollowers(s *service, id slotID) {
	for _, o := range s.followers {
		if sl := o.slots[id]; sl != nil {
			p.touch(o, sl)
		}
		p.mark(o)
	}
}

// withFollowers is what a task of the service and those that follow it ask together.
func (s *service) withFollowers() *info {
	if len(s.followers) == 0 {
		return s.info
	}
	spec := *s.info.spec // may be a former content
	i := &info{spec: &spec, demand: s.info.demand, ports: s.info.ports, local: s.info.local}
	for _, o := range s.followers {
		if o.info == nil {
			continue
		}
		d := o.info.demand
		i.demand.NanoCPUs += d.NanoCPUs
		i.demand.MemoryBytes += d.MemoryBytes
		i.demand.PIDs += d.PIDs
		i.ports = append(i.ports[:len(i.ports):len(i.ports)], o.info.ports...)
		spec.Generic = addGeneric(spec.Generic, o.spec.Generic)
	}
	return i
}

func addGeneric(a, b []job.GenericRequest) []job.GenericRequest {
	out := append([]job.GenericRequest(nil), a...)
	for _, g := range b {
		found := false
		for i := range out {
			if out[i].Kind == g.Kind {
				out[i].Count += g.Count
				found = true
			}
		}
		if !found {
			out = append(out, g)
		}
	}
	return out
}

// gathered is the node on which all tasks that follow a slot are already, nil if there are none or they are not together.
func (p *Planner) gathered(s *service, id slotID) (n *node) {
	for _, o := range s.followers {
		at := p.seat(o, id)
		if at == nil || n != nil && at != n {
			return nil
		}
		n = at
	}
	return n
}
