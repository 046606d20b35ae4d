package state

import (
	"fmt"
	"time"

	"shoal/consensus/job"
)

// TableSchedules holds how far each schedule is, job.ScheduleState.
const TableSchedules Table = "schedules"

// FireSchedule decides on one due time of a schedule: a run begins, or it is left out (Skip says why; the overlap policy
// may leave it out too). Conflict unless the schedule is still the one that Cron and TimeZone name, is not paused, its job
// is not stopped, and Due is later than all that was decided before: so there is one decision for each time, whoever leads.
// Result.Value is *job.Run, nil when it was left out.
type FireSchedule struct {
	Job      string    `json:"job"`
	Service  string    `json:"service"`
	Cron     string    `json:"cron"`
	TimeZone string    `json:"timeZone,omitempty"`
	Due      time.Time `json:"due"`
	Skip     string    `json:"skip,omitempty"`
	At       time.Time `json:"at"`
}

// PauseSchedule pauses a schedule or lets it go on; what was due meanwhile is not made up for. Result.Value is
// *job.ScheduleState.
type PauseSchedule struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	Paused  bool      `json:"paused"`
	At      time.Time `json:"at"`
}

func (FireSchedule) kind() byte  { return kindFireSchedule }
func (PauseSchedule) kind() byte { return kindPauseSchedule }

// Schedules lists how far the schedules of a job are, by service; of all jobs when name is "".
func (v *View) Schedules(name string) []*job.ScheduleState {
	var prefix []byte
	if name != "" {
		prefix = strKey(name)
	}
	return all[job.ScheduleState](v.txn, TableSchedules, "id", prefix)
}

// Schedule is nil for a service without one.
func (v *View) Schedule(jobName, service string) *job.ScheduleState {
	return first[job.ScheduleState](v.txn, TableSchedules, "id", strKey(jobName, service))
}

func (t *tx) schedules(jobName string) []*job.ScheduleState {
	return all[job.ScheduleState](t.w, TableSchedules, "id", strKey(jobName))
}

// syncSchedule makes the row of a service that has a schedule, and has one that changed, or whose job is started again by
// the new version, count from now on.
func (t *tx) syncSchedule(j *job.Job, s *job.Service) {
	if s.Schedule == nil {
		return
	}
	row := t.base.Schedule(j.Name, s.Name)
	if row == nil {
		row = &job.ScheduleState{Job: j.Name, Service: s.Name, Since: t.at}
		for _, r := range t.runs(j.Name, s.Name) { // of a schedule that it had before
			if r.Due.After(row.Last) && t.binds(r.Due) {
				row.Last = r.Due
			}
		}
		t.insert(TableSchedules, row)
		return
	}
	var was *job.Schedule
	started := false
	if old := t.base.Job(j.Name); old != nil {
		started = old.Stopped && !j.Stopped && t.base.Rules() >= rulesBatches
		if o := old.Spec.Service(s.Name); o != nil {
			was = o.Schedule
		}
	}
	if was == nil || was.Cron != s.Schedule.Cron || was.TimeZone != s.Schedule.TimeZone || was.Paused && !s.Schedule.Paused || started {
		t.rebase(row)
	}
}

// clockTrust is how far ahead of the present clock a time may lie that was decided on, and still bind: clocks that are set
// back by less make nothing run twice, and one that was years ahead for a while does not stop a schedule for years once
// somebody resumes it.
const clockTrust = 24 * time.Hour

func (t *tx) binds(decided time.Time) bool { return !decided.After(t.at.Add(clockTrust)) }

// rebase has a schedule count from now on.
func (t *tx) rebase(row *job.ScheduleState) {
	up := *row
	up.Since = t.at
	if !t.binds(up.Last) {
		up.Last = t.at
	}
	t.insert(TableSchedules, &up)
}

// rebaseAll does so for all schedules of a job that is started again.
func (t *tx) rebaseAll(jobName string) {
	for _, row := range t.schedules(jobName) {
		t.rebase(row)
	}
}

func (t *tx) fireSchedule(c FireSchedule) Result {
	name := c.Job + "/" + c.Service
	j, row := t.base.Job(c.Job), t.base.Schedule(c.Job, c.Service)
	if j == nil || row == nil || j.Spec.Service(c.Service) == nil || j.Spec.Service(c.Service).Schedule == nil {
		return fail(job.NotFound, "run %s by its schedule: it has none", name)
	}
	s := j.Spec.Service(c.Service)
	switch {
	case s.Schedule.Cron != c.Cron || s.Schedule.TimeZone != c.TimeZone:
		return fail(job.Conflict, "run %s by its schedule: it has changed", name)
	case j.Stopped || row.Paused || s.Schedule.Paused:
		return fail(job.Conflict, "run %s by its schedule: it is paused, or its job is stopped", name)
	case !c.Due.After(row.Base()):
		return fail(job.Conflict, "run %s by its schedule for %s: %s was decided on already", name, stamp(c.Due), stamp(row.Base()))
	}
	up := *row
	up.Last = c.Due
	skip := c.Skip
	active := t.activeRuns(c.Job, c.Service)
	switch overlap := s.Schedule.Overlap; {
	case skip != "":
	case len(active) > 0 && overlap == job.OverlapReplace:
		for _, r := range active {
			t.endRun(r, job.RunStopped, "replaced by the run scheduled for "+stamp(c.Due))
		}
	case len(active) > 0 && overlap != job.OverlapAllow:
		skip = fmt.Sprintf("run %d is still under way", active[0].Seq)
	case len(active) >= job.MaxOverlap:
		skip = fmt.Sprintf("%d runs are still under way", len(active))
	}
	if skip != "" {
		up.Skipped, up.SkippedAt, up.SkipReason = up.Skipped+1, c.Due, clip(skip)
		t.insert(TableSchedules, &up)
		t.event(job.Event{Kind: job.EventSchedule, Job: c.Job, Service: c.Service, Message: fmt.Sprintf("the run scheduled for %s is left out: %s", stamp(c.Due), skip)})
		return Result{}
	}
	r := t.beginRun(j, s, "scheduled for "+stamp(c.Due), c.Due)
	up.Seq = r.Seq
	t.insert(TableSchedules, &up)
	return Result{Value: r}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func (t *tx) pauseSchedule(c PauseSchedule) Result {
	what := "resume"
	if c.Paused {
		what = "pause"
	}
	row := t.base.Schedule(c.Job, c.Service)
	if row == nil {
		return fail(job.NotFound, "%s %s/%s: there is no such schedule: see shoal cron ls", what, c.Job, c.Service)
	}
	if row.Paused == c.Paused {
		return Result{Value: row, Unchanged: true}
	}
	up := *row
	up.Paused = c.Paused
	if !c.Paused {
		t.rebase(&up)
		row = first[job.ScheduleState](t.w, TableSchedules, "id", strKey(c.Job, c.Service))
	} else {
		t.insert(TableSchedules, &up)
		row = &up
	}
	t.event(job.Event{Kind: job.EventSchedule, Job: c.Job, Service: c.Service, Message: what + "d"})
	return Result{Value: row}
}
