package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
)

// When nothing fits, a task may take the room of others whose priority is lower by at least job.PriorityGap: on the node
// where the highest priority among those that must go is the lowest, then their number, then the sum of their priorities.
// They are told to stop in one plan, and the room is kept for it in each plan until they have: whoever has the higher
// priority is placed first. Nobody is ever stopped for an equal, so there is no going back and forth.

// A slot that failed preemptTries times in a row takes somebody's room once in a preemptPause only: what is stopped for it
// comes back when it fails, and would be stopped again.
const (
	preemptTries = 3
	preemptPause = time.Hour
)

// spares says until when a slot takes nobody's room, "" if it may take it.
func (w *work) spares(s *service, sl *slot) string {
	if sl.phase != failing {
		return ""
	}
	t, n := sl.current(), 0
	if s.isBatch() {
		t = sl.newestOf(s.runOf(sl.id))
	}
	if t != nil && t.state() == job.Failed {
		n = attempts(t)
	}
	at := sl.since.Add(preemptPause)
	if n < preemptTries || !at.After(w.now) {
		return ""
	}
	w.wakeAt(s, at)
	return fmt.Sprintf("; %s failed %d times in a row and takes nobody's room before %s", t.Name(), n, at.UTC().Format(time.TimeOnly))
}

// preemptSlots bounds the slots of a service for which one plan looks for victims.
const preemptSlots = 32

// promise is room that is kept for a task until others have stopped.
type promise struct {
	n *node
	i *info
}

// keep promises room on a node for the rest of the plan.
func (p *Planner) keep(n *node, i *info) {
	n.add(i, i.counts(), 1)
	p.promises = append(p.promises, promise{n, i})
}

// counts is what a task asks of generic resources, before it is known which ones it gets.
func (i *info) counts() []job.Generic {
	out := make([]job.Generic, len(i.spec.Generic))
	for x, g := range i.spec.Generic {
		out[x] = job.Generic{Kind: g.Kind, Count: g.Count}
	}
	return out
}

// preempt makes room for slots that fit nowhere. It says what they wait for where it found room for all of them, and
// which of them takes no room that it could have.
func (w *work) preempt(s *service, pk *picker, short []*slot) (waits, spares string) {
	if !w.p.preempts || w.lowestPriority() > s.priority()-job.PriorityGap {
		return "", ""
	}
	if w.gone == nil {
		w.gone, w.hit = map[*task]bool{}, map[*service]bool{}
	}
	found := 0
	var first string
	more := 0
	for _, sl := range short[:min(len(short), preemptSlots)] {
		n, victims := w.bestVictims(s, pk, sl)
		if n == nil || w.left < len(victims) {
			continue
		}
		if text := w.spares(s, sl); text != "" && len(victims) > 0 {
			spares = cmp.Or(spares, text)
			continue
		}
		found++
		for _, t := range victims {
			w.gone[t], w.hit[t.svc] = true, true
			w.stop(t, job.DesiredStop, fmt.Sprintf("%s%s/%s, whose priority is %d and not %d", preemptedBy, s.job.name, s.name, s.priority(), t.svc.priority()))
		}
		for _, t := range stopping(n, w.gone) {
			if w.gone[t] = true; first == "" {
				first = fmt.Sprintf("%s/%s on node %s", t.Job, t.Name(), n.n.Name)
			} else {
				more++
			}
		}
		w.p.keep(n, pk.ask)
		w.p.promised[s] = struct{}{}
	}
	if found < len(short) || first == "" {
		return "", spares
	}
	if more > 0 {
		first += fmt.Sprintf(" and %d more", more)
	}
	return "takes the room of tasks of lower priority, and waits for them to stop: " + first, ""
}

// stopping lists the tasks of a node that use it and are not meant to run, or are in gone.
func stopping(n *node, gone map[*task]bool) (out []*task) {
	for t := range n.tasks {
		if t.weighs() && (t.Desired != job.DesiredRun || gone[t]) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// lowestPriority is that of what runs now.
func (w *work) lowestPriority() int {
	if w.lowest == nil {
		lowest := job.MaxPriority + 1
		for _, j := range w.p.jobs {
			for _, s := range j.services {
				if s.spec != nil && len(s.count) > 0 {
					lowest = min(lowest, s.priority())
				}
			}
		}
		w.lowest = &lowest
	}
	return *w.lowest
}

// bestVictims finds the node where the least must go for one more task, and what must go there; nil if nothing helps.
func (w *work) bestVictims(s *service, pk *picker, sl *slot) (best *node, victims []*task) {
	var cost victimCost
	try := func(n *node) {
		if pk.rules.most > 0 && s.count[n.n.ID] >= pk.rules.most || pk.rules.breaks(n) != nil {
			return
		}
		vs, ok := w.victims(s, n, pk.ask)
		if !ok {
			return
		}
		if c := costOf(n, vs); best == nil || c.less(cost) {
			best, victims, cost = n, vs, c
		}
	}
	if only, free := pk.boundTo(sl); !free {
		if only != nil && only.n.Eligible() && s.class.admits(only.n) {
			try(only)
		}
		return best, victims
	}
	for _, l := range s.class.leaves {
		for _, e := range l.heap {
			try(e.n)
		}
	}
	return best, victims
}

// boundTo is the one node where a slot can be, nil if that is not known; free: it can be anywhere.
func (k *picker) boundTo(sl *slot) (n *node, free bool) {
	switch {
	case k.s.spec.Mode.PerNode():
		return k.p.nodes[sl.id.node], false
	case len(k.s.together) > 0:
		n, _ := k.p.follow(k.s, sl.id)
		return n, false
	case k.s.info.local:
		if h := k.p.home(k.s, sl.id); h != nil {
			if n := k.p.nodes[h.Node]; !k.s.leavesHome() || n.n.Eligible() {
				return n, false
			}
		}
	}
	return nil, true
}

// victimCost compares what it takes to make room on a node.
type victimCost struct {
	highest, count, sum int
	id                  job.NodeID
}

func (a victimCost) less(b victimCost) bool {
	return cmp.Or(cmp.Compare(a.highest, b.highest), cmp.Compare(a.count, b.count), cmp.Compare(a.sum, b.sum), cmp.Compare(a.id, b.id)) < 0
}

func costOf(n *node, vs []*task) victimCost {
	c := victimCost{highest: -1, count: len(vs), id: n.n.ID}
	for _, t := range vs {
		c.highest, c.sum = max(c.highest, t.svc.priority()), c.sum+t.svc.priority()
	}
	return c
}

// needs tells whether a service must be where another one is: then taking that one's room helps nobody.
func (p *Planner) needs(s, o *service) bool {
	if slices.Contains(s.together, o) || slices.Contains(s.followers, o) {
		return true
	}
	if pl := s.spec.Placement; pl != nil {
		for _, peer := range pl.Peers {
			if !peer.Apart && peer.Weight == 0 && p.peerOf(s, peer) == o {
				return true
			}
		}
	}
	return false
}

// victims chooses tasks of lower priority without which, and without what stops anyway, a task of a service would fit on a
// node; false when it would not.
func (w *work) victims(s *service, n *node, i *info) (out []*task, ok bool) {
	most := s.priority() - job.PriorityGap
	left := n.copy()
	for _, t := range stopping(n, w.gone) {
		left.add(t.info, t.Generic, -1)
	}
	if left.refuses(i) == fits {
		return nil, true
	}
	var able []*task
	for t := range n.tasks {
		if t.weighs() && t.Desired == job.DesiredRun && t.info != nil && !w.gone[t] && t.svc.spec != nil && t.svc.priority() <= most && !w.p.needs(s, t.svc) {
			able = append(able, t)
		}
	}
	slices.SortFunc(able, func(a, b *task) int {
		return cmp.Or(cmp.Compare(a.svc.priority(), b.svc.priority()), cmp.Compare(b.info.size(), a.info.size()), cmp.Compare(a.ID, b.ID))
	})
	for _, t := range able {
		if ok {
			break
		}
		left.add(t.info, t.Generic, -1)
		out = append(out, t)
		ok = left.refuses(i) == fits
	}
	if !ok {
		return nil, false
	}
	// Who was taken before it was clear how little it takes may stay, the highest priority first.
	kept := out[:0:0]
	for x := len(out) - 1; x >= 0; x-- {
		left.add(out[x].info, out[x].Generic, 1)
		if left.refuses(i) != fits {
			left.add(out[x].info, out[x].Generic, -1)
			kept = append(kept, out[x])
		}
	}
	return kept, true
}

// size orders tasks by what they ask, roughly: a CPU is worth 2 GiB.
func (i *info) size() int64 { return i.demand.NanoCPUs*2 + i.demand.MemoryBytes }

// copy is a node to calculate with: it is in no class.
func (n *node) copy() *node {
	c := &node{n: n.n, have: n.have, used: n.used, running: n.running, load: n.load, ports: slices.Clone(n.ports), generic: map[string]int{}, ids: map[string]bool{}}
	for k, v := range n.generic {
		c.generic[k] = v
	}
	for k, v := range n.ids {
		c.ids[k] = v
	}
	return c
}
