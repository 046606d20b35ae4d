package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func failoverCommand() *cli.Command {
	return &cli.Command{
		Name: "failover", Category: categoryRun,
		Usage: "place tasks of lost nodes anew that wait for an admin", ArgsUsage: "JOB[/SERVICE]",
		Description: "A service with x-failover: manual is not moved by itself when its node is lost. Make sure that the machine is off, " +
			"then say so with this. A fenced task needs no word: it is placed anew once its lease has ended; --force does not wait for that.\n\n" +
			"Example: shoal failover shop/db",
		Flags: clientFlags(jsonFlag(),
			&cli.BoolFlag{Name: "force", Usage: "also fenced tasks whose lease may still run: two may write at once unless the machine is off"}),
		Action: asking(failover),
	}
}

func failover(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	name, service, one := strings.Cut(c.Args().First(), "/")
	if name == "" || one && service == "" {
		return exitf(exitUsage, "failover %s: it takes JOB or JOB/SERVICE", c.Args().First())
	}
	res, err := cl.Failover(c.Context, name, api.FailoverRequest{Service: service, Force: c.Bool("force")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(res)
	}
	for _, h := range res.Released {
		s.printf("%s (task %s) is placed anew, it was on node %s\n", h.Name, h.Task, h.Node)
	}
	for _, h := range res.Kept {
		s.printf("%s (task %s) of node %s is kept: %s\n", h.Name, h.Task, h.Node, h.Reason)
	}
	if len(res.Released)+len(res.Kept) == 0 {
		s.printf("no task of %s is on a node that is lost and waits for an admin\n", c.Args().First())
	}
	return nil
}
