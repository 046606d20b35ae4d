package scheduler

import (
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// A flapping node is one that came and went flapChanges times within flapWindow. It keeps what it runs, and gets no new
// tasks until it has been quiet for a while: flapPause, doubled with each further change, at most maxFlapPause.
const (
	flapWindow   = 10 * time.Minute
	flapChanges  = 5
	flapPause    = time.Minute
	maxFlapPause = 10 * time.Minute
)

// flaps are the times at which a node came or went, oldest first, at most maxFlaps.
type flaps []time.Time

const maxFlaps = 16

func (f flaps) add(at time.Time) flaps {
	f = append(f, at)
	return f[max(0, len(f)-maxFlaps):]
}

// until tells until when the node counts as flapping, and for how many changes; zero: it does not.
func (f flaps) until(now time.Time) (end time.Time, changes int) {
	for _, at := range f {
		if now.Sub(at) <= flapWindow {
			changes++
		}
	}
	if changes < flapChanges {
		return time.Time{}, changes
	}
	pause := flapPause
	for range changes - flapChanges {
		if pause *= 2; pause >= maxFlapPause {
			pause = maxFlapPause
			break
		}
	}
	if end = f[len(f)-1].Add(pause); !end.After(now) {
		return time.Time{}, changes
	}
	return end, changes
}

// Flapping tells which nodes get no new tasks because they came and went too often, each with the reason for people.
func Flapping(v *state.View, now time.Time) map[job.NodeID]string {
	out := map[job.NodeID]string{}
	for id, f := range flapsOf(v) {
		if end, n := f.until(now); !end.IsZero() && v.Node(id) != nil {
			out[id] = flapText(end, n)
		}
	}
	return out
}

func flapText(end time.Time, changes int) string {
	return fmt.Sprintf("flapping: it came and went %d times in %v, and gets no new tasks until %s", changes, flapWindow, end.UTC().Format(time.TimeOnly))
}

// flapsOf reads the history's changes of nodes.
func flapsOf(v *state.View) map[job.NodeID]flaps {
	out := map[job.NodeID]flaps{}
	for _, e := range v.Events(state.EventFilter{}) {
		if e.Kind == job.EventNodeDown || e.Kind == job.EventNodeUp {
			out[e.Node] = out[e.Node].add(e.Time)
		}
	}
	return out
}

// noteFlap takes in a node's change.
func (p *Planner) noteFlap(was, is *job.Node) {
	if was == nil || was.State == is.State || was.State == job.NodeLeft || is.State == job.NodeLeft {
		return
	}
	p.flaps[is.ID] = p.flaps[is.ID].add(is.Since)
}

// closed says why a node takes no new tasks for now, "" if it does. What runs there stays. It does not change while a plan
// is made.
func (p *Planner) closed(n *node) string {
	f := p.flaps[n.n.ID]
	if len(f) < flapChanges {
		return ""
	}
	end, changes := f.until(p.now)
	if end.IsZero() {
		return ""
	}
	return flapText(end, changes)
}

// reopen has those looked at that waited for a flapping node once it is quiet, and the plan made again by then.
func (w *work) reopen() {
	for id, f := range w.p.flaps {
		if w.p.nodes[id] == nil {
			delete(w.p.flaps, id)
			continue
		}
		if len(f) < flapChanges {
			continue
		}
		end, _ := f.until(w.now)
		switch was := w.p.shut[id]; {
		case !end.IsZero():
			w.p.shut[id] = true
			w.wake(end)
		case was:
			delete(w.p.shut, id)
			w.p.freed = true
		}
	}
}
