package state

import (
	"fmt"
	"maps"
	"time"

	"shoal/consensus/job"
)

// Refused is one part of a Plan or Report that was not carried out.
type Refused struct {
	Task   job.TaskID `json:"task"`
	Reason string     `json:"reason"`
}

// PlanResult says what became of a Plan; it is in Result.Value.
type PlanResult struct {
	Placed       int
	Stopped      int
	Tuned, Begun int
	Refused      []Refused // in the plan's order, places before stops before rollouts (which name no task)
}

// ReportResult says what became of a Report; it is in Result.Value. Statuses of tasks that are not there any more are
// refused with NoSuchTask: the node may forget them.
type ReportResult struct {
	Taken   int
	Refused []Refused
}

// NoSuchTask is the reason for a status of a task that the state does not know (any more).
const NoSuchTask = "no such task"

func (t *tx) plan(c Plan) Result {
	if c.Base >= t.index {
		return fail(job.Invalid, "apply plan: made from index %d, which is not before %d", c.Base, t.index)
	}
	if max(len(c.Place), len(c.Stop), len(c.Tune), len(c.Begin), len(c.Block), len(c.Unblock), len(c.Rollouts), len(c.Runs)) > MaxPlan {
		return fail(job.Invalid, "apply plan: a list is longer than %d", MaxPlan)
	}
	res := &PlanResult{}
	replaced := map[job.TaskID]bool{}
	for i := range c.Place {
		if c.Place[i].Replaces != "" {
			replaced[c.Place[i].Replaces] = true
		}
	}
	lost := map[job.TaskID]TaskStop{} // done only with their replacement
	var refused []Refused
	for _, s := range c.Stop {
		if s.Desired == job.DesiredLost && replaced[s.ID] {
			lost[s.ID] = s
			continue
		}
		if why := t.applyStop(s); why != "" {
			refused = append(refused, Refused{s.ID, why})
			continue
		}
		res.Stopped++
	}
	for i := range c.Place {
		k := c.Place[i]
		s, giveUp := lost[k.Replaces]
		why := ""
		if giveUp {
			why = t.refuseLost(s.ID)
		}
		if why == "" {
			why = t.refusePlace(&k, giveUp)
		}
		if why != "" {
			res.Refused = append(res.Refused, Refused{k.ID, why})
			continue
		}
		if giveUp && t.applyStop(s) == "" {
			res.Stopped++
		}
		delete(lost, k.Replaces)
		t.place(k)
		res.Placed++
	}
	for _, s := range c.Stop {
		if _, left := lost[s.ID]; left && s.Desired == job.DesiredLost {
			refused = append(refused, Refused{s.ID, "its replacement was refused"})
		}
	}
	res.Refused = append(res.Refused, refused...)
	t.changeTasks(c, res)
	for _, u := range c.Unblock {
		t.unblock(u.Job, u.Service)
	}
	for _, b := range c.Block {
		t.block(b)
	}
	t.stepRollouts(c.Rollouts, res)
	t.stepRuns(c.Runs, res)
	return Result{Value: res}
}

// refusePlace names the premise of a placement that does not hold (any more), "" if all do. giveUp: the task that it
// replaces is given up together with it. The one task that may still be meant to run in the slot is the one that it
// replaces, with another content: then both are there until the hand-over is done.
func (t *tx) refusePlace(k *job.Task, giveUp bool) string {
	if !goodName(string(k.ID)) || k.Desired != job.DesiredRun || k.Slot < 0 || k.Slot > job.MaxReplicas {
		return "malformed task"
	}
	if t.task(k.ID) != nil || t.base.Task(k.ID) != nil {
		return "there is a task with this id"
	}
	j := t.base.Job(k.Job)
	if j == nil {
		return "job is gone"
	}
	if j.Stopped {
		return "job is stopped"
	}
	sv := j.Spec.Service(k.Service)
	if sv == nil {
		return "job has no such service any more"
	}
	// Also for a task that takes a failed one's place: a slot is never filled with yesterday's content, unless today's is
	// not promoted yet.
	if t.d.digest(j, k.Service) != k.Digest && !t.stillGood(k) {
		return "service has changed"
	}
	if sv.Mode.PerNode() != (k.Slot == 0) || (sv.Mode == job.Replicated || sv.Mode == "") && k.Slot > sv.Replicas {
		return "no such slot any more"
	}
	if sv.IsBatch() {
		if why := t.refuseRun(k, sv); why != "" {
			return why
		}
	}
	n := t.base.Node(k.Node)
	if n == nil {
		return "node is gone"
	}
	if !n.Eligible() {
		return fmt.Sprintf("node %s is %s", n.Name, ineligible(n))
	}
	if k.Wait != job.WaitNone && k.Wait != job.WaitTurn && k.Wait != job.WaitRoom {
		return "malformed task"
	}
	for _, o := range t.slot(slotOf(k)) {
		passes := o.ID == k.Replaces && (giveUp || o.Digest != k.Digest || k.Move && o.Node != k.Node || o.Renew || o.Untunable(t.status(o.ID)))
		if o.Desired == job.DesiredRun && !t.ended(o.ID) && !passes {
			return fmt.Sprintf("slot has task %s already", o.ID)
		}
	}
	if f := sv.Failover; f != nil && f.Mode == job.FailoverFenced && k.Failover != job.FailoverFenced {
		return "service is fenced"
	}
	if why := t.refuseBeside(k, giveUp); why != "" {
		return why
	}
	if si := t.d.services[k.Digest]; si == nil {
		return "service is unknown"
	} else if k.Wait == job.WaitRoom {
		return t.refuseRoom(k)
	} else if why := t.d.use[k.Node].refuses(n, si, k, sv.MaxPerNode()); why != "" {
		return why
	}
	return ""
}

func ineligible(n *job.Node) string {
	if n.State != job.NodeReady {
		return string(n.State)
	}
	return "draining"
}

// place writes the task, and takes the slot from tasks in it that ended.
func (t *tx) place(k job.Task) {
	k.Index, k.Released = t.index, 0
	k.Cause, k.StopCause = clip(k.Cause), ""
	k.Tuned, k.Watched, k.Renew = 0, 0, false
	if k.Placed.IsZero() {
		k.Placed = t.at
	}
	for _, o := range t.slot(slotOf(&k)) {
		if o.Desired == job.DesiredRun && t.ended(o.ID) && o.Run == k.Run { // else it is another run's, which keeps its own
			up := *o
			up.Desired, up.StopCause = job.DesiredStop, "replaced by "+string(k.ID)
			t.putTask(&up)
		}
	}
	t.addTask(&k)
	if k.Run != 0 {
		t.noteBegan(&k)
	}
	t.event(job.Event{Kind: job.EventTaskPlaced, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: k.Cause})
}

// applyStop moves one task's Desired forward, or says why not.
func (t *tx) applyStop(s TaskStop) string {
	k := t.task(s.ID)
	switch {
	case k == nil:
		return NoSuchTask
	case s.Desired != job.DesiredStop && s.Desired != job.DesiredLost:
		return "malformed stop"
	case k.Desired == s.Desired || k.Desired == job.DesiredLost:
		return "is " + string(k.Desired) + " already"
	case s.For != "" && !t.takesOver(s.For, k):
		return fmt.Sprintf("task %s is not ready to take over", s.For)
	}
	if s.Desired == job.DesiredLost {
		if why := t.refuseLost(k.ID); why != "" {
			return why
		}
		t.lose(k, s.Cause)
		return ""
	}
	t.stopTask(k, s.Desired, s.Cause)
	return ""
}

// refuseLost says why a task that runs or will cannot be given up: its node is there.
func (t *tx) refuseLost(id job.TaskID) string {
	if k := t.task(id); k != nil && !t.ended(id) {
		if n := t.base.Node(k.Node); n != nil && n.State == job.NodeReady {
			return fmt.Sprintf("node %s is back", n.Name)
		}
		return t.refuseHeld(k)
	}
	return ""
}

// takesOver tells whether a task serves in the slot of k.
func (t *tx) takesOver(id job.TaskID, k *job.Task) bool {
	n := t.task(id)
	if n == nil || n.ID == k.ID || slotOf(n) != slotOf(k) || n.Desired != job.DesiredRun {
		return false
	}
	st := t.status(id)
	return st.Ready() || n.Wait != job.WaitNone && st != nil && st.State == job.Created
}

// stopTask writes the wish that a task end.
func (t *tx) stopTask(k *job.Task, desired job.Desired, cause string) {
	up := *k
	up.Desired, up.StopCause = desired, clip(cause)
	t.putTask(&up)
	if !t.ended(k.ID) {
		t.event(job.Event{Kind: job.EventTaskStop, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: cause})
	}
}

// lose gives a task up: its node is gone, so the leader writes the end in its stead. When the node returns it sees
// Desired lost and stops what it still runs.
func (t *tx) lose(k *job.Task, cause string) {
	if k.Desired != job.DesiredLost {
		t.stopTask(k, job.DesiredLost, cause)
	}
	old := t.status(k.ID)
	if old != nil && old.State.Terminal() {
		return
	}
	st := job.Status{Task: k.ID, Node: k.Node}
	if old != nil {
		st = *old
		st.At = maps.Clone(old.At)
	}
	if st.At == nil {
		st.At = map[job.State]time.Time{}
	}
	st.State, st.Health, st.Message = job.Lost, job.HealthNone, clip(cause)
	st.At[job.Lost] = t.at
	t.putStatus(t.task(k.ID), &st)
	t.event(job.Event{Kind: job.EventTaskState, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: string(job.Lost)})
}

func (t *tx) report(c Report) Result {
	if len(c.Statuses) > MaxPlan {
		return fail(job.Invalid, "apply report: %d statuses, at most %d allowed", len(c.Statuses), MaxPlan)
	}
	res := &ReportResult{}
	for i := range c.Statuses {
		st := c.Statuses[i]
		if why := t.reportOne(c.Node, &st); why != "" {
			res.Refused = append(res.Refused, Refused{st.Task, why})
			continue
		}
		res.Taken++
	}
	return Result{Value: res, Unchanged: res.Taken == 0}
}

func knownState(s job.State) bool {
	switch s {
	case job.Placed, job.Pulling, job.Created, job.Running, job.Stopping, job.Complete, job.Failed, job.Lost:
		return true
	}
	return false
}

func (t *tx) reportOne(node job.NodeID, st *job.Status) string {
	k := t.task(st.Task)
	if k == nil {
		return NoSuchTask
	}
	if k.Node != node {
		return "task belongs to another node"
	}
	if !knownState(st.State) {
		return "unknown state"
	}
	old := t.status(st.Task)
	was := job.Placed
	wasHealth := job.HealthNone
	if old != nil {
		was, wasHealth = old.State, old.Health
		switch {
		case old.State.Terminal():
			return "task has ended already"
		case st.Seq <= old.Seq:
			return "older than what is known"
		case st.State.Before(old.State):
			return "a state never goes back"
		}
	}
	st.Node, st.Message, st.Refusal = node, clip(st.Message), clip(st.Refusal)
	t.putStatus(k, st)
	e := job.Event{Kind: job.EventTaskState, Job: k.Job, Service: k.Service, Task: k.ID, Node: node}
	if st.State != was || old == nil {
		e.Message = string(st.State)
		t.event(e)
	}
	if st.Health != wasHealth && (st.Health == job.Healthy || st.Health == job.Unhealthy) {
		e.Message = string(st.Health)
		t.event(e)
	}
	return ""
}
