package scheduler

import (
	"fmt"

	"shoal/consensus/job"
)

// picker chooses nodes for slots of one service within one plan: of the leaf with the fewest tasks of the service the node
// with the least rank. Within a plan tasks and loads only grow, and what did not fit will not fit.
//
// In each leaf it begins by walking from the first node on and takes the first one that has no task of the service: for
// most services that is the first or the second node. When the walks grow long it sorts all candidates of a leaf into a
// heap of its own, once, after which each choice costs log(nodes).
type picker struct {
	p        *Planner
	s        *service
	ask      *info // of a task and those that follow it
	rules    rules
	wishes   bool
	images   map[*node]int // nodes that have the image
	budget   int           // nodes to visit by walking before heaps are worth their price
	branches []*branch     // a heap; made on first use
	made     bool
	avoid    *node // not to be chosen if there is another one
}

// branch is what a picker knows of a leaf.
type branch struct {
	leaf *leaf
	best *node // nil: nothing in it fits
	rank rank  // of best
	// in are the tasks of the service in each of the leaf's groups when it was last looked at. Like ranks they only grow, so
	// it is enough to correct them when the branch comes to the top.
	in     [job.MaxSpread]int
	sorted bool
	heap   []cand
}

// cand is a node with its rank as it was when last looked at. Ranks only grow within a plan, so it is enough to correct
// them when they come to the top.
type cand struct {
	n *node
	rank
}

func newPicker(p *Planner, s *service, want int) *picker {
	k := &picker{p: p, s: s}
	if s.class == nil {
		return k
	}
	k.ask, k.rules = s.withFollowers(), p.newRules(s)
	k.wishes, k.images = k.rules.wishes(), p.images[s.spec.Image]
	if !k.wishes {
		k.budget = s.class.size/4 + 2*want
	}
	return k
}

// done gives the memory back for the next picker.
func (k *picker) done() {
	for _, b := range k.branches {
		if cap(b.heap) > cap(k.p.cands) {
			clear(b.heap)
			k.p.cands = b.heap[:0]
		}
	}
}

// pick finds the node for a slot, or nil; for a slot that is bound to one node also what that one refuses.
func (k *picker) pick(sl *slot) (*node, refusals) {
	back := k.p.unkeep(k.s, sl)
	n, no := k.bound(sl)
	if n == nil && !no.any() {
		var avoid *node
		if t := sl.current(); t != nil && sl.phase == failing {
			avoid = k.p.nodes[t.Node]
		}
		n = k.choose(avoid)
	}
	if n == nil && sl.phase == failing { // it would rather be elsewhere, but those that follow it use this room already
		if n = k.gathered(sl); n != nil {
			no = refusals{}
		}
	}
	if n != nil {
		k.rules.took(n)
	}
	k.p.rekeep(back, sl, n)
	return n, no
}

// bound finds the node of a slot that has no choice: of a global service, of one that follows another, of one whose data
// lies somewhere. Both results are empty for a slot that has.
func (k *picker) bound(sl *slot) (*node, refusals) {
	s := k.s
	if s.spec.Mode.PerNode() {
		return k.only(k.p.nodes[sl.id.node])
	}
	if len(s.together) > 0 {
		n, waits := k.p.follow(s, sl.id)
		if n == nil {
			return nil, refusals{because: "waits for " + slotName(waits, sl.id) + " to be placed, whose node it shares"}
		}
		n, no := k.only(n)
		no.bound = "it shares the node of " + slotName(s.together[0], sl.id)
		return n, no
	}
	if n := k.gathered(sl); n != nil && sl.phase != failing {
		return n, refusals{}
	}
	return k.atHome(sl)
}

// gathered is the node on which all that follow a slot are already, nil if there is none or it cannot take the slot's task.
func (k *picker) gathered(sl *slot) *node {
	if n := k.p.gathered(k.s, sl.id); n != nil && k.alone(n) {
		return n
	}
	return nil
}

// atHome finds the node of a slot with data.
func (k *picker) atHome(sl *slot) (*node, refusals) {
	if !k.s.info.local {
		return nil, refusals{}
	}
	h := k.p.home(k.s, sl.id)
	if h == nil { // of a time before homes were noted
		if t := sl.newest(); t != nil {
			if n := k.p.nodes[t.Node]; n != nil && k.p.refusal(k, n) == fits {
				return n, refusals{}
			}
		}
		return nil, refusals{}
	}
	n := k.p.nodes[h.Node]
	if k.s.leavesHome() && !n.n.Eligible() {
		return nil, refusals{}
	}
	n, no := k.only(n)
	no.bound = "the data of volume " + h.Volume + " is on node " + k.p.nodes[h.Node].n.Name
	return n, no
}

// only takes a node if it can, and else says why it cannot.
func (k *picker) only(n *node) (*node, refusals) {
	var r refusals
	no := k.p.refusal(k, n)
	if no == fits {
		return n, r
	}
	r.note(k, n, no)
	return nil, r
}

// alone tells whether a node takes a task whose followers are there already.
func (k *picker) alone(n *node) bool {
	all := k.ask
	k.ask = k.s.info
	no := k.p.refusal(k, n)
	k.ask = all
	return no == fits
}

// refusal says in which way one more task of the picker's service does not fit on any node, whether or not its class
// admits that one.
func (p *Planner) refusal(k *picker, n *node) refusal {
	switch {
	case k.s.class.broken(n.n) != nil:
		return breaks
	case n.n.State != job.NodeReady:
		return isDown
	case n.n.Drained:
		return isDraining
	}
	return k.refuses(n)
}

// refuses says in which way one more task of the service does not fit on a node that its class admits.
func (k *picker) refuses(n *node) refusal {
	switch {
	case k.rules.most > 0 && k.s.count[n.n.ID] >= k.rules.most:
		return hasMost
	}
	if no := n.refuses(k.ask); no != fits {
		return no
	}
	if rule := k.rules.breaks(n); rule != nil {
		if rule.Apart {
			return hasFoe
		}
		return lacksFriend
	}
	for _, o := range k.s.followers {
		if o.class != nil && !o.class.admits(n.n) {
			return breaksFollower
		}
	}
	return fits
}

// choose finds the best node but avoid, and avoid if nothing else fits.
func (k *picker) choose(avoid *node) *node {
	if !k.made {
		k.makeBranches()
	}
	if avoid == nil {
		return k.first()
	}
	k.avoid = avoid
	k.look(avoid)
	n := k.first()
	k.avoid = nil
	k.look(avoid)
	if n == nil {
		n = k.first()
	}
	return n
}

// look has the leaf of a node looked at anew, because the node is or is no longer to be avoided.
func (k *picker) look(n *node) {
	e := n.entry(k.s.class)
	if e == nil {
		return
	}
	for _, b := range k.branches {
		if b.leaf == e.leaf {
			k.find(b)
		}
	}
	k.order()
}

// makeBranches finds the best node of each leaf.
func (k *picker) makeBranches() {
	k.made = true
	k.p.countGroups(k.s)
	for _, l := range k.s.class.leaves {
		b := &branch{leaf: l}
		k.branches = append(k.branches, b)
		k.find(b)
	}
	k.order()
}

func (k *picker) order() {
	for _, b := range k.branches {
		k.recount(b)
	}
	for i := len(k.branches)/2 - 1; i >= 0; i-- {
		k.sink(i)
	}
}

// first is the best node of the best leaf, nil if nothing fits.
func (k *picker) first() *node {
	for len(k.branches) > 0 {
		b := k.branches[0]
		if b.best == nil {
			return nil // leaves in which nothing fits are the last
		}
		grown := k.recount(b)
		if b.best != k.avoid && k.refuses(b.best) == fits && k.rank(b.best) == b.rank {
			if !grown {
				return b.best
			}
		} else {
			k.find(b)
		}
		k.sink(0)
	}
	return nil
}

// before tells which of two leaves comes first: the one whose groups have fewer tasks of the service, then by best nodes.
func (k *picker) before(a, b *branch) bool {
	if (a.best == nil) != (b.best == nil) {
		return b.best == nil
	}
	if a.best == nil {
		return a.leaf.key < b.leaf.key
	}
	for i := range a.leaf.groups {
		if a.in[i] != b.in[i] {
			return a.in[i] < b.in[i]
		}
	}
	return a.rank.less(b.rank)
}

// recount brings up to date how many tasks are in a branch's groups; it tells whether that changed.
func (k *picker) recount(b *branch) (grown bool) {
	for i, g := range b.leaf.groups {
		if c := k.s.inGroup[g]; c != b.in[i] {
			b.in[i], grown = c, true
		}
	}
	return grown
}

func (k *picker) sink(i int) {
	h := k.branches
	for {
		kid := 2*i + 1
		if kid >= len(h) {
			return
		}
		if kid+1 < len(h) && k.before(h[kid+1], h[kid]) {
			kid++
		}
		if !k.before(h[kid], h[i]) {
			return
		}
		h[i], h[kid] = h[kid], h[i]
		i = kid
	}
}

// find brings a branch's best node up to date.
func (k *picker) find(b *branch) {
	b.best = nil
	if !b.sorted {
		if b.best = k.walk(b.leaf); b.best == nil {
			k.sort(b)
		}
	}
	if b.sorted {
		b.best = k.pop(b)
	}
	if b.best != nil {
		b.rank = k.rank(b.best)
	}
}

// walk finds the best node of a leaf as long as that is the first one without a task of the service, nil if it is not
// worth to look further.
func (k *picker) walk(l *leaf) (found *node) {
	if k.budget <= 0 {
		return nil
	}
	more := imageNodes
	l.walk(func(n *node) bool {
		if found != nil { // what follows is worth looking at only for its image
			if more--; more < 0 || n.load >= found.load+imageWorth {
				return true
			}
			if k.images[n] > 0 && k.free(n) {
				found = n
				return true
			}
			return false
		}
		k.budget--
		if n != k.avoid && k.refuses(n) == fits {
			switch {
			case k.p.penalty(k.s, n) > 0:
				k.budget = 0
			case l.c.dense && n.running == 0: // which of the empty ones, the heap tells
				k.budget = 0
			case l.c.dense:
				found = n
				return true
			case k.s.count[n.n.ID] == 0:
				found = n
				return len(k.images) <= imageNodes || k.images[n] > 0
			}
		}
		return k.budget <= 0
	})
	if found == nil || l.c.dense || len(k.images) == 0 || len(k.images) > imageNodes || k.images[found] > 0 {
		return found
	}
	best := k.rank(found)
	for n := range k.images {
		if e := n.entry(l.c); e == nil || e.leaf != l || !k.free(n) {
			continue
		}
		if r := k.rank(n); r.less(best) {
			found, best = n, r
		}
	}
	return found
}

// free tells whether a node can be the best without a look at the others: it fits and has no task of the service.
func (k *picker) free(n *node) bool {
	return n != k.avoid && k.s.count[n.n.ID] == 0 && k.refuses(n) == fits && k.p.penalty(k.s, n) == 0
}

// sort fills a branch's own heap.
func (k *picker) sort(b *branch) {
	b.sorted = true
	b.heap, k.p.cands = k.p.cands[:0], nil
	for _, e := range b.leaf.heap {
		if k.refuses(e.n) == fits {
			b.heap = append(b.heap, cand{e.n, k.rank(e.n)})
		}
	}
	for i := len(b.heap)/2 - 1; i >= 0; i-- {
		b.down(i)
	}
}

// pop finds the best node of a sorted branch but the one to avoid. It stays in the heap.
func (k *picker) pop(b *branch) (best *node) {
	var aside []cand
	for len(b.heap) > 0 && best == nil {
		top := &b.heap[0]
		n := top.n
		if r := k.rank(n); r != top.rank {
			top.rank = r
			b.down(0)
			continue
		}
		switch {
		case k.refuses(n) != fits:
			b.drop()
		case n == k.avoid:
			aside = append(aside, *top)
			b.drop()
		default:
			best = n
		}
	}
	for _, c := range aside {
		b.push(c)
	}
	return best
}

func (b *branch) drop() {
	last := len(b.heap) - 1
	b.heap[0] = b.heap[last]
	b.heap = b.heap[:last]
	b.down(0)
}

func (b *branch) push(c cand) {
	b.heap = append(b.heap, c)
	for i := len(b.heap) - 1; i > 0 && b.heap[i].less(b.heap[(i-1)/2].rank); i = (i - 1) / 2 {
		b.heap[i], b.heap[(i-1)/2] = b.heap[(i-1)/2], b.heap[i]
	}
}

func (b *branch) down(i int) {
	h := b.heap
	for {
		kid := 2*i + 1
		if kid >= len(h) {
			return
		}
		if kid+1 < len(h) && h[kid+1].less(h[kid].rank) {
			kid++
		}
		if !h[kid].less(h[i].rank) {
			return
		}
		h[i], h[kid] = h[kid], h[i]
		i = kid
	}
}

// slotName is what people call the task in a slot.
func slotName(s *service, id slotID) string {
	if id.n == 0 {
		return s.name
	}
	return fmt.Sprintf("%s.%d", s.name, id.n)
}
