package scheduler

import (
	"shoal/consensus/job"
	"shoal/consensus/state"
)

// weighs tells whether a task counts on its node: until it has ended, but not while it waits for another's room.
func (t *task) weighs() bool { return !t.ended() && t.Wait != job.WaitRoom }

// rewrite takes in a task's change, and what it now weighs.
func (p *Planner) rewrite(t *task, k *job.Task, st *job.Status) {
	was, weighed := t.info, t.weighs()
	p.freed = p.freed || t.Held() && !k.Held() // who must be apart from it waits no longer
	if k.Digest != t.Digest {
		t.info = p.infos[k.Digest]
	}
	t.Task, t.st = k, st
	weighs := t.weighs()
	if weighed && (!weighs || t.info != was) {
		p.unclaim(t, was)
	}
	if weighs && (!weighed || t.info != was) {
		p.claim(p.nodes[k.Node], t.svc, t.info, k)
	}
}

// canTune tells whether a task can take its service's present content over where it runs: the two differ in nothing that
// needs a new task, and there is room; if only that is lacking, the service is looked at again when some is freed. risky, if not
// nil, tells which changes are not wanted.
func (w *work) canTune(s *service, t *task, risky func(a, b *job.Service) bool) bool {
	if t.Digest == s.digest || t.Renew || t.info == nil || t.info.shape() != s.info.shape() || risky == nil && !t.st.Ready() {
		return false
	}
	if risky != nil && risky(t.info.spec, s.info.spec) {
		return false
	}
	n := w.p.nodes[t.Node]
	if n == nil {
		return false
	}
	if !t.weighs() || t.info.demand == s.info.demand && s.spec.Placement == nil {
		return true
	}
	w.p.release(n, s, t.info, t.Task)
	defer w.p.claim(n, s, t.info, t.Task)
	// What it is to be may find no room where it is, or not be allowed there, until others go.
	r := w.p.newRules(s)
	if t.info.demand != s.info.demand && n.refuses(s.info) != fits || r.most > 0 && s.count[n.n.ID] >= r.most || r.breaks(n) != nil {
		w.p.starved[s] = struct{}{}
		return false
	}
	return true
}

// tune gives a task the present content in place; false when the plan is full.
func (w *work) tune(s *service, t *task, watched bool) bool {
	if w.left <= 0 {
		return false
	}
	w.left--
	w.plan.Tune = append(w.plan.Tune, state.TaskTune{ID: t.ID, Digest: s.digest, Watched: watched, Cause: s.updateCause()})
	if n := w.p.nodes[t.Node]; t.weighs() && t.info.demand != s.info.demand {
		n.add(s.info, nil, 1) // what it gives back is only free in the next plan
		w.p.claims = append(w.p.claims, claim{n, nil, s.info, nil})
	}
	w.again(s)
	return true
}

// shape is the service's Shape, computed when it is first asked for.
func (i *info) shape() job.Digest {
	if i.shapeOf == "" {
		i.shapeOf = i.spec.Shape()
	}
	return i.shapeOf
}
