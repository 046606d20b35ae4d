package scheduler

import (
	"fmt"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// rolling tells whether an update or rollback of the service is under way.
func (s *service) rolling() bool { return s.rollout != nil && s.rollout.Status == job.RolloutRunning }

// policy says how the service's tasks are replaced now.
func (s *service) policy() job.Update {
	return s.spec.UpdatePolicy(s.rollout != nil && s.rollout.RollbackOf != 0)
}

// changing names the change that is under way, for people.
func (s *service) changing() string {
	switch r := s.rollout; {
	case r == nil:
		return fmt.Sprintf("the update to version %d", s.job.job.Version)
	case r.RollbackOf != 0:
		return fmt.Sprintf("the rollback from version %d", r.RollbackOf)
	default:
		return fmt.Sprintf("the update to version %d", r.Version)
	}
}

// updateCause says why a task of another content is replaced.
func (s *service) updateCause() string {
	switch r := s.rollout; {
	case r == nil:
		return fmt.Sprintf("updated to version %d", s.job.job.Version)
	case r.RollbackOf != 0:
		return fmt.Sprintf("rolled back from version %d", r.RollbackOf)
	default:
		return fmt.Sprintf("updated to version %d", r.Version)
	}
}

// counts tells whether a task's failure is one of the rollout's.
func (s *service) counts(t *task) bool {
	if t.Digest != s.digest || t.Index <= s.rollout.Index {
		return false
	}
	return t.state() == job.Failed || t.Desired == job.DesiredRun && t.state() == job.Running && t.st.Health == job.Unhealthy
}

// failedIn tells whether a slot counts as failed in the rollout that runs.
func (s *service) failedIn(sl *slot) bool {
	if !s.rolling() {
		return false
	}
	for _, t := range sl.tasks {
		if s.counts(t) {
			return true
		}
	}
	return false
}

// lastFailure is the newest task of the present content that failed beside one of a former content, nil if there is none.
func (s *service) lastFailure(sl *slot) *task {
	for i := len(sl.tasks) - 1; i >= 0 && s.rolling(); i-- {
		if t := sl.tasks[i]; s.counts(t) && t.ended() {
			return t
		}
	}
	return nil
}

// judge ends a rollout of which too much has failed: back to where it came from, or paused. It tells whether it did.
func (w *work) judge(s *service) bool {
	if s.spec == nil || !s.rolling() {
		return false
	}
	u := s.policy()
	late := w.late(s)
	bad := s.failed + len(late)
	if u.Failure == job.FailContinue || float64(bad) <= u.MaxFailureRatio*float64(s.wanted) {
		return false
	}
	w.step(s, state.RolloutStep{
		Status: job.RolloutPaused, Rollback: u.Failure == job.FailRollback, Reason: w.failure(s, late, bad),
	})
	return true
}

func (w *work) step(s *service, st state.RolloutStep) {
	st.Job, st.Service, st.Version = s.job.name, s.name, s.rollout.Version
	w.plan.Rollouts = append(w.plan.Rollouts, st)
	w.again(s)
}

// late lists the slots whose new task has not become ready for too long.
func (w *work) late(s *service) (late []*slot) {
	for _, ph := range []phase{handing, unready} {
		for _, sl := range s.in(ph) {
			if t := sl.current(); sl.sum.failed || t.Index <= s.rollout.Index {
				continue
			}
			if at := sl.since.Add(progressDeadline); at.After(w.now) {
				w.wakeAt(s, at)
				continue
			}
			late = append(late, sl)
		}
	}
	return late
}

// failure says what failed: "web.2 failed: exit code 1, and 2 more".
func (w *work) failure(s *service, late []*slot, bad int) string {
	var failed []*slot
	for _, sl := range s.slots {
		if sl.sum.failed {
			failed = append(failed, sl)
		}
	}
	sortSlots(failed)
	var text string
	if len(failed) > 0 {
		for _, t := range failed[0].tasks { // the first failure tells more than its repetitions
			if s.counts(t) {
				text = failureOf(t)
				break
			}
		}
	} else {
		t := late[0].current()
		text = fmt.Sprintf("%s was not ready after %v", t.Name(), progressDeadline)
		if t.st != nil && t.st.Message != "" {
			text += ": " + t.st.Message
		}
	}
	if bad > 1 {
		text += fmt.Sprintf(", and %d more", bad-1)
	}
	return text
}

func failureOf(t *task) string {
	text := t.Name() + " failed"
	if t.state() != job.Failed {
		text = t.Name() + " is unhealthy"
	}
	switch {
	case t.st.Message != "":
		text += ": " + t.st.Message
	case t.st.ExitCode != nil:
		text += fmt.Sprintf(": exit code %d", *t.st.ExitCode)
	}
	return text
}

// roll brings the slots of a service to its present content: at once where the former serves nobody, else as many slots at
// a time as may be, the next one when all is well. It says what holds it up when that lasts. Slots that fit nowhere (short)
// do not: they wait for room, and an update of a service that is larger than the cluster would never begin.
func (w *work) roll(s *service, short []*slot) reason {
	if r := s.rollout; r != nil && r.Status == job.RolloutPaused {
		return w.halt(s)
	}
	u := s.policy()
	w.handOver(s, u)
	starved := make(map[*slot]bool, len(short))
	for _, sl := range short {
		starved[sl] = true
	}
	old := s.in(outdated)
	busy, proven := w.busy(s, u, starved)
	if len(old) == 0 {
		if s.rolling() && proven {
			w.step(s, state.RolloutStep{Status: job.RolloutComplete})
		}
		return w.slowRoll(s, 0, starved)
	}
	var serving []*slot
	for _, sl := range old {
		t := sl.current()
		if t.st.Ready() {
			serving = append(serving, sl)
			continue
		}
		if !w.stop(t, job.DesiredStop, s.updateCause()) {
			return reason{}
		}
		busy++
	}
	noRoom := 0
	for _, sl := range serving {
		if busy >= u.Parallelism || w.left <= 0 || noRoom >= replaceTries {
			break
		}
		if w.replace(s, u, sl) {
			busy++
		} else {
			noRoom++ // another one's place may be larger
		}
	}
	if noRoom > 0 && busy == 0 {
		return w.noRoom(s, serving)
	}
	return w.slowRoll(s, len(serving), starved)
}

// busy counts the slots that are on their way, and tells whether all that were placed have been ready for long enough.
func (w *work) busy(s *service, u job.Update, starved map[*slot]bool) (busy int, proven bool) {
	proven = true
	for _, ph := range []phase{missing, ending, failing, deserted, held, unready, misplaced, double, handing, handed, moving, moved} {
		for sl := range s.sets[ph] {
			if starved[sl] || u.Failure == job.FailContinue && sl.sum.failed {
				continue
			}
			busy++
			if ph != misplaced {
				proven = false
			}
		}
	}
	for sl := range s.sets[fresh] {
		if at := sl.since.Add(u.Monitor); at.After(w.now) {
			proven = false
			w.wakeAt(s, at)
			busy++
		} else if at = at.Add(u.Delay); at.After(w.now) {
			w.wakeAt(s, at)
			busy++
		}
	}
	return busy, proven
}

// handOver ends the hand-overs that can be: the former task goes when the new one has been ready for long enough, or when
// it serves nobody itself; a new one that cannot stay goes, and is tried again.
func (w *work) handOver(s *service, u job.Update) {
	for _, ph := range []phase{handing, handed} {
		for _, sl := range s.in(ph) {
			before, after := sl.pair()
			st := state.TaskStop{ID: before.ID, Desired: job.DesiredStop, Cause: s.updateCause()}
			n := w.p.nodes[after.Node]
			switch {
			case !w.reachable(after):
				w.stop(after, job.DesiredLost, w.nodeCause(after))
				continue
			case !w.reachable(before):
				st.Desired, st.Cause = job.DesiredLost, w.nodeCause(before)
			case n.n.Drained || !s.class.admits(n.n):
				w.stop(after, job.DesiredStop, w.misplacedCause(s, after))
				continue
			case !before.st.Ready():
			case ph == handed && !sl.since.Add(u.Monitor).After(w.now):
				st.For = after.ID
			case ph == handed:
				w.wakeAt(s, sl.since.Add(u.Monitor))
				continue
			default:
				continue
			}
			w.stopAs(before, st)
		}
	}
}

// replaceTries bounds the slots for which room is sought in vain within one plan.
const replaceTries = 64

// replace begins to bring one slot to the present content; false when there is no room for it. What runs is never stopped
// for something that fits nowhere even in its place.
func (w *work) replace(s *service, u job.Update, sl *slot) bool {
	t := sl.current()
	if f := s.lastFailure(sl); f != nil {
		if at := sl.since.Add(backoff(attempts(f))); at.After(w.now) {
			w.wakeAt(s, at)
			return true
		}
	}
	first := u.Order == job.StartFirst
	if u.Order == job.OrderAuto || t.Failover == job.FailoverFenced {
		first = s.spec.CanStartFirst() && t.info != nil && t.info.spec.CanStartFirst()
	}
	if first {
		if n, _ := w.pickOne(s, sl); n != nil {
			w.place(s, sl, n)
			return true
		}
		if u.Order == job.StartFirst || w.leaving(s) {
			return false
		}
	}
	// Would it fit if the former were gone?
	n := w.p.nodes[t.Node]
	w.p.release(n, s, t.info, t.Task)
	to, _ := w.pickOne(s, sl)
	w.p.claim(n, s, t.info, t.Task)
	return to != nil && w.stop(t, job.DesiredStop, s.updateCause())
}

// pickOne chooses a node for one slot.
func (w *work) pickOne(s *service, sl *slot) (*node, refusals) {
	pk := newPicker(w.p, s, 1)
	defer pk.done()
	return pk.pick(sl)
}

// noRoom says why no node takes a task of the present content.
func (w *work) noRoom(s *service, waiting []*slot) reason {
	w.p.starved[s] = struct{}{}
	var no refusals
	if s.spec.Mode == job.Global {
		for _, sl := range waiting {
			_, one := w.pickOne(s, sl)
			no.add(one)
		}
	} else {
		no = w.p.whyNone(s)
	}
	return reason{slots: len(waiting), text: s.changing() + " waits: " + no.String(s.info)}
}

// leaving tells whether a task of the service is on its way out, which will make room.
func (w *work) leaving(s *service) bool {
	for _, sl := range s.slots {
		for _, t := range sl.tasks {
			if t.Desired != job.DesiredRun && !t.ended() {
				return true
			}
		}
	}
	return false
}

// slowRoll says which slot holds a change up that goes on for longer than it should; slots are those that wait for it.
func (w *work) slowRoll(s *service, slots int, starved map[*slot]bool) reason {
	for _, ph := range []phase{missing, ending, failing, deserted, held, unready, misplaced, double, handing} {
		for _, sl := range s.in(ph) {
			t := sl.current()
			if t == nil || starved[sl] || slots == 0 && ph != handing {
				continue
			}
			if late := sl.since.Add(patience); late.After(w.now) {
				w.wakeAt(s, late)
				continue
			}
			text := fmt.Sprintf("%s waits for %s (task %s, %s) to be ready", s.changing(), t.Name(), t.ID, t.state())
			if t.st != nil && t.st.Message != "" {
				text += ": " + t.st.Message
			}
			return reason{slots: max(slots, 1), text: text}
		}
	}
	return reason{}
}

// halt is what a paused rollout does: nothing but to undo hand-overs, so that no slot keeps two tasks.
func (w *work) halt(s *service) reason {
	for _, ph := range []phase{handing, handed} {
		for _, sl := range s.in(ph) {
			before, after := sl.pair()
			switch {
			case !w.reachable(after):
				w.stop(after, job.DesiredLost, w.nodeCause(after))
			case !w.reachable(before):
				w.stop(before, job.DesiredLost, w.nodeCause(before))
			case ph == handed && !before.st.Ready():
				w.stop(before, job.DesiredStop, s.updateCause())
			default:
				w.stop(after, job.DesiredStop, s.changing()+" is paused")
			}
		}
	}
	return reason{slots: max(1, len(s.sets[outdated])), text: fmt.Sprintf("%s is paused: %s; go back with `shoal rollback %s`, or submit it again to go on",
		s.changing(), s.rollout.Reason, s.job.name)}
}
