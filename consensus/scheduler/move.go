package scheduler

import (
	"fmt"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// moves tells whether after is to take over from before with the same content.
func (s *service) moves(before, after *task) bool {
	return after.Move && after.Replaces == before.ID && after.Digest == before.Digest && after.Digest == s.digest
}

// placeMove places a successor of the same content beside what runs in a slot.
func (w *work) placeMove(s *service, sl *slot, n *node, cause string) {
	old := sl.current()
	w.left--
	t := job.Task{
		ID: w.p.NewID(), Job: s.job.name, Service: s.name, Digest: old.Digest, Slot: sl.id.n, Node: n.n.ID,
		Desired: job.DesiredRun, Placed: w.now, Replaces: old.ID, Move: true, Cause: cause,
	}
	if f := sl.failedMove(); f != nil {
		t.Attempt = attempts(f)
	}
	fence(&t, s.spec)
	t.Generic, t.Volumes = n.give(s.info), s.info.volumes
	w.p.seats[sl] = n
	w.plan.Place = append(w.plan.Place, t)
	w.p.claim(n, s, s.info, &t)
	w.p.claims = append(w.p.claims, claim{n, s, s.info, &t})
	w.p.keepFollowers(s, sl.id)
	w.again(s)
}

// failedMove is the newest task that was to take over from the one that runs and failed at it, nil if there is none.
func (sl *slot) failedMove() *task {
	cur := sl.current()
	for i := len(sl.tasks) - 1; i >= 0; i-- {
		if t := sl.tasks[i]; cur != nil && t.Move && t.Replaces == cur.ID && t.state() == job.Failed {
			return t
		}
	}
	return nil
}

// moveTries is how often a successor may fail before a task on a draining node is stopped without one.
const moveTries = 3

// handMoves ends moves: the former task goes as soon as the new one is ready, or when it serves nobody itself; a new one
// that cannot stay goes.
func (w *work) handMoves(s *service) {
	for _, ph := range []phase{moving, moved} {
		for _, sl := range s.in(ph) {
			before, after := sl.pair()
			n := w.p.nodes[after.Node]
			switch {
			case !w.reachable(after):
				w.stop(after, job.DesiredLost, w.nodeCause(after))
			case !w.reachable(before):
				w.stop(before, job.DesiredLost, w.nodeCause(before))
			case n.n.Drained || !s.class.admits(n.n):
				w.stop(after, job.DesiredStop, w.misplacedCause(s, after))
			case ph == moved:
				w.stopAs(before, state.TaskStop{ID: before.ID, Desired: job.DesiredStop, Cause: after.Cause, For: after.ID})
			case !before.st.Ready() || w.overdue(before):
				w.stop(before, job.DesiredStop, after.Cause)
			default:
				limit := progressDeadline
				if w.p.nodes[before.Node].n.Eligible() && s.class.admits(w.p.nodes[before.Node].n) {
					limit = balancePatience // it may as well stay where it is
				}
				if late := sl.since.Add(limit); late.After(w.now) {
					w.wakeAt(s, late)
					continue
				}
				w.stop(after, job.DesiredStop, fmt.Sprintf("it was not ready after %v", limit))
			}
		}
	}
}

// overdue tells whether the time for which a drain waits for successors is over for a task, and has it looked at again if
// it is not.
func (w *work) overdue(t *task) bool {
	n := w.p.nodes[t.Node]
	if n == nil || !n.n.Drained || n.n.DrainBy.IsZero() {
		return false
	}
	if by := w.p.on(n.n.DrainBy, w.now); by.After(w.now) {
		w.wakeAt(t.svc, by)
		return false
	}
	return true
}

// drain moves tasks away from nodes where they may not stay: at once where they serve nobody or time is up, else one at a
// time, the next one when the last one is ready, or has taken too long for that. A successor is started first where the
// service allows it and it fits; where nothing fits the task is stopped nevertheless, because a drain empties the node.
func (w *work) drain(s *service, placed int) {
	var serving []*slot
	stopped := 0
	for _, sl := range s.in(misplaced) {
		t := sl.current()
		if to, _ := w.p.strayed(t); to == nil && t.st.Ready() && !w.overdue(t) {
			serving = append(serving, sl)
			continue
		}
		if !w.stop(t, job.DesiredStop, w.misplacedCause(s, t)) {
			return
		}
		stopped++
	}
	if len(serving) == 0 || placed > 0 || stopped > 0 || len(s.sets[moved]) > 0 {
		return
	}
	for _, ph := range []phase{ending, unready, moving} {
		for sl := range s.sets[ph] {
			if late := sl.since.Add(drainPatience); late.After(w.now) {
				w.wakeAt(s, late)
				return
			}
		}
	}
	sl := serving[0]
	t := sl.current()
	cause := w.misplacedCause(s, t)
	if t.Digest != s.digest && w.canTune(s, t, job.Wary) { // then it moves as what it is to be
		w.tune(s, t, false)
		return
	}
	if t.alone() || !s.spec.CanMoveFirst() || t.Digest != s.digest {
		w.stop(t, job.DesiredStop, cause)
		return
	}
	f := sl.failedMove()
	if f != nil {
		if at := sl.since.Add(backoff(attempts(f))); at.After(w.now) {
			w.wakeAt(s, at)
			return
		}
	}
	if f == nil || attempts(f) < moveTries {
		if n, _ := w.pickOne(s, sl); n != nil {
			w.placeMove(s, sl, n, cause)
			return
		}
	}
	w.stop(t, job.DesiredStop, cause)
}
