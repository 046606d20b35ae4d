package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// A batch has runs (job.Run) in place of updates: each completion of a run that is under way is a slot that wants one task
// to end well. Which completions are done the run itself says, so that no task need be remembered for it. What a slot
// needs is told by batchPhase; the service's part in a plan is batch, in place of fill, roll and drain.

// isBatch tells whether a service that is meant to run is a batch.
func (s *service) isBatch() bool { return s.spec != nil && s.spec.IsBatch() }

// putRun takes in a run, nil after when it was forgotten. Only its begin and its end change what slots need: of what it
// counts in between, the slots hear by their tasks.
func (p *Planner) putRun(before, after *job.Run) {
	r := cmp.Or(after, before)
	s := p.service(r.Job, r.Service)
	i := slices.IndexFunc(s.runs, func(o *job.Run) bool { return o.Seq == r.Seq })
	switch {
	case i < 0 && after != nil:
		s.runs = append(s.runs, after)
		slices.SortFunc(s.runs, func(a, b *job.Run) int { return cmp.Compare(a.Seq, b.Seq) })
	case i >= 0 && after != nil:
		s.runs[i] = after
	case i >= 0:
		s.runs = slices.Delete(s.runs, i, i+1)
	}
	if before == nil || after == nil || before.Status != after.Status || before.Forgotten != after.Forgotten {
		s.all = true
		s.tries = 0
		p.awaken(s)
	} else if before.Began.IsZero() != after.Began.IsZero() {
		p.awaken(s)
	}
	p.mark(s)
}

// awaken has all services looked at that depend on s, also those whose update waits for it.
func (p *Planner) awaken(s *service) {
	for _, o := range s.job.services {
		if o.spec != nil && slices.ContainsFunc(o.spec.DependsOn, func(d job.Dependency) bool { return d.Service == s.name }) {
			p.mark(o)
		}
	}
}

// run finds a kept run by its number.
func (s *service) run(seq uint64) *job.Run {
	for _, r := range s.runs {
		if r.Seq == seq {
			return r
		}
	}
	return nil
}

// runOf is the run under way to which a slot belongs, nil if there is none.
func (s *service) runOf(id slotID) *job.Run {
	for _, r := range s.runs {
		if r.Active() && (r.Slots == 0 && id.n == 0 || r.Slots > 0 && r.Owns(id.n)) {
			return r
		}
	}
	return nil
}

// makeRunSlots makes the slots of the runs that are under way.
func (p *Planner) makeRunSlots(s *service) {
	for _, r := range s.runs {
		switch {
		case !r.Active():
		case r.Slots == 0:
			for id := range p.nodes {
				s.slot(slotID{node: id})
			}
		default:
			for i := range r.Slots {
				if !r.HasDone(r.First+1+i, "") {
					s.slot(slotID{n: r.First + 1 + i})
				}
			}
		}
	}
}

// batchPhase is phaseOf for the slots of batches.
func (p *Planner) batchPhase(s *service, sl *slot) (phase, sum) {
	r := s.runOf(sl.id)
	var live, last *task // of the run, last being its newest that was meant to run to its end
	leaving := false
	for _, t := range sl.tasks {
		ours := t.isOf(r)
		switch {
		case t.ended():
			if own := s.run(t.Run); t.Desired == job.DesiredRun && (!t.isOf(own) || own.Forgotten) {
				return excess, sum{} // to be put to rest
			}
			if ours && (t.Desired == job.DesiredRun || t.state() == job.Lost) {
				last = t
			}
		case t.Desired != job.DesiredRun:
			leaving = true
		case !ours:
			return excess, sum{}
		default:
			live = t
		}
	}
	if r == nil {
		return quiet, sum{}
	}
	done := r.HasDone(sl.id.n, sl.id.node)
	sm := sum{wanted: true, completed: done}
	switch {
	case live != nil:
		n := p.nodes[live.Node]
		if n == nil || n.n.State != job.NodeReady {
			if n != nil && live.Held() {
				return held, sm
			}
			return deserted, sm
		}
		return working, sm
	case done:
		return settled, sm
	case r.Slots == 0 && !p.wantsRun(s, sl.id.node):
		return quiet, sum{}
	case leaving:
		return ending, sm
	case last != nil:
		return failing, sm
	}
	return missing, sm
}

// wantsRun tells whether a run with a task on each node wants one on this node now.
func (p *Planner) wantsRun(s *service, id job.NodeID) bool {
	n := p.nodes[id]
	return n != nil && n.n.Eligible() && s.class.admits(n.n)
}

// batch decides on a batch's runs.
func (w *work) batch(s *service) (why reason) {
	for _, r := range s.runs {
		if r.Active() {
			if one := w.carryOn(s, r); why.slots == 0 {
				why = one
			}
			continue
		}
		w.expire(s, r)
	}
	return why
}

// expire forgets the tasks of a run that ended long enough ago.
func (w *work) expire(s *service, r *job.Run) {
	ttl := s.spec.BatchPolicy().TTL
	if ttl <= 0 || r.Forgotten {
		return
	}
	if at := w.p.past(r.Ended, w.now).Add(ttl); at.After(w.now) {
		w.wakeAt(s, at)
		return
	}
	w.runStep(s, r, state.RunStep{Forget: true})
}

func (w *work) runStep(s *service, r *job.Run, st state.RunStep) {
	st.Job, st.Service, st.Seq = s.job.name, s.name, r.Seq
	w.plan.Runs = append(w.plan.Runs, st)
	w.again(s)
}

// carryOn ends a run that is at its end, or places what it may have at a time; it says what holds it up.
func (w *work) carryOn(s *service, r *job.Run) reason {
	policy := s.spec.BatchPolicy()
	if d := policy.Deadline; d > 0 && !r.Began.IsZero() {
		at := w.p.past(r.Began, w.now).Add(d)
		if !at.After(w.now) {
			w.runStep(s, r, state.RunStep{Status: job.RunFailed, TimedOut: true, Reason: fmt.Sprintf("it took longer than its deadline of %v", d)})
			return reason{}
		}
		w.wakeAt(s, at)
	}
	if w.allDone(s, r) {
		w.runStep(s, r, state.RunStep{Status: job.RunComplete})
		return reason{}
	}
	if st, failed := w.runFailed(s, r, policy); failed {
		w.runStep(s, r, st)
		return reason{}
	}
	ours := func(ph phase) (out []*slot) {
		for _, sl := range s.in(ph) {
			if s.runOf(sl.id) == r {
				out = append(out, sl)
			}
		}
		return out
	}
	w.drainRun(s, r)
	busy := len(ours(working)) + len(ours(ending)) + len(ours(held))
	gone := ours(deserted)
	former := r.Digest != s.digest
	// Nothing takes the place of what is gone: of a former content nothing is placed, and a node's slot does not move.
	if (former || r.Slots == 0) && !w.giveUp(gone) {
		return reason{}
	}
	if former {
		if busy+len(gone) == 0 {
			w.runStep(s, r, state.RunStep{Status: job.RunStopped, Reason: "the service was changed before it was complete"})
		}
		return reason{}
	}
	if r.Slots == 0 {
		gone = nil
	}
	fresh := ours(missing)
	if r.Began.IsZero() {
		if text := w.gate(s); text != "" {
			return reason{slots: max(len(fresh), 1), text: text}
		}
	}
	retries, wait := w.dueRetries(s, r, policy, ours(failing))
	todo := slices.Concat(gone, retries, fresh)
	room := len(todo)
	if policy.Parallelism > 0 {
		room = max(policy.Parallelism-busy, 0)
	}
	if why := w.fillRun(s, r, todo[:min(room, len(todo))]); why.slots > 0 {
		return why
	}
	if r.Slots == 0 && len(todo)+busy+r.Completed == 0 && wait.slots == 0 {
		return reason{slots: 1, text: newPicker(w.p, s, 0).explain(refusals{all: true})}
	}
	return wait
}

// giveUp loses the tasks in slots whose node is gone; false when the plan is full.
func (w *work) giveUp(gone []*slot) bool {
	for _, sl := range gone {
		for _, t := range sl.tasks {
			if !t.ended() && t.Desired == job.DesiredRun && !w.stop(t, job.DesiredLost, w.nodeCause(t)) {
				return false
			}
		}
	}
	return true
}

// drainRun stops the tasks of a run that somebody wants replaced, or whose node's drain has no more patience; until then
// they may finish. Their slots are
// placed anew, and nothing counts as failed.
func (w *work) drainRun(s *service, r *job.Run) {
	for _, sl := range s.in(working) {
		if t := sl.newestOf(r); t != nil && t.Desired == job.DesiredRun && !t.ended() && (t.Renew || w.overdue(t)) {
			cause := "asked to be replaced"
			if !t.Renew {
				cause = w.misplacedCause(s, t)
			}
			w.stop(t, job.DesiredStop, cause)
		}
	}
}

// fillRun places tasks into slots of a run, and says why some stay empty.
func (w *work) fillRun(s *service, r *job.Run, todo []*slot) (why reason) {
	pk := newPicker(w.p, s, len(todo))
	defer pk.done()
	var short []*slot
	for _, sl := range todo {
		if w.left <= 0 {
			return why
		}
		n, no := pk.pick(sl)
		if n != nil {
			w.placeRun(s, r, sl, n)
			continue
		}
		w.p.starved[s] = struct{}{}
		why.no.join(no)
		why.slots++
		short = append(short, sl)
	}
	waits, spares := w.preempt(s, pk, short)
	if why.text = waits; why.slots > 0 && why.text == "" {
		why.text = pk.explain(why.no) + spares
	}
	return why
}

// placeRun writes a batch's placement into the plan and claims its room.
func (w *work) placeRun(s *service, r *job.Run, sl *slot, n *node) {
	w.left--
	t := job.Task{
		ID: w.p.NewID(), Job: s.job.name, Service: s.name, Digest: s.digest, Slot: sl.id.n, Node: n.n.ID,
		Desired: job.DesiredRun, Placed: w.now, Run: r.Seq, Due: r.Due, First: r.First, Cause: r.Cause,
	}
	fence(&t, s.spec)
	if old := sl.newestOf(r); old != nil {
		t.Replaces, t.Attempt = old.ID, old.Attempt
		switch {
		case sl.phase == deserted:
			t.Cause = w.nodeCause(old)
			w.plan.Stop = append(w.plan.Stop, state.TaskStop{ID: old.ID, Desired: job.DesiredLost, Cause: t.Cause})
		case old.Desired != job.DesiredRun:
			t.Cause = old.StopCause
		default:
			t.Cause = failCause(old, w.p.nodes[old.Node])
			if old.state() == job.Failed {
				t.Attempt++
			}
		}
	}
	t.Generic, t.Volumes = n.give(s.info), s.info.volumes
	w.p.seats[sl] = n
	w.plan.Place = append(w.plan.Place, t)
	w.p.claim(n, s, s.info, &t)
	w.p.claims = append(w.p.claims, claim{n, s, s.info, &t})
	w.again(s)
}

// isOf tells whether a task is of a run. The number alone does not say so: a job that was removed and submitted again counts its
// runs from 1 again, while tasks of the former one still stop.
func (t *task) isOf(r *job.Run) bool { return r != nil && t.Run == r.Seq && t.Index > r.Index }

// newestOf is the newest task of a run in the slot, nil if there is none.
func (sl *slot) newestOf(r *job.Run) *task {
	for _, t := range slices.Backward(sl.tasks) {
		if t.isOf(r) {
			return t
		}
	}
	return nil
}

// allDone tells whether nothing is left to complete. A run on each node waits for the nodes that are there and take tasks.
func (w *work) allDone(s *service, r *job.Run) bool {
	if r.Slots > 0 {
		return r.Completed >= r.Slots
	}
	if r.Completed == 0 || len(s.sets[working]) > 0 {
		return false
	}
	for id := range w.p.nodes {
		if w.p.wantsRun(s, id) && !r.HasDone(0, id) {
			return false
		}
	}
	return true
}

// runFailed tells whether no retry is left, or would help.
func (w *work) runFailed(s *service, r *job.Run, policy job.Batch) (state.RunStep, bool) {
	var worst *task
	reason := ""
	for _, sl := range s.in(failing) {
		t := sl.newestOf(r)
		if t == nil || s.runOf(sl.id) != r || t.state() != job.Failed || t.Desired != job.DesiredRun {
			continue
		}
		if worst == nil {
			worst = t
		}
		code := t.st.ExitCode
		if code != nil && s.spec.JudgeExit(*code) == job.ExitFail {
			return failedBy(t, fmt.Sprintf("%s ended with exit code %d, which x-batch.exit_codes says no retry helps", t.Name(), *code)), true
		}
		if t.Attempt >= *policy.Retries {
			worst, reason = t, failText(t)
			if t.Attempt > 0 {
				reason = fmt.Sprintf("%s failed %d times, the last time so: %s", t.Name(), t.Attempt+1, failText(t))
			}
			break
		}
	}
	switch {
	case worst == nil:
	case reason != "":
		return failedBy(worst, reason), true
	case policy.MaxFailures > 0 && r.Failed > policy.MaxFailures:
		return failedBy(worst, fmt.Sprintf("%d of its tasks failed, which is more than x-batch.max_failures of %d; the last: %s", r.Failed, policy.MaxFailures, failText(worst))), true
	}
	return state.RunStep{}, false
}

// failText is how a task failed.
func failText(t *task) string {
	switch {
	case t.st.OOM:
		return "it ran out of memory"
	case t.st.Message != "":
		return t.st.Message
	case t.st.ExitCode != nil:
		return fmt.Sprintf("exit code %d", *t.st.ExitCode)
	}
	return "it failed"
}

// keeps tells whether a batch's task stays as it is: it runs for a run under way, or has ended and its run is remembered.
func (s *service) keeps(t *task) bool {
	r := s.run(t.Run)
	return r != nil && (r.Active() || t.ended() && !r.Forgotten)
}

func failedBy(t *task, reason string) state.RunStep {
	return state.RunStep{Status: job.RunFailed, Task: t.ID, Reason: reason}
}

// dueRetries lists the slots whose wait for a retry is over, and says what the others wait for. A lost task is no failure:
// its slot does not wait.
func (w *work) dueRetries(s *service, r *job.Run, policy job.Batch, slots []*slot) (ready []*slot, wait reason) {
	for _, sl := range slots {
		t := sl.newestOf(r)
		if t == nil || t.state() != job.Failed || t.Desired != job.DesiredRun {
			ready = append(ready, sl)
			continue
		}
		if at := sl.since.Add(policy.Wait(t.Attempt + 1)); at.After(w.now) {
			w.wakeAt(s, at)
			if wait.slots++; at.Sub(w.now) > time.Second {
				wait.text = fmt.Sprintf("%s failed (%d of %d tries): %s; tries again %v later", t.Name(), t.Attempt+1, *policy.Retries+1, failText(t), policy.Wait(t.Attempt+1))
			}
			continue
		}
		ready = append(ready, sl)
	}
	if wait.text == "" {
		wait = reason{}
	}
	return ready, wait
}

// batchGate says why what depends on a batch must wait, "" if it need not. Its run of the present content counts.
func (w *work) batchGate(s *service, d job.Dependency, o *service) string {
	var r *job.Run
	for _, one := range o.runs {
		if one.Digest == o.digest {
			r = one
		}
	}
	switch {
	case o.spec.Schedule != nil:
		return "" // there is nothing that it must have done
	case r != nil && (r.Status == job.RunComplete || d.Condition != job.DependCompleted && !r.Began.IsZero()):
		return ""
	case r == nil || r.Active() && d.Condition == job.DependCompleted:
		return fmt.Sprintf("waits for %s to complete", d.Service)
	case r.Active():
		return fmt.Sprintf("waits for %s to start", d.Service)
	}
	return fmt.Sprintf("waits for %s to complete, but its run %d %s: %s; change it and submit again, or `shoal restart %s/%s`",
		d.Service, r.Seq, r.Status, r.Reason, s.job.name, d.Service)
}
