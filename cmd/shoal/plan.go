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
		Usage:       "show what `shoal run -f` would change, and change nothing",
		ArgsUsage:   "-f FILE",
		Description: "Example: shoal plan -f compose.yaml",
		Flags:       clientFlags(append(fileFlags(), jsonFlag())...),
		Action:      asking(plan),
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
	changes, known, err := changesBy(c.Context, s, cl, spec)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(changes)
	}
	switch {
	case !known:
		s.printf("job %s would be new:\n", spec.Name)
	case changes.Empty():
		s.printf("job %s: nothing to change\n", spec.Name)
	default:
		s.printf("job %s would change:\n", spec.Name)
	}
	printChanges(s, changes)
	return printWhere(c.Context, s, cl, spec)
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
