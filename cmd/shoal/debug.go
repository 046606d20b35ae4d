package main

import (
	"bytes"
	"encoding/json"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func debugCommand() *cli.Command {
	return &cli.Command{
		Name: "debug", Category: categoryOther,
		Usage: "print what all parts of the asked node say of themselves, as JSON", Description: "Example: shoal debug > debug.json",
		Flags: clientFlags(jsonFlag()), Action: asking(debug),
	}
}

func debug(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	raw, err := cl.Debug(c.Context)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	s.printf("%s\n", bytes.TrimSpace(b.Bytes()))
	return nil
}
