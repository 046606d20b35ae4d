package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Category: categoryRun,
		Usage:     "show what `shoal run -f` would change, how, and what would be placed where; change nothing",
		ArgsUsage: "-f FILE",
		Description: "The leader rehearses the change with its own planner, as if every task became ready. With --json it tells the differences, and what would be where.\n\n" +
			"Example: shoal plan -f compose.yaml",
		Flags:  clientFlags(append(fileFlags(), envFileFlag(""), jsonFlag())...),
		Action: asking(plan),
	}
}

func plan(c *cli.Context, s *screen, cl *api.Client) error {
	if !c.IsSet("file") {
		return exitf(exitUsage, "plan takes a Compose file: shoal plan -f compose.yaml")
	}
	spec, err := specOfFiles(c, s)
	if err != nil {
		return err
	}
	return showPlan(c, s, cl, spec)
}

// planned is what plan --json tells.
type planned struct {
	job.Changes
	How       []string      `json:"how,omitempty"`
	Rehearsal job.Rehearsal `json:"rehearsal"`
}

// showPlan says what submitting a spec would change, how, and what would be where in the end.
func showPlan(c *cli.Context, s *screen, cl *api.Client, spec *job.Spec) error {
	cmp, err := compareWith(c.Context, s, cl, spec)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		r, err := cl.Rehearse(c.Context, *spec)
		if err != nil {
			return err
		}
		return s.json(planned{cmp.changes, cmp.how(), r})
	}
	switch {
	case !cmp.known():
		s.printf("job %s would be new:\n", spec.Name)
	case cmp.changes.Empty():
		s.printf("job %s: nothing to change\n", spec.Name)
		return nil
	default:
		s.printf("job %s would change:\n", spec.Name)
	}
	printChanges(s, cmp.changes)
	cmp.printHow(s)
	return printWhere(c.Context, s, cl, spec, &cmp)
}

// printChanges prints a line a change, coloured as diffs are.
func printChanges(s *screen, changes job.Changes) {
	for line := range strings.Lines(changes.String()) {
		line = strings.TrimRight(line, "\n")
		st := plainStyle
		switch strings.TrimSpace(line + " ")[0] {
		case '+':
			st = green
		case '-':
			st = red
		case '~':
			st = yellow
		}
		s.printf("  %s\n", s.paint(st, line))
	}
}
