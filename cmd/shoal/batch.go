package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

// exitTimedOut is what timeout(1) says of a program whose time was up; from `run` and `wait` for a batch's deadline.
const exitTimedOut = 124

// batch judges a batch by its newest run.
func (o *outlook) batch(jobName string, svc *job.Service, list *api.TaskList) prospect {
	p := prospect{name: svc.Name, states: map[string]int{}, batch: true}
	if svc.Schedule != nil {
		p.scheduled = true
		return p
	}
	r := list.LastRun(jobName, svc.Name)
	if r == nil || r.Digest != svc.Digest() {
		p.want = max(svc.Replicas, 1)
		return p
	}
	p.want, p.ready = r.Slots, r.Completed
	for i := range list.Tasks {
		t := &list.Tasks[i]
		if t.Job != jobName || t.Service != svc.Name || t.Run != r.Seq || t.State().Terminal() {
			continue
		}
		p.states[string(t.State())]++
		if r.Slots == 0 {
			p.want++
		}
		if t.Status != nil && t.Status.Message != "" && !t.Ready {
			p.remark = t.Name + ": " + oneLine(t.Status.Message)
		}
	}
	if r.Slots == 0 {
		p.want += r.Completed
	}
	if r.Failed > 0 {
		p.states["failed before"] = r.Failed
	}
	for _, b := range list.Blocked {
		if b.Job == jobName && b.Service == svc.Name {
			p.remark = b.Reason
		}
	}
	if r.Status == job.RunFailed || r.Status == job.RunStopped {
		tr := trouble{run: r, text: fmt.Sprintf("run %d of %s is %s: %s", r.Seq, svc.Name, r.Status, oneLine(r.Reason))}
		for i := range list.Tasks {
			if t := &list.Tasks[i]; t.ID == r.Task {
				tr.task, tr.text = t, "ended run "+fmt.Sprint(r.Seq)+": "+oneLine(r.Reason)
			}
		}
		p.remark = oneLine(r.Reason)
		o.troubles = append(o.troubles, tr)
	}
	return p
}

// exitCodeOf is the exit code for what a batch's failure left: its program's own, 124 when its time was up, else the one
// for a job that is not healthy. Of several batches the first by name counts.
func exitCodeOf(troubles []trouble) int {
	for _, t := range troubles {
		switch {
		case t.run == nil:
		case t.run.TimedOut:
			return exitTimedOut
		case t.run.ExitCode != nil && *t.run.ExitCode > 0 && *t.run.ExitCode < 256:
			return *t.run.ExitCode
		}
	}
	return exitUnhealthy
}

// onlyBatches tells whether a job is made of batches that run once, so that it ends.
func onlyBatches(spec *job.Spec) bool {
	for i := range spec.Services {
		if s := &spec.Services[i]; !s.IsBatch() || s.Schedule != nil {
			return false
		}
	}
	return true
}

// hasBatch tells whether a job has a batch that runs once, whose time nobody can tell.
func hasBatch(spec *job.Spec) bool {
	for i := range spec.Services {
		if s := &spec.Services[i]; s.IsBatch() && s.Schedule == nil {
			return true
		}
	}
	return false
}

// batchState is the state of a job that is made of batches alone, as `jobs` shows it.
func batchState(j *api.JobSummary) (cell, bool) {
	if j.Batches == 0 || j.Batches < j.Services || j.Stopped {
		return cell{}, false
	}
	var words []string
	out := cell{"scheduled", dim}
	for i := range j.Runs {
		r := &j.Runs[i]
		switch r.Status {
		case job.RunFailed, job.RunStopped:
			words = append(words, string(r.Status))
			out = cell{"", red}
		case job.RunRunning:
			words = append(words, "running")
			if out.style != red {
				out = cell{"", yellow}
			}
		case job.RunComplete:
			words = append(words, "complete")
			if out.style == dim {
				out = cell{"", green}
			}
		}
	}
	for _, w := range []string{"failed", "stopped", "running", "complete"} {
		for _, have := range words {
			if w == have {
				out.text = w
				return out, true
			}
		}
	}
	return out, true
}

// runTable lists runs, the newest of each service last.
func runTable(runs []job.Run, now time.Time) *table {
	t := newTable("JOB", "RUN", "STATE", "DONE", "FAILED", "LOST", "BEGAN", "TOOK", "CAUSE", "REASON")
	for i := range runs {
		r := &runs[i]
		done := fmt.Sprintf("%d/%d", r.Completed, r.Slots)
		if r.Slots == 0 {
			done = fmt.Sprintf("%d nodes", r.Completed)
		}
		began, took := "-", "-"
		if !r.Began.IsZero() {
			began = ageOf(r.Began, now) + " ago"
			end := r.Ended
			if end.IsZero() {
				end = now
			}
			took = millis(max(end.Sub(r.Began), 0))
		}
		t.add(r.Job+"/"+r.Service, r.Seq, runCell(r), done, r.Failed, r.Lost, began, took, r.Cause, oneLine(r.Reason))
	}
	return t
}

func runCell(r *job.Run) cell {
	switch r.Status {
	case job.RunComplete:
		return cell{string(r.Status), green}
	case job.RunRunning:
		return cell{string(r.Status), yellow}
	}
	text := string(r.Status)
	switch {
	case r.TimedOut:
		text += " (deadline)"
	case r.ExitCode != nil:
		text += fmt.Sprintf(" (exit code %d)", *r.ExitCode)
	}
	return cell{text, red}
}

// batchLine is the prospect's line of a batch.
func (p *prospect) batchLine() string {
	if p.scheduled {
		return "runs by its schedule"
	}
	parts := []string{fmt.Sprintf("%d/%d complete", p.ready, p.want)}
	for _, st := range []string{string(job.Placed), string(job.Pulling), string(job.Created), string(job.Running), string(job.Stopping), "failed before"} {
		if n := p.states[st]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, st))
		}
	}
	line := strings.Join(parts, ", ")
	if p.remark != "" {
		line += ": " + p.remark
	}
	return line
}

// batchOfFlags is what the command line says of how a batch goes.
func batchOfFlags(c *cli.Context) job.Batch {
	b := job.Batch{Parallelism: c.Int("parallelism"), Deadline: c.Duration("deadline")}
	if c.IsSet("retries") {
		n := c.Int("retries")
		b.Retries = &n
	}
	return b
}

// rerun begins the batches of a job anew that a submit left as they were, and notes in r what that made of the job.
func rerun(c *cli.Context, s *screen, cl *api.Client, r *api.SubmitResult) error {
	var services []string
	for i := range r.Job.Spec.Services {
		if svc := &r.Job.Spec.Services[i]; svc.IsBatch() && svc.Schedule == nil {
			services = append(services, svc.Name)
		}
	}
	if len(services) == 0 {
		return exitf(exitInvalid, "--rerun: job %s has no batch that runs without a schedule; `shoal cron run` runs one by hand", r.Job.Name)
	}
	key := api.NewKey()
	err := persist(c.Context, s, cl, func() (err error) {
		*r, err = cl.RestartJob(c.Context, key, r.Job.Name, api.RestartRequest{Services: services})
		return err
	})
	if err == nil && !c.Bool("json") {
		s.printf("job %s: runs %s anew, version %d\n", r.Job.Name, strings.Join(services, ", "), r.Job.Version)
	}
	return err
}

// runsOpen tells whether a batch that is meant as a whole has a run under way.
func runsOpen(targets []target, list *api.TaskList) bool {
	for i := range list.Runs {
		r := &list.Runs[i]
		for _, t := range targets {
			name := t.job
			if name == "" {
				name = t.text
			}
			if r.Active() && !t.explicit && name == r.Job && (t.service == "" || t.service == r.Service) {
				return true
			}
		}
	}
	return false
}

// runRows adds, for each batch, its newest run as a whole, and for each service that scales by itself its last change.
func runRows(t *table, list *api.TaskList, now time.Time) {
	for i := range list.Runs {
		r := &list.Runs[i]
		if last := list.LastRun(r.Job, r.Service); last != r {
			continue
		}
		said := fmt.Sprintf("%d of %d complete", r.Completed, r.Slots)
		if r.Slots == 0 {
			said = fmt.Sprintf("complete on %s", plural(r.Completed, "node"))
		}
		if r.Failed > 0 {
			said += fmt.Sprintf(", %d failed", r.Failed)
		}
		if r.Lost > 0 {
			said += fmt.Sprintf(", %d lost", r.Lost)
		}
		if r.Reason != "" {
			said += ": " + oneLine(r.Reason)
		}
		state, since := runCell(r), r.Created
		if !r.Active() {
			since = r.Ended
		}
		state.text += " " + ageOf(since, now)
		t.add("", fmt.Sprintf("%s/%s run %d", r.Job, r.Service, r.Seq), "", state, "", "", "", said)
	}
	for _, a := range list.Autoscales {
		t.add("", a.Job+"/"+a.Service, "", cell{fmt.Sprintf("scaled to %d %s ago", a.To, ageOf(a.At, now)), dim}, "", "", "", a.Cause)
	}
}
