package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// pollWait is how long one question for news may hang; the answer comes at once when something changes.
const pollWait = 10 * time.Second

// waiter follows a job that was just submitted until it is healthy, or there is no hope.
type waiter struct {
	s         *screen
	cl        *api.Client
	submitted *api.SubmitResult
	timeout   time.Duration
	quiet     bool // say nothing on the screen's out when all is well: an answer for programs goes there

	shown progress
	since map[job.TaskID]time.Time // when a task was first seen to be held up
	last  api.TaskList
}

func (w *waiter) wait(ctx context.Context) error {
	w.shown, w.since = progress{s: w.s}, map[job.TaskID]time.Time{}
	begun := time.Now()
	bounded, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	o, err := w.follow(bounded)
	w.shown.end()
	name := w.submitted.Job.Name
	switch {
	case ctx.Err() != nil:
		return exitf(exitInterrupted, "stopped waiting; job %s stays submitted: `shoal ps %s` shows it, `shoal rm %s` takes it away", name, name, name)
	case bounded.Err() != nil && o.changing && len(o.troubles) == 0:
		return exitf(exitUnhealthy, "job %s: the update is still under way after %v, %d of %s ready; it goes on: `shoal ps %s` shows it, --timeout waits longer",
			name, w.timeout, o.ready, plural(o.want, "task"), name)
	case bounded.Err() != nil:
		return w.failed(ctx, &o, fmt.Sprintf("did not become healthy in %v", w.timeout))
	case err != nil:
		return err
	case o.turned != nil:
		return w.turnedBack(&o)
	case len(o.troubles) > 0 && !o.healthy():
		what := "does not become healthy"
		if onlyBatches(&w.submitted.Job.Spec) {
			what = "failed"
		}
		return w.failed(ctx, &o, what)
	}
	if len(o.canaries) > 0 {
		w.sayCanaries(&o)
		return nil
	}
	switch {
	case w.quiet:
	case onlyBatches(&w.submitted.Job.Spec):
		w.s.printf("job %s: complete, %d of %s done after %s\n", name, o.ready, plural(o.want, "completion"), millis(time.Since(begun)))
	default:
		w.s.printf("job %s: healthy, %d of %s ready after %s\n", name, o.ready, plural(o.want, "task"), millis(time.Since(begun)))
	}
	return nil
}

// follow asks for news until the job is healthy or hopeless, or ctx ends.
func (w *waiter) follow(ctx context.Context) (outlook, error) {
	var o outlook
	steady := steadiness{submitted: w.submitted.Index}
	q := api.TaskQuery{Job: w.submitted.Job.Name}
	if w.submitted.Index > 0 {
		q.After, q.Wait = w.submitted.Index-1, pollWait
	}
	for {
		var list api.TaskList
		err := outlast(ctx, w.s, func() (err error) {
			list, err = w.cl.Tasks(ctx, q)
			return err
		})
		if err != nil {
			return o, err
		}
		if list.Index < w.submitted.Index || list.Stale { // an answer from before the submit says nothing about it
			if err := pause(ctx, retryPause); err != nil {
				return o, err
			}
			continue
		}
		w.last = list
		w.forget(&list)
		o = judge(&w.submitted.Job.Spec, &list, w.heldUp)
		o.follow(&w.submitted.Job, &list)
		w.shown.show(&o)
		q.After, q.Wait = list.Index, pollWait
		switch {
		case o.healthy():
			left := steady.left(&list, time.Now())
			if left <= 0 {
				return o, nil
			}
			q.Wait = left
		case o.turned != nil, len(o.troubles) > 0:
			return o, nil
		default:
			steady.unwell()
		}
	}
}

func (w *waiter) heldUp(t *api.Task) time.Duration {
	if _, ok := w.since[t.ID]; !ok {
		w.since[t.ID] = time.Now()
	}
	return time.Since(w.since[t.ID])
}

// forget drops the tasks that nothing holds up any more.
func (w *waiter) forget(list *api.TaskList) {
	still := map[job.TaskID]bool{}
	for i := range list.Tasks {
		still[list.Tasks[i].ID] = held(&list.Tasks[i])
	}
	maps.DeleteFunc(w.since, func(id job.TaskID, _ time.Time) bool { return !still[id] })
}

const maxReasons = 10

// failed says why the waiting was in vain, and what to do now.
func (w *waiter) failed(ctx context.Context, o *outlook, what string) error {
	name := w.submitted.Job.Name
	var b strings.Builder
	fmt.Fprintf(&b, "job %s %s: %d of %s ready\n", name, what, o.ready, plural(o.want, "task"))
	why := reasons(o, &w.last)
	for i, r := range why {
		if i == maxReasons {
			fmt.Fprintf(&b, "  and %d more\n", len(why)-i)
			break
		}
		if r.task == nil {
			fmt.Fprintf(&b, "  %s\n", r.text)
		} else {
			fmt.Fprintf(&b, "  %s (task %s on node %s) %s\n", fullName(r.task), r.task.ID, r.task.NodeName, r.text)
		}
	}
	next := "shoal ps " + name
	if i := slices.IndexFunc(why, func(r trouble) bool { return r.task != nil }); i >= 0 {
		t := why[i].task
		next = "shoal why " + string(t.ID)
		w.lastWords(ctx, &b, t)
	}
	fmt.Fprintf(&b, "the job stays submitted; `%s` tells more, `shoal rm %s` takes it away", next, name)
	return exitf(exitCodeOf(o.troubles), "%s", b.String())
}

const (
	lastLines    = 10
	lastPatience = 3 * time.Second
)

// lastWords adds the end of a task's log, if it can be had.
func (w *waiter) lastWords(ctx context.Context, b *strings.Builder, t *api.Task) {
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	var lines []string
	_ = w.cl.Logs(ctx, string(t.ID), api.LogQuery{Tail: lastLines}, func(r api.LogRecord) error { // it is only more explanation
		if r.Error == "" {
			lines = append(lines, oneLine(string(textOf(&r))))
		}
		return nil
	})
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(b, "  the last lines of %s:\n", fullName(t))
	for _, l := range lines {
		fmt.Fprintf(b, "    | %s\n", l)
	}
}
