package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", Category: categoryLook,
		Usage:     "run a command in a task's container, on whatever node it is",
		ArgsUsage: "TASK COMMAND...",
		Description: "Flags after TASK belong to the command. The exit code is the command's, 128 and the signal's number if one killed it,\n126 if it cannot be executed and 127 if it is not there; other failures are shoal's own codes. On a terminal ctrl-p ctrl-q leaves\nit running.\n\n" +
			"Examples:\n  shoal exec web/front.1 cat /etc/hosts\n  shoal exec -it web/front.1 sh",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` more in its environment; may be given more than once"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "`DIR` to run in"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]` to run as"},
			&cli.BoolFlag{Name: "privileged", Usage: "give it all capabilities"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return once it runs; its output goes nowhere"},
			detachKeysFlag(),
		),
		Action: asking(execTask),
	}
}

func execTask(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	env, err := environment(c)
	if err != nil {
		return err
	}
	e := &api.ClientExec{}
	e.Stdout, e.Stderr = s.out, s.err
	e.Args, e.Env, e.WorkingDir, e.User, e.TTY = c.Args().Tail(), env, c.String("workdir"), c.String("user"), c.Bool("tty")
	e.Privileged, e.ExecRequest.Detach = c.Bool("privileged"), c.Bool("detach")
	if c.Bool("interactive") && !c.Bool("detach") {
		e.Stdin = c.App.Reader
	}
	at, err := sit(c.Context, &e.ClientStreams, c.App.Reader, e.TTY, c.String("detach-keys"))
	if err != nil {
		return err
	}
	defer at.restore()
	e.Env, e.Size = append(at.env, e.Env...), at.size
	code, err := cl.Exec(c.Context, c.Args().First(), e)
	if job.KindOf(err) == job.NotFound && code < 0 { // the name of a job with one task means that
		if t, lookErr := oneTask(c.Context, cl, c.Args().First()); lookErr == nil && string(t.ID) != c.Args().First() {
			code, err = cl.Exec(c.Context, string(t.ID), e)
		}
	}
	at.restore() // before anything is said
	return sessionEnd(c, code, err)
}

// environment is what -e and --env-file say, the latter first; a name alone takes its value from here.
func environment(c *cli.Context) ([]string, error) {
	env := c.StringSlice("env")
	_, err := keyValues("-e", env)
	return env, err
}

// sessionEnd makes the end of an exec or attach one of this program.
func sessionEnd(c *cli.Context, code int, err error) error {
	switch {
	case errors.Is(err, api.ErrDetached):
		return nil
	case c.Context.Err() != nil && err != nil: // without an error it ended by itself, mostly by the signal that was sent on
		return exitf(exitInterrupted, "")
	case err != nil && (code == exitNotExecutable || code == exitNoCommand):
		return exitf(code, "%v", err) // as a shell and docker say it
	case err != nil:
		return err
	case code != 0:
		return exitf(code, "")
	}
	return nil
}
