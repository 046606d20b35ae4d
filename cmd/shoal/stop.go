package main

import (
	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name: "stop", Category: categoryRun,
		Usage: "stop all tasks of jobs and keep the jobs", ArgsUsage: "JOB...",
		Description: "It waits until they ended. `shoal start` starts them again.\n\nExample: shoal stop web",
		Flags:       clientFlags(waitFlags()...),
		Action:      asking(stop),
	}
}

func stop(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	if err := jobsExist(c, cl, c.Args().Slice()); err != nil {
		return err
	}
	return endJobs(c, s, cl, "stopped", func(name string) error { return cl.StopJob(c.Context, name) })
}

// jobsExist looks for all jobs that are named before anything is done to one: another may be a typing error.
func jobsExist(c *cli.Context, cl *api.Client, names []string) error {
	for _, name := range names {
		if _, err := cl.Job(c.Context, name, false); err != nil {
			return err
		}
	}
	return nil
}

// endJobs asks for the end of each job and then waits for all of them.
func endJobs(c *cli.Context, s *screen, cl *api.Client, past string, end func(name string) error) error {
	names := c.Args().Slice()
	for _, name := range names {
		if err := persist(c.Context, s, cl, func() error { return end(name) }); err != nil {
			return err
		}
	}
	for _, name := range names {
		if !c.Bool("detach") {
			w := ending{s: s, cl: cl, query: api.TaskQuery{Job: name}, timeout: c.Duration("timeout"), what: "job " + name + " is " + past + ", but"}
			if err := w.wait(c.Context); err != nil {
				return err
			}
		}
		s.printf("job %s: %s\n", name, past)
	}
	return nil
}
