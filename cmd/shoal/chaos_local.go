package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/gameday"
)

// stopLocal undoes what is under way on this machine, without an agent.
func stopLocal(c *cli.Context, s *screen) error {
	if os.Geteuid() != 0 {
		return job.Errorf(job.Denied, "undoing faults takes root: run it with sudo")
	}
	dir := c.String("data-dir")
	if _, err := os.Stat(dir); err != nil {
		return job.Errorf(job.NotFound, "the agent's data directory: %w; name it with --data-dir", err)
	}
	o, err := gameday.StopOn(dir)
	if err != nil {
		return fmt.Errorf("stop the game on this machine: %w", err)
	}
	if o == nil {
		s.note("nothing was broken on purpose on this machine")
		return nil
	}
	s.note("undone: %s", o.Fault)
	return nil
}
