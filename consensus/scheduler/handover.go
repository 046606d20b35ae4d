package scheduler

import (
	"slices"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// handOvers are the phases of slots in which two tasks are meant to run, one in favour of the other.
var handOvers = []phase{handing, handed, preparing, prepared}

// handPhase is the phase of a slot in which cur is to take over from another task.
func handPhase(cur *task) phase {
	switch {
	case cur.Wait != job.WaitNone && cur.state() == job.Created:
		return prepared
	case cur.Wait != job.WaitNone:
		return preparing
	case cur.st.Ready():
		return handed
	}
	return handing
}

// handOver ends the hand-overs that can be: the former task goes when the new one has been ready for long enough, or could
// start if it were gone, or when it serves nobody itself; a new one that cannot stay goes, and is tried again.
func (w *work) handOver(s *service, u job.Update) {
	for _, ph := range handOvers {
		for _, sl := range s.in(ph) {
			before, after := sl.pair()
			st := state.TaskStop{ID: before.ID, Desired: job.DesiredStop, Cause: s.oldCause(before)}
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
			case ph == prepared:
				st.For = after.ID
			case ph == handing && !before.st.Ready() && !after.state().Before(job.Running):
				// It serves nobody. Before the new one's image is there it is kept all the same: it may recover.
			case ph == handed && (!before.st.Ready() || !sl.since.Add(u.Monitor).After(w.now)):
				if before.st.Ready() {
					st.For = after.ID
				}
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

// stranded are the slots whose task of a former content still waits, though all others of the slot have ended: nothing else runs
// there while the present content may not come.
func (s *service) stranded() (out []*slot) {
	for _, sl := range s.in(outdated) {
		cur := sl.current()
		others := slices.ContainsFunc(sl.tasks, func(t *task) bool { return t != cur && !t.ended() })
		if cur.Wait != job.WaitNone && !others {
			out = append(out, sl)
		}
	}
	return out
}

// beginWaiting lets tasks start that waited for another's end. One whose room was taken meanwhile goes, and its slot is
// filled anew.
func (w *work) beginWaiting(s *service, slots []*slot) {
	for _, sl := range slots {
		t := sl.current()
		n := w.p.nodes[t.Node]
		if t.Wait == job.WaitRoom {
			if cause := w.taken(s, t, n); cause != "" {
				if !w.stop(t, job.DesiredStop, cause) {
					return
				}
				continue
			}
		}
		if w.left <= 0 {
			return
		}
		w.left--
		w.plan.Begin = append(w.plan.Begin, t.ID)
		if t.Wait == job.WaitRoom {
			w.p.claim(n, s, t.info, t.Task)
			w.p.claims = append(w.p.claims, claim{n, s, t.info, t.Task})
		}
		w.again(s)
	}
}

// taken says what became of the room for which a task waited without counting for any itself, "" if it is there.
func (w *work) taken(s *service, t *task, n *node) string {
	if n.refuses(t.info) != fits {
		return "the room that it waited for was taken by another task"
	}
	// With whom it must be was so when it was placed, and is no reason to end what is about to run.
	rules := w.p.newRules(s)
	if rule := rules.foe(n); rule != nil {
		return "a task of " + rule.name + ", from which it must be apart, came to where it waited"
	}
	return ""
}
