package main

import (
	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Category: categoryRun,
		Usage: "stop all tasks of jobs and forget the jobs", ArgsUsage: "JOB...",
		Description: "It waits until the tasks ended. Named volumes stay on their nodes.\n\nExample: shoal rm web",
		Flags:       clientFlags(waitFlags()...),
		Action:      asking(remove),
	}
}

func remove(c *cli.Context, s *screen, cl *api.Client) error {
	asked := map[string]bool{}
	return endJobs(c, s, cl, "removed", func(name string) error {
		err := cl.RemoveJob(c.Context, name)
		if asked[name] && job.KindOf(err) == job.NotFound {
			return nil // the answer to the first try was lost, what it asked for was not
		}
		asked[name] = true
		return err
	})
}
