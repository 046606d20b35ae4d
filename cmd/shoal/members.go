package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func membersCommand() *cli.Command {
	return &cli.Command{
		Name: "members", Category: categoryCluster,
		Usage:       "show who is here in the eyes of the asked node",
		Description: "That is gossip, which needs no leader; `shoal node ls` shows what was decided.\n\nExample: shoal members",
		Flags:       clientFlags(jsonFlag()), Action: asking(members),
	}
}

func members(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	list, err := cl.Members(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	s.table(memberTable(&list, time.Now()))
	return nil
}

var memberStyles = map[string]style{"alive": green, "suspect": yellow, "dead": red}

func memberTable(list *api.MemberList, now time.Time) *table {
	t := newTable("NAME", "STATE", "SINCE", "ADDRESS", "ID", "")
	for _, m := range list.Members {
		note := ""
		if m.ID == list.Node {
			note = "the asked node"
		}
		t.add(m.Name, cell{m.State, memberStyles[m.State]}, ageOf(m.Since, now), addrText(m.Addr), string(m.ID), note)
	}
	return t
}
