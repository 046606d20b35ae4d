package state

import (
	"fmt"
	"time"

	"shoal/consensus/job"
)

// MaxRelease bounds the tasks of one Release.
const MaxRelease = 10_000

// Release sets held tasks (see job.Task.Held) of a node that is not there free to be placed anew. For a fenced task the
// proposer vouches that every lease that it may have been granted has ended: Apply knows no time. What Apply checks is
// that the node has not come back since: Since is the node's Since as the proposer saw it. Conflict if the node is ready,
// or came and went meanwhile. Result.Value is *ReleaseResult.
type Release struct {
	Node   job.NodeID   `json:"node"`
	Since  time.Time    `json:"since"`
	Tasks  []job.TaskID `json:"tasks"`
	Reason string       `json:"reason,omitempty"` // "its lease has ended", "an admin said so"
	At     time.Time    `json:"at"`
}

func (Release) kind() byte { return kindRelease }

// ReleaseResult says what became of a Release. A task that was not held any more is no refusal: it is just not counted.
type ReleaseResult struct {
	Released []job.TaskID
}

func (t *tx) release(c Release) Result {
	n := t.base.Node(c.Node)
	switch {
	case n == nil:
		return fail(job.NotFound, "release tasks of node %.8s: no such node: see shoal node ls", string(c.Node))
	case len(c.Tasks) > MaxRelease:
		return fail(job.Invalid, "release %d tasks of node %s: at most %d at a time", len(c.Tasks), n.Name, MaxRelease)
	case n.State == job.NodeReady:
		return fail(job.Conflict, "release tasks of node %s: it is back, and goes on with them", n.Name)
	case !n.Since.Equal(c.Since):
		return fail(job.Conflict, "release tasks of node %s: it was back meanwhile; look again", n.Name)
	}
	res := &ReleaseResult{}
	for _, id := range c.Tasks {
		k := t.task(id)
		if k == nil || k.Node != c.Node || !k.Held() || t.ended(id) {
			continue
		}
		up := *k
		up.Released = t.index
		t.putTask(&up)
		t.event(job.Event{Kind: job.EventTaskReleased, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: c.Reason})
		res.Released = append(res.Released, id)
	}
	return Result{Value: res, Unchanged: len(res.Released) == 0}
}

// unrelease takes the release of a node's tasks back when it returns: it goes on with what was not replaced, under new
// leases.
func (t *tx) unrelease(node job.NodeID) {
	for _, k := range t.base.TasksOfNode(node) {
		if k.Released != 0 {
			up := *k
			up.Released = 0
			t.putTask(&up)
		}
	}
}

// refuseBeside says why k may not be placed while another task of its slot may still run: one of the two is fenced. The
// one that k replaces and that is given up with it (giveUp) was judged by refuseLost.
func (t *tx) refuseBeside(k *job.Task, giveUp bool) string {
	waits := func(k *job.Task) bool { return k.Wait != job.WaitNone } // what waits does not run: it is looked at when it begins
	for _, o := range t.slot(slotOf(k)) {
		if o.ID == k.ID || waits(k) || waits(o) && t.base.Rules() >= rulesWaiting {
			continue
		}
		if o.Failover != job.FailoverFenced && k.Failover != job.FailoverFenced || t.ended(o.ID) || giveUp && o.ID == k.Replaces {
			continue
		}
		return fmt.Sprintf("task %s of the slot may still run", o.ID)
	}
	return ""
}

// refuseHeld says why a task whose node is not there may not be given up: a fenced one may still run until it is
// released, and a manual one that is meant to run, alone in its slot, is given up only by an admin.
func (t *tx) refuseHeld(k *job.Task) string {
	n := t.base.Node(k.Node)
	if n == nil || !k.Held() || t.ended(k.ID) {
		return ""
	}
	if k.Failover == job.FailoverFenced {
		return fmt.Sprintf("its lease on node %s may still run", n.Name)
	}
	if k.Desired != job.DesiredRun {
		return ""
	}
	for _, o := range t.slot(slotOf(k)) {
		if o.ID != k.ID && o.Desired == job.DesiredRun && !t.ended(o.ID) {
			return ""
		}
	}
	return fmt.Sprintf("an admin decides about it, because node %s is %s", n.Name, n.State)
}

// heldFenced lists the tasks of a node that keep it from being removed.
func (t *tx) heldFenced(node job.NodeID) (ids []job.TaskID) {
	for _, k := range t.base.TasksOfNode(node) {
		if k.Failover == job.FailoverFenced && k.Held() && !t.ended(k.ID) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}
