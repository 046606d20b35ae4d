package main

import (
	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func diffCommand() *cli.Command {
	return &cli.Command{
		Name: "diff", Category: categoryLook,
		Usage: "show what differs between two versions of a job, or between a job and a file", ArgsUsage: "JOB [A] [B] | -f FILE [JOB]",
		Description: "Without versions it compares the present one with the one before; with A alone, A with the present one.\n" +
			"`shoal history` lists the versions that are kept. With -f it is the first half of `shoal plan`.\n\n" +
			"Examples:\n  shoal diff shop\n  shoal diff shop 3\n  shoal diff shop 3 5\n  shoal diff -f compose.yaml",
		Flags:  clientFlags(append(fileFlags(), envFileFlag(""), jsonFlag())...),
		Action: asking(diff),
	}
}

func diff(c *cli.Context, s *screen, cl *api.Client) error {
	if c.IsSet("file") {
		return diffFile(c, s, cl)
	}
	if err := wantArgs(c, 1, 3); err != nil {
		return err
	}
	if err := onlyWithFiles(c, "name", "env-file", "lenient", "profile", "project-directory"); err != nil {
		return err
	}
	versions, err := versionsOf(c, cl)
	if err != nil {
		return err
	}
	a, b, err := chooseTwo(versions, c.Args().Get(1), c.Args().Get(2))
	if err != nil {
		return err
	}
	changes := job.Diff(&a.Spec, &b.Spec)
	if c.Bool("json") {
		return s.json(changes)
	}
	if changes.Empty() {
		s.printf("job %s: version %d and version %d are the same\n", b.Name, a.Version, b.Version)
		return nil
	}
	s.printf("job %s: version %d -> version %d\n", b.Name, a.Version, b.Version)
	printChanges(s, changes)
	return nil
}

// chooseTwo finds the versions that two words name; "" is the present one for b, and for a the one before.
func chooseTwo(versions []job.Job, a, b string) (from, to *job.Job, err error) {
	to = &versions[len(versions)-1]
	if b != "" {
		if to, err = chooseVersion(versions, b); err != nil {
			return nil, nil, err
		}
	}
	from, err = chooseVersion(versions, a)
	return from, to, err
}

func diffFile(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantWords(c); err != nil {
		return err
	}
	if c.NArg() > 1 {
		return exitf(exitUsage, "diff -f compares a file with the present version: %q is one too much", c.Args().Get(1))
	}
	name := c.String("name")
	if c.NArg() == 1 {
		if name != "" && name != c.Args().First() {
			return exitf(exitUsage, "diff -f: the job is named twice, %s and %s", name, c.Args().First())
		}
		name = c.Args().First()
	}
	spec, err := loadFiles(c, s, name)
	if err != nil {
		return err
	}
	cmp, err := compareWith(c.Context, s, cl, spec)
	if err != nil {
		return err
	}
	changes := cmp.changes
	if c.Bool("json") {
		return s.json(changes)
	}
	switch {
	case !cmp.known():
		s.printf("job %s would be new:\n", spec.Name)
	case changes.Empty():
		s.printf("job %s: nothing differs\n", spec.Name)
	default:
		s.printf("job %s -> the file:\n", spec.Name)
	}
	printChanges(s, changes)
	return nil
}
