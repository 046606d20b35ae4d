// Command demo shows shoal on three machines made of namespaces: a cluster, a web service, a power cut of the leader's
// machine and the way back. It knows the story and how to tell it; all that it shows was done by the shipped binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

type options struct {
	binary, compose string
	keep, down      bool
	off, on, enter  string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/shoal", "the shoal `BINARY` to show")
	flag.StringVar(&o.compose, "compose", "examples/web.compose.yaml", "the Compose `FILE` to run")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster up and say how to use it")
	flag.BoolVar(&o.down, "down", false, "remove the clusters that -keep left")
	flag.StringVar(&o.off, "off", "", "cut the power of a `MACHINE` of the kept cluster")
	flag.StringVar(&o.on, "on", "", "switch a `MACHINE` of the kept cluster on again, and its agent")
	flag.StringVar(&o.enter, "enter", "", "open a shell in a `MACHINE` of the kept cluster")
	flag.Parse()
	os.Exit(run(&o))
}

// run ends with an exit code: 0, 1 for a failure, 130 when it was interrupted.
func run(o *options) int {
	s := newStage()
	if os.Geteuid() != 0 {
		s.problem("the demo makes network namespaces, mounts and cgroups, which takes root: run `sudo make demo`, or make it in a root shell")
		return 1
	}
	// Whatever ends us, the machines are taken down first. A reader that goes away (make demo | head) is seen as an
	// error of writing, see stage.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	ctx, s.hangUp = context.WithCancelCause(ctx)
	defer s.hangUp(nil)

	err := do(ctx, s, o)
	switch {
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errReaderGone):
		return 130
	case err != nil:
		if ctx.Err() == nil {
			s.problem(err.Error())
		}
		return 1
	}
	return 0
}

func do(ctx context.Context, s *stage, o *options) error {
	switch {
	case o.down:
		return takeDown(s)
	case o.off != "":
		return powerOff(s, o.off)
	case o.on != "":
		return powerOn(ctx, s, o.on)
	case o.enter != "":
		return enter(o.enter)
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%w: build it with `make build`", err)
	}
	return perform(ctx, s, binary, o.compose, o.keep)
}
