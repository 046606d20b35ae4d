package main

import (
	"context"
	"io"
	"os"
	"os/signal"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"shoal/node/api"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", Category: categoryLook,
		Usage:     "run a command in a task's container, on whatever node it is",
		ArgsUsage: "TASK COMMAND...",
		Description: "Flags after TASK belong to the command. The exit code is the command's; if it cannot be started, it is one of shoal's own.\n\n" +
			"Examples:\n  shoal exec web/front.1 cat /etc/hosts\n  shoal exec -it web/front.1 sh",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass standard input on"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` more in its environment; may be given more than once"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "`DIR` to run in"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]` to run as"},
		),
		Action: asking(execTask),
	}
}

func execTask(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, -1); err != nil {
		return err
	}
	env := c.StringSlice("env")
	if _, err := keyValues("-e", env); err != nil {
		return err
	}
	e := &api.ClientExec{Stdout: s.out, Stderr: s.err}
	e.Args, e.Env, e.WorkingDir, e.User, e.TTY = c.Args().Tail(), env, c.String("workdir"), c.String("user"), c.Bool("tty")
	if c.Bool("interactive") {
		e.Stdin = c.App.Reader
	}
	if e.TTY {
		restore, err := terminalFor(c.Context, e, c.App.Reader)
		if err != nil {
			return err
		}
		defer restore()
	}
	code, err := cl.Exec(c.Context, c.Args().First(), e)
	switch {
	case c.Context.Err() != nil:
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

// terminalFor makes the person's terminal one for the command: raw, with its size passed on. restore undoes that.
func terminalFor(ctx context.Context, e *api.ClientExec, stdin io.Reader) (restore func(), err error) {
	f, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	fd := int(f.Fd())
	if t := os.Getenv("TERM"); t != "" {
		e.Env = append([]string{"TERM=" + t}, e.Env...)
	}
	e.Size = sizeOf(fd)
	restore = func() {}
	if e.Stdin != nil {
		before, err := term.MakeRaw(fd)
		if err != nil {
			return nil, err
		}
		restore = func() { _ = term.Restore(fd, before) } // nothing is left to do if it fails
	}
	e.Resize = watchSize(ctx, fd)
	return restore, nil
}

func sizeOf(fd int) *api.Size {
	w, h, err := term.GetSize(fd)
	if err != nil {
		return nil
	}
	return &api.Size{Rows: uint16(h), Cols: uint16(w)} //nolint:gosec // the kernel keeps both in 16 bits
}

// watchSize sends the terminal's size after each change. Its goroutine lives as long as the process, which ends with the
// command.
func watchSize(ctx context.Context, fd int) <-chan api.Size {
	changed, sizes := make(chan os.Signal, 1), make(chan api.Size)
	signal.Notify(changed, unix.SIGWINCH)
	go func() {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			size := sizeOf(fd)
			if size == nil {
				continue
			}
			select {
			case sizes <- *size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
