// Command soak uses a cluster for hours as people do, and tells whether anything of it grows: memory, descriptors,
// goroutines, disk, cgroups, mounts, links, rules. It knows the load, the samples and what flat means; how agents fare
// in bad weather is bench's.
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
	"time"

	"shoal/e2e/machines"
)

const (
	machineCount = 3
	sampleEvery  = 10 * time.Second
	restEvery    = 5 * time.Minute  // the load pauses so often, and all that it made is taken away
	restSettle   = 15 * time.Second // after the last task is gone, before a sample counts as one of a rest
	restLength   = 3 * sampleEvery
	agentEvery   = 7 * time.Minute // between two deaths of the last machine's agent
)

func main() {
	var (
		binary = flag.String("binary", "bin/shoal", "the shoal `BINARY` to use")
		length = flag.Duration("for", 2*time.Hour, "how long")
		pause  = flag.Duration("pause", 120*time.Millisecond, "mean `TIME` between two operations")
		seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the choice of operations")
		out    = flag.String("out", "build/soak", "the `DIRECTORY` for samples.csv and index.html")
		judge  = flag.String("judge", "", "only judge the samples of this `FILE` (also of a run that goes on) and write the page")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	if *judge == "" {
		*judge = filepath.Join(*out, "samples.csv")
		err = run(ctx, *binary, *judge, *length, *pause, *seed)
	}
	flat, jerr := report(*judge, filepath.Join(*out, "index.html"))
	if err = errors.Join(err, jerr); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !flat {
		os.Exit(1)
	}
}

// run forms the cluster, uses it, and takes samples into a file.
func run(ctx context.Context, binary, csv string, length, pause time.Duration, seed uint64) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("machines out of namespaces take root: run `sudo make soak-use`, or make it in a root shell")
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(csv), 0o755); err != nil {
		return err
	}
	n, err := machines.New(machines.Options{Binary: binary, LogLevel: "warn"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(), n.Gone()) }()
	if err := n.Form(machineCount, machines.MachineOptions{}); err != nil {
		return err
	}
	progress("seed %d, for %v, machines in %s", seed, length, n.Dir())
	u, err := newUser(n, seed)
	if err != nil {
		return err
	}
	s, err := newSampler(n, csv)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return soak(ctx, u, s, length, pause)
}

// soak alternates use and rest. Samples are taken all the time, by one goroutine, so that no two overlap.
func soak(ctx context.Context, u *user, s *sampler, length, pause time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	sampled := make(chan error, 1)
	go func() { sampled <- s.run(ctx) }()
	killed := time.Now()
	err := func() error {
		for ctx.Err() == nil {
			u.use(ctx, restEvery, pause)
			if ctx.Err() != nil {
				return nil
			}
			if time.Since(killed) > agentEvery {
				killed = time.Now()
				if err := u.killAgent(); err != nil {
					return err
				}
			}
			if err := u.rest(ctx); err != nil && ctx.Err() == nil {
				return err
			}
			if err := wait(ctx, restSettle); err != nil {
				return nil
			}
			s.resting.Store(true)
			_ = wait(ctx, restLength) // its end is seen above
			s.resting.Store(false)
			u.tell()
		}
		return nil
	}()
	cancel()
	err = errors.Join(err, <-sampled)
	u.tell()
	return errors.Join(err, u.enough(length, pause))
}

// wait waits unless the soak ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// progress tells a person what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
