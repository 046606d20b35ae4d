package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func nodeCommand() *cli.Command {
	force := &cli.BoolFlag{Name: "force", Usage: "also a node that is not down"}
	return &cli.Command{
		Name: "node", Category: categoryCluster,
		Usage:       "look at the machines, empty them, label them",
		Description: "NODE is a name, an id or the beginning of one.\n\nExample: shoal node ls",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the nodes", Description: "Example: shoal node ls",
				Flags: clientFlags(jsonFlag()), Action: asking(listNodes),
			},
			{
				Name: "inspect", Usage: "tell all about a node", ArgsUsage: "NODE", Description: "Example: shoal node inspect b",
				Flags: clientFlags(jsonFlag()), Action: asking(inspectNode),
			},
			{
				Name: "drain", Usage: "move all tasks away from a node, and place none there", ArgsUsage: "NODE",
				Description: drainHelp, Flags: drainFlags(), Action: asking(drainNode),
			},
			{
				Name: "activate", Usage: "let a drained node take tasks again", ArgsUsage: "NODE", Description: "Example: shoal node activate b",
				Flags: clientFlags(), Action: asking(activateNode),
			},
			{
				Name: "label", Usage: "set labels, or remove one with KEY=", ArgsUsage: "NODE KEY=VALUE...",
				Description: "Constraints name them: node.labels.zone==a.\n\nExample: shoal node label b zone=a disk=",
				Flags:       clientFlags(), Action: asking(labelNode),
			},
			{
				Name: "overcommit", Usage: "give more of a node away than there is, or `off`", ArgsUsage: "NODE cpu=FACTOR memory=FACTOR",
				Description: "Example: shoal node overcommit b cpu=2 memory=1.2",
				Flags:       clientFlags(), Action: asking(overcommitNode),
			},
			{
				Name: "rm", Usage: "forget nodes that are gone", ArgsUsage: "NODE...", Description: "Example: shoal node rm b",
				Flags: clientFlags(force), Action: asking(removeNodes),
			},
		},
	}
}

func listNodes(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	list, err := cl.Nodes(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	s.stale(list.Stale, list.Index)
	s.table(nodeTable(&list, time.Now()))
	if list.Warning != "" {
		s.note("%s", list.Warning)
	}
	return nil
}

func nodeTable(list *api.NodeList, now time.Time) *table {
	t := newTable("NAME", "STATE", "ROLE", "TASKS", "CPUS", "MEMORY", "ADDRESS", "LABELS", "")
	for i := range list.Nodes {
		n := &list.Nodes[i]
		role := n.Role
		if n.Leader {
			role = "leader"
		}
		t.add(n.Name, nodeState(n, now), role, n.Tasks, used(n.Used.NanoCPUs, n.Capacity.NanoCPUs, job.FormatCPUs),
			used(n.Used.MemoryBytes, n.Capacity.MemoryBytes, job.FormatBytes), addrText(n.Addr), labelText(n.Labels), cmp.Or(n.Flapping, n.Reason))
	}
	return t
}

func nodeState(n *api.NodeView, now time.Time) cell {
	c := cell{string(n.State), green}
	if n.State != job.NodeReady {
		c.style = red
	}
	if n.State == job.NodeReady && n.Gossip != "" && n.Gossip != "alive" && n.Gossip != "unknown" {
		c.text, c.style = c.text+" ("+n.Gossip+")", yellow
	}
	if n.Flapping != "" && n.State == job.NodeReady {
		c.text, c.style = c.text+", flapping", yellow
	}
	if n.Drained {
		c.text, c.style = c.text+", drained", yellow
	}
	if a := ageOf(n.Since, now); a != "" {
		c.text += " " + a
	}
	return c
}

// used writes what is reserved of what there is.
func used(part, whole int64, format func(int64) string) string {
	if part == 0 {
		return "0 of " + format(whole)
	}
	return format(part) + " of " + format(whole)
}

func labelText(labels map[string]string) string {
	out := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

// findNode finds a node by name, id or the beginning of an id.
func findNode(ctx context.Context, cl *api.Client, ref string) (*api.NodeView, error) {
	list, err := cl.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var found *api.NodeView
	for i := range list.Nodes {
		n := &list.Nodes[i]
		if n.Name == ref || string(n.ID) == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(string(n.ID), ref) {
			if found != nil {
				return nil, job.Errorf(job.Conflict, "node %q: the ids of %s and %s begin so; give more of it", ref, found.Name, n.Name)
			}
			found = n
		}
	}
	if found == nil {
		return nil, job.Errorf(job.NotFound, "node %q: there is none; `shoal node ls` lists them", ref)
	}
	return found, nil
}

func inspectNode(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	n, err := findNode(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(n)
	}
	now := time.Now()
	t := newTable("FIELD", "VALUE")
	t.add("name", n.Name)
	t.add("id", string(n.ID))
	t.add("state", nodeState(n, now))
	t.add("reason", n.Reason)
	t.add("flapping", n.Flapping)
	t.add("gossip", n.Gossip)
	t.add("role", n.Role)
	t.add("leader", fmt.Sprint(n.Leader))
	t.add("address", addrText(n.Addr))
	t.add("subnet", n.Subnet.String())
	t.add("tasks", n.Tasks)
	t.add("cpus", used(n.Used.NanoCPUs, n.Capacity.NanoCPUs, job.FormatCPUs))
	t.add("memory", used(n.Used.MemoryBytes, n.Capacity.MemoryBytes, job.FormatBytes))
	t.add("labels", labelText(n.Labels))
	t.add("system", strings.Join([]string{n.OS, n.Arch, n.Kernel}, ", "))
	t.add("version", n.Version)
	t.add("rules", n.Rules)
	addCapacity(t, n)
	t.add("joined", stamp(n.Joined))
	s.table(t)
	return nil
}

func labelNode(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	labels, err := keyValues("node label", c.Args().Tail())
	if err != nil {
		return err
	}
	n, err := findNode(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	return cl.SetLabels(c.Context, string(n.ID), labels)
}

func removeNodes(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		n, err := findNode(c.Context, cl, ref)
		if err != nil {
			return err
		}
		if err := cl.RemoveNode(c.Context, string(n.ID), c.Bool("force")); err != nil {
			return err
		}
	}
	return nil
}
