package scheduler

import (
	"slices"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// node is a node with what is used of it.
type node struct {
	n       *job.Node
	have    job.Resources // what it has for tasks
	used    job.Resources
	generic map[string]int  // what is given away, by kind
	ids     map[string]bool // the same by kind and id ("gpu/0")
	ports   []job.Port
	running int // tasks that have not ended
	load    float64
	tasks   map[*task]struct{}
	entries []*entry // its places in the classes that it belongs to
}

// tasksPerCPU is how many tasks without any reservation count as a full CPU, so that they too spread by capacity.
const tasksPerCPU = 32

// add counts a task in (sign 1) or out (-1) with what it got for itself.
func (n *node) add(i *info, got []job.Generic, sign int64) {
	for _, g := range got {
		if n.generic == nil {
			n.generic, n.ids = map[string]int{}, map[string]bool{}
		}
		if n.generic[g.Kind] += int(sign) * g.Total(); n.generic[g.Kind] == 0 {
			delete(n.generic, g.Kind)
		}
		for _, id := range g.IDs {
			if sign > 0 {
				n.ids[g.Kind+"/"+id] = true
			} else {
				delete(n.ids, g.Kind+"/"+id)
			}
		}
	}
	n.running += int(sign)
	if i != nil {
		n.used.NanoCPUs += sign * i.demand.NanoCPUs
		n.used.MemoryBytes += sign * i.demand.MemoryBytes
		n.used.PIDs += sign * i.demand.PIDs
		for _, pt := range i.ports {
			if sign > 0 {
				n.ports = append(n.ports, pt)
			} else if x := slices.Index(n.ports, pt); x >= 0 {
				n.ports = slices.Delete(n.ports, x, x+1)
			}
		}
	}
	n.weigh()
}

// weigh computes how full the node is, by what is fullest, and moves it to its place in all classes.
func (n *node) weigh() {
	c := n.have
	cpus := max(float64(c.NanoCPUs)/1e9, 1)
	load := float64(n.running) / (cpus * tasksPerCPU)
	if c.NanoCPUs > 0 {
		load = max(load, float64(n.used.NanoCPUs)/float64(c.NanoCPUs))
	}
	if c.MemoryBytes > 0 {
		load = max(load, float64(n.used.MemoryBytes)/float64(c.MemoryBytes))
	}
	if load == n.load {
		return
	}
	n.load = load
	for _, e := range n.entries {
		e.load = load
		e.leaf.fix(e)
	}
}

// refuses says in which way a task does not fit beside what is there; fits if it does.
func (n *node) refuses(i *info) refusal {
	c, u, d := n.have, n.used, i.demand
	switch {
	case d.NanoCPUs > 0 && d.NanoCPUs > c.NanoCPUs-u.NanoCPUs:
		return lacksCPU
	case d.MemoryBytes > 0 && d.MemoryBytes > c.MemoryBytes-u.MemoryBytes:
		return lacksMemory
	case d.PIDs > 0 && d.PIDs > c.PIDs-u.PIDs:
		return lacksPIDs
	}
	for _, g := range i.spec.Generic {
		if n.generic[g.Kind]+g.Count > n.n.GenericTotal(g.Kind) {
			return lacksGeneric
		}
	}
	for _, a := range i.ports {
		for _, b := range n.ports {
			if state.PortsClash(a, b) {
				return portTaken
			}
		}
	}
	return fits
}

// room is how many tasks fit beside what is there, as far as resources go; at most 1<<20.
func (n *node) room(i *info) int {
	c, u, d := n.have, n.used, i.demand
	k := int64(1 << 20)
	if d.NanoCPUs > 0 {
		k = min(k, (c.NanoCPUs-u.NanoCPUs)/d.NanoCPUs)
	}
	if d.MemoryBytes > 0 {
		k = min(k, (c.MemoryBytes-u.MemoryBytes)/d.MemoryBytes)
	}
	if d.PIDs > 0 {
		k = min(k, (c.PIDs-u.PIDs)/d.PIDs)
	}
	for _, g := range i.spec.Generic {
		k = min(k, int64(n.n.GenericTotal(g.Kind)-n.generic[g.Kind])/int64(g.Count))
	}
	return int(max(k, 0))
}

// give chooses what a task of a service gets for itself, where it fits; nil for most services.
func (n *node) give(i *info) (out []job.Generic) {
	for _, g := range i.spec.Generic {
		o := job.Generic{Kind: g.Kind, IDs: n.n.FreeGeneric(g.Kind, g.Count, func(id string) bool { return n.ids[g.Kind+"/"+id] })}
		if len(o.IDs) == 0 {
			o.Count = g.Count
		}
		out = append(out, o)
	}
	return out
}

// putNode takes in a node's change; is nil when it was removed.
func (p *Planner) putNode(was, is *job.Node) {
	p.freed = true
	p.noteBalance(was, is)
	if is != nil {
		p.noteFlap(was, is)
	}
	if is == nil {
		p.dropNode(was.ID)
		return
	}
	n := p.nodes[is.ID]
	if n == nil {
		n = &node{n: is, tasks: map[*task]struct{}{}}
		p.nodes[is.ID] = n
	}
	n.n, n.have = is, is.Allocatable()
	n.load = -1 // weigh anew: the capacity may have changed
	for _, c := range p.classes {
		c.place(n)
	}
	n.weigh()
	for t := range n.tasks {
		p.touch(t.svc, t.slot)
	}
	for s := range p.globals {
		p.touch(s, s.slot(slotID{node: is.ID}))
	}
}

func (p *Planner) dropNode(id job.NodeID) {
	delete(p.flaps, id)
	n := p.nodes[id]
	if n == nil {
		return
	}
	p.dropImages(n)
	delete(p.nodes, id)
	for len(n.entries) > 0 {
		n.entries[0].leaf.c.remove(n.entries[0])
	}
	for t := range n.tasks {
		p.touch(t.svc, t.slot)
	}
	for s := range p.globals {
		p.touch(s, s.slot(slotID{node: id}))
	}
}
