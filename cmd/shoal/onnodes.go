package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func nodeFlag() cli.Flag {
	return &cli.StringFlag{Name: "node", Usage: "`NODE` to do it on, by name or id (default: the asked one)"}
}

func allNodesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "all-nodes", Usage: "on every node that is up"}
}

// noAnswer is a node that did not answer, for programs: in a list of nodes' answers it stands for one.
type noAnswer struct {
	Node  string `json:"node"`
	Error string `json:"error"`

	err error // nil: it is not up and was not asked, which is no failure
}

// noAnswers are the gaps in what was asked of all nodes.
type noAnswers []noAnswer

// err is nil if all nodes that were asked did answer.
func (n noAnswers) err() error {
	var errs []error
	for _, a := range n {
		if a.err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", a.Node, a.err))
		}
	}
	return errors.Join(errs...)
}

// json prints answers with the gaps after them, and gives err.
func (n noAnswers) json(s *screen, answers []any) error {
	for _, a := range n {
		answers = append(answers, a)
	}
	return errors.Join(s.json(answers), n.err())
}

func asAny[T any](list []T) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// onNodes calls f for the node that --node names, or for all that are up. What one of all cannot answer does not keep the
// others: it is among those without an answer, for the end, when the rest is printed.
func onNodes(c *cli.Context, s *screen, cl *api.Client, all bool, f func(name string, on *api.ImageClient) error) (noAnswers, error) {
	if c.Bool("all-nodes") && c.String("node") != "" {
		return nil, exitf(exitUsage, "--node and --all-nodes are different wishes; leave one of them out")
	}
	if !all {
		return nil, f(c.String("node"), cl.OnNode(c.String("node")))
	}
	list, err := cl.Nodes(c.Context)
	if err != nil {
		return nil, err
	}
	var silent noAnswers
	for i := range list.Nodes {
		n := &list.Nodes[i]
		if n.State != job.NodeReady {
			s.note("node %s is %s and was not asked", n.Name, n.State)
			silent = append(silent, noAnswer{Node: n.Name, Error: fmt.Sprintf("it is %s and was not asked", n.State)})
			continue
		}
		if err := f(n.Name, cl.OnNode(string(n.ID))); err != nil {
			silent = append(silent, noAnswer{Node: n.Name, Error: err.Error(), err: err})
		}
	}
	return silent, nil
}
