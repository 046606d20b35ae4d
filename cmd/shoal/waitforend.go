package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func waitCommand() *cli.Command {
	return &cli.Command{
		Name: "wait", Category: categoryLook,
		Usage:     "wait until tasks have ended, and print their exit codes",
		ArgsUsage: "TASK|JOB...",
		Description: "One line for each task, in their order; of a batch the last try of each completion, once its run has ended. A task whose\n" +
			"record went before its end was seen, such as with its job, is `removed`. The exit code of `wait` itself is 0 if all is told.\n\n" +
			"Example: shoal run -d --mode batch --name import alpine true && shoal wait import",
		Flags:  clientFlags(jsonFlag()),
		Action: asking(waitForEnd),
	}
}

// exitOf is how a task ended.
type exitOf struct {
	Task     job.TaskID `json:"task"`
	Name     string     `json:"name"`
	State    job.State  `json:"state"`
	ExitCode *int       `json:"exitCode,omitempty"`
}

// stateRemoved is that of a task that the cluster forgot before its end was seen: how it ended nobody knows.
const stateRemoved job.State = "removed"

func (e *exitOf) open() bool { return !e.State.Terminal() && e.State != stateRemoved }

func waitForEnd(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	targets := make([]target, c.NArg())
	for i, w := range c.Args().Slice() {
		targets[i] = parseTarget(w)
	}
	q := api.TaskQuery{All: true}
	var ends []exitOf
	for {
		var list api.TaskList
		err := outlast(c.Context, s, func() (err error) {
			list, err = cl.Tasks(c.Context, q)
			return err
		})
		if err != nil {
			return err
		}
		latest := !list.Stale && list.Index >= q.After
		if q.Wait > 0 && !latest { // such answers come at once
			if err := pause(c.Context, retryPause); err != nil {
				return err
			}
		}
		q.After, q.Wait = max(list.Index, q.After), pollWait
		if ends == nil && runsOpen(targets, &list) { // tasks are still to come
			continue
		}
		if ends == nil {
			tasks, err := pick(targets, list.Tasks)
			if err != nil {
				return err
			}
			for i := range tasks {
				ends = append(ends, exitOf{Task: tasks[i].ID, Name: fullName(&tasks[i])})
			}
		}
		learnEnds(ends, list.Tasks, latest)
		if !slices.ContainsFunc(ends, func(e exitOf) bool { return e.open() }) {
			return sayEnds(c, s, ends)
		}
	}
}

// learnEnds brings what is known of tasks up to date. What is known of an end stays, also when the record goes; only the latest
// list tells that one went.
func learnEnds(ends []exitOf, tasks []api.Task, latest bool) {
	now := make(map[job.TaskID]*api.Task, len(tasks))
	for i := range tasks {
		now[tasks[i].ID] = &tasks[i]
	}
	for i := range ends {
		e, t := &ends[i], now[ends[i].Task]
		switch {
		case t == nil && e.open() && latest:
			e.State = stateRemoved
		case t != nil && e.open():
			e.State = t.State()
			if t.Status != nil {
				e.ExitCode = t.Status.ExitCode
			}
		}
	}
}

func sayEnds(c *cli.Context, s *screen, ends []exitOf) error {
	var removed []string
	for i := range ends {
		if ends[i].State == stateRemoved {
			removed = append(removed, ends[i].Name)
			ends[i].ExitCode = nil // of a run before
		}
	}
	if c.Bool("json") {
		if err := s.json(ends); err != nil {
			return err
		}
	} else {
		for _, e := range ends {
			if e.ExitCode == nil {
				s.printf("%s\n", e.State) // it never ran, its node is lost, or its record is gone
				continue
			}
			s.printf("%d\n", *e.ExitCode)
		}
	}
	if len(removed) > 0 {
		return fmt.Errorf("%s: removed while it was waited for; how it ended is not known", strings.Join(removed, ", "))
	}
	return nil
}
