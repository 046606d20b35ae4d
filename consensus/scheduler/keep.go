package scheduler

import (
	"cmp"
	"slices"
	"strings"

	"shoal/consensus/job"
)

// The one that is followed is placed where its followers have room too. Until they come, in the same plan or in a later one
// when their dependencies hold, nobody of their priority or a lower one gets that room; and the same where the one that is
// followed is about to go, in a move or an update.

// toCome are the phases of slots that have no task on the node of the one that they follow.
var toCome = []phase{missing, ending, failing, deserted, misplaced}

// taking are the phases of slots in which another task takes over, maybe on another node.
var taking = []phase{handing, handed, moving, moved, preparing, prepared}

// anyIn tells whether a slot is in one of the phases.
func (s *service) anyIn(phs []phase) bool {
	return slices.ContainsFunc(phs, func(ph phase) bool { return len(s.sets[ph]) > 0 })
}

// trailing lists the services with followers to come, the highest priority first.
func (p *Planner) trailing() (out []*service) {
	for s := range p.following {
		if s.anyIn(toCome) || slices.ContainsFunc(s.together, func(o *service) bool { return o.anyIn(taking) }) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *service) int {
		return cmp.Or(cmp.Compare(b.priority(), a.priority()), strings.Compare(a.job.name, b.job.name), strings.Compare(a.name, b.name))
	})
	return out
}

// toFollow tells whether a service has followers to come.
func (p *Planner) toFollow(s *service) bool {
	_, follows := p.following[s]
	return follows && s.anyIn(toCome)
}

// keepFrom keeps the room of followers of such a priority and above.
func (w *work) keepFrom(priority int) {
	for len(w.trailing) > 0 && w.trailing[0].priority() >= priority {
		w.p.keepFor(w.trailing[0])
		w.trailing = w.trailing[1:]
	}
}

// keepFor keeps the room of a service's slots that are to come, where the ones that they follow are.
func (p *Planner) keepFor(s *service) {
	for _, ph := range toCome {
		for _, sl := range s.in(ph) {
			p.keepSlot(s, sl)
		}
	}
	for _, o := range s.together {
		for _, ph := range taking {
			for _, led := range o.in(ph) {
				p.keepSlot(s, s.slots[led.id])
			}
		}
	}
}

// keepFollowers keeps the room of those that follow a slot that the plan in the making has just placed.
func (p *Planner) keepFollowers(s *service, id slotID) {
	for _, o := range s.followers {
		p.keepSlot(o, o.slots[id])
	}
}

// goal is where the tasks of a slot will be that others follow: of a hand-over the successor's node. nil if there is none.
func (p *Planner) goal(s *service, id slotID) *node {
	sl := s.slots[id]
	if sl == nil {
		return nil
	}
	if n := p.seats[sl]; n != nil {
		return n
	}
	if _, after := sl.pair(); after != nil {
		if n := p.nodes[after.Node]; n != nil && n.n.State == job.NodeReady {
			return n
		}
	}
	return p.seat(s, id)
}

func (p *Planner) keepSlot(s *service, sl *slot) {
	if sl == nil || s.spec == nil || p.seats[sl] != nil || !slices.Contains(toCome, sl.phase) && !sl.lives() {
		return
	}
	if _, has := p.kept[sl]; has {
		return
	}
	var n *node
	for _, o := range s.together {
		to := p.goal(o, sl.id)
		if to == nil || n != nil && to != n {
			return
		}
		n = to
	}
	if n == nil || !n.n.Eligible() || n.refuses(s.info) != fits || !s.class.admits(n.n) {
		return
	}
	for _, t := range sl.tasks {
		if t.Node == n.n.ID && t.weighs() {
			return // it has room there
		}
	}
	if r := p.newRules(s); r.most > 0 && s.count[n.n.ID] >= r.most || r.bars(n) {
		return
	}
	p.keepAt(sl, promise{n, s.info})
}

// lives tells whether a task in a slot is meant to run on.
func (sl *slot) lives() bool {
	_, t := sl.pair()
	return t != nil && sl.phase != excess
}

func (p *Planner) keepAt(sl *slot, k promise) {
	k.n.add(k.i, k.i.counts(), 1)
	p.kept[sl] = k
}

// unkept is room that was kept for a slot until it was given back.
type unkept struct {
	sl *slot
	promise
}

// unkeep gives back what is kept for a slot and those that follow it, because they are about to be placed.
func (p *Planner) unkeep(s *service, sl *slot) (back []unkept) {
	if n, _ := p.follow(s, sl.id); n == p.kept[sl].n { // elsewhere it is for later
		back = p.dropKept(back, sl)
	}
	for _, o := range s.followers {
		back = p.dropKept(back, o.slots[sl.id])
	}
	return back
}

func (p *Planner) dropKept(back []unkept, sl *slot) []unkept {
	k, has := p.kept[sl]
	if !has {
		return back
	}
	k.n.add(k.i, k.i.counts(), -1)
	delete(p.kept, sl)
	return append(back, unkept{sl, k})
}

// rekeep keeps again what unkeep gave back of those that follow a slot for which n was found: if it stays with them, or if
// there is no such node and it stays where it is.
func (p *Planner) rekeep(back []unkept, sl *slot, n *node) {
	for _, k := range back {
		if k.sl != sl && (n == nil || k.n == n) {
			p.keepAt(k.sl, k.promise)
		}
	}
}

// noteFollowing keeps which services follow others. Room that was kept for one that no longer does is free.
func (p *Planner) noteFollowing(js *jobState) {
	for _, s := range js.services {
		if len(s.together) > 0 {
			p.following[s] = struct{}{}
			p.freed = true
		} else if _, did := p.following[s]; did {
			delete(p.following, s)
			p.freed = true
		}
	}
}
