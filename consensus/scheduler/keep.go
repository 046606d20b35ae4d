package scheduler

import (
	"cmp"
	"slices"
	"strings"
)

// The one that is followed is placed where its followers have room too. Until they come, in the same plan or in a later one
// when their dependencies hold, nobody of their priority or a lower one gets that room.

// toCome are the phases of slots that have no task on the node of the one that they follow.
var toCome = []phase{missing, ending, failing, deserted, misplaced}

// anyIn tells whether a slot is in one of the phases.
func (s *service) anyIn(phs []phase) bool {
	return slices.ContainsFunc(phs, func(ph phase) bool { return len(s.sets[ph]) > 0 })
}

// trailing lists the services with followers to come, the highest priority first.
func (p *Planner) trailing() (out []*service) {
	for s := range p.following {
		if s.anyIn(toCome) {
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
}

// keepFollowers keeps the room of those that follow a slot that the plan in the making has just placed.
func (p *Planner) keepFollowers(s *service, id slotID) {
	for _, o := range s.followers {
		if sl := o.slots[id]; sl != nil && slices.Contains(toCome, sl.phase) {
			p.keepSlot(o, sl)
		}
	}
}

func (p *Planner) keepSlot(s *service, sl *slot) {
	if _, has := p.kept[sl]; has || s.spec == nil || p.seats[sl] != nil {
		return
	}
	n, _ := p.follow(s, sl.id)
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
	back = p.dropKept(back, sl)
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
