package scheduler

import (
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// A flapping node is one that came and went flapChanges times within flapWindow. It keeps what it runs, and gets new
// tasks only where no other node takes them, until it has been quiet for a while: flapPause, doubled with each further
// change, at most maxFlapPause.
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
		if now.Sub(at) <= flapWindow && !at.After(now.Add(maxFlapPause)) { // later than that: by a clock that was ahead
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

// Flapping tells which nodes are the last choice because they came and went too often, each with the reason for people.
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
	return fmt.Sprintf("flapping: it came and went %d times in %v, and gets no new tasks that fit elsewhere until %s", changes, flapWindow, end.UTC().Format(time.TimeOnly))
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

// flapPenalty makes a flapping node the last choice of every service, worse than one on which its tasks keep failing.
const flapPenalty = 1000

// flapping tells whether a node counts as flapping in the plan that is made.
func (p *Planner) flapping(n *node) bool {
	f := p.flaps[n.n.ID]
	if len(f) < flapChanges {
		return false
	}
	local := make(flaps, len(f))
	for i, at := range f {
		local[i] = p.past(at, p.now)
	}
	end, _ := local.until(p.now)
	return !end.IsZero()
}
