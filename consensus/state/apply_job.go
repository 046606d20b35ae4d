package state

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"shoal/consensus/job"
)

// checkSpec is the least that the tables need of a spec; the submitter validated the rest.
func checkSpec(s *job.Spec) error {
	if !goodName(s.Name) || len(s.Services) == 0 {
		return job.Errorf(job.Invalid, "submit job %q: it needs a name and at least one service", s.Name)
	}
	seen := map[string]bool{}
	for i := range s.Services {
		sv := &s.Services[i]
		if !goodName(sv.Name) || seen[sv.Name] {
			return job.Errorf(job.Invalid, "submit job %s: service %q: names must be unique and 1 to %d bytes", s.Name, sv.Name, maxName)
		}
		if sv.Replicas < 0 || sv.Replicas > job.MaxReplicas {
			return job.Errorf(job.Invalid, "submit job %s: service %s: %d replicas, want 0 to %d", s.Name, sv.Name, sv.Replicas, job.MaxReplicas)
		}
		if d := sv.Demand(); min(d.NanoCPUs, d.MemoryBytes, d.PIDs) < 0 {
			return job.Errorf(job.Invalid, "submit job %s: service %s: negative resources", s.Name, sv.Name)
		}
		seen[sv.Name] = true
	}
	return nil
}

// replay is what a command gave when it was applied with the same key before.
func (t *tx) replay(k *keyRow) Result {
	r := Result{Unchanged: k.Unchanged}
	for _, j := range t.base.JobVersions(k.Name) {
		if j.Version == k.Version {
			r.Value = j
		}
	}
	if r.Value == nil && k.Kind != kindRemoveJob {
		if j := t.base.Job(k.Name); j != nil {
			r.Value = j
		}
	}
	return r
}

// sameContent compares all but the source text.
func sameContent(d *derived, old *job.Job, spec *job.Spec) bool {
	if len(old.Spec.Services) != len(spec.Services) || !slices.Equal(old.Spec.Volumes, spec.Volumes) {
		return false
	}
	for i := range spec.Services {
		s, o := &spec.Services[i], &old.Spec.Services[i]
		if s.Name != o.Name || s.Replicas != o.Replicas || !job.SameUpdate(s, o) || s.Digest() != d.digest(old, o.Name) {
			return false
		}
	}
	return true
}

func (t *tx) putJob(c PutJob) Result {
	if err := checkSpec(&c.Spec); err != nil {
		return Result{Err: err}
	}
	name := c.Spec.Name
	if k, err := t.recall(c.Key, kindPutJob, name); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(name)
	if c.IfVersion != nil {
		var at uint64
		if old != nil {
			at = old.Version
		}
		if at != *c.IfVersion {
			return fail(job.Conflict, "submit job %s: it is at version %d, not %d as when you read it: look again with: shoal diff", name, at, *c.IfVersion)
		}
	}
	slices.SortFunc(c.Spec.Services, func(a, b job.Service) int { return strings.Compare(a.Name, b.Name) })
	if old != nil {
		c.Spec.KeepRenewals(&old.Spec)
	} else {
		c.Spec.KeepRenewals(nil)
	}
	if old != nil && sameContent(t.d, old, &c.Spec) {
		if !old.Stopped && t.resumeRollouts(old) {
			t.remember(c.Key, kindPutJob, name, old.Version, false)
			return Result{Value: old}
		}
		if !old.Stopped {
			t.remember(c.Key, kindPutJob, name, old.Version, true)
			return Result{Value: old, Unchanged: true}
		}
		j := *old
		j.Stopped, j.Updated, j.Index = false, t.at, t.index
		t.rewriteJob(&j)
		t.rebaseAll(name)
		t.event(job.Event{Kind: job.EventJobSubmitted, Job: name, Message: fmt.Sprintf("version %d started again", j.Version)})
		t.remember(c.Key, kindPutJob, name, j.Version, false)
		return Result{Value: &j}
	}
	j := &job.Job{Name: name, Version: 1, Spec: c.Spec, Created: t.at}
	var back wayBack
	if old != nil {
		j.Version, j.Created = old.Version+1, old.Created
		if c.RollbackTo != 0 {
			back.of, back.to = old.Version, c.RollbackTo
			j.Cause = fmt.Sprintf("rolled back to version %d", c.RollbackTo)
		}
	}
	t.newVersion(j, back)
	t.event(job.Event{Kind: job.EventJobSubmitted, Job: name, Message: fmt.Sprintf("version %d", j.Version)})
	t.remember(c.Key, kindPutJob, name, j.Version, false)
	return Result{Value: j}
}

// newVersion writes a job as a new version, forgets the oldest and what lies in slots that are no more, and begins the
// rollouts of services that changed.
func (t *tx) newVersion(j *job.Job, back wayBack) {
	j.Updated, j.Index = t.at, t.index
	old := t.base.Job(j.Name)
	if old != nil {
		job.RenewDependents(&old.Spec, &j.Spec)
	}
	t.useServices(j, 1)
	t.insert(TableJobs, j)
	t.insert(TableVersions, j)
	if vs := t.base.JobVersions(j.Name); len(vs) >= KeepVersions {
		for _, v := range vs[:len(vs)-KeepVersions+1] {
			t.remove(TableVersions, v)
			t.useServices(v, -1)
		}
	}
	if old != nil {
		t.dropSlots(old, j)
		t.beginRollouts(old, j, back)
	}
	t.syncRuns(j)
	t.syncAutoscales(j.Name, j)
}

// rewriteJob changes a job without a new version.
func (t *tx) rewriteJob(j *job.Job) {
	t.insert(TableJobs, j)
	t.insert(TableVersions, j)
}

// dropSlots forgets dead tasks and reasons of slots and services that the new version does not have.
func (t *tx) dropSlots(old, j *job.Job) {
	for i := range old.Spec.Services {
		was := &old.Spec.Services[i]
		is := j.Spec.Service(was.Name)
		if is != nil && is.Mode == was.Mode && is.Replicas >= was.Replicas {
			continue
		}
		if is == nil {
			t.unblock(j.Name, was.Name)
		}
		from := strKey(j.Name, was.Name)
		if is != nil && !is.Mode.PerNode() && !was.Mode.PerNode() {
			from = slotFrom(j.Name, was.Name, is.Replicas)
		}
		t.dropDeadFrom(from, strKey(j.Name, was.Name))
	}
}

func (t *tx) dropDeadFrom(from, within []byte) {
	it, err := t.base.txn.LowerBound(string(TableTasks), "slot", from)
	if err != nil {
		panic("state: scan slots: " + err.Error())
	}
	for o := it.Next(); o != nil; o = it.Next() {
		k := o.(*job.Task)
		if !strings.HasPrefix(string(taskSlotKey(k)), string(within)) {
			return
		}
		if k.Desired != job.DesiredRun && t.ended(k.ID) {
			t.pruneLater(k)
		}
	}
}

func (t *tx) scaleJob(c ScaleJob) Result {
	if k, err := t.recall(c.Key, kindScaleJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(c.Job)
	if old == nil {
		return fail(job.NotFound, "scale job %s: no such job: see shoal ps", c.Job)
	}
	j := *old
	j.Spec.Services = slices.Clone(old.Spec.Services)
	var said []string
	byHand := map[string][2]int{} // of services that scale by themselves
	for _, name := range sortedKeys(c.Replicas) {
		n := c.Replicas[name]
		s := j.Spec.Service(name)
		switch {
		case s == nil:
			return fail(job.NotFound, "scale job %s: it has no service %s", c.Job, name)
		case s.Mode.PerNode():
			return fail(job.Invalid, "scale job %s: service %s is global: it has one task on every node", c.Job, name)
		case s.IsBatch():
			return fail(job.Invalid, "scale job %s: service %s is a batch: how often it completes is part of what it is; change x-batch.completions and submit again", c.Job, name)
		case refuseScale(s, n) != "":
			return fail(job.Invalid, "scale job %s: service %s: %s", c.Job, name, refuseScale(s, n))
		case n < 0 || n > job.MaxReplicas:
			return fail(job.Invalid, "scale job %s: service %s: %d replicas, want 0 to %d", c.Job, name, n, job.MaxReplicas)
		}
		if s.Replicas != n {
			said = append(said, fmt.Sprintf("%s from %d to %d", name, s.Replicas, n))
			if s.Autoscale != nil {
				byHand[name] = [2]int{s.Replicas, n}
			}
			s.Replicas = n
		}
	}
	if len(said) == 0 {
		t.remember(c.Key, kindScaleJob, c.Job, old.Version, true)
		return Result{Value: old, Unchanged: true}
	}
	j.Version++
	j.Cause = ""
	t.newVersion(&j, wayBack{})
	for _, name := range sortedKeys(byHand) {
		t.noteScale(j.Name, name, byHand[name][0], byHand[name][1], "scaled by hand")
	}
	t.event(job.Event{Kind: job.EventJobScaled, Job: j.Name, Message: strings.Join(said, ", ")})
	t.remember(c.Key, kindScaleJob, c.Job, j.Version, false)
	return Result{Value: &j}
}

func (t *tx) stopJob(c StopJob) Result {
	if k, err := t.recall(c.Key, kindStopJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(c.Job)
	if old == nil {
		return fail(job.NotFound, "stop job %s: no such job: see shoal ps", c.Job)
	}
	if old.Stopped {
		t.remember(c.Key, kindStopJob, c.Job, old.Version, true)
		return Result{Value: old, Unchanged: true}
	}
	j := *old
	j.Stopped, j.Updated, j.Index = true, t.at, t.index
	t.rewriteJob(&j)
	t.endTasks(&j, "the job was stopped")
	t.event(job.Event{Kind: job.EventJobStopped, Job: j.Name})
	t.remember(c.Key, kindStopJob, c.Job, j.Version, false)
	return Result{Value: &j}
}

func (t *tx) removeJob(c RemoveJob) Result {
	if k, err := t.recall(c.Key, kindRemoveJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(c.Job)
	if old == nil {
		return fail(job.NotFound, "remove job %s: no such job: see shoal ps", c.Job)
	}
	t.remove(TableJobs, old)
	for _, v := range t.base.JobVersions(c.Job) {
		t.remove(TableVersions, v)
		t.useServices(v, -1)
	}
	t.endTasks(old, "the job was removed")
	for _, r := range t.base.Rollouts(c.Job) {
		t.remove(TableRollouts, r)
	}
	t.forgetBatches(c.Job)
	t.syncAutoscales(c.Job, nil)
	delete(t.d.digests, c.Job)
	t.event(job.Event{Kind: job.EventJobRemoved, Job: c.Job})
	t.remember(c.Key, kindRemoveJob, c.Job, 0, false)
	return Result{}
}

// endTasks has all tasks of a job stopped and forgets why some could not be placed.
func (t *tx) endTasks(j *job.Job, cause string) {
	for _, k := range t.base.TasksOfJob(j.Name) {
		if k.Desired == job.DesiredRun {
			t.stopTask(k, job.DesiredStop, cause)
		} else if t.ended(k.ID) {
			t.pruneLater(k)
		}
	}
	for _, b := range t.base.Blocked(j.Name) {
		t.remove(TableBlocked, b)
	}
}

func (t *tx) startJob(c StartJob) Result {
	if k, err := t.recall(c.Key, kindStartJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(c.Job)
	if old == nil {
		return fail(job.NotFound, "start job %s: no such job: see shoal ps", c.Job)
	}
	if !old.Stopped {
		t.remember(c.Key, kindStartJob, c.Job, old.Version, true)
		return Result{Value: old, Unchanged: true}
	}
	j := *old
	j.Stopped, j.Updated, j.Index = false, t.at, t.index
	t.rewriteJob(&j)
	t.rebaseAll(j.Name)
	t.event(job.Event{Kind: job.EventJobStarted, Job: j.Name, Message: fmt.Sprintf("version %d", j.Version)})
	t.remember(c.Key, kindStartJob, c.Job, j.Version, false)
	return Result{Value: &j}
}

func (t *tx) restartJob(c RestartJob) Result {
	if k, err := t.recall(c.Key, kindRestartJob, c.Job); err != nil {
		return Result{Err: err}
	} else if k != nil {
		return t.replay(k)
	}
	old := t.base.Job(c.Job)
	if old == nil {
		return fail(job.NotFound, "restart job %s: no such job: see shoal ps", c.Job)
	}
	if old.Stopped {
		return fail(job.Conflict, "restart job %s: it is stopped: start it with: shoal start %s", c.Job, c.Job)
	}
	j := *old
	j.Spec.Services = slices.Clone(old.Spec.Services)
	for _, name := range c.Services {
		switch s := j.Spec.Service(name); {
		case s == nil:
			return fail(job.NotFound, "restart job %s: it has no service %s", c.Job, name)
		case s.Schedule != nil:
			return fail(job.Conflict, "restart job %s: service %s runs by its schedule: run it now with: shoal cron run %s/%s", c.Job, name, c.Job, name)
		}
	}
	var said []string
	for i := range j.Spec.Services {
		if s := &j.Spec.Services[i]; len(c.Services) == 0 && s.Schedule == nil || slices.Contains(c.Services, s.Name) {
			s.Renewal++
			said = append(said, s.Name)
		}
	}
	if len(said) == 0 {
		return fail(job.Conflict, "restart job %s: all of it runs by schedules: run one now with: shoal cron run %s/SERVICE", c.Job, c.Job)
	}
	j.Version++
	j.Cause = "restarted " + strings.Join(said, ", ")
	t.newVersion(&j, wayBack{})
	t.event(job.Event{Kind: job.EventJobRestarted, Job: j.Name, Message: strings.Join(said, ", ")})
	t.remember(c.Key, kindRestartJob, c.Job, j.Version, false)
	return Result{Value: &j}
}

func (t *tx) unblock(jobName, service string) {
	if b := first[job.Blocked](t.base.txn, TableBlocked, "id", strKey(jobName, service)); b != nil {
		t.remove(TableBlocked, b)
	}
}

func (t *tx) block(b job.Blocked) {
	j := t.base.Job(b.Job)
	if j == nil || j.Stopped || j.Spec.Service(b.Service) == nil {
		return
	}
	b.Reason = clip(b.Reason)
	if b.Since.IsZero() {
		b.Since = t.at
	}
	old := first[job.Blocked](t.base.txn, TableBlocked, "id", strKey(b.Job, b.Service))
	if old != nil {
		b.Since = old.Since
		if reflect.DeepEqual(*old, b) {
			return
		}
	}
	t.insert(TableBlocked, &b)
	if old == nil || old.Reason != b.Reason {
		t.event(job.Event{Kind: job.EventTaskBlocked, Job: b.Job, Service: b.Service, Message: b.Reason})
	}
}
