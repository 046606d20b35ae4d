package scheduler

import (
	"encoding/binary"
	"slices"
	"strings"

	"shoal/consensus/job"
)

// class is the nodes that one set of constraints admits and that take tasks now, divided by the values of the keys over
// which its services are spread into leaves, each of which is a heap by load and id. Services that ask for the same share
// it, so that a choice costs the same however many nodes there are.
type class struct {
	key         string
	constraints []job.Matcher
	spread      []string // node keys
	dense       bool     // the fullest node comes first
	users       int
	leaves      map[string]*leaf // by groupKey of all values; none is empty
	groups      map[string]*group
	size        int    // nodes
	epoch       uint64 // counts nodes that came and went
	front       []*entry
}

// leaf is the nodes of a class with the same values of all its spread keys.
type leaf struct {
	c      *class
	key    string
	groups []*group // one for each spread key, from the first on
	heap   []*entry
}

// group is what has the same values of the first spread keys: "zone a", or "rack 3 of zone a". Tasks are counted by it.
type group struct {
	key    string
	leaves int
}

// entry is a node's place in a class. load and tie (the begin of the node's id) are copies: a comparison that follows
// pointers costs three cache misses, and with 20,000 nodes there are many.
type entry struct {
	load float64
	tie  uint64
	n    *node
	leaf *leaf
	pos  int
}

// tieOf orders as ids do, as far as their first eight bytes differ.
func tieOf(id job.NodeID) uint64 {
	var b [8]byte
	copy(b[:], id)
	return binary.BigEndian.Uint64(b[:])
}

func classKey(cs []job.Constraint, spread []string, dense bool) string {
	ss := make([]string, len(cs))
	for i, c := range cs {
		ss[i] = c.String()
	}
	slices.Sort(ss)
	ss = append(slices.Compact(ss), "\x00")
	ss = append(ss, spread...)
	if dense {
		ss = append(ss, "\x00dense")
	}
	return strings.Join(ss, "\x00")
}

// classify puts a service into the class that its spec asks for.
func (p *Planner) classify(s *service, spec *job.Service) {
	if was := s.class; was == nil || was.key != p.keyOf(spec) {
		p.dropClass(s)
		s.class = p.useClass(spec)
		s.grouped = nil // it may come back to a class whose counts it did not keep meanwhile
	}
}

func (p *Planner) keyOf(spec *job.Service) string {
	return classKey(spec.Constraints, spec.SpreadKeys(), p.strategy(spec) == job.StrategyBinpack)
}

func (p *Planner) useClass(spec *job.Service) *class {
	key := p.keyOf(spec)
	c := p.classes[key]
	if c == nil {
		dense := p.strategy(spec) == job.StrategyBinpack
		c = &class{key: key, constraints: matchers(spec.Constraints), spread: spec.SpreadKeys(), dense: dense, leaves: map[string]*leaf{}, groups: map[string]*group{}}
		p.classes[key] = c
		for _, n := range p.nodes {
			c.place(n)
		}
	}
	c.users++
	return c
}

// keepClasses bounds the classes that are kept without a user, for the next job that asks for the same.
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
	for _, l := range c.leaves {
		for _, e := range l.heap {
			e.n.entries = slices.DeleteFunc(e.n.entries, func(o *entry) bool { return o == e })
		}
	}
}

// admits tells whether the constraints hold on a node.
func (c *class) admits(n *job.Node) bool { return c.broken(n) == nil }

// broken is the first constraint that does not hold on a node, nil if all do.
func (c *class) broken(n *job.Node) *job.Constraint {
	for i := range c.constraints {
		if k := &c.constraints[i]; !k.Holds(n) {
			return &k.Constraint
		}
	}
	return nil
}

// matchers makes constraints ready. Validation has seen them; one that it has not (of a newer version) holds nowhere.
func matchers(cs []job.Constraint) []job.Matcher {
	out := make([]job.Matcher, len(cs))
	for i, c := range cs {
		m, err := c.Compile()
		if err != nil {
			m = job.Matcher{}
			m.Constraint = job.Constraint{Key: c.String()}
		}
		out[i] = m
	}
	return out
}

// place puts a node into the class or takes it out, as it is now.
func (c *class) place(n *node) {
	in := n.n.Eligible() && c.admits(n.n)
	e := n.entry(c)
	switch {
	case in && e == nil:
		c.insert(n)
	case !in && e != nil:
		c.remove(e)
	case in && len(c.spread) > 0 && e.leaf.key != groupKey(c.values(n.n)):
		c.remove(e)
		c.insert(n)
	}
}

// entry is the node's place in a class, nil if it has none.
func (n *node) entry(c *class) *entry {
	for _, e := range n.entries {
		if e.leaf.c == c {
			return e
		}
	}
	return nil
}

// values are what a node says under the spread keys.
func (c *class) values(n *job.Node) []string {
	vs := make([]string, len(c.spread))
	for i, k := range c.spread {
		vs[i], _ = n.Value(k)
	}
	return vs
}

func groupKey(values []string) string { return strings.Join(values, "\x00") }

func (c *class) insert(n *node) {
	values := c.values(n.n)
	key := groupKey(values)
	l := c.leaves[key]
	if l == nil {
		l = &leaf{c: c, key: key}
		for i := range values {
			gk := groupKey(values[:i+1])
			if c.groups[gk] == nil {
				c.groups[gk] = &group{key: gk}
			}
			c.groups[gk].leaves++
			l.groups = append(l.groups, c.groups[gk])
		}
		c.leaves[key] = l
	}
	e := &entry{load: n.load, tie: tieOf(n.n.ID), n: n, leaf: l, pos: len(l.heap)}
	l.heap = append(l.heap, e)
	n.entries = append(n.entries, e)
	c.size++
	c.epoch++
	l.up(e.pos)
}

func (c *class) remove(e *entry) {
	l := e.leaf
	last := len(l.heap) - 1
	pos := e.pos
	l.swap(pos, last)
	l.heap[last] = nil
	l.heap = l.heap[:last]
	if pos < last {
		l.fix(l.heap[pos])
	}
	e.n.entries = slices.DeleteFunc(e.n.entries, func(o *entry) bool { return o == e })
	c.size--
	c.epoch++
	if len(l.heap) > 0 {
		return
	}
	delete(c.leaves, l.key)
	for _, g := range l.groups {
		if g.leaves--; g.leaves == 0 {
			delete(c.groups, g.key)
		}
	}
}

// less tells which of two nodes of a class comes first.
func (l *leaf) less(a, b *entry) bool {
	if a.load != b.load {
		return (a.load < b.load) != l.c.dense
	}
	if a.tie != b.tie {
		return a.tie < b.tie
	}
	return a.n.n.ID < b.n.n.ID
}

func (l *leaf) swap(i, j int) {
	h := l.heap
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (l *leaf) fix(e *entry) {
	pos := e.pos
	if l.up(pos); e.pos == pos {
		l.down(pos)
	}
}

func (l *leaf) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !l.less(l.heap[i], l.heap[parent]) {
			return
		}
		l.swap(i, parent)
		i = parent
	}
}

func (l *leaf) down(i int) {
	for {
		kid := 2*i + 1
		if kid >= len(l.heap) {
			return
		}
		if kid+1 < len(l.heap) && l.less(l.heap[kid+1], l.heap[kid]) {
			kid++
		}
		if !l.less(l.heap[kid], l.heap[i]) {
			return
		}
		l.swap(i, kid)
		i = kid
	}
}

// walk visits the nodes from the first on until f says stop. The heap is not changed: the front is a second, small heap of
// the next candidates, so the k-th node costs log k (Frederickson 1993, in its simple form).
func (l *leaf) walk(f func(*node) (stop bool)) {
	if len(l.heap) == 0 {
		return
	}
	front := append(l.c.front[:0], l.heap[0])
	for len(front) > 0 {
		e := front[0]
		if f(e.n) {
			break
		}
		last := len(front) - 1
		front[0] = front[last]
		front = front[:last]
		l.sink(front)
		for kid := 2*e.pos + 1; kid <= 2*e.pos+2 && kid < len(l.heap); kid++ {
			front = append(front, l.heap[kid])
			for i := len(front) - 1; i > 0 && l.less(front[i], front[(i-1)/2]); i = (i - 1) / 2 {
				front[i], front[(i-1)/2] = front[(i-1)/2], front[i]
			}
		}
	}
	clear(front)
	l.c.front = front[:0]
}

// sink restores a heap whose first element was replaced.
func (l *leaf) sink(h []*entry) {
	for i := 0; ; {
		kid := 2*i + 1
		if kid >= len(h) {
			return
		}
		if kid+1 < len(h) && l.less(h[kid+1], h[kid]) {
			kid++
		}
		if !l.less(h[kid], h[i]) {
			return
		}
		h[i], h[kid] = h[kid], h[i]
		i = kid
	}
}
