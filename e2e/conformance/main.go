// Command conformance lets other people's suites judge what starts shoal's containers: the validation programs of
// opencontainers/runtime-tools run against `shoal oci` and against runc of the version that shoal links, side by side. It
// fails when shoal is worse in any of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	suiteDir    = "e2e/conformance/suite"
	runcModule  = "github.com/opencontainers/runc"
	toolsModule = "github.com/opencontainers/runtime-tools"
	buildTags   = "netgo osusergo seccomp"
	envInside   = "SHOAL_CONFORMANCE_INSIDE"
)

func main() {
	binary := flag.String("binary", "bin/shoal", "the shoal to judge")
	only := flag.String("run", "", "comma-separated names of programs, or engines (default: all)")
	keep := flag.String("out", "build/conformance", "directory for the programs and their output")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *keep, *only); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, out, only string) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes containers: run it as root")
	}
	if os.Getenv(envInside) == "" {
		return inside(ctx)
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	b, err := build(ctx, binary, out)
	if err != nil {
		return err
	}
	names := b.programs
	if only == "engines" {
		names = nil
	} else if only != "" {
		names = strings.Split(only, ",")
	}
	fmt.Printf("%d programs, each against runc %s and shoal oci; output in %s\n\n", len(names), b.runcVersion, out)
	fmt.Printf("%-36s %14s %14s\n", "program", "runc ok/not", "shoal ok/not")
	var theirs, ours total
	var worse []string
	for _, name := range names {
		t, err := b.judge(ctx, name, "runc")
		if err != nil {
			return err
		}
		o, err := b.judge(ctx, name, "shoal-oci")
		if err != nil {
			return err
		}
		mark := ""
		if o.worseThan(t) {
			// Some programs race with the clock: what counts is what holds when both are asked again.
			if t, err = b.judge(ctx, name, "runc"); err != nil {
				return err
			}
			if o, err = b.judge(ctx, name, "shoal-oci"); err != nil {
				return err
			}
			if o.worseThan(t) {
				mark, worse = "  worse", append(worse, name)
			}
		}
		theirs.add(t)
		ours.add(o)
		fmt.Printf("%-36s %14s %14s%s\n", name, t, o, mark)
	}
	fmt.Printf("\nrunc: %s\nshoal: %s\n", theirs, ours)
	if len(worse) > 0 {
		err = fmt.Errorf("shoal is worse than runc in %s", strings.Join(worse, ", "))
	}
	if only == "" || only == "engines" {
		err = errors.Join(err, b.engines(ctx))
	}
	return err
}

// inside runs this command again where what the programs leave behind ends with it: in mount, process and IPC namespaces of
// its own, with a /run of its own. Cgroups are cleared by name (see judge).
func inside(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", `mount -t tmpfs tmpfs /run && exec "$0" "$@"`, self,
	}, os.Args[1:]...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	before := cgroups()
	err = cmd.Run()
	return errors.Join(err, clearCgroups(before))
}
