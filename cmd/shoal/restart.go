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
		Usage: "replace all tasks of jobs or services, and wait until they are healthy", ArgsUsage: "JOB[/SERVICE]...",
		Description: "They are replaced as by an update: in the order and at the pace that the job's update_config says.\n\nExample: shoal restart web/front",
		Flags:       clientFlags(append(waitFlags(), jsonFlag())...),
		Action:      asking(restart),
	}
}

func start(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	return changeEach(c, s, cl, c.Args().Slice(), "started", func(key, name string) (api.SubmitResult, error) {
		return cl.StartJob(c.Context, key, name)
	})
}

func restart(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	services := map[string][]string{} // empty: all of the job
	var names []string
	for _, w := range c.Args().Slice() {
		name, service, one := strings.Cut(w, "/")
		if name == "" || one && service == "" {
			return exitf(exitUsage, "restart %s: it takes JOB or JOB/SERVICE", w)
		}
		if had, twice := services[name]; !twice {
			names = append(names, name)
		} else if len(had) == 0 || !one {
			return exitf(exitUsage, "restart %s: job %s is named twice", w, name)
		}
		services[name] = slices.Clone(services[name])
		if one {
			services[name] = append(services[name], service)
		}
	}
	return changeEach(c, s, cl, names, "restarting", func(key, name string) (api.SubmitResult, error) {
		return cl.RestartJob(c.Context, key, name, services[name])
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
