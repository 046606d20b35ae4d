package main

import (
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Category: categoryLook,
		Usage: "list the kept versions of a job and what each changed", ArgsUsage: "JOB", Description: "Example: shoal history web",
		Flags: clientFlags(jsonFlag()), Action: asking(history),
	}
}

func rollbackCommand() *cli.Command {
	return &cli.Command{
		Name: "rollback", Category: categoryRun,
		Usage: "make a job be as an earlier version of it", ArgsUsage: "JOB [VERSION]",
		Description: "Without VERSION it is the one before the present. It is submitted as a new version.\n\nExample: shoal rollback web 3",
		Flags:       clientFlags(append(waitFlags(), jsonFlag())...), Action: asking(rollback),
	}
}

// versionsOf lists a job's kept versions, oldest first, the present one last.
func versionsOf(c *cli.Context, cl *api.Client) ([]job.Job, error) {
	d, err := cl.Job(c.Context, c.Args().First(), true)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(d.Versions, func(j job.Job) bool { return j.Version == d.Job.Version }) {
		d.Versions = append(d.Versions, d.Job)
	}
	return d.Versions, nil
}

func history(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	versions, err := versionsOf(c, cl)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(versions)
	}
	now := time.Now()
	for i := range versions {
		v := &versions[i]
		s.printf("%s  %s ago, index %d\n", s.paint(bold, "version "+strconv.FormatUint(v.Version, 10)), ageOf(v.Updated, now), v.Index)
		if v.Cause != "" {
			s.printf("  %s\n", s.paint(yellow, oneLine(v.Cause)))
		}
		if i > 0 {
			printChanges(s, job.Diff(&versions[i-1].Spec, &v.Spec))
		} else if v.Version == 1 {
			printChanges(s, job.Diff(nil, &v.Spec))
		}
	}
	return nil
}

func rollback(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 2); err != nil {
		return err
	}
	versions, err := versionsOf(c, cl)
	if err != nil {
		return err
	}
	v, err := chooseVersion(versions, c.Args().Get(1))
	if err != nil {
		return err
	}
	return submit(c, s, cl, &v.Spec, v.Version)
}

// chooseVersion finds a version by its number, or the one before the last.
func chooseVersion(versions []job.Job, number string) (*job.Job, error) {
	name := versions[len(versions)-1].Name
	if number == "" {
		if len(versions) < 2 {
			return nil, job.Errorf(job.NotFound, "job %s has no earlier version", name)
		}
		return &versions[len(versions)-2], nil
	}
	for i := range versions {
		if strconv.FormatUint(versions[i].Version, 10) == number {
			return &versions[i], nil
		}
	}
	return nil, job.Errorf(job.NotFound, "job %s: version %s is not kept; `shoal history %s` lists those that are", name, number, name)
}
