package node

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/node/reconciler"
)

// batchEnv is what a batch's container is told beside what all are: which completion of which run it works on.
func batchEnv(a reconciler.Assignment) []string {
	if a.Task.Run == 0 {
		return nil
	}
	env := []string{
		"SHOAL_RUN=" + strconv.FormatUint(a.Task.Run, 10), "SHOAL_ATTEMPT=" + strconv.Itoa(a.Task.Attempt),
	}
	if a.Task.Slot > 0 {
		env = append(env, "SHOAL_TASK_INDEX="+strconv.Itoa(a.Task.Slot-1-a.Task.First), "SHOAL_COMPLETIONS="+strconv.Itoa(a.Service.Replicas))
	}
	if !a.Task.Due.IsZero() {
		env = append(env, "SHOAL_SCHEDULED="+a.Task.Due.UTC().Format(time.RFC3339))
	}
	return env
}

// runsOf lists the kept runs of a job, of all when name is "", without what only the planner asks.
func runsOf(v *state.View, name string) []job.Run {
	var out []job.Run
	for _, r := range v.Runs(name, "") {
		out = append(out, r.Brief())
	}
	return out
}

// batchesOf counts the batches of a job and lists the newest run of each.
func batchesOf(v *state.View, j *job.Job) (n int, runs []job.Run) {
	for i := range j.Spec.Services {
		if s := &j.Spec.Services[i]; s.IsBatch() {
			n++
			if r := v.LastRun(j.Name, s.Name); r != nil {
				runs = append(runs, r.Brief())
			}
		}
	}
	return n, runs
}

// tallyBatch counts the completions that a batch's newest run is meant to have, and those it has. A batch that runs by a
// schedule is as it should be whatever its runs do.
func tallyBatch(v *state.View, j *job.Job, s *job.Service) (want, done int) {
	if s.Schedule != nil {
		return 0, 0
	}
	r := v.LastRun(j.Name, s.Name)
	switch {
	case r == nil:
		return max(s.Replicas, 1), 0
	case r.Slots > 0:
		return r.Slots, r.Completed
	case r.Status == job.RunComplete:
		return r.Completed, r.Completed
	}
	n := r.Completed
	for _, t := range v.TasksOfService(j.Name, s.Name) {
		if t.Run == r.Seq && t.Desired == job.DesiredRun && !r.HasDone(0, t.Node) {
			n++
		}
	}
	return max(n, r.Completed+1), r.Completed
}

// shownTask tells whether a list of what is meant to run shows a task: of a batch only those of the newest run, and of those
// under way.
func shownTask(v *state.View, t *job.Task) bool {
	if t.Run == 0 {
		return true
	}
	r := v.Run(t.Job, t.Service, t.Run)
	last := v.LastRun(t.Job, t.Service)
	return r.Active() || last != nil && last.Seq == t.Run
}

// StartRun begins a run of a batch at once.
func (n *Node) StartRun(ctx context.Context, key, name, service string) (api.RunResult, error) {
	res, err := n.propose(ctx, state.StartRun{Job: name, Service: service, Key: key, At: n.wall()})
	if err != nil {
		return api.RunResult{}, err
	}
	r, ok := res.Value.(*job.Run)
	if !ok {
		return api.RunResult{}, job.Errorf(job.NotFound, "run of %s/%s: it began, and is forgotten already", name, service)
	}
	return api.RunResult{Run: r.Brief(), Index: res.Index}, nil
}

// StopRun ends runs of a batch; seq 0: all that are under way.
func (n *Node) StopRun(ctx context.Context, name, service string, seq uint64) error {
	_, err := n.propose(ctx, state.StopRun{Job: name, Service: service, Seq: seq, At: n.wall()})
	return err
}

// PauseSchedule pauses a schedule, or lets it go on.
func (n *Node) PauseSchedule(ctx context.Context, name, service string, paused bool) error {
	_, err := n.propose(ctx, state.PauseSchedule{Job: name, Service: service, Paused: paused, At: n.wall()})
	return err
}

// Schedules lists all schedules with their next and last runs.
func (n *Node) Schedules(context.Context) (api.ScheduleList, error) {
	v := n.state.View()
	list := api.ScheduleList{Meta: api.Meta{Index: v.Index()}, Schedules: []api.ScheduleView{}}
	for _, row := range v.Schedules("") {
		j := v.Job(row.Job)
		if j == nil {
			continue
		}
		s := j.Spec.Service(row.Service)
		if s == nil || s.Schedule == nil {
			continue
		}
		view := api.ScheduleView{ScheduleState: *row, Schedule: *s.Schedule, Stopped: j.Stopped}
		view.Overlap = cmp.Or(s.Schedule.Overlap, job.OverlapForbid)
		view.TimeZone = cmp.Or(s.Schedule.TimeZone, "UTC")
		view.Paused = row.Paused || s.Schedule.Paused
		if table, err := s.Schedule.Parse(); err == nil && !view.Paused && !j.Stopped {
			view.Next = table.Next(row.Base())
		}
		for _, r := range v.Runs(row.Job, row.Service) {
			if r.Active() {
				view.Active++
			}
			brief := r.Brief()
			view.LastRun = &brief
		}
		list.Schedules = append(list.Schedules, view)
	}
	return list, nil
}

// runSteps are a run's part of a task's story.
func runSteps(v *state.View, t *job.Task) []api.Step {
	if t.Run == 0 {
		return nil
	}
	r := v.Run(t.Job, t.Service, t.Run)
	if r == nil {
		return nil
	}
	return []api.Step{{At: r.Created, What: "run began", Index: r.Index, Text: fmt.Sprintf("run %d of %s/%s: %s", r.Seq, r.Job, r.Service, r.Cause)}}
}

// withBatches adds the runs and the changes by autoscaling of what a query asks for; a node has none.
func withBatches(v *state.View, q api.TaskQuery, list *api.TaskList) {
	if q.Node != "" {
		return
	}
	for _, r := range runsOf(v, q.Job) {
		if q.Service == "" || q.Service == r.Service {
			list.Runs = append(list.Runs, r)
		}
	}
	for _, a := range v.Autoscales(q.Job) {
		if q.Service == "" || q.Service == a.Service {
			list.Autoscales = append(list.Autoscales, *a)
		}
	}
}
