package scheduler

import (
	"fmt"
	"slices"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// old tells whether a task is not what its service wants: of another content, or asked to be replaced, or unable to take a
// change over in place.
func (s *service) old(t *task) bool {
	return t.Digest != s.digest || t.Renew || t.Untunable(t.st)
}

// oldCause says why such a task is replaced.
func (s *service) oldCause(t *task) string {
	switch {
	case t.Digest != s.digest:
		return s.updateCause()
	case t.Renew:
		return "this task was restarted"
	case t.st != nil && t.st.Refusal != "":
		return s.updateCause() + ", which could not be done in place: " + t.st.Refusal
	}
	return s.updateCause() + ", which could not be done in place"
}

// underWay are the phases of slots that an update has begun with and not ended, or that wait for something else to end.
var underWay = []phase{missing, ending, failing, deserted, held, unready, tuning, misplaced, double, handing, handed, moving, moved, preparing, prepared, waiting}

// roll brings the slots of a service to its present content: at once where the former serves nobody or takes it over in
// place without a risk, else as many slots at a time as may be, the next one when all is well. It says what holds it up when
// that lasts. Slots that fit nowhere (short) do not: they wait for room, and an update of a service that is larger than the
// cluster would never begin.
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
	pr := w.progress(s, u, starved)
	if s.rolling() && pr.proven && s.goodEnough(u, old, short) {
		w.step(s, state.RolloutStep{Status: job.RolloutComplete})
		return w.slowRoll(s, 0, starved)
	}
	if len(old) == 0 && !s.canarying() {
		return w.slowRoll(s, 0, starved)
	}
	if gate := w.updateGate(s); gate != "" {
		w.beginWaiting(s, s.stranded())
		return reason{slots: len(old), text: s.changing() + " " + gate}
	}
	unplaced := s.unplaced(short)
	b := &budget{busy: pr.busy, parallel: u.Parallelism, canaries: s.canariesLeft(len(old) + len(short) - unplaced)}
	var serving []*slot
	for _, sl := range old {
		t := sl.current()
		switch {
		case w.canTune(s, t, job.Wary):
			if !w.tune(s, t, false) {
				return reason{}
			}
		case t.st.Ready():
			serving = append(serving, sl)
		case b.canaries > 0 || t.Wait != job.WaitNone:
			if !w.stop(t, job.DesiredStop, s.oldCause(t)) {
				return reason{}
			}
			b.spend()
		}
	}
	// Who failed before is tried when all others have been.
	slices.SortStableFunc(serving, func(a, b *slot) int { return compareBool(a.sum.failed, b.sum.failed) })
	noRoom := 0
	var wait reason
	for _, sl := range serving {
		if !b.left() || w.left <= 0 || noRoom >= replaceTries {
			break
		}
		if t := sl.current(); w.canTune(s, t, nil) {
			w.tune(s, t, true)
			b.spend()
			continue
		}
		if one := w.backsOff(s, sl); one.slots > 0 {
			wait.join(one)
			continue
		}
		if w.replace(s, u, sl) {
			b.spend()
		} else {
			noRoom++ // another one's place may be larger
		}
	}
	switch {
	case noRoom > 0 && b.busy == 0:
		return w.noRoom(s, serving)
	case b.canaries <= 0 && s.canarying():
		return w.awaitPromotion(s, u, len(serving), b.busy == 0 && pr.proven && pr.given+unplaced == 0, starved)
	case b.busy == 0 && wait.text != "":
		return wait
	}
	return w.slowRoll(s, len(serving), starved)
}

// goodEnough tells whether an update whose other slots are proven is complete: no slot waits for it but some that failed,
// as few as may. Those are tried on. Canaries that fit nowhere have yet to show what they are.
func (s *service) goodEnough(u job.Update, old, short []*slot) bool {
	if s.canarying() && len(old)+len(short) > 0 {
		return false
	}
	for _, sl := range old {
		if !sl.sum.failed {
			return false
		}
	}
	return len(old) == 0 || float64(len(old)) <= u.MaxFailureRatio*float64(s.wanted)
}

// budget is how many more slots an update may begin with now.
type budget struct{ busy, parallel, canaries int }

func (b *budget) left() bool { return b.busy < b.parallel && b.canaries > 0 }
func (b *budget) spend()     { b.busy, b.canaries = b.busy+1, b.canaries-1 }

// progress is how an update comes along: so many slots are busy, on their way, and so many given up, which it does not wait
// for. proven: all that it began in the others has been ready for long enough.
type progress struct {
	busy, given int
	proven      bool
}

// progress looks at all slots that an update has begun with. What failed, or is not ready for too long, holds up no other
// slot: if it were too much, the update would have been given up as a whole.
func (w *work) progress(s *service, u job.Update, starved map[*slot]bool) progress {
	pr := progress{proven: true}
	for _, ph := range underWay {
		for sl := range s.sets[ph] {
			if starved[sl] {
				continue
			}
			if w.givenUp(s, sl) {
				pr.given++
				continue
			}
			pr.busy++
			if ph != misplaced {
				pr.proven = false
			}
		}
	}
	for sl := range s.sets[fresh] {
		if at := sl.since.Add(u.Monitor); at.After(w.now) {
			pr.proven = false
			w.wakeAt(s, at)
			pr.busy++
		} else if at = at.Add(u.Delay); at.After(w.now) {
			w.wakeAt(s, at)
			pr.busy++
		}
	}
	return pr
}

// givenUp tells whether an update does not wait for what it began in a slot: it failed, and is tried on, or is not ready for
// too long.
func (w *work) givenUp(s *service, sl *slot) bool {
	switch sl.phase {
	case failing, unready, handing, preparing:
		return sl.sum.failed || s.rolling() && w.late(s, sl)
	}
	return false
}

// backsOff says for what a slot waits whose last try failed; no slot if it may be tried.
func (w *work) backsOff(s *service, sl *slot) reason {
	f := s.lastFailure(sl)
	if f == nil {
		return reason{}
	}
	n := attempts(f)
	at := sl.since.Add(backoff(n))
	if !at.After(w.now) {
		return reason{}
	}
	w.wakeAt(s, at)
	return w.crashLoop(f, n, at)
}

// alone tells whether a task never has another one beside it in its slot. Its content's policy may allow that: what a slot keeps
// beside canaries (see restores) is placed under the policy of the new content.
func (t *task) alone() bool { return t.Failover == job.FailoverFenced }

// replaceTries bounds the slots for which room is sought in vain within one plan.
const replaceTries = 64

// replace begins to bring one slot to the present content; false when there is no room for it. What runs is never stopped
// for something that fits nowhere even in its place, and not before the new one's image is on its node: where the old one
// must end first, the new one waits beside it until it could start.
func (w *work) replace(s *service, u job.Update, sl *slot) bool {
	t := sl.current()
	first := u.Order == job.StartFirst
	switch {
	case t.alone() || s.spec.FailoverPolicy().Mode == job.FailoverFenced:
		first = false
	case u.Order == job.OrderAuto:
		first = s.spec.CanStartFirst() && t.info != nil && t.info.spec.CanStartFirst()
	}
	if first {
		if n, _ := w.pickOne(s, sl); n != nil {
			w.place(s, sl, n, job.WaitNone)
			return true
		}
		if u.Order == job.StartFirst || s.leaving() {
			return false
		}
	}
	// Would it fit if the former were gone?
	n := w.p.nodes[t.Node]
	w.p.release(n, s, t.info, t.Task)
	defer w.p.claim(n, s, t.info, t.Task)
	to, _ := w.pickOne(s, sl)
	switch {
	case to == nil:
		return false
	case to == n && len(s.spec.Generic) > 0: // what the former has cannot be promised to the new one, others may get it
		return w.stop(t, job.DesiredStop, s.oldCause(t))
	case to == n:
		w.place(s, sl, to, job.WaitRoom)
	default:
		w.place(s, sl, to, job.WaitTurn)
	}
	return true
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
	pk := newPicker(w.p, s, 1)
	defer pk.done()
	for _, sl := range waiting {
		back := w.p.unkeep(s, sl)
		_, one := pk.bound(sl)
		no.join(one)
		w.p.rekeep(back, sl, nil)
	}
	return reason{slots: len(waiting), text: s.changing() + " waits: " + pk.explain(no)}
}

// leaving tells whether a task of the service is on its way out, which will make room.
func (s *service) leaving() bool {
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
	for _, ph := range underWay {
		if ph == handed || ph == prepared {
			continue
		}
		for _, sl := range s.in(ph) {
			t := sl.current()
			if t == nil || starved[sl] || slots == 0 && ph != handing && ph != preparing && ph != tuning {
				continue
			}
			if late := sl.since.Add(patience); late.After(w.now) {
				w.wakeAt(s, late)
				continue
			}
			what := "be ready"
			if ph == tuning {
				what = "take the change over"
			}
			text := fmt.Sprintf("%s waits for %s (task %s, %s) to %s", s.changing(), t.Name(), t.ID, t.state(), what)
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
	for _, ph := range handOvers {
		for _, sl := range s.in(ph) {
			before, after := sl.pair()
			switch {
			case !w.reachable(after):
				w.stop(after, job.DesiredLost, w.nodeCause(after))
			case !w.reachable(before):
				w.stop(before, job.DesiredLost, w.nodeCause(before))
			case ph == handed && !before.st.Ready():
				w.stop(before, job.DesiredStop, s.oldCause(before))
			default:
				w.stop(after, job.DesiredStop, s.changing()+" is paused")
			}
		}
	}
	return reason{slots: max(1, len(s.sets[outdated])), text: fmt.Sprintf("%s is paused: %s; go back with `shoal rollback %s`, or submit it again to go on",
		s.changing(), s.rollout.Reason, s.job.name)}
}
