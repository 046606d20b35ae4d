package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// ending waits until the tasks of a query have ended.
type ending struct {
	s       *screen
	cl      *api.Client
	query   api.TaskQuery
	timeout time.Duration
	what    string // that was asked for, as the beginning of a sentence that goes on with what is left
}

func (e *ending) wait(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	q, before := e.query, -1
	for {
		var list api.TaskList
		err := outlast(bounded, e.s, func() (err error) {
			list, err = e.cl.Tasks(bounded, q)
			return err
		})
		left := alive(list.Tasks)
		switch {
		case ctx.Err() != nil:
			return exitf(exitInterrupted, "stopped waiting; what was asked for goes on")
		case bounded.Err() != nil:
			return exitf(exitFailed, "%s %s left after %v; `shoal ps` shows them", e.what, plural(max(before, 0), "task"), e.timeout)
		case job.KindOf(err) == job.NotFound: // the job is gone with its last task
			return nil
		case err != nil:
			return err
		case len(left) == 0:
			e.mentionUnreachable(list.Tasks)
			return nil
		}
		if len(left) != before {
			before = len(left)
			e.s.note("waiting for %s to end: %s", plural(before, "task"), someNames(left))
		}
		q.After, q.Wait = list.Index, pollWait
	}
}

// alive leaves out tasks that ended, and those of nodes that are gone: their end will be known when the nodes return.
func alive(tasks []api.Task) []api.Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(t api.Task) bool {
		return t.State().Terminal() || unreachable(&t)
	})
}

func unreachable(t *api.Task) bool { return t.NodeState != "" && t.NodeState != job.NodeReady }

func (e *ending) mentionUnreachable(tasks []api.Task) {
	n := 0
	for i := range tasks {
		if t := &tasks[i]; unreachable(t) && !t.State().Terminal() {
			n++
		}
	}
	if n > 0 {
		e.s.note("%s on nodes that are out of reach: the nodes stop them when they return", plural(n, "task"))
	}
}

func someNames(tasks []api.Task) string {
	const most = 5
	var names []string
	for i := range tasks[:min(len(tasks), most)] {
		names = append(names, fullName(&tasks[i]))
	}
	if len(tasks) > most {
		names = append(names, fmt.Sprintf("and %d more", len(tasks)-most))
	}
	return strings.Join(names, ", ")
}
