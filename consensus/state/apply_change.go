package state

import (
	"fmt"
	"strings"
	"time"

	"shoal/consensus/job"
)

// TaskTune gives a running task another content of the same shape as its own: the present one of its service.
type TaskTune struct {
	ID     job.TaskID `json:"id"`
	Digest job.Digest `json:"digest"`
	// Watched: the change can hurt the task, so what becomes of it counts in the rollout that runs.
	Watched bool   `json:"watched,omitempty"`
	Cause   string `json:"cause,omitempty"`
}

// changeTasks does what a plan wants of tasks that are there: changes in place, and the end of waits.
func (t *tx) changeTasks(c Plan, res *PlanResult) {
	for _, u := range c.Tune {
		if why := t.tune(u); why != "" {
			res.Refused = append(res.Refused, Refused{u.ID, why})
			continue
		}
		res.Tuned++
	}
	for _, id := range c.Begin {
		if why := t.begin(id); why != "" {
			res.Refused = append(res.Refused, Refused{id, why})
			continue
		}
		res.Begun++
	}
}

// tune changes a task's content in place, or says why not.
func (t *tx) tune(u TaskTune) string {
	k := t.task(u.ID)
	switch {
	case k == nil:
		return NoSuchTask
	case k.Desired != job.DesiredRun || t.ended(k.ID):
		return "is not meant to run any more"
	case k.Digest == u.Digest:
		return "has this content already"
	}
	j := t.base.Job(k.Job)
	if j == nil || j.Stopped || t.d.digest(j, k.Service) != u.Digest {
		return "service has changed"
	}
	was, is := t.d.services[k.Digest], t.d.services[u.Digest]
	if was == nil || is == nil {
		return "service is unknown"
	}
	if was.service.Shape() != is.service.Shape() {
		return "cannot be changed in place"
	}
	n := t.base.Node(k.Node)
	if n == nil {
		return "node is gone"
	}
	up := *k
	up.Digest, up.Tuned = u.Digest, t.index
	t.claim(k, -1)
	if k.Wait != job.WaitRoom {
		if why := t.d.use[k.Node].refuses(n, is, &up, j.Spec.Service(k.Service).MaxPerNode()); why != "" {
			t.claim(k, 1)
			return why
		}
	}
	t.claim(&up, 1)
	t.refs[k.Digest]--
	t.refs[u.Digest]++
	if u.Watched {
		up.Watched = t.index
	}
	t.putTask(&up)
	t.event(job.Event{Kind: job.EventTaskTuned, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: tuneMessage(u.Cause, was.service, is.service)})
	return ""
}

// tuneMessage says what a change in place is: "updated to version 3: limits.memoryBytes 64 MiB -> 128 MiB".
func tuneMessage(cause string, was, is *job.Service) string {
	text := func(s *string) string {
		if s == nil {
			return "unset"
		}
		return *s
	}
	var parts []string
	for _, f := range job.FieldsChanged(was, is) {
		parts = append(parts, fmt.Sprintf("%s %s -> %s", f.Path, text(f.Old), text(f.New)))
	}
	return cause + " in place: " + strings.Join(parts, ", ")
}

// begin lets a waiting task start, or says why not.
func (t *tx) begin(id job.TaskID) string {
	k := t.task(id)
	switch {
	case k == nil:
		return NoSuchTask
	case k.Wait == job.WaitNone:
		return "does not wait"
	case k.Desired != job.DesiredRun || t.ended(id):
		return "is not meant to run any more"
	}
	if o := t.task(k.Replaces); o != nil && !t.ended(o.ID) {
		return fmt.Sprintf("task %s has not ended", o.ID)
	}
	n := t.base.Node(k.Node)
	if n == nil || n.State != job.NodeReady {
		return "node is not there"
	}
	up := *k
	up.Wait = job.WaitNone
	if why := t.refuseBeside(&up, false); why != "" {
		return why
	}
	if k.Wait == job.WaitRoom {
		j, si := t.base.Job(k.Job), t.d.services[k.Digest]
		if j == nil || j.Spec.Service(k.Service) == nil || si == nil {
			return "service is unknown"
		}
		if why := t.d.use[k.Node].refuses(n, si, &up, j.Spec.Service(k.Service).MaxPerNode()); why != "" {
			return why
		}
		t.claim(&up, 1)
	}
	t.putTask(&up)
	return ""
}

// refuseRoom says why a task cannot wait for the room of the one that it replaces: that one is not on the same node.
func (t *tx) refuseRoom(k *job.Task) string {
	if o := t.task(k.Replaces); o == nil || o.Node != k.Node || t.ended(o.ID) {
		return "there is no task whose room it could take"
	}
	return ""
}

// stillGood tells whether a task may be placed with the content that its service comes from: while the new one is not
// promoted.
func (t *tx) stillGood(k *job.Task) bool {
	r := t.base.Rollout(k.Job, k.Service)
	if !r.Live() || r.Canaries == 0 || r.FromDigest == "" || k.Digest != r.FromDigest {
		return false
	}
	was, is := t.d.services[k.Digest], t.base.Job(k.Job).Spec.Service(k.Service)
	return was != nil && job.SamePlaces(was.service, is)
}

// beginCanaries has a rollout wait for a promotion, if its service wants that. A restart brings nothing new, and a change
// in place that hurts nobody needs no trial.
func (t *tx) beginCanaries(r *job.Rollout, was, is *job.Service) {
	if is.Update == nil || is.Update.Canaries <= 0 || r.From == 0 {
		return
	}
	again := *is
	again.Renewal = was.Renewal
	if again.Digest() == was.Digest() || was.Shape() == is.Shape() && !job.Wary(was, is) {
		return
	}
	for _, v := range t.base.JobVersions(r.Job) {
		if s := v.Spec.Service(r.Service); v.Version == r.From && s != nil {
			r.FromDigest = s.Digest()
		}
	}
	r.Canaries = is.Update.Canaries
}

// stepCanaries notes that a rollout's canaries are well, or lets the others follow; false if there is nothing to note.
func (t *tx) stepCanaries(r *job.Rollout, st RolloutStep) bool {
	if r.Canaries == 0 || !st.Promote && r.Status == job.RolloutCanary {
		return false
	}
	if st.Promote {
		t.promote(r, "its canaries are well")
		return true
	}
	up := *r
	up.Status = job.RolloutCanary
	t.insert(TableRollouts, &up)
	t.event(job.Event{Kind: job.EventRollout, Job: r.Job, Service: r.Service, Message: fmt.Sprintf(
		"the canaries of the update to version %d are ready; `shoal promote %s/%s` goes on, `shoal fail %s/%s` goes back", r.Version, r.Job, r.Service, r.Job, r.Service)})
	return true
}

func (t *tx) promote(r *job.Rollout, why string) {
	up := *r
	up.Status, up.Canaries, up.FromDigest = job.RolloutRunning, 0, ""
	t.insert(TableRollouts, &up)
	t.event(job.Event{Kind: job.EventJobPromoted, Job: r.Job, Service: r.Service, Message: fmt.Sprintf("the update to version %d: %s", r.Version, why)})
}

// PromoteJob lets updates go on whose canaries wait: of services, or of all of the job when none is named. NotFound if
// there is no such job, Conflict if nothing waits. Result.Value is *job.Job.
type PromoteJob struct {
	Job      string    `json:"job"`
	Services []string  `json:"services,omitempty"`
	Key      string    `json:"key,omitempty"`
	At       time.Time `json:"at"`
}

// FailJob gives up the updates under way, or paused, of services (none named: of all), and takes those back to where they
// came from, as a new version. Conflict if there is none, or none that can go back. Result.Value is *job.Job.
type FailJob struct {
	Job      string    `json:"job"`
	Services []string  `json:"services,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Key      string    `json:"key,omitempty"`
	At       time.Time `json:"at"`
}

// RestartTasks has single tasks of a job replaced, each as by an update of its slot, without a new version. NotFound if one
// is not there, Conflict if one is not meant to run. Result.Value is *job.Job.
type RestartTasks struct {
	Job   string       `json:"job"`
	Tasks []job.TaskID `json:"tasks"` // 1 to MaxPlan
	Key   string       `json:"key,omitempty"`
	At    time.Time    `json:"at"`
}

// rolloutsOf finds the rollouts of a job that are meant by a user's word on them.
func (t *tx) rolloutsOf(what string, name string, services []string) (*job.Job, []*job.Rollout, error) {
	j := t.base.Job(name)
	if j == nil {
		return nil, nil, job.Errorf(job.NotFound, "%s job %s: no such job: see shoal ps", what, name)
	}
	var out []*job.Rollout
	if len(services) == 0 {
		return j, t.base.Rollouts(name), nil
	}
	for _, s := range services {
		if j.Spec.Service(s) == nil {
			return nil, nil, job.Errorf(job.NotFound, "%s job %s: it has no service %s", what, name, s)
		}
		if r := t.base.Rollout(name, s); r != nil {
			out = append(out, r)
		}
	}
	return j, out, nil
}

func (t *tx) promoteJob(c PromoteJob) Result {
	if k, err := t.recall(c.Key, kindPromoteJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	j, rs, err := t.rolloutsOf("promote", c.Job, c.Services)
	if err != nil {
		return Result{Err: err}
	}
	any := false
	for _, r := range rs {
		if r.Live() && r.Canaries > 0 && !j.Stopped {
			t.promote(r, "promoted")
			any = true
		}
	}
	if !any {
		return fail(job.Conflict, "promote job %s: no update of it waits for that: see shoal ps %s", c.Job, c.Job)
	}
	t.remember(c.Key, kindPromoteJob, c.Job, j.Version, false)
	return Result{Value: j}
}

func (t *tx) failJob(c FailJob) Result {
	if k, err := t.recall(c.Key, kindFailJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	j, rs, err := t.rolloutsOf("fail", c.Job, c.Services)
	if err != nil {
		return Result{Err: err}
	}
	reason := c.Reason
	if reason == "" {
		reason = "given up by hand"
	}
	var steps []RolloutStep
	found := false
	for _, r := range rs {
		if j.Stopped || r.RollbackOf != 0 || !r.Live() && r.Status != job.RolloutPaused {
			continue
		}
		found = true
		if t.goBack(j, r) != nil {
			steps = append(steps, RolloutStep{Job: r.Job, Service: r.Service, Version: r.Version, Rollback: true, Reason: reason})
		}
	}
	switch {
	case !found:
		return fail(job.Conflict, "fail job %s: no update of it is under way: to go back to an earlier version: shoal rollback %s", c.Job, c.Job)
	case len(steps) == 0:
		return fail(job.Conflict, "fail job %s: there is no earlier version to go back to", c.Job)
	}
	up := t.rollBack(j, steps, true)
	t.remember(c.Key, kindFailJob, c.Job, up.Version, false)
	return Result{Value: up}
}

func (t *tx) restartTasks(c RestartTasks) Result {
	if k, err := t.recall(c.Key, kindRestartTasks, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	j := t.base.Job(c.Job)
	switch {
	case j == nil:
		return fail(job.NotFound, "restart tasks of job %s: no such job: see shoal ps", c.Job)
	case j.Stopped:
		return fail(job.Conflict, "restart tasks of job %s: it is stopped: start it with: shoal start %s", c.Job, c.Job)
	case len(c.Tasks) == 0 || len(c.Tasks) > MaxPlan:
		return fail(job.Invalid, "restart tasks of job %s: %d tasks, want 1 to %d", c.Job, len(c.Tasks), MaxPlan)
	}
	for _, id := range c.Tasks {
		switch k := t.task(id); {
		case k == nil || k.Job != c.Job:
			return fail(job.NotFound, "restart task %s: job %s has no such task: see shoal ps %s", id, c.Job, c.Job)
		case k.Desired != job.DesiredRun || t.ended(id):
			return fail(job.Conflict, "restart task %s: it is not meant to run any more: see shoal ps %s", id, c.Job)
		}
	}
	changed := false
	for _, id := range c.Tasks {
		k := *t.task(id)
		if k.Renew {
			continue
		}
		k.Renew, changed = true, true
		t.putTask(&k)
		t.event(job.Event{Kind: job.EventTaskRenew, Job: k.Job, Service: k.Service, Task: k.ID, Node: k.Node, Message: "asked to be replaced"})
	}
	t.remember(c.Key, kindRestartTasks, c.Job, j.Version, !changed)
	return Result{Value: j, Unchanged: !changed}
}
