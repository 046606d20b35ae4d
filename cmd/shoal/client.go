package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

// defaultSocket is where the agent of this machine listens for people.
const defaultSocket = "/run/shoal/shoal.sock"

var hostFlag = &cli.StringFlag{
	Name: "host", Aliases: []string{"H"}, EnvVars: []string{"SHOAL_HOST"}, Value: defaultSocket,
	Usage: "agent to ask: path of its `SOCKET`",
}

// dial makes a client of the agent that --host names.
func dial(c *cli.Context) (*api.Client, error) {
	host := c.String("host")
	if strings.HasPrefix(host, "https://") {
		return nil, job.Errorf(job.Invalid, "--host %s: this version reaches an agent through its unix socket only; run shoal on a node, or forward the socket with ssh -L", host)
	}
	return api.DialUnix(strings.TrimPrefix(host, "unix://")), nil
}
