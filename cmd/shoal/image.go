package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime/image"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name: "image", Category: categoryRun,
		Usage:       "bring images to a node; the others take them from there",
		Description: "Example: docker save web:1 | shoal image load",
		Subcommands: append([]*cli.Command{
			{
				Name: "ls", Usage: "list the images of the asked node", Description: "Example: shoal image ls",
				Flags: clientFlags(nodeFlag(), jsonFlag()), Action: asking(listImages),
			},
			{
				Name: "load", Usage: "load an archive made by `docker save`, or an OCI layout as tar or directory", ArgsUsage: "[FILE]",
				Description: "Without FILE it reads standard input. Compressed archives are taken too.\n\n" +
					"Examples:\n  shoal image load web.tar\n  docker save web:1 | shoal image load",
				Flags: clientFlags(
					&cli.StringFlag{Name: "input", Aliases: []string{"i"}, Usage: "`FILE` to read, or - for standard input"},
					jsonFlag(),
				),
				Action: asking(loadImage),
			},
			{
				Name: "pull", Usage: "bring an image from another node or its registry", ArgsUsage: "IMAGE",
				Description: "Example: shoal image pull nginx:1.27",
				Flags: clientFlags(nodeFlag(),
					&cli.StringFlag{Name: "platform", Usage: "`OS/ARCH[/VARIANT]` to take of an image for several (default: the node's)"}, jsonFlag()),
				Action: asking(pullImage),
			},
			{
				Name: "rm", Usage: "remove images from the asked node", ArgsUsage: "IMAGE...", Description: "Example: shoal image rm web:1",
				Flags: clientFlags(nodeFlag()), Action: asking(removeImages),
			},
			demoImageCommand(),
		}, moreImageVerbs()...),
	}
}

func listImages(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	images, err := cl.OnNode(c.String("node")).List(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(images)
	}
	s.table(imageTable(images, time.Now()))
	return nil
}

func imageTable(images []api.Image, now time.Time) *table {
	t := newTable("NAME", "ID", "SIZE", "LAYERS", "AGE")
	for _, i := range images {
		names := slices.Clone(i.Names)
		if len(names) == 0 {
			names = []string{""}
		}
		for _, n := range names {
			created := ""
			if i.Created.Unix() > 0 { // reproducible builds carry the epoch
				created = ageOf(i.Created, now)
			}
			t.add(familiar(n), shortID(i.ID), job.FormatBytes(i.SizeBytes), i.Layers, created)
		}
	}
	return t
}

// familiar shortens a full image name to how people write it.
func familiar(name string) string {
	n, err := image.ParseName(name)
	if err != nil {
		return name
	}
	return n.Familiar()
}

func loadImage(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	path := c.String("input")
	if path == "" {
		path = c.Args().First()
	}
	in := c.App.Reader
	if path != "" && path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return job.Errorf(job.NotFound, "load image: %w", err)
		}
		defer f.Close()
		in = f
		if fi, err := f.Stat(); err == nil && fi.IsDir() {
			layout, err := layoutArchive(path)
			if err != nil {
				return err
			}
			defer layout.Close()
			in = layout
		}
	} else if is, _ := terminalOf(in); is {
		return exitf(exitUsage, "image load takes a FILE, or an archive on standard input; `shoal image load --help` shows an example")
	}
	return load(c, s, cl, in)
}

// load streams an archive to the agent. A bare reader keeps the client from closing what is not its own.
func load(c *cli.Context, s *screen, cl *api.Client, in io.Reader) error {
	images, err := cl.LoadImage(c.Context, struct{ io.Reader }{in})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(images)
	}
	for _, i := range images {
		name := "without a name"
		if len(i.Names) > 0 {
			var names []string
			for _, n := range i.Names {
				names = append(names, familiar(n))
			}
			name = strings.Join(names, ", ")
		}
		s.printf("loaded %s (%s, %s)%s\n", name, shortID(i.ID), job.FormatBytes(i.SizeBytes), copiesPhrase(i.Copies))
	}
	return nil
}

// copiesPhrase tells how many nodes would have to die for the image to be gone.
func copiesPhrase(copies int) string {
	switch {
	case copies <= 0: // an older node: it does not tell
		return ""
	case copies == 1:
		return " on this node alone"
	}
	return fmt.Sprintf(" on %d nodes", copies)
}

func pullImage(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	ref := c.Args().First()
	bars := &pullBars{s: s, ref: ref}
	i, err := cl.OnNode(c.String("node")).Pull(c.Context, ref, c.String("platform"), bars.draw)
	bars.clear()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(i)
	}
	s.printf("pulled %s (%s, %s)\n", ref, shortID(i.ID), job.FormatBytes(i.SizeBytes))
	return nil
}

func removeImages(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		if err := cl.OnNode(c.String("node")).Remove(c.Context, ref); err != nil {
			return err
		}
	}
	return nil
}
