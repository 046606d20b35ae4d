package scheduler

import (
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// node is a node with what is used of it.
type node struct {
	n       *job.Node
	used    job.Resources
	ports   []job.Port
	running int // tasks that have not ended
	load    float64
	tasks   map[*task]struct{}
	entries []*entry // its places in the classes that it belongs to
}

// tasksPerCPU is how many tasks without any reservation count as a full CPU, so that they too spread by capacity.
const tasksPerCPU = 32

// add counts a task in (sign 1) or out (-1).
func (n *node) add(i *info, sign int64) {
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
	c := n.n.Capacity
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
		e.c.fix(e)
	}
}

// refuses says in which way a task does not fit beside what is there; fits if it does.
func (n *node) refuses(i *info) refusal {
	c, u, d := n.n.Capacity, n.used, i.demand
	switch {
	case d.NanoCPUs > 0 && d.NanoCPUs > c.NanoCPUs-u.NanoCPUs:
		return lacksCPU
	case d.MemoryBytes > 0 && d.MemoryBytes > c.MemoryBytes-u.MemoryBytes:
		return lacksMemory
	case d.PIDs > 0 && d.PIDs > c.PIDs-u.PIDs:
		return lacksPIDs
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

// putNode takes in a node's change; is nil when it was removed.
func (p *Planner) putNode(was, is *job.Node) {
	p.freed = true
	if is == nil {
		p.dropNode(was.ID)
		return
	}
	n := p.nodes[is.ID]
	if n == nil {
		n = &node{n: is, tasks: map[*task]struct{}{}}
		p.nodes[is.ID] = n
	}
	n.n = is
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
	n := p.nodes[id]
	if n == nil {
		return
	}
	delete(p.nodes, id)
	for len(n.entries) > 0 {
		n.entries[0].c.remove(n.entries[0])
	}
	for t := range n.tasks {
		p.touch(t.svc, t.slot)
	}
	for s := range p.globals {
		p.touch(s, s.slot(slotID{node: id}))
	}
}

// class is the nodes that one set of constraints admits and that take tasks now, as a heap by load and id. Services with
// equal constraints share it, so that a choice costs the same however many nodes there are.
type class struct {
	key         string
	constraints []job.Constraint
	users       int
	heap        []*entry
	front       []*entry // of walk
}

type entry struct {
	n   *node
	c   *class
	pos int
}

func classKey(cs []job.Constraint) string {
	ss := make([]string, len(cs))
	for i, c := range cs {
		ss[i] = c.String()
	}
	slices.Sort(ss)
	return strings.Join(slices.Compact(ss), "\x00")
}

func (p *Planner) useClass(cs []job.Constraint) *class {
	key := classKey(cs)
	c := p.classes[key]
	if c == nil {
		c = &class{key: key, constraints: cs}
		p.classes[key] = c
		for _, n := range p.nodes {
			c.place(n)
		}
	}
	c.users++
	return c
}

// keepClasses bounds the classes that are kept without a user, for the next job with the same constraints.
const keepClasses = 64

func (p *Planner) dropClass(s *service) {
	c := s.class
	if c == nil {
		return
	}
	s.class = nil
	if c.users--; c.users > 0 || len(p.classes) <= keepClasses {
		return
	}
	delete(p.classes, c.key)
	for _, e := range c.heap {
		e.n.entries = slices.DeleteFunc(e.n.entries, func(o *entry) bool { return o == e })
	}
}

// admits tells whether the constraints hold on a node.
func (c *class) admits(n *job.Node) bool { return c.broken(n) == nil }

// broken is the first constraint that does not hold on a node, nil if all do.
func (c *class) broken(n *job.Node) *job.Constraint {
	for i := range c.constraints {
		k := &c.constraints[i]
		var have string
		switch {
		case k.Key == "node.id":
			have = string(n.ID)
		case k.Key == "node.hostname":
			have = n.Name
		case strings.HasPrefix(k.Key, "node.labels."):
			have = n.Labels[strings.TrimPrefix(k.Key, "node.labels.")]
		default:
			return k
		}
		if (have == k.Value) != (k.Op != "!=") {
			return k
		}
	}
	return nil
}

// place puts a node into the class or takes it out, as it is now.
func (c *class) place(n *node) {
	i := slices.IndexFunc(n.entries, func(e *entry) bool { return e.c == c })
	in := n.n.Eligible() && c.admits(n.n)
	switch {
	case in && i < 0:
		e := &entry{n: n, c: c, pos: len(c.heap)}
		c.heap = append(c.heap, e)
		n.entries = append(n.entries, e)
		c.up(e.pos)
	case !in && i >= 0:
		c.remove(n.entries[i])
	}
}

func (c *class) remove(e *entry) {
	last := len(c.heap) - 1
	pos := e.pos
	c.swap(pos, last)
	c.heap = c.heap[:last]
	if pos < last {
		c.fix(c.heap[pos])
	}
	e.n.entries = slices.DeleteFunc(e.n.entries, func(o *entry) bool { return o == e })
}

func less(a, b *entry) bool {
	if a.n.load != b.n.load {
		return a.n.load < b.n.load
	}
	return a.n.n.ID < b.n.n.ID
}

func (c *class) swap(i, j int) {
	h := c.heap
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (c *class) fix(e *entry) {
	pos := e.pos
	if c.up(pos); e.pos == pos {
		c.down(pos)
	}
}

func (c *class) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !less(c.heap[i], c.heap[parent]) {
			return
		}
		c.swap(i, parent)
		i = parent
	}
}

func (c *class) down(i int) {
	for {
		kid := 2*i + 1
		if kid >= len(c.heap) {
			return
		}
		if kid+1 < len(c.heap) && less(c.heap[kid+1], c.heap[kid]) {
			kid++
		}
		if !less(c.heap[kid], c.heap[i]) {
			return
		}
		c.swap(i, kid)
		i = kid
	}
}

// walk visits the nodes from the least loaded on until f says stop. The heap is not changed: the front is a second,
// small heap of the next candidates, so the k-th node costs log k (Frederickson 1993, in its simple form).
func (c *class) walk(f func(*node) (stop bool)) {
	if len(c.heap) == 0 {
		return
	}
	front := append(c.front[:0], c.heap[0])
	for len(front) > 0 {
		e := front[0]
		if f(e.n) {
			break
		}
		last := len(front) - 1
		front[0] = front[last]
		front = front[:last]
		sink(front)
		for kid := 2*e.pos + 1; kid <= 2*e.pos+2 && kid < len(c.heap); kid++ {
			front = append(front, c.heap[kid])
			for i := len(front) - 1; i > 0 && less(front[i], front[(i-1)/2]); i = (i - 1) / 2 {
				front[i], front[(i-1)/2] = front[(i-1)/2], front[i]
			}
		}
	}
	clear(front)
	c.front = front[:0]
}

// sink restores a heap whose first element was replaced.
func sink(h []*entry) {
	for i := 0; ; {
		kid := 2*i + 1
		if kid >= len(h) {
			return
		}
		if kid+1 < len(h) && less(h[kid+1], h[kid]) {
			kid++
		}
		if !less(h[kid], h[i]) {
			return
		}
		h[i], h[kid] = h[kid], h[i]
		i = kid
	}
}
