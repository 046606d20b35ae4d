package main

import (
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Category: categoryCluster,
		Usage:       "let machines join",
		Description: "Example: shoal token create",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a join token and print the command for the next machine",
				Description: "The secret is shown once; the cluster keeps only its hash.\n\nExample: shoal token create --once --ttl 10m",
				Flags: clientFlags(
					&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "valid for this `TIME`"},
					&cli.BoolFlag{Name: "once", Usage: "for one machine only"},
					jsonFlag(),
				),
				Action: asking(createToken),
			},
			{
				Name: "ls", Usage: "list join tokens, without their secrets", Description: "Example: shoal token ls",
				Flags: clientFlags(jsonFlag()), Action: asking(listTokens),
			},
			{
				Name: "rm", Usage: "revoke join tokens", ArgsUsage: "ID...", Description: "Example: shoal token rm k3v9",
				Flags: clientFlags(), Action: asking(removeTokens),
			},
		},
	}
}

func createToken(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	r := api.TokenRequest{TTL: c.Duration("ttl")}
	if r.TTL <= 0 {
		return exitf(exitUsage, "--ttl %v: it takes a time such as 1h", r.TTL)
	}
	if c.Bool("once") {
		r.MaxUses = 1
	}
	t, err := cl.CreateToken(c.Context, r)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(t)
	}
	if s.terminal {
		uses := "any number of machines"
		if t.MaxUses == 1 {
			uses = "one machine"
		}
		s.note("run this as root on the next machine; good for %s until %s", uses, t.Expires.Local().Format("2006-01-02 15:04:05"))
	}
	s.printf("%s\n", t.Join)
	return nil
}

func listTokens(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	tokens, err := cl.Tokens(api.WhenStale(c.Context, s.staleHead))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(tokens)
	}
	now := time.Now()
	t := newTable("ID", "AGE", "LEFT", "USED", "OF")
	for _, tok := range tokens {
		left, of := "expired", "any"
		if tok.Expires.After(now) {
			left = age(tok.Expires.Sub(now).Round(time.Second))
		}
		if tok.MaxUses > 0 {
			of = strconv.Itoa(tok.MaxUses)
		}
		t.add(tok.ID, ageOf(tok.Created, now), left, strconv.Itoa(tok.Uses), of)
	}
	s.table(t)
	return nil
}

func removeTokens(c *cli.Context, _ *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		if err := cl.RemoveToken(c.Context, id); err != nil {
			return err
		}
	}
	return nil
}
