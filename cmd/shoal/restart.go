package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func startCommand() *cli.Command {
	return &cli.Command{
		Name: "start", Category: categoryRun,
		Usage: "start stopped jobs again, and wait until they are healthy", ArgsUsage: "JOB...",
		Description: "Example: shoal start web",
		Flags:       clientFlags(append(waitFlags(), jsonFlag())...),
		Action:      asking(start),
	}
}

func restartCommand() *cli.Command {
	return &cli.Command{
		Name: "restart", Category: categoryRun,
		Usage: "replace all tasks of jobs or services, or single tasks, and wait until they are healthy", ArgsUsage: "JOB[/SERVICE|/TASK]...",
		Description: "They are replaced as by an update: in the order and at the pace that the job's update_config says.\n\n" +
			"Examples:\n  shoal restart shop\n  shoal restart shop/web\n  shoal restart shop/web.2",
		Flags:  clientFlags(append(waitFlags(), jsonFlag())...),
		Action: asking(restart),
	}
}

func start(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	if err := jobsExist(c, cl, c.Args().Slice()); err != nil {
		return err
	}
	return changeEach(c, s, cl, c.Args().Slice(), "started", func(key, name string) (api.SubmitResult, error) {
		return cl.StartJob(c.Context, key, name)
	})
}

// parseRestarts tells what of each job is to be restarted; all of it when nothing is named.
func parseRestarts(words []string) (names []string, asked map[string]api.RestartRequest, err error) {
	asked = map[string]api.RestartRequest{}
	for _, w := range words {
		name, thing, one := strings.Cut(w, "/")
		if name == "" || one && thing == "" {
			return nil, nil, exitf(exitUsage, "restart %s: it takes JOB, JOB/SERVICE or JOB/TASK", w)
		}
		r, twice := asked[name]
		switch {
		case !twice:
			names = append(names, name)
		case !one, len(r.Services)+len(r.Tasks) == 0:
			return nil, nil, exitf(exitUsage, "restart %s: job %s is named twice", w, name)
		}
		switch {
		case !one:
		case strings.Contains(thing, "."):
			r.Tasks = append(slices.Clone(r.Tasks), thing)
		default:
			r.Services = append(slices.Clone(r.Services), thing)
		}
		if len(r.Tasks) > 0 && len(r.Services) > 0 {
			return nil, nil, exitf(exitUsage, "restart %s: name services or tasks of job %s, not both at once", w, name)
		}
		asked[name] = r
	}
	return names, asked, nil
}

func restart(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	names, asked, err := parseRestarts(c.Args().Slice())
	if err != nil {
		return err
	}
	if err := jobsExist(c, cl, names); err != nil {
		return err
	}
	return changeEach(c, s, cl, names, "restarting", func(key, name string) (api.SubmitResult, error) {
		return cl.RestartJob(c.Context, key, name, asked[name])
	})
}

// changeEach asks for a change of each job and then waits for all of them.
func changeEach(c *cli.Context, s *screen, cl *api.Client, names []string, what string, change func(key, name string) (api.SubmitResult, error)) error {
	var results []*api.SubmitResult
	for _, name := range names {
		key := api.NewKey()
		var r api.SubmitResult
		err := persist(c.Context, s, cl, func() (err error) {
			r, err = change(key, name)
			return err
		})
		if err != nil {
			return err
		}
		switch {
		case c.Bool("json"):
		case r.Unchanged:
			s.printf("job %s: nothing to change\n", name)
		default:
			s.printf("job %s: %s, version %d\n", name, what, r.Job.Version)
		}
		results = append(results, &r)
	}
	for _, r := range results {
		if err := settle(c, s, cl, r); err != nil {
			return err
		}
	}
	return nil
}
