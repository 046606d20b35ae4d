package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"shoal/consensus/job"
)

// putCluster takes in what admins decided about the whole cluster; nil before there is one.
func (p *Planner) putCluster(c *job.Cluster) {
	p.balance.off = c.Setting(job.SettingRebalance) == "off"
	p.preempts = c.Setting(job.SettingPreemption) != "off"
	p.freed = true // who fits nowhere may fit now
	was := p.strategyOf
	if p.strategyOf = job.Strategy(c.Setting(job.SettingStrategy)); p.strategyOf == was {
		return
	}
	for _, j := range p.jobs {
		for _, s := range j.services {
			if s.spec != nil {
				p.classify(s, s.spec)
			}
		}
	}
}

// strategy says which of equally good nodes a service's tasks get.
func (p *Planner) strategy(s *job.Service) job.Strategy {
	if s.Strategy != "" {
		return s.Strategy
	}
	return p.strategyOf
}

// countGroups counts the service's tasks by the groups of its class, if that is not kept already. Tasks on nodes that take
// none now do not count: they are about to go.
func (p *Planner) countGroups(s *service) {
	if len(s.class.spread) == 0 || s.grouped == s.class && s.groupedAt == s.class.epoch {
		return
	}
	s.grouped, s.groupedAt = s.class, s.class.epoch
	s.inGroup = map[*group]int{}
	for id, c := range s.count {
		n := p.nodes[id]
		if n == nil {
			continue
		}
		if e := n.entry(s.class); e != nil {
			for _, g := range e.leaf.groups {
				s.inGroup[g] += c
			}
		}
	}
}

// countIn keeps the counts of countGroups when a task comes to a node (1) or goes (-1).
func (s *service) countIn(n *node, sign int) {
	if s.class == nil || len(s.class.spread) == 0 || s.grouped != s.class || s.groupedAt != s.class.epoch {
		return // counted anew when it is needed
	}
	if e := n.entry(s.class); e != nil {
		for _, g := range e.leaf.groups {
			s.inGroup[g] += sign
		}
	}
}

// priority is that of a service; one of which nothing is wanted goes first: it only makes room.
func (s *service) priority() int {
	if s.spec == nil {
		return job.MaxPriority + 1
	}
	return s.spec.PriorityOf()
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func sortedNames[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
