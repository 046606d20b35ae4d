package main

import (
	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "read images whole and find what a disk has damaged", ArgsUsage: "[IMAGE...]",
		Description: "Compares every stored byte with its digest and every unpacked layer with what it was when it was written.\n" +
			"With --repair what is damaged is fetched again from another node or the registry; an unpacked layer is made again when a\n" +
			"container next starts from it, and containers that run from it should be restarted.\n\n" +
			"Examples:\n  shoal image verify --all-nodes\n  shoal image verify --repair web:1",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "repair", Usage: "have again what is damaged"},
			nodeFlag(), allNodesFlag(), jsonFlag(),
		),
		Action: asking(verifyImages),
	}
}

// nodeVerified is one node's answer, for programs.
type nodeVerified struct {
	Node string `json:"node"`
	api.VerifyResult
}

// verifyImages fails when something is damaged and was not repaired.
func verifyImages(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, -1); err != nil {
		return err
	}
	r := api.VerifyRequest{Images: c.Args().Slice(), Repair: c.Bool("repair")}
	results := []nodeVerified{}
	silent, err := onNodes(c, s, cl, c.Bool("all-nodes"), func(name string, on *api.ImageClient) error {
		got, err := on.Verify(c.Context, r)
		if err == nil {
			results = append(results, nodeVerified{name, got})
		}
		return err
	})
	if err != nil {
		return err
	}
	left := 0
	for _, v := range results {
		for _, d := range v.Damaged {
			if !d.Repaired {
				left++
			}
		}
	}
	if c.Bool("json") {
		err = silent.json(s, asAny(results))
	} else {
		printVerified(s, results)
		err = silent.err()
	}
	if left == 0 {
		return err
	}
	if err != nil {
		s.note("%v", err)
	}
	next := "shoal image verify --repair has them again"
	if r.Repair {
		next = "load or push the images again, or remove them"
	}
	return exitf(exitFailed, "%d parts of images are damaged: %s", left, next)
}

func printVerified(s *screen, results []nodeVerified) {
	for _, v := range results {
		where := ""
		if v.Node != "" {
			where = v.Node + ": "
		}
		for _, d := range v.Damaged {
			name, state := familiar(d.Image), "damaged"
			if d.Image == "" {
				name = d.Manifest
			}
			if d.Repaired {
				state = "repaired"
			}
			s.printf("%s%s: %s: %s %s: %s\n", where, name, state, d.Part, d.Digest, d.Reason)
		}
		s.printf("%s%s read: %d images, %d blobs, %d unpacked layers; %d damaged\n", where, job.FormatBytes(v.Bytes), v.Images, v.Blobs, v.Layers, len(v.Damaged))
	}
}
