package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func clusterCommand() *cli.Command {
	var names []string
	for _, s := range job.Settings() {
		names = append(names, fmt.Sprintf("  %s=%s (default %s): %s", s.Name, strings.Join(s.Values, "|"), s.Default, s.Help))
	}
	return &cli.Command{
		Name: "cluster", Category: categoryCluster,
		Usage:       "look at what holds for the whole cluster, and change it",
		Description: "Example: shoal cluster set strategy=binpack",
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "list the settings", Description: "Example: shoal cluster show",
				Flags: clientFlags(jsonFlag()), Action: asking(showCluster),
			},
			{
				Name: "set", Usage: "change settings; NAME= puts one back to its default", ArgsUsage: "NAME=VALUE...",
				Description: strings.Join(names, "\n") + "\n\nExample: shoal cluster set strategy=binpack preemption=off",
				Flags:       clientFlags(), Action: asking(setCluster),
			},
		},
	}
}

func showCluster(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	v, err := cl.Settings(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(v)
	}
	s.stale(v.Stale, v.Index)
	t := newTable("SETTING", "VALUE", "DEFAULT", "")
	for _, set := range job.Settings() {
		t.add(set.Name, v.Settings[set.Name], set.Default, set.Help)
	}
	s.table(t)
	return nil
}

func setCluster(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	set, err := keyValues("cluster set", c.Args().Slice())
	if err != nil {
		return err
	}
	for k, v := range set {
		if err := job.CheckSetting(k, v); err != nil {
			return err
		}
	}
	return cl.SetSettings(c.Context, set)
}

func overcommitNode(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	var o *job.Overcommit
	if words := c.Args().Tail(); len(words) != 1 || words[0] != "off" {
		var err error
		if o, err = parseOvercommit("node overcommit", words); err != nil {
			return err
		}
	}
	n, err := findNode(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	if was := n.Overcommit; o != nil && was != nil { // what is not named stays
		o.CPUPercent, o.MemoryPercent = cmp.Or(o.CPUPercent, was.CPUPercent), cmp.Or(o.MemoryPercent, was.MemoryPercent)
	}
	return cl.SetOvercommit(c.Context, string(n.ID), o)
}

// addCapacity adds to a node's table what placements count beside CPU and memory.
func addCapacity(t *table, n *api.NodeView) {
	if o := n.Overcommit; o != nil {
		t.add("overcommit", fmt.Sprintf("cpu=%g, memory=%g", factor(o.CPUPercent), factor(o.MemoryPercent)))
	}
	for _, g := range n.Generic {
		t.add("resource", g.String())
	}
	for _, k := range slices.Sorted(maps.Keys(n.Attributes)) {
		t.add("attr "+k, n.Attributes[k])
	}
}

func factor(percent int) float64 {
	if percent == 0 {
		return 1
	}
	return float64(percent) / 100
}
