package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"shoal/consensus/job"
)

// TableRuns holds the runs of batches, job.Run: those under way and the last that ended.
const TableRuns Table = "runs"

// KeepDone is how many completed tasks of one run keep their containers and logs; of later ones only the count is kept.
const KeepDone = 1_000

// RunStep ends a run that is under way (Status complete, failed or stopped), or has the tasks of an ended one forgotten.
// Complete is refused while completions are missing.
type RunStep struct {
	Job     string        `json:"job"`
	Service string        `json:"service"`
	Seq     uint64        `json:"seq"`
	Status  job.RunStatus `json:"status,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	// Task is the one whose failure ends the run; its exit code becomes the run's.
	Task     job.TaskID `json:"task,omitempty"`
	TimedOut bool       `json:"timedOut,omitempty"`
	Forget   bool       `json:"forget,omitempty"`
}

// StartRun begins a run by a person's word: of a schedule at once, whatever its overlap policy says; of a batch without one
// only while none of it is under way. Conflict if the job is stopped or too many runs are under way. Result.Value is
// *job.Run.
type StartRun struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	Key     string    `json:"key,omitempty"`
	At      time.Time `json:"at"`
}

// StopRun ends the runs of a service that are under way; Seq 0: all. Result.Value is *job.Job.
type StopRun struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	Seq     uint64    `json:"seq,omitempty"`
	At      time.Time `json:"at"`
}

func (StartRun) kind() byte { return kindStartRun }
func (StopRun) kind() byte  { return kindStopRun }

func runKey(r *job.Run) []byte {
	return binary.BigEndian.AppendUint64(strKey(r.Job, r.Service), r.Seq)
}

// Runs lists the kept runs of a service by number; of all services of the job when service is "", of all jobs when both
// are. They are whole, with Done.
func (v *View) Runs(jobName, service string) []*job.Run {
	var prefix []byte
	switch {
	case service != "":
		prefix = strKey(jobName, service)
	case jobName != "":
		prefix = strKey(jobName)
	}
	return all[job.Run](v.txn, TableRuns, "id", prefix)
}

// Run is nil when it never was or is forgotten.
func (v *View) Run(jobName, service string, seq uint64) *job.Run {
	return first[job.Run](v.txn, TableRuns, "id", runKey(&job.Run{Job: jobName, Service: service, Seq: seq}))
}

// LastRun is a service's newest run, nil when it had none.
func (v *View) LastRun(jobName, service string) *job.Run {
	rs := v.Runs(jobName, service)
	if len(rs) == 0 {
		return nil
	}
	return rs[len(rs)-1]
}

// run and runs are as this command sees them.
func (t *tx) run(jobName, service string, seq uint64) *job.Run {
	return first[job.Run](t.w, TableRuns, "id", runKey(&job.Run{Job: jobName, Service: service, Seq: seq}))
}

func (t *tx) runs(jobName, service string) []*job.Run {
	prefix := strKey(jobName)
	if service != "" {
		prefix = strKey(jobName, service)
	}
	return all[job.Run](t.w, TableRuns, "id", prefix)
}

// syncRuns brings runs and schedules in line with a new version of a job: a batch whose content is new begins anew, what
// the job does not have any more ends and is forgotten.
func (t *tx) syncRuns(j *job.Job) {
	for _, r := range t.runs(j.Name, "") {
		if s := j.Spec.Service(r.Service); s == nil || !s.IsBatch() {
			t.endRun(r, job.RunStopped, "the job has no such batch any more")
			t.dropRun(r)
		}
	}
	for i := range j.Spec.Services {
		s := &j.Spec.Services[i]
		t.syncSchedule(j, s)
		if !s.IsBatch() || s.Schedule != nil {
			continue
		}
		digest := s.Digest()
		var last *job.Run
		for _, r := range t.runs(j.Name, s.Name) {
			if r.Active() && (r.Digest != digest || !r.Due.IsZero() && t.base.Rules() < rulesBatches) {
				t.endRun(r, job.RunStopped, fmt.Sprintf("replaced by version %d", j.Version))
			}
			last = r
		}
		if last == nil || last.Digest != digest {
			cause := "submitted"
			if j.Cause != "" {
				cause = j.Cause
			}
			t.beginRun(j, s, cause, time.Time{})
		}
	}
	for _, ss := range t.schedules(j.Name) {
		if s := j.Spec.Service(ss.Service); s == nil || s.Schedule == nil {
			t.remove(TableSchedules, ss)
		}
	}
}

// beginRun writes a new run of a service as it is now.
func (t *tx) beginRun(j *job.Job, s *job.Service, cause string, due time.Time) *job.Run {
	r := &job.Run{
		Job: j.Name, Service: s.Name, Seq: 1, Digest: s.Digest(), Version: j.Version, Status: job.RunRunning,
		Cause: clip(cause), Due: due, Created: t.at, Index: t.index,
	}
	old := t.runs(j.Name, s.Name)
	if len(old) > 0 {
		r.Seq = old[len(old)-1].Seq + 1
	}
	if s.Mode == job.ReplicatedJob {
		r.Slots, r.First = s.Replicas, freeSlots(old, s.Replicas)
	}
	t.insert(TableRuns, r)
	t.event(job.Event{Kind: job.EventRun, Job: j.Name, Service: s.Name, Message: fmt.Sprintf("run %d begins: %s", r.Seq, r.Cause)})
	t.trimRuns(j.Name, s)
	return r
}

// freeSlots finds the lowest row of n slots that belongs to no run under way.
func freeSlots(rs []*job.Run, n int) int {
	at := 0
	for again := true; again; {
		again = false
		for _, r := range rs {
			if r.Active() && at < r.First+r.Slots && r.First < at+n {
				at, again = r.First+r.Slots, true
			}
		}
	}
	return at
}

// endRun ends a run that is under way, with its tasks.
func (t *tx) endRun(r *job.Run, status job.RunStatus, reason string) *job.Run {
	if !r.Active() {
		return r
	}
	up := *r
	up.Status, up.Reason, up.Ended = status, clip(reason), t.at
	t.insert(TableRuns, &up)
	said := fmt.Sprintf("run %d is %s", r.Seq, status)
	if reason != "" {
		said += ": " + reason
	}
	t.event(job.Event{Kind: job.EventRun, Job: r.Job, Service: r.Service, Message: said})
	for _, k := range t.tasksOfRun(r) {
		if k.Desired == job.DesiredRun && !t.ended(k.ID) {
			t.stopTask(k, job.DesiredStop, said)
		}
	}
	t.unblock(r.Job, r.Service)
	return &up
}

// isOf tells whether a task is of a run. The number alone does not say so: a job that is removed and submitted again, or a
// service that goes and comes back, counts its runs from 1 again, while tasks of the former ones still stop.
func (t *tx) isOf(k *job.Task, r *job.Run) bool {
	return r != nil && k.Run == r.Seq && (k.Index > r.Index || t.base.Rules() < rulesBatches)
}

func (t *tx) tasksOfRun(r *job.Run) (out []*job.Task) {
	for _, b := range t.base.TasksOfService(r.Job, r.Service) {
		if k := t.task(b.ID); k != nil && t.isOf(k, r) {
			out = append(out, k)
		}
	}
	return out
}

// dropRun forgets a run that has ended, and puts what is left of its tasks to rest.
func (t *tx) dropRun(r *job.Run) {
	t.remove(TableRuns, r)
	t.dropRunTasks(r)
}

func (t *tx) dropRunTasks(r *job.Run) {
	for _, k := range t.tasksOfRun(r) {
		if k.Desired == job.DesiredRun {
			t.stopTask(k, job.DesiredStop, fmt.Sprintf("run %d is no longer kept", r.Seq))
		} else if t.ended(k.ID) {
			t.pruneLater(k)
		}
	}
}

// trimRuns forgets the oldest ended runs beyond what the service keeps. The newest of all stays: it is what a submit of the
// same content is compared with.
func (t *tx) trimRuns(jobName string, s *job.Service) {
	keep := s.BatchPolicy()
	complete, other := keep.KeepComplete, keep.KeepFailed
	rs := t.runs(jobName, s.Name)
	for i := len(rs) - 1; i >= 0; i-- {
		r := rs[i]
		if r.Active() {
			continue
		}
		left := &other
		if r.Status == job.RunComplete {
			left = &complete
		}
		if *left--; *left < 0 && i < len(rs)-1 {
			t.dropRun(r)
		}
	}
}

// countRun counts the end of a batch's task, which comes once.
func (t *tx) countRun(k *job.Task, st *job.Status) {
	r := t.run(k.Job, k.Service, k.Run)
	if !r.Active() || !t.isOf(k, r) {
		return
	}
	up := *r
	switch {
	case st.State == job.Lost:
		up.Lost++
	case k.Desired != job.DesiredRun: // it was told to stop: how it ended says nothing
		return
	case st.State == job.Failed:
		up.Failed++
	case !up.MarkDone(k.Slot, k.Node):
		return
	}
	t.insert(TableRuns, &up)
	if st.State == job.Complete && up.Completed > KeepDone {
		t.stopTask(k, job.DesiredStop, fmt.Sprintf("a run keeps the logs of %d completed tasks", KeepDone))
	}
}

// noteBegan notes that a run has its first task.
func (t *tx) noteBegan(k *job.Task) {
	if r := t.run(k.Job, k.Service, k.Run); r != nil && r.Began.IsZero() {
		up := *r
		up.Began = t.at
		t.insert(TableRuns, &up)
	}
}

// refuseRun names what of a batch's placement does not hold.
func (t *tx) refuseRun(k *job.Task, s *job.Service) string {
	r := t.run(k.Job, k.Service, k.Run)
	switch {
	case r == nil:
		return "there is no such run"
	case !r.Active():
		return "its run is " + string(r.Status)
	case r.Digest != k.Digest:
		return "its run is of another content"
	case s.Mode == job.ReplicatedJob && !r.Owns(k.Slot):
		return "no such slot in its run"
	case r.HasDone(k.Slot, k.Node):
		return "has completed already"
	}
	return ""
}

// stepRuns does a plan's steps.
func (t *tx) stepRuns(steps []RunStep, res *PlanResult) {
	refuse := func(why string) { res.Refused = append(res.Refused, Refused{Reason: why}) }
	for _, st := range steps {
		r := t.run(st.Job, st.Service, st.Seq)
		switch {
		case r == nil:
			refuse("run is gone")
		case st.Forget && r.Active():
			refuse("run is under way")
		case st.Forget:
			up := *r
			up.Forgotten = true
			t.insert(TableRuns, &up)
			t.dropRunTasks(&up)
		case !r.Active():
			refuse("run has ended")
		case st.Status == job.RunComplete && r.Completed < max(r.Slots, 1):
			refuse("completions are missing")
		case st.Status != job.RunComplete && st.Status != job.RunFailed && st.Status != job.RunStopped:
			refuse("malformed run step")
		default:
			up := *r
			up.Task, up.TimedOut = st.Task, st.TimedOut
			if status := t.status(st.Task); st.Task != "" && status != nil {
				up.ExitCode = status.ExitCode
			}
			t.endRun(&up, st.Status, st.Reason)
			if j := first[job.Job](t.w, TableJobs, "id", strKey(r.Job)); j != nil && j.Spec.Service(r.Service) != nil {
				t.trimRuns(r.Job, j.Spec.Service(r.Service))
			}
		}
	}
}

// batchOf finds a batch for a person's command.
func (t *tx) batchOf(what, jobName, service string) (*job.Job, *job.Service, error) {
	j := t.base.Job(jobName)
	if j == nil {
		return nil, nil, job.Errorf(job.NotFound, "%s %s/%s: no such job: see shoal ps", what, jobName, service)
	}
	s := j.Spec.Service(service)
	switch {
	case s == nil:
		return nil, nil, job.Errorf(job.NotFound, "%s %s/%s: the job has no such service", what, jobName, service)
	case !s.IsBatch():
		return nil, nil, job.Errorf(job.Invalid, "%s %s/%s: it is no batch: its deploy.mode is %s", what, jobName, service, s.Mode)
	}
	return j, s, nil
}

func (t *tx) startRun(c StartRun) Result {
	name := c.Job + "/" + c.Service
	if k, err := t.recall(c.Key, kindStartRun, name); err != nil {
		return Result{Err: err}
	} else if k != nil {
		r := Result{Unchanged: k.Unchanged}
		if run := t.base.Run(c.Job, c.Service, k.Version); run != nil {
			r.Value = run
		}
		return r
	}
	j, s, err := t.batchOf("start a run of", c.Job, c.Service)
	if err != nil {
		return Result{Err: err}
	}
	if j.Stopped {
		return fail(job.Conflict, "start a run of %s: the job is stopped: start it with: shoal start %s", name, c.Job)
	}
	active := t.activeRuns(c.Job, c.Service)
	switch {
	case s.Schedule == nil && len(active) > 0, s.Mode == job.GlobalJob && len(active) > 0:
		return fail(job.Conflict, "start a run of %s: run %d is under way: wait for it with: shoal ps %s", name, active[0].Seq, c.Job)
	case len(active) >= job.MaxOverlap:
		return fail(job.Conflict, "start a run of %s: %d runs are under way, at most %d may be", name, len(active), job.MaxOverlap)
	}
	r := t.beginRun(j, s, "started by hand", time.Time{})
	t.remember(c.Key, kindStartRun, name, r.Seq, false)
	return Result{Value: r}
}

func (t *tx) stopRun(c StopRun) Result {
	j, _, err := t.batchOf("stop runs of", c.Job, c.Service)
	if err != nil {
		return Result{Err: err}
	}
	n := 0
	for _, r := range t.activeRuns(c.Job, c.Service) {
		if c.Seq == 0 || c.Seq == r.Seq {
			t.endRun(r, job.RunStopped, "stopped by hand")
			n++
		}
	}
	if n == 0 && c.Seq != 0 {
		return fail(job.NotFound, "stop run %d of %s/%s: it is not under way: see shoal ps %s", c.Seq, c.Job, c.Service, c.Job)
	}
	return Result{Value: j, Unchanged: n == 0}
}

func (t *tx) activeRuns(jobName, service string) (out []*job.Run) {
	for _, r := range t.runs(jobName, service) {
		if r.Active() {
			out = append(out, r)
		}
	}
	return out
}

// forgetBatches forgets all runs and schedules of a job that is removed; its tasks have been told to stop.
func (t *tx) forgetBatches(jobName string) {
	for _, r := range t.runs(jobName, "") {
		t.remove(TableRuns, r)
	}
	for _, ss := range t.schedules(jobName) {
		t.remove(TableSchedules, ss)
	}
}
