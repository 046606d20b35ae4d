package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Category: categoryLook,
		Usage:       "list what happened in the cluster, oldest first",
		Description: "Examples:\n  shoal events --job web\n  shoal events -f",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what happens from now on, until Ctrl-C"},
			&cli.StringFlag{Name: "job", Usage: "only what is about this `JOB`"},
			&cli.StringFlag{Name: "task", Usage: "only what is about this `TASK`"},
			&cli.Uint64Flag{Name: "after", Usage: "only what has a raft index above `INDEX`"},
			jsonFlag(),
		),
		Action: asking(events),
	}
}

func events(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	q := api.EventQuery{Job: c.String("job"), After: c.Uint64("after"), Follow: c.Bool("follow")}
	if ref := c.String("task"); ref != "" {
		t, err := cl.Task(c.Context, ref)
		if err != nil {
			return err
		}
		q.Task = t.ID
	}
	names := &nodeNames{ask: func() (api.NodeList, error) { return cl.Nodes(c.Context) }}
	for {
		err := cl.Events(api.WhenStale(c.Context, s.staleHead), q, func(e job.Event) error {
			q.After = max(q.After, e.Index)
			if c.Bool("json") {
				return s.jsonLine(e)
			}
			s.printf("%s\n", eventLine(s, &e, names.of(e.Node)))
			return nil
		})
		switch {
		case q.Follow && c.Context.Err() != nil:
			return nil // Ctrl-C is how following ends
		case !q.Follow, err != nil && job.KindOf(err) != job.Unavailable:
			return err
		}
		// The stream broke: go on after the last event, unless the agent was never there or is gone for good.
		if err != nil && q.After == 0 {
			return err
		}
		if err := outlast(c.Context, s, func() error { _, err := cl.Status(c.Context); return err }); err != nil {
			return err
		}
		if err := pause(c.Context, retryPause); err != nil {
			return nil //nolint:nilerr // Ctrl-C
		}
	}
}

func eventLine(s *screen, e *job.Event, node string) string {
	subject := e.Job
	if e.Service != "" {
		subject += "/" + e.Service
	}
	if e.Task != "" {
		subject += " " + string(e.Task)
	}
	if node != "" {
		if subject != "" {
			subject += " on "
		}
		subject += node
	}
	line := fmt.Sprintf("%s  %6d  %s  %s", s.paint(dim, stamp(e.Time)), e.Index, s.paint(eventStyle(e), fmt.Sprintf("%-14s", e.Kind)), subject)
	switch message := oneLine(e.Message); {
	case e.Message == "" || e.Message == subject:
		return line
	case subject == "": // of the whole cluster
		return line + message
	default:
		return line + ": " + message
	}
}

func eventStyle(e *job.Event) style {
	switch {
	case e.Kind == job.EventNodeDown, e.Kind == job.EventNodeDead, e.Kind == job.EventTaskState && (e.Message == string(job.Failed) || e.Message == string(job.Lost)):
		return red
	case e.Kind == job.EventNodeSuspect, e.Kind == job.EventTaskBlocked:
		return yellow
	case e.Kind == job.EventNodeUp, e.Kind == job.EventNodeJoined, e.Kind == job.EventTaskState && e.Message == string(job.Running):
		return green
	}
	return plainStyle
}

// nodeNames finds the names of nodes by id, asking again, now and then, when it meets one that it does not know.
type nodeNames struct {
	ask   func() (api.NodeList, error)
	known map[job.NodeID]string
	asked time.Time
}

const nodeNamesEvery = 5 * time.Second

func (n *nodeNames) of(id job.NodeID) string {
	if id == "" {
		return ""
	}
	if n.known[id] == "" && time.Since(n.asked) > nodeNamesEvery {
		n.asked = time.Now()
		if list, err := n.ask(); err == nil { // else the id is shown
			n.known = map[job.NodeID]string{}
			for i := range list.Nodes {
				n.known[list.Nodes[i].ID] = list.Nodes[i].Name
			}
		}
	}
	if name := n.known[id]; name != "" {
		return name
	}
	return shortID(string(id))
}
