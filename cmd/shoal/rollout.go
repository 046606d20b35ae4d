package main

import (
	"fmt"
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/node/api"
)

// follow takes in how the services of a job that was just submitted come along: what the leader watches over is no trouble
// of ours yet, and what it has given up is.
func (o *outlook) follow(asked *job.Job, list *api.TaskList) {
	watched := map[string]bool{}
	for i := range list.Rollouts {
		r := &list.Rollouts[i]
		back := r.RollbackOf != 0 && r.RollbackOf <= asked.Version && r.Version > asked.Version
		if r.Job != asked.Name || r.Version > asked.Version && !back {
			continue
		}
		switch {
		case r.Status == job.RolloutCanary:
			o.canaries = append(o.canaries, *r)
		case r.Status == job.RolloutRunning:
			o.changing = true
			if s := asked.Spec.Service(r.Service); s != nil && s.UpdatePolicy(r.RollbackOf != 0).Failure != job.FailContinue {
				watched[r.Service] = true
			}
		case (r.Status == job.RolloutPaused || back) && o.turned == nil:
			o.turned = r
		}
	}
	if o.changing {
		o.canaries = nil // the others first
		o.turned = nil   // wait for what will run in the end
	}
	o.troubles = slices.DeleteFunc(o.troubles, func(t trouble) bool { return t.task != nil && watched[t.task.Service] })
}

// turnedBack says that what was submitted did not come to run, why, and what runs now.
func (w *waiter) turnedBack(o *outlook) error {
	r, name := o.turned, w.submitted.Job.Name
	var b strings.Builder
	switch {
	case r.Version <= w.submitted.Job.Version: // it is the change that was asked for itself
		fmt.Fprintf(&b, "job %s: the update of %s to version %d is paused\n  %s\n", name, r.Service, r.Version, oneLine(r.Reason))
		fmt.Fprintf(&b, "what was not replaced yet runs on; `shoal rollback %s` goes back, submitting it again goes on", name)
	case r.Status == job.RolloutPaused:
		fmt.Fprintf(&b, "job %s: version %d failed, and so does the rollback of %s to version %d\n  %s\n", name, r.RollbackOf, r.Service, r.RollbackTo, oneLine(r.Reason))
		fmt.Fprintf(&b, "`shoal ps %s` shows what runs now, `shoal history %s` all versions", name, name)
	default:
		fmt.Fprintf(&b, "job %s: version %d failed, and %s was rolled back\n  %s\n", name, r.RollbackOf, r.Service, oneLine(r.Reason))
		fmt.Fprintf(&b, "%s runs version %d again, as version %d: %d of %s of the job ready; `shoal history %s` lists all versions",
			r.Service, r.RollbackTo, r.Version, o.ready, plural(o.want, "task"), name)
	}
	return exitf(exitUnhealthy, "%s", b.String())
}
