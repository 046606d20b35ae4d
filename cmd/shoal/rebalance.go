package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func rebalanceCommand() *cli.Command {
	return &cli.Command{
		Name: "rebalance", Category: categoryRun,
		Usage: "move tasks to emptier nodes, one of a service at a time",
		Description: "It happens by itself when a node joins or returns, unless `shoal cluster set rebalance=off`; x-rebalance in a Compose file " +
			"switches it for a service or a job. A successor is started and ready before the former task is stopped. What holds data or is " +
			"fenced is not moved.\n\nExample: shoal rebalance --dry-run",
		Flags:  clientFlags(jsonFlag(), &cli.BoolFlag{Name: "dry-run", Usage: "only show what would be moved"}),
		Action: asking(rebalance),
	}
}

func rebalance(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	res, err := cl.Rebalance(c.Context, c.Bool("dry-run"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(res)
	}
	if len(res.Moves) == 0 {
		s.note("nothing to move: no task would be better off on another node")
		return nil
	}
	t := newTable("TASK", "FROM", "TO")
	for _, m := range res.Moves {
		t.add(fmt.Sprintf("%s/%s.%d", m.Job, m.Service, m.Slot), m.From, m.To)
	}
	s.table(t)
	if res.More {
		s.note("and more")
	}
	if !c.Bool("dry-run") {
		s.note("moving; `shoal ps --watch` shows it")
	}
	return nil
}
