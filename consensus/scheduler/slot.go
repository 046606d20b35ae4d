package scheduler

import (
	"slices"

	"shoal/consensus/job"
)

// phase is what a slot needs. It follows from the slot's tasks, its service and their nodes alone, never from time.
type phase int

const (
	quiet     phase = iota // not wanted, and nothing in it is meant to run
	settled                // ready, or done for good
	unready                // on its way, or unwell
	missing                // nothing there
	ending                 // what was there has not ended yet
	failing                // what was there failed: a new try after a while
	deserted               // its node is down, left or removed
	held                   // the same, but what was there may still run, or an admin decides (see job.Task.Held)
	outdated               // runs a former content of the service, or is to be renewed
	tuning                 // runs, and takes the present content over in place
	handing                // beside a former content there is a task of the present one, which is not ready yet
	handed                 // the same, and it is ready
	moving                 // beside a task there is one of the same content on another node, which is not ready yet
	moved                  // the same, and it is ready
	preparing              // as handing, but the new one is to start after the other's end, and is not made yet
	prepared               // the same, and it is made
	waiting                // the other has ended: the one that waited for that may start
	fresh                  // ready, and placed in the rollout that runs
	misplaced              // its node is draining or breaks a constraint
	excess                 // not wanted, but something in it is meant to run
	double                 // two tasks are meant to run
	away                   // a global service's task on a node that is down: waits for it
	working                // a batch's task is on its way or runs
	phases                 // how many
)

// classifySlots brings the phases of a service's dirty slots up to date, and tells its dependents when that may matter.
func (p *Planner) classifySlots(s *service) {
	was := [5]int{s.wanted, s.started, s.ready, s.completed, s.behind()}
	if s.all {
		p.makeSlots(s)
		for _, sl := range s.slots {
			p.classifySlot(s, sl)
		}
		s.all = false
	} else {
		for sl := range s.dirty {
			p.classifySlot(s, sl)
		}
	}
	clear(s.dirty)
	if was != [5]int{s.wanted, s.started, s.ready, s.completed, s.behind()} {
		p.markDependents(s)
	}
}

// makeSlots makes the slots that a service wants and has not yet.
func (p *Planner) makeSlots(s *service) {
	switch {
	case s.spec == nil:
	case s.spec.IsBatch():
		p.makeRunSlots(s)
	case s.spec.Mode.PerNode():
		for id := range p.nodes {
			s.slot(slotID{node: id})
		}
	default:
		for i := 1; i <= s.spec.Replicas; i++ {
			s.slot(slotID{n: i})
		}
	}
}

func (p *Planner) classifySlot(s *service, sl *slot) {
	ph, sm := p.phaseOf(s, sl)
	if ph != sl.phase {
		delete(s.sets[sl.phase], sl)
		if s.sets[ph] == nil {
			s.sets[ph] = map[*slot]struct{}{}
		}
	}
	// A task may come and fail between two plans: then the phase is the same, but it began anew. Who took over has proven
	// itself before.
	last := sl.newest()
	tookOver := sl.phase == handed && ph == fresh && last == sl.last
	if (ph != sl.phase && !tookOver) || last != sl.last || sl.since.IsZero() {
		sl.since, sl.last = p.now, last
	}
	sl.phase = ph
	if ph != quiet && ph != settled { // nobody asks for these two, and they are most
		s.sets[ph][sl] = struct{}{}
	}
	s.wanted += delta(sl.sum.wanted, sm.wanted)
	s.started += delta(sl.sum.started, sm.started)
	s.ready += delta(sl.sum.ready, sm.ready)
	s.completed += delta(sl.sum.completed, sm.completed)
	s.failed += delta(sl.sum.failed, sm.failed)
	sl.sum = sm
	s.noteSpent(sl)
	if ph == quiet && len(sl.tasks) == 0 {
		delete(s.slots, sl.id)
	}
}

func delta(was, is bool) int {
	switch {
	case was == is:
		return 0
	case is:
		return 1
	}
	return -1
}

// wants tells whether a service wants a task in such a slot.
func (p *Planner) wants(s *service, id slotID) bool {
	if s.spec == nil {
		return false
	}
	if !s.spec.Mode.PerNode() {
		return id.node == "" && id.n >= 1 && id.n <= s.spec.Replicas
	}
	n := p.nodes[id.node]
	return id.n == 0 && n != nil && !n.n.Drained && n.n.State != job.NodeLeft && s.class.admits(n.n)
}

func (p *Planner) phaseOf(s *service, sl *slot) (phase, sum) {
	if s.isBatch() {
		return p.batchPhase(s, sl)
	}
	var live, stopping int
	var cur *task // the newest that is meant to run, one that has not ended first
	var before *task
	for _, t := range sl.tasks {
		switch {
		case t.Desired != job.DesiredRun:
			if !t.ended() {
				stopping++
			}
		case !t.ended():
			if live++; live == 2 {
				before = cur
			}
			cur = t
		case live == 0:
			cur = t
		}
	}
	if !p.wants(s, sl.id) {
		if cur != nil {
			return excess, sum{}
		}
		return quiet, sum{}
	}
	sm := sum{wanted: true, failed: s.failedIn(sl)}
	if cur != nil {
		st := cur.state()
		sm.ready = cur.st.Ready()
		sm.completed = st == job.Complete
		sm.started = st == job.Running || st == job.Complete || st == job.Failed
	}
	switch {
	case live == 2 && cur.Replaces == before.ID && !s.old(cur) && s.old(before):
		sm.ready, sm.started = sm.ready || before.st.Ready(), true
		if before.Failover == job.FailoverFenced && before.Held() && !p.there(before) {
			return held, sm
		}
		return handPhase(cur), sm
	case live == 2 && s.moves(before, cur):
		sm.ready, sm.started = sm.ready || before.st.Ready(), true
		if cur.st.Ready() {
			return moved, sm
		}
		return moving, sm
	case live > 1:
		return double, sm
	case live == 1:
		ph := p.livePhase(s, cur)
		begins := ph == unready || ph == tuning || ph == outdated && s.restores(cur)
		switch {
		case ph == deserted && stopping > 0 && s.endsFirst(sl):
			ph = ending // of the others
		case cur.Wait == job.WaitNone:
		case stopping > 0 && (begins || ph != outdated && ph != misplaced):
			ph = ending // of both, if the node of the one that waits is gone
		case begins:
			ph = waiting
		}
		if ph == away {
			sm = sum{}
		}
		return ph, sm
	case s.spec.Mode.PerNode() && p.nodes[sl.id.node].n.State != job.NodeReady:
		return quiet, sum{}
	case stopping > 0:
		return ending, sm
	case cur == nil || s.old(cur) && !s.restores(cur):
		return missing, sm
	case final(s.spec, cur.state()):
		return settled, sm
	}
	return failing, sm
}

// endsFirst tells whether who is on the way out of a slot must have ended before another one comes: one of the two is fenced.
func (s *service) endsFirst(sl *slot) bool {
	return slices.ContainsFunc(sl.tasks, func(t *task) bool {
		return t.Desired != job.DesiredRun && !t.ended() && (t.alone() || s.spec.FailoverPolicy().Mode == job.FailoverFenced)
	})
}

// there tells whether a task's node is.
func (p *Planner) there(t *task) bool {
	n := p.nodes[t.Node]
	return n == nil || n.n.State == job.NodeReady
}

// livePhase is the phase of a wanted slot with one task that runs or will.
func (p *Planner) livePhase(s *service, t *task) phase {
	n := p.nodes[t.Node]
	switch {
	case n == nil || n.n.State != job.NodeReady:
		if s.spec.Mode.PerNode() {
			return away
		}
		if n != nil && t.Held() {
			return held
		}
		return deserted
	case len(s.together) > 0:
		if to, _ := p.strayed(t); to != nil {
			return misplaced // else the one that it follows leaves a draining node first
		}
	case n.n.Drained || !s.class.admits(n.n):
		return misplaced
	}
	switch {
	case s.old(t):
		return outdated
	case t.Tuning(t.st):
		return tuning
	case t.st.Ready() && s.rolling() && max(t.Index, t.Watched) > s.rollout.Index:
		return fresh
	case t.st.Ready():
		return settled
	}
	return unready
}

// final tells whether a task's end is for good. A lost task is no end of its own: it is tried again under any policy.
func final(s *job.Service, end job.State) bool {
	switch s.Restart.Policy {
	case job.RestartNever:
		return end == job.Complete || end == job.Failed
	case job.RestartOnFailure:
		return end == job.Complete
	}
	return false
}

// current is the newest task of a slot that is meant to run, one that has not ended first; nil if there is none.
func (sl *slot) current() *task {
	var cur *task
	for _, t := range sl.tasks {
		if t.Desired == job.DesiredRun && (cur == nil || !t.ended() || cur.ended()) {
			cur = t
		}
	}
	return cur
}

// pair is both sides of a hand-over: what was there, and what shall take its place.
func (sl *slot) pair() (before, after *task) {
	for _, t := range sl.tasks {
		if t.Desired == job.DesiredRun && !t.ended() {
			before, after = after, t
		}
	}
	return before, after
}

// newest is the slot's last task, nil if it never had one (or all are forgotten).
func (sl *slot) newest() *task {
	if len(sl.tasks) == 0 {
		return nil
	}
	return sl.tasks[len(sl.tasks)-1]
}

// in lists the slots of a phase by number or node.
func (s *service) in(ph phase) []*slot {
	if len(s.sets[ph]) == 0 {
		return nil
	}
	out := make([]*slot, 0, len(s.sets[ph]))
	for sl := range s.sets[ph] {
		out = append(out, sl)
	}
	sortSlots(out)
	return out
}

func sortSlots(sls []*slot) {
	slices.SortFunc(sls, func(a, b *slot) int {
		if a.id.n != b.id.n {
			return a.id.n - b.id.n
		}
		if a.id.node < b.id.node {
			return -1
		}
		return 1
	})
}
