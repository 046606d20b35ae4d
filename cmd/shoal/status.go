package main

import (
	"strconv"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Category: categoryCluster,
		Usage:       "tell how the asked node is, and its cluster",
		Description: "The exit code is 7 when the node does not serve: no leader is known, or it is not in the cluster yet.\n\nExample: shoal status",
		Flags:       clientFlags(jsonFlag()), Action: asking(status),
	}
}

func status(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	st, err := cl.Status(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := s.json(st); err != nil {
			return err
		}
	} else {
		names := &nodeNames{ask: func() (api.NodeList, error) { return cl.Nodes(c.Context) }}
		s.table(statusTable(&st, names.of(st.Leader)))
	}
	if !st.Ready {
		return exitf(exitUnavailable, "")
	}
	return nil
}

func statusTable(st *api.Status, leader string) *table {
	t := newTable("FIELD", "VALUE")
	ready := cell{"yes", green}
	if !st.Ready {
		ready = cell{"no", red}
		if st.Message != "" {
			ready.text += ": " + st.Message
		}
	}
	if leader == "" {
		leader = "none is known"
	}
	t.add("node", st.Name)
	t.add("id", string(st.Node))
	t.add("address", st.Addr)
	t.add("cluster", st.Cluster)
	t.add("leader", leader)
	t.add("holds the log", yesNo(st.LogHolder))
	t.add("index", strconv.FormatUint(st.Index, 10))
	t.add("version", st.Version)
	t.add("ready", ready)
	return t
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
