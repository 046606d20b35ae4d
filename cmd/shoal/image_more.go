package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

// moreImageVerbs are the verbs beyond bringing and listing.
func moreImageVerbs() []*cli.Command {
	return []*cli.Command{
		{
			Name: "inspect", Usage: "tell all that a node knows of an image", ArgsUsage: "IMAGE...", Description: "Prints JSON.\n\nExample: shoal image inspect web:1",
			Flags: clientFlags(nodeFlag()), Action: asking(inspectImages),
		},
		{
			Name: "history", Usage: "tell how an image was built", ArgsUsage: "IMAGE", Description: "Example: shoal image history web:1",
			Flags: clientFlags(nodeFlag(), &cli.BoolFlag{Name: "no-trunc", Usage: "do not shorten commands"}, jsonFlag()), Action: asking(imageHistory),
		},
		{
			Name: "save", Usage: "write images as an archive that `image load`, docker and podman take", ArgsUsage: "IMAGE...",
			Description: "Writes to standard output unless that is a terminal.\n\nExamples:\n  shoal image save -o web.tar web:1\n  shoal image save web:1 | docker load",
			Flags:       clientFlags(nodeFlag(), &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write"}), Action: asking(saveImages),
		},
		{
			Name: "tag", Usage: "give an image another name, in the whole cluster", ArgsUsage: "IMAGE NAME", Description: "Example: shoal image tag web:1 web:stable",
			Flags: clientFlags(nodeFlag()), Action: asking(tagImage),
		},
		verifyCommand(),
		{
			Name: "prune", Usage: "delete images that nobody needs",
			Description: "Without --all only what has no name: layers of pulls that broke, images whose name moved on. Images that a container,\n" +
				"a version of a job, or a name needs that somebody loaded or pushed always stay.\n\nExamples:\n  shoal image prune\n  shoal image prune --all --unused 72h --all-nodes",
			Flags: clientFlags(pruneFlags()...), Action: asking(pruneImages),
		},
	}
}

func pruneFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "delete images with a name, too, that can be pulled again and no container of the node uses"},
		&cli.DurationFlag{Name: "unused", Usage: "with --all: only what was not used for this `TIME` (at least ten minutes)"},
		&cli.BoolFlag{Name: "unpacked", Usage: "delete unpacked layers that no container uses, too; they are unpacked again when needed"},
		&cli.BoolFlag{Name: "dry-run", Usage: "only tell what would go"},
		nodeFlag(), allNodesFlag(), jsonFlag(),
	}
}

func systemCommand() *cli.Command {
	return &cli.Command{
		Name: "system", Category: categoryCluster, Usage: "what shoal takes of the nodes' disks", Description: "Example: shoal system df",
		Subcommands: []*cli.Command{
			{
				Name: "df", Usage: "tell what images, containers and volumes take, for every node", Description: "Example: shoal system df",
				Flags: clientFlags(&cli.StringFlag{Name: "node", Usage: "only of this `NODE`, by name or id (default: all that are up)"}, jsonFlag()), Action: asking(diskUsage),
			},
			{
				Name: "prune", Usage: "delete what nobody needs: images, layers of broken pulls, unpacked layers",
				Description: "Containers that ended are removed by themselves; volumes hold data and are never touched.\n\nExample: shoal system prune --all-nodes",
				Flags:       clientFlags(pruneFlags()...), Action: asking(pruneImages),
			},
		},
	}
}

func inspectImages(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	all := []api.ImageDetail{}
	for _, ref := range c.Args().Slice() {
		d, err := cl.OnNode(c.String("node")).Inspect(c.Context, ref)
		if err != nil {
			return err
		}
		all = append(all, d)
	}
	return s.json(all)
}

func imageHistory(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	d, err := cl.OnNode(c.String("node")).Inspect(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(d.History)
	}
	t := newTable("CREATED", "CREATED BY", "SIZE", "COMMENT")
	for i := len(d.History) - 1; i >= 0; i-- { // the newest first, as with docker
		h := d.History[i]
		age := ""
		if h.Created.Unix() > 0 {
			age = ageOf(h.Created, time.Now())
		}
		t.add(age, stepText(h.CreatedBy, c.Bool("no-trunc")), job.FormatBytes(h.SizeBytes), stepText(h.Comment, c.Bool("no-trunc")))
	}
	s.table(t)
	return nil
}

const historyWidth = 60

func stepText(text string, whole bool) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); !whole && len(r) > historyWidth {
		return string(r[:historyWidth-1]) + "…"
	}
	return text
}

func saveImages(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	on := cl.OnNode(c.String("node"))
	path := c.String("output")
	if path == "" {
		if is, _ := terminalOf(c.App.Writer); is {
			return exitf(exitUsage, "image save writes an archive: give -o FILE, or send its output somewhere")
		}
		return on.Save(c.Context, c.App.Writer, c.Args().Slice()...)
	}
	// Beside its final name, so that a broken archive never has it.
	f, err := os.Create(path + ".part")
	if err != nil {
		return job.Errorf(job.Invalid, "save images: %w", err)
	}
	err = errors.Join(on.Save(c.Context, f, c.Args().Slice()...), f.Close())
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		_ = os.Remove(path + ".part")
	}
	return err
}

func tagImage(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, 2); err != nil {
		return err
	}
	return cl.OnNode(c.String("node")).Tag(c.Context, c.Args().Get(0), c.Args().Get(1))
}

// nodePrune is one node's answer, for programs.
type nodePrune struct {
	Node string `json:"node"`
	api.PruneResult
}

func pruneImages(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	r := api.PruneRequest{All: c.Bool("all"), Unused: c.Duration("unused"), Unpacked: c.Bool("unpacked"), DryRun: c.Bool("dry-run")}
	results := []nodePrune{}
	silent, err := onNodes(c, s, cl, c.Bool("all-nodes"), func(name string, on *api.ImageClient) error {
		got, err := on.Prune(c.Context, r)
		if err == nil {
			results = append(results, nodePrune{name, got})
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return silent.json(s, asAny(results))
	}
	verb := "freed"
	if r.DryRun {
		verb = "would free"
	}
	for _, p := range results {
		where := ""
		if p.Node != "" {
			where = p.Node + ": "
		}
		for _, i := range p.Images {
			s.printf("%s%s\n", where, familiar(i))
		}
		s.printf("%s%s %s: %d images, %d blobs, %d unpacked layers\n", where, verb, job.FormatBytes(p.Bytes), len(p.Images), p.Blobs, p.Layers)
	}
	return silent.err()
}

func diskUsage(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	all := []api.DiskUsage{}
	silent, err := onNodes(c, s, cl, c.String("node") == "", func(_ string, on *api.ImageClient) error {
		u, err := on.DiskUsage(c.Context)
		if err == nil {
			all = append(all, u)
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return silent.json(s, asAny(all))
	}
	t := newTable("NODE", "KIND", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE", "DISK FREE")
	for _, u := range all {
		for i, p := range u.Parts {
			free := ""
			if i == 0 && u.Size > 0 {
				free = fmt.Sprintf("%s of %s", job.FormatBytes(u.Free), job.FormatBytes(u.Size))
			}
			t.add(u.Node, p.Kind, p.Total, p.Active, job.FormatBytes(p.Size), job.FormatBytes(p.Reclaimable), free)
		}
	}
	s.table(t)
	return silent.err()
}

// pullBars draws a bar a layer on a terminal, over what it drew before.
type pullBars struct {
	s     *screen
	ref   string
	lines int
}

const (
	barWidth = 30
	maxBars  = 20 // further layers are told as a number
)

func (b *pullBars) draw(p api.PullProgress) {
	if !b.s.live {
		return
	}
	b.clear()
	var out strings.Builder
	of := ""
	if p.Total > 0 {
		of = " of " + job.FormatBytes(p.Total)
	}
	fmt.Fprintf(&out, "%s: %s%s\n", b.ref, job.FormatBytes(p.Done), of)
	b.lines = 1
	for i, l := range p.Layers {
		if i == maxBars {
			fmt.Fprintf(&out, "  … %d more layers\n", len(p.Layers)-maxBars)
			b.lines++
			break
		}
		full := barWidth
		if l.Total > 0 {
			full = int(min(l.Done, l.Total) * barWidth / l.Total)
		}
		state := job.FormatBytes(l.Done) + " of " + job.FormatBytes(l.Total)
		switch {
		case l.Here:
			state = "here already"
		case l.Done == l.Total:
			state = job.FormatBytes(l.Total) + " done"
		}
		fmt.Fprintf(&out, "  %s [%s%s] %s\n", shortID(l.Digest), strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), state)
		b.lines++
	}
	b.s.errf("%s", out.String())
}

// clear takes away what was drawn.
func (b *pullBars) clear() {
	if b.lines > 0 {
		b.s.errf("\x1b[%dA\x1b[J", b.lines)
		b.lines = 0
	}
}
