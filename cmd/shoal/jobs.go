package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func jobsCommand() *cli.Command {
	return &cli.Command{
		Name: "jobs", Category: categoryLook,
		Usage: "list the jobs", Description: "Example: shoal jobs",
		Flags: clientFlags(jsonFlag()), Action: asking(jobs),
	}
}

func jobs(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	list, err := cl.Jobs(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	s.stale(list.Stale, list.Index)
	s.table(jobTable(&list, time.Now()))
	return nil
}

func jobTable(list *api.JobList, now time.Time) *table {
	t := newTable("JOB", "STATE", "READY", "SERVICES", "VERSION", "CHANGED")
	for _, j := range list.Jobs {
		state := cell{"healthy", green}
		switch {
		case j.Stopped:
			state = cell{"stopped", dim}
		case j.Ready < j.Want:
			state = cell{"not healthy", yellow}
		}
		if of, ok := batchState(&j); ok {
			state = of
		}
		t.add(j.Name, state, fmt.Sprintf("%d/%d", j.Ready, j.Want), j.Services, j.Version, ageOf(j.Updated, now)+" ago")
	}
	return t
}
