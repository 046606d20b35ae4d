// Command bench measures the shipped binary on machines made of namespaces and prints each figure beside its goal. It
// knows what is measured and how; that a figure misses its goal is news, not a failure.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// groups are the measurements in the order in which they run. A new one is a file of its own and a line here.
var groups = []group{
	binaryGroup,
	plannerGroup,
	memoryGroup,
	containersGroup,
	startGroup,
	submitGroup,
	failoverGroup,
	soakGroup,
	peersGroup,
	imagesGroup,
}

// group is figures that are measured together.
type group struct {
	name string // what -only matches
	how  string // the method, for readers of the figures
	// enabled, if set, says whether the flags ask for it.
	enabled func(*bench) bool
	run     func(*bench) error
}

// bench is one run of all.
type bench struct {
	ctx     context.Context
	binary  string
	samples int
	peers   bool
	soak    time.Duration
	raw     string
	report  report
}

const (
	defaultSamples = 10
	quickSamples   = 3
)

func main() {
	var (
		binary   = flag.String("binary", "bin/shoal", "the shoal `BINARY` to measure")
		only     = flag.String("only", "", "run only the groups that match this `REGEXP`")
		samples  = flag.Int("n", defaultSamples, "`SAMPLES` of each figure")
		quick    = flag.Bool("quick", false, "3 samples: does it run at all?")
		asJSON   = flag.Bool("json", false, "print JSON")
		markdown = flag.String("md", "", "also write the figures to this `FILE` as Markdown")
		peers    = flag.Bool("peers", false, "also measure runc and crun of the distribution, side by side; installs them")
		soak     = flag.Duration("soak", 0, "also run five machines for this `TIME` with packet loss and a busy CPU, and count who is declared dead")
		raw      = flag.String("raw", "", "add each power-off to this `FILE`, and count those that are there: so that many can be measured bit by bit")
		strict   = flag.Bool("strict", false, "exit with 2 when a goal is missed; later goals do not count")
	)
	flag.Parse()
	if *quick {
		*samples = quickSamples
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b := &bench{ctx: ctx, samples: *samples, peers: *peers, soak: *soak, raw: *raw}
	err := b.all(*binary, *only)
	if len(b.report.Figures) > 0 {
		b.report.End, b.report.Took = readLoad(), time.Since(b.report.Begun)
		err = errors.Join(err, b.print(*asJSON, *markdown))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *strict && b.report.missed() {
		os.Exit(2)
	}
}

// all runs the groups; one that fails does not keep the others from running.
func (b *bench) all(binary, only string) error {
	if os.Geteuid() != 0 {
		return errors.New("machines out of namespaces take root: run `sudo make bench`, or make it in a root shell")
	}
	which, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if b.binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("%w: build it with `make build`", err)
	}
	b.report.host(b.binary)
	var errs []error
	for _, g := range groups {
		if !which.MatchString(g.name) || g.enabled != nil && !g.enabled(b) {
			continue
		}
		b.report.Methods = append(b.report.Methods, method{g.name, g.how})
		b.progress("%s", g.name)
		if err := g.run(b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
		}
		if b.ctx.Err() != nil {
			return errors.Join(append(errs, errors.New("interrupted"))...)
		}
	}
	return errors.Join(errs...)
}

// progress tells a person what is going on.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (b *bench) print(asJSON bool, markdown string) error {
	if markdown != "" {
		if err := os.WriteFile(markdown, []byte(b.report.markdown()), 0o644); err != nil {
			return err
		}
	}
	if !asJSON {
		_, err := os.Stdout.WriteString(b.report.text())
		return err
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(&b.report)
}
