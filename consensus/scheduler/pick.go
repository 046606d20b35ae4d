package scheduler

import "shoal/consensus/job"

// picker chooses nodes for slots of one service within one plan: fewest tasks of the service, then least loaded, then by
// id. Within a plan counts and loads only grow, and what did not fit will not fit.
//
// It begins by walking the class from the least loaded node on and takes the first one that has no task of the service:
// for most services that is the first or the second node. When the walks grow long it sorts all candidates into a heap of
// its own, once, after which each choice costs log(nodes).
type picker struct {
	p      *Planner
	s      *service
	budget int // nodes to visit by walking before the heap is worth its price
	sorted bool
	heap   []cand
}

// cand is a node with its rank as it was when last looked at. Ranks only grow within a plan, so it is enough to correct
// them when they come to the top.
type cand struct {
	n     *node
	count int
	load  float64
}

func (a cand) less(b cand) bool {
	if a.count != b.count {
		return a.count < b.count
	}
	if a.load != b.load {
		return a.load < b.load
	}
	return a.n.n.ID < b.n.n.ID
}

func newPicker(p *Planner, s *service, want int) *picker {
	k := &picker{p: p, s: s, heap: p.cands[:0]}
	if s.class != nil {
		k.budget = len(s.class.heap)/4 + 2*want
	}
	return k
}

// done gives the memory back for the next picker.
func (k *picker) done() {
	clear(k.heap)
	k.p.cands = k.heap[:0]
}

// pick finds the node for a slot, or nil; for a global service also what its node refuses.
func (k *picker) pick(sl *slot) (*node, refusals) {
	i := k.s.info
	if k.s.spec.Mode == job.Global {
		n := k.p.nodes[sl.id.node]
		if no := n.refuses(i); no != fits {
			var r refusals
			r.count[no]++
			return nil, r
		}
		return n, refusals{}
	}
	if i.local {
		if t := sl.newest(); t != nil {
			if n := k.p.nodes[t.Node]; n != nil && n.n.Eligible() && k.s.class.admits(n.n) && n.refuses(i) == fits {
				return n, refusals{}
			}
		}
	}
	var avoid *node
	if sl.phase == failing {
		avoid = k.p.nodes[sl.current().Node]
	}
	if !k.sorted {
		if n := k.walk(avoid); n != nil {
			return n, refusals{}
		}
		k.sort()
	}
	return k.pop(avoid), refusals{}
}

// walk finds the least loaded node without a task of the service, nil if it is not worth to look further.
func (k *picker) walk(avoid *node) (found *node) {
	if k.budget <= 0 {
		return nil
	}
	k.s.class.walk(func(n *node) bool {
		k.budget--
		if n != avoid && k.s.count[n.n.ID] == 0 && n.refuses(k.s.info) == fits {
			found = n
			return true
		}
		return k.budget <= 0
	})
	return found
}

// sort fills the picker's own heap.
func (k *picker) sort() {
	k.sorted = true
	for _, e := range k.s.class.heap {
		if e.n.refuses(k.s.info) == fits {
			k.heap = append(k.heap, cand{e.n, k.s.count[e.n.n.ID], e.n.load})
		}
	}
	for i := len(k.heap)/2 - 1; i >= 0; i-- {
		k.down(i)
	}
}

// pop finds the best node but avoid, and avoid if nothing else fits.
func (k *picker) pop(avoid *node) (best *node) {
	var aside []cand
	for len(k.heap) > 0 && best == nil {
		top := &k.heap[0]
		n := top.n
		if count := k.s.count[n.n.ID]; count != top.count || n.load != top.load {
			top.count, top.load = count, n.load
			k.down(0)
			continue
		}
		switch {
		case n.refuses(k.s.info) != fits:
			k.drop()
		case n == avoid:
			aside = append(aside, *top)
			k.drop()
		default:
			best = n
		}
	}
	for _, c := range aside {
		if best == nil {
			best = c.n
		}
		k.push(c)
	}
	return best
}

func (k *picker) drop() {
	last := len(k.heap) - 1
	k.heap[0] = k.heap[last]
	k.heap = k.heap[:last]
	k.down(0)
}

func (k *picker) push(c cand) {
	k.heap = append(k.heap, c)
	for i := len(k.heap) - 1; i > 0 && k.heap[i].less(k.heap[(i-1)/2]); i = (i - 1) / 2 {
		k.heap[i], k.heap[(i-1)/2] = k.heap[(i-1)/2], k.heap[i]
	}
}

func (k *picker) down(i int) {
	h := k.heap
	for {
		kid := 2*i + 1
		if kid >= len(h) {
			return
		}
		if kid+1 < len(h) && h[kid+1].less(h[kid]) {
			kid++
		}
		if !h[kid].less(h[i]) {
			return
		}
		h[i], h[kid] = h[kid], h[i]
		i = kid
	}
}
