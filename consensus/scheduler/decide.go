package scheduler

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// patientTries is how often a service's plan is made again at once while nothing of the service changes.
const patientTries = 3

// again has a service of which something was decided looked at by the next plan, in case that this one is refused or
// lost. A plan that again and again changes nothing must not keep the log busy: then it waits for verifyAfter.
func (w *work) again(s *service) {
	if s.tries >= patientTries {
		w.wakeAt(s, w.now.Add(verifyAfter))
		return
	}
	w.p.mark(s)
}

// services decides on services of one priority whose slots are classified. What waits for the room that its predecessor
// has left goes before all that others of them want to place or have kept, who would else take the place of what is being
// updated.
func (w *work) services(all []*service) {
	priority := all[0].priority()
	w.keepFrom(priority + 1)
	for _, s := range all {
		w.resume(s)
	}
	w.keepFrom(priority)
	for _, s := range all {
		w.service(s)
		w.p.forget(s)
	}
}

// resume begins a service's turn: with what it had begun before.
func (w *work) resume(s *service) {
	p := w.p
	if w.hit[s] {
		return
	}
	delete(p.wakes, s)
	delete(p.starved, s)
	delete(p.promised, s)
	p.forgive(s)
	s.cut = 0
	if !s.isBatch() {
		w.beginWaiting(s, s.in(waiting))
	}
}

// service decides what else is to be done for one service.
func (w *work) service(s *service) {
	p := w.p
	if w.hit[s] {
		p.mark(s)
		return
	}
	w.stopExcess(s)
	w.stopDoubles(s)
	w.giveUpEnding(s)
	w.putToRest(s)
	var why reason
	if s.isBatch() {
		why = w.batch(s)
	} else {
		if w.judge(s) {
			return // what the service shall be is about to change
		}
		w.handMoves(s)
		why = w.serve(s)
	}
	if why.slots == 0 {
		why = w.holding(s)
	}
	if why.slots == 0 {
		why = w.slowEnding(s)
	}
	w.explain(s, why)
	if s.queued {
		s.tries++
	}
	if w.left <= 0 {
		s.cut = -1
		w.next.Dirty = true
		p.mark(s)
	}
}

// serve brings a service to what it shall be.
func (w *work) serve(s *service) reason {
	why, placed, short := w.fill(s)
	if s.spec != nil && w.left > 0 {
		if held := w.roll(s, short); why.slots == 0 {
			why = held
		}
		w.drain(s, placed)
	}
	return why
}

// stop wants a task ended; false when the plan is full.
func (w *work) stop(t *task, d job.Desired, cause string) bool {
	return w.stopAs(t, state.TaskStop{ID: t.ID, Desired: d, Cause: cause})
}

func (w *work) stopAs(t *task, st state.TaskStop) bool {
	if w.left <= 0 {
		return false
	}
	w.left--
	w.plan.Stop = append(w.plan.Stop, st)
	w.again(t.svc)
	return true
}

// stopExcess ends what is not wanted, the highest slots first.
func (w *work) stopExcess(s *service) {
	sls := s.in(excess)
	for i := len(sls) - 1; i >= 0; i-- {
		for _, t := range sls[i].tasks {
			if s.isBatch() && s.keeps(t) {
				continue
			}
			if t.Desired == job.DesiredRun && !w.stop(t, job.DesiredStop, w.excessCause(s, t)) {
				return
			}
		}
	}
}

func (w *work) excessCause(s *service, t *task) string {
	j := s.job.job
	switch {
	case j == nil:
		return "the job was removed"
	case j.Stopped:
		return "the job was stopped"
	case s.spec == nil:
		return "the job has no such service any more"
	case s.spec.IsBatch():
		return fmt.Sprintf("run %d is over", t.Run)
	case s.spec.Mode.PerNode():
		return w.misplacedCause(s, t)
	}
	return fmt.Sprintf("scaled to %d", s.spec.Replicas)
}

// misplacedCause says why a task cannot stay on its node.
func (w *work) misplacedCause(s *service, t *task) string {
	n := w.p.nodes[t.Node]
	if to, led := w.p.strayed(t); to != nil {
		return fmt.Sprintf("follows %s to node %s", slotName(led, t.slot.id), to.n.Name)
	}
	switch {
	case n == nil:
		return "its node was removed"
	case n.n.State == job.NodeLeft:
		return "node " + n.n.Name + " left"
	case n.n.Drained:
		return "node " + n.n.Name + " is draining"
	}
	if c := s.class.broken(n.n); c != nil {
		return fmt.Sprintf("node %s no longer satisfies %s", n.n.Name, c)
	}
	return "the service changed its mode"
}

// stopDoubles leaves one task in each slot: one that serves, then one whose node is there, then one of the present
// content, then the oldest.
func (w *work) stopDoubles(s *service) {
	for _, sl := range s.in(double) {
		var keep *task
		best := -1
		for _, t := range sl.tasks { // oldest first
			if t.Desired != job.DesiredRun || t.ended() {
				continue
			}
			if worth := w.worth(s, t); worth > best {
				keep, best = t, worth
			}
		}
		for _, t := range sl.tasks {
			cause := fmt.Sprintf("its slot is kept by task %s", keep.ID)
			if s.digest != "" && s.old(t) && !s.old(keep) { // else the update has not begun with the slot
				cause = s.oldCause(t)
			}
			if t != keep && t.Desired == job.DesiredRun && !w.stop(t, job.DesiredStop, cause) {
				return
			}
		}
	}
}

// worth ranks the tasks of one slot.
func (w *work) worth(s *service, t *task) (worth int) {
	if w.reachable(t) {
		worth = 2
		if t.st.Ready() {
			worth += 4
		}
	}
	if !s.old(t) {
		worth++
	}
	return worth
}

// reachable tells whether a task's node is there.
func (w *work) reachable(t *task) bool {
	n := w.p.nodes[t.Node]
	return n != nil && n.n.State == job.NodeReady
}

// giveUpEnding loses tasks whose end nobody will report, so that their slots become free.
func (w *work) giveUpEnding(s *service) {
	for _, sl := range s.in(ending) {
		for _, t := range sl.tasks {
			n := w.p.nodes[t.Node]
			if t.ended() || (n != nil && n.n.State == job.NodeReady) || t.Desired == job.DesiredLost {
				continue
			}
			if t.Desired == job.DesiredRun && t.Wait == job.WaitNone {
				continue // it goes on if its node comes back before another one is placed
			}
			if n != nil && t.Failover == job.FailoverFenced && t.Held() {
				continue // its end is waited for
			}
			if !w.stop(t, job.DesiredLost, w.nodeCause(t)) {
				return
			}
		}
	}
}

// nodeCause says what became of a task's node.
func (w *work) nodeCause(t *task) string {
	n := w.p.nodes[t.Node]
	switch {
	case n == nil:
		return "its node was removed"
	case n.n.State == job.NodeLeft:
		return "node " + n.n.Name + " left"
	}
	return "node " + n.n.Name + " is down"
}

// fill places tasks into the slots that need one; it says why slots stay empty, how many tasks it placed, and which slots
// fit nowhere.
func (w *work) fill(s *service) (why reason, placed int, short []*slot) {
	if s.spec == nil {
		return reason{}, 0, nil
	}
	todo := s.in(deserted)
	failed, wait := w.due(s)
	todo = append(todo, failed...)
	empty, gated, gate := w.empty(s)
	todo = append(todo, empty...)
	sortSlots(todo)
	pk := newPicker(w.p, s, len(todo))
	defer pk.done()
	for _, sl := range todo {
		if w.left <= 0 {
			return why, placed, short
		}
		n, no := w.pickContent(s, sl, pk)
		if n == nil {
			w.p.starved[s] = struct{}{}
			why.slots++
			if _, content := s.content(sl); content != s.info {
				why.text = no.String(content)
			} else {
				why.no.join(no)
			}
			short = append(short, sl)
			continue
		}
		w.place(s, sl, n, job.WaitNone)
		placed++
	}
	if why.slots > 0 {
		waits, spares := w.preempt(s, pk, short)
		why.text = cmp.Or(waits, why.text)
		if why.text == "" {
			why.text = pk.explain(why.no)
		}
		why.text += spares
	} else if gated > 0 {
		why = reason{slots: gated, text: gate}
	} else if wait.slots > 0 {
		why = wait
	}
	return why, placed, short
}

// empty lists the empty slots that may be filled, and says for what the others wait.
func (w *work) empty(s *service) (ready []*slot, gated int, gate string) {
	all := s.in(missing)
	if s.started == 0 { // else the dependencies held when it began, and a task that moves must not wait for them
		if gate = w.gate(s); gate != "" {
			return nil, len(all), gate
		}
	}
	if gate = w.updateGate(s); gate == "" {
		return all, 0, ""
	}
	for _, sl := range all {
		if s.begins(sl) {
			gated++
		} else {
			ready = append(ready, sl)
		}
	}
	return ready, gated, gate
}

// place writes the placement into the plan and claims its room for the rest of the plan.
func (w *work) place(s *service, sl *slot, n *node, wait job.Wait) {
	w.left--
	digest, i := s.content(sl)
	t := job.Task{
		ID: w.p.NewID(), Job: s.job.name, Service: s.name, Digest: digest, Slot: sl.id.n, Node: n.n.ID,
		Desired: job.DesiredRun, Placed: w.now, Wait: wait,
	}
	fence(&t, s.spec)
	old := sl.newest()
	if c := sl.current(); c != nil {
		old = c
	}
	if old != nil {
		t.Replaces = old.ID
	}
	switch {
	case sl.phase == deserted:
		t.Cause, t.Attempt = w.nodeCause(old), failuresBefore(old, w.now)
		w.plan.Stop = append(w.plan.Stop, state.TaskStop{ID: old.ID, Desired: job.DesiredLost, Cause: t.Cause})
	case sl.phase == failing:
		t.Cause, t.Attempt = failCause(old, w.p.nodes[old.Node]), attempts(old)
	case old == nil:
		t.Cause = s.cause
	case s.old(old) && digest == s.digest:
		t.Cause = s.oldCause(old)
		if again := s.lastFailure(sl); again != nil {
			t.Attempt = attempts(again)
		}
	default:
		t.Cause = s.cause
		if n := w.p.nodes[old.Node]; digest != s.digest && old.StopCause != "" || old.Desired == job.DesiredLost || n == nil || !n.n.Eligible() || strings.HasPrefix(old.StopCause, preemptedBy) {
			t.Cause = old.StopCause
		}
	}
	t.Generic, t.Volumes = n.give(i), i.volumes
	w.p.seats[sl] = n
	w.plan.Place = append(w.plan.Place, t)
	if wait != job.WaitRoom {
		w.p.claim(n, s, i, &t)
		w.p.claims = append(w.p.claims, claim{n, s, i, &t})
		w.p.keepFollowers(s, sl.id)
	}
	w.again(s)
}

func failCause(t *task, n *node) string {
	where := ""
	if n != nil {
		where = " on node " + n.n.Name
	}
	switch {
	case t.state() == job.Lost:
		return "its task was lost" + where
	case t.st.OOM:
		return "its task ran out of memory" + where
	case t.st.ExitCode != nil:
		return fmt.Sprintf("its task ended%s with exit code %d", where, *t.st.ExitCode)
	}
	return "its task failed" + where
}

// attempts counts the tasks in a row that failed in the slot, the ended task t included. Both times are of t's node's
// clock.
func attempts(t *task) int { return failuresBefore(t, t.st.At[t.st.State]) + 1 }

// failuresBefore counts the tasks in a row that failed in the slot before t, which ended at a time: it may have run for long enough
// for them to be forgotten.
func failuresBefore(t *task, end time.Time) int {
	if t.st != nil {
		if up := t.st.At[job.Running]; !up.IsZero() && end.Sub(up) >= steadyAfter {
			return 0
		}
	}
	return t.Attempt
}

// backoff is how long to wait after n failures in a row.
func backoff(n int) time.Duration {
	d := minBackoff
	for ; n > 1 && d < maxBackoff; n-- {
		d *= 2
	}
	return min(d, maxBackoff)
}

// due lists the failing slots whose wait is over, and says what the others wait for. The wait is counted from when this
// planner first saw the failure, by the leader's clock.
func (w *work) due(s *service) (ready []*slot, wait reason) {
	for _, sl := range s.in(failing) {
		t := sl.current()
		n := attempts(t)
		if n == 1 && t.state() == job.Lost { // no failure of its own, such as after its machine was off
			ready = append(ready, sl)
			continue
		}
		if at := sl.since.Add(backoff(n)); at.After(w.now) {
			w.wakeAt(s, at)
			wait.join(w.crashLoop(t, n, at))
			continue
		}
		ready = append(ready, sl)
	}
	if wait.text == "" {
		wait = reason{}
	}
	return ready, wait
}

// crashLoop says for what a slot waits in which n tasks in a row failed, t being the last; the first wait is too short to
// speak of.
func (w *work) crashLoop(t *task, n int, next time.Time) reason {
	if n <= 1 {
		return reason{slots: 1}
	}
	return reason{slots: 1, text: fmt.Sprintf("crash loop: %s failed %d times in a row, the last one with: %s; next try at %s, later up to every %v",
		t.Name(), n, failCause(t, w.p.nodes[t.Node]), next.UTC().Format(time.TimeOnly), maxBackoff)}
}

func (w *work) wakeAt(s *service, at time.Time) {
	if old, ok := w.p.wakes[s]; !ok || at.Before(old) {
		w.p.wakes[s] = at
	}
}

// gate says which dependency holds back first placements, "" if none does. What takes a failed or lost task's place is
// never held back.
func (w *work) gate(s *service) string {
	for _, d := range s.spec.DependsOn {
		o := s.job.services[d.Service]
		if o == nil || o.spec == nil {
			return fmt.Sprintf("waits for %s, which the job does not have", d.Service)
		}
		switch {
		case o.isBatch():
			if text := w.batchGate(s, d, o); text != "" {
				return text
			}
		case d.Condition == job.DependHealthy && o.ready < o.wanted:
			return fmt.Sprintf("waits for %s to be healthy", d.Service)
		case d.Condition == job.DependCompleted && o.completed < o.wanted:
			return fmt.Sprintf("waits for %s to complete", d.Service)
		case o.started < o.wanted:
			return fmt.Sprintf("waits for %s to start", d.Service)
		}
	}
	return ""
}

// slowEnding tells of slots that wait for a task to end for longer than it should take.
func (w *work) slowEnding(s *service) (why reason) {
	for _, sl := range s.in(ending) {
		for _, t := range sl.tasks {
			if t.ended() || t.Desired == job.DesiredRun {
				continue
			}
			grace := patience
			if t.info != nil {
				grace += t.info.spec.StopGrace
			}
			if late := sl.since.Add(grace); late.After(w.now) {
				w.wakeAt(s, late)
				continue
			}
			where := string(t.Node)
			if n := w.p.nodes[t.Node]; n != nil {
				where = n.n.Name
			}
			why.slots++
			why.text = fmt.Sprintf("waits for task %s of %s to stop on node %s", t.ID, t.Name(), where)
		}
	}
	return why
}
