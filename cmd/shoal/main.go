// Command shoal is the hand of the admin: one binary that is the agent of a machine, the client of a cluster, and the
// first process of every container. It knows flags, words and exit codes; what they mean is the node's business.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/runtime/container"
)

// version is set by the build.
var version = "dev"

func main() {
	container.ReexecMain() // this process may be a container's first one; then nothing below is reached
	os.Exit(run(os.Args))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newApp().RunContext(ctx, args)
	if err == nil {
		return 0
	}
	var exit *exitError
	if errors.As(err, &exit) {
		if exit.message != "" {
			fmt.Fprintln(os.Stderr, "shoal: "+exit.message)
		}
		return exit.code
	}
	fmt.Fprintln(os.Stderr, "shoal: "+err.Error())
	return exitCode(err)
}

func newApp() *cli.App {
	return &cli.App{
		Name:            "shoal",
		Usage:           "turns Linux machines into one place to run containers",
		Version:         version,
		HideHelpCommand: true,
		Flags:           []cli.Flag{hostFlag},
		Commands:        commands(),
		ExitErrHandler:  func(*cli.Context, error) {}, // run prints and chooses the code
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return &exitError{code: exitUsage, message: err.Error()}
		},
	}
}

// Exit codes, documented in docs/ and stable.
const (
	exitFailed      = 1 // the thing was tried and did not work
	exitUsage       = 2 // the command line is wrong
	exitNotFound    = 3 // the thing named does not exist
	exitConflict    = 4 // it exists, or changed meanwhile
	exitInvalid     = 5 // the request can never be right
	exitDenied      = 6 // you may not
	exitUnavailable = 7 // no agent, no leader or no quorum: trying again can help
	exitUnhealthy   = 8 // submitted, but it did not become healthy
)

var kindCodes = map[job.Kind]int{
	job.NotFound: exitNotFound, job.Conflict: exitConflict, job.Invalid: exitInvalid, job.Denied: exitDenied, job.Unavailable: exitUnavailable, job.Internal: exitFailed,
}

func exitCode(err error) int {
	if c, ok := kindCodes[job.KindOf(err)]; ok {
		return c
	}
	return exitFailed
}

// exitError ends the program with a code of its own; an empty message says nothing.
type exitError struct {
	code    int
	message string
}

func (e *exitError) Error() string { return e.message }
