// Command shoal is the hand of the admin: one binary that is the agent of a machine, the client of a cluster, and the
// first process of every container. It knows flags, words and exit codes; what they mean is the node's business.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"shoal/runtime/container"
	"shoal/runtime/container/oci"
)

// version is set by the build.
var version = "dev"

func main() {
	container.ReexecMain() // this process may be a container's first one; then nothing below is reached
	if args, ok := asOCIRuntime(os.Args); ok {
		os.Exit(oci.Main(args, version))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process even if something hangs
	os.Args = hideToken(os.Args)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process: the command line in, the exit code out.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp()
	out := &answer{to: stdout}
	app.Reader, app.Writer, app.ErrWriter = stdin, out, stderr
	if words, ok := completing(args); ok {
		for _, next := range completions(app, words) {
			fmt.Fprintln(out, next)
		}
		return 0
	}
	err := app.RunContext(ctx, arrange(app, args))
	if err == nil {
		err = out.failure()
	}
	return report(stderr, err)
}

func newApp() *cli.App {
	// The library has no other place for these.
	cli.SubcommandHelpTemplate, cli.CommandHelpTemplate, cli.FlagStringer = verbHelp, verbHelp, flagLine
	app := &cli.App{
		Name:                      "shoal",
		Usage:                     "turns Linux machines into one place to run containers",
		Version:                   version,
		HideHelpCommand:           true, // ours is a verb, and also explains exit codes
		DisableSliceFlagSeparator: true, // a comma belongs to the value: -e LIST=a,b
		Flags:                     []cli.Flag{hostFlag(), cli.HelpFlag},
		Commands:                  commands(),
		CustomAppHelpTemplate:     appHelp(),
		Action:                    noSuchVerb,
		OnUsageError:              wrongUsage,
		ExitErrHandler:            func(*cli.Context, error) {}, // run prints and chooses the code
	}
	prepare(app.Commands)
	return app
}

// prepare gives every verb what all have in common.
func prepare(verbs []*cli.Command) {
	for _, v := range verbs {
		v.HideHelpCommand = true // "help" is an argument like any other
		v.UseShortOptionHandling = true
		v.OnUsageError = wrongUsage
		if len(v.Subcommands) > 0 && v.Action == nil {
			v.Action = noSuchVerb
		}
		prepare(v.Subcommands)
	}
}
