package main

import (
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/node/gameday"
)

// chaosHelper is the command of this binary that becomes one of gameday's processes.
func chaosHelper() []string {
	exe, err := os.Executable()
	if err != nil {
		exe = "/proc/self/exe"
	}
	return []string{exe, "chaos-helper"}
}

// tellFD is where a helper says to the agent how it stands.
const tellFD = 3

func chaosHelperCommand() *cli.Command {
	return &cli.Command{
		Name: "chaos-helper", Hidden: true, ArgsUsage: "hold|backup|load ARGUMENTS",
		Usage:       "hold a fault of a game day and undo it at its deadline; the agent starts it",
		Description: "Example: shoal chaos-helper backup /var/lib/shoal/chaos k3v9",
		Action: func(c *cli.Context) error {
			a := c.Args().Slice()
			switch {
			case len(a) == 3 && a[0] == "hold":
				return gameday.Hold(a[1], a[2], chaosHelper(), os.NewFile(tellFD, "agent"))
			case len(a) == 3 && a[0] == "backup":
				return gameday.Backup(a[1], a[2])
			case len(a) == 4 && a[0] == "load":
				size, err := strconv.ParseInt(a[3], 10, 64)
				if err != nil {
					return err
				}
				return gameday.Load(a[1], a[2], size)
			}
			return exitf(exitUsage, "chaos-helper is started by the agent; `shoal chaos` is for people")
		},
	}
}

// chaosConfig reads the agent's --chaos.
func chaosConfig(policy string) (node.ChaosConfig, error) {
	p := gameday.Policy(policy)
	if p != gameday.Allow && p != gameday.Mild && p != gameday.Never {
		return node.ChaosConfig{}, job.Errorf(job.Invalid, "--chaos %s: it takes %s, %s or %s", policy, gameday.Allow, gameday.Mild, gameday.Never)
	}
	return node.ChaosConfig{Policy: p, Helper: chaosHelper()}, nil
}
