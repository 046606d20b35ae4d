package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

const drainHelp = "It waits until no task is left there. One task of a service is moved at a time: the successor is started first and must be " +
	"healthy before the former one is stopped, except for services with a named volume, fenced ones, and those whose update order is stop-first. " +
	"With --deadline what is left then is stopped all at once; --force does not wait at all.\n\n" +
	"Example: shoal node drain --deadline 10m b"

func drainFlags() []cli.Flag {
	return clientFlags(append(waitFlags(),
		&cli.DurationFlag{Name: "deadline", Usage: "stop what could not be moved within this `TIME` (default: wait for ever)"},
		&cli.BoolFlag{Name: "force", Usage: "stop all tasks there at once, whether others can take over or not"},
		&cli.BoolFlag{Name: "self", Usage: "the node that is asked; then NODE is not given"},
	)...)
}

func drainNode(c *cli.Context, s *screen, cl *api.Client) error {
	n, err := nodeToDrain(c, cl)
	if err != nil {
		return err
	}
	within, err := drainWithin(c)
	if err != nil {
		return err
	}
	if err := cl.Drain(c.Context, string(n.ID), within); err != nil {
		return err
	}
	if c.Bool("detach") {
		return nil
	}
	w := ending{s: s, cl: cl, query: api.TaskQuery{Node: n.ID}, timeout: c.Duration("timeout"), what: "node " + n.Name + " is drained, but"}
	if within != nil {
		w.timeout = max(w.timeout, *within+time.Minute)
	}
	if err := w.wait(c.Context); err != nil {
		return err
	}
	s.note("node %s is drained and empty; `shoal node activate %s` lets it take tasks again", n.Name, n.Name)
	return nil
}

func nodeToDrain(c *cli.Context, cl *api.Client) (*api.NodeView, error) {
	if !c.Bool("self") {
		if err := wantArgs(c, 1, 1); err != nil {
			return nil, err
		}
		return findNode(c.Context, cl, c.Args().First())
	}
	if err := wantArgs(c, 0, 0); err != nil {
		return nil, err
	}
	st, err := cl.Status(c.Context)
	if err != nil {
		return nil, err
	}
	return findNode(c.Context, cl, string(st.Node))
}

// drainWithin gives how long tasks may take to move, nil for no bound.
func drainWithin(c *cli.Context) (*time.Duration, error) {
	d := c.Duration("deadline")
	switch {
	case c.Bool("force") && c.IsSet("deadline"):
		return nil, exitf(exitUsage, "node drain: --force means at once; remove --deadline")
	case d < 0:
		return nil, exitf(exitUsage, "node drain --deadline %v: it takes a time such as 10m", d)
	case !c.Bool("force") && !c.IsSet("deadline"):
		return nil, nil
	}
	return &d, nil
}

func activateNode(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	n, err := findNode(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	return cl.Activate(c.Context, string(n.ID))
}
