package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// containerFaults are jobs that behave badly. Their limits must hold, and their neighbours live.
var containerFaults = []Fault{
	{Name: "fork-bomb", Weight: 1, Slow: true, Play: badJob(forkBomb)},
	{Name: "memory-bomb", Weight: 1, Slow: true, Play: badJob(memoryBomb)},
	{Name: "ignores-sigterm", Weight: 1, Slow: true, Play: badJob(deafToTerm)},
	{Name: "log-flood", Weight: 1, Slow: true, Play: badJob(logFlood)},
}

// bad is a job that behaves badly, and how one sees that it does.
type bad struct {
	what    string
	service job.Service
	// seen tells whether the kernel shows it, for a container of it.
	seen func(w *World, c container) error
}

// The limits of bad jobs.
const (
	badMemory  = 24 << 20
	badPIDs    = 50
	badGrace   = time.Second
	badLogFile = 1 << 20
	badLogs    = 2
)

func forkBomb() bad {
	return bad{"a container forks without end", job.Service{
		Command: []string{"sh", "-c", "while :; do sh -c 'while :; do sleep 5 & done'; sleep 0.5; done"},
		Limits:  job.Resources{PIDs: badPIDs},
	}, func(_ *World, c container) error {
		n, err := counter(c, "pids", "pids.current", "")
		switch {
		case err != nil:
			return err
		case n > badPIDs:
			return notKept{"a container keeps to its limits", fmt.Sprintf("it has %d processes, its limit is %d", n, badPIDs)}
		}
		n, err = counter(c, "pids", "pids.events", "max")
		if err == nil && n == 0 {
			err = errors.New("the kernel refused it no process")
		}
		return err
	}}
}

func memoryBomb() bad {
	return bad{"a container takes memory without end", job.Service{
		Command: []string{"sh", "-c", "while :; do tail -c 1000000000 /dev/zero >/dev/null; done"},
		Limits:  job.Resources{MemoryBytes: badMemory},
	}, func(_ *World, c container) error {
		n, err := counter(c, "memory", "memory.oom_control", "oom_kill")
		if errors.Is(err, os.ErrNotExist) {
			n, err = counter(c, "memory", "memory.events", "oom_kill")
		}
		if err == nil && n == 0 {
			err = errors.New("the kernel killed nothing in it")
		}
		return err
	}}
}

func deafToTerm() bad {
	return bad{"a container ignores SIGTERM", job.Service{
		Command: []string{"sh", "-c", "trap '' TERM INT HUP; while :; do sleep 0.1; done"},
	}, func(_ *World, c container) error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID))
		if err != nil {
			return err
		}
		_, after, _ := strings.Cut(string(b), "SigIgn:")
		ignored, err := strconv.ParseUint(strings.TrimSpace(after[:strings.IndexByte(after+"\n", '\n')]), 16, 64)
		if err == nil && ignored&(1<<14) == 0 {
			err = errors.New("the kernel does not show that it ignores it")
		}
		return err
	}}
}

func logFlood() bad {
	return bad{"a container floods its log", job.Service{
		Command: []string{"sh", "-c", "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done"},
		Limits:  job.Resources{NanoCPUs: 300_000_000},
		Log:     job.LogLimits{MaxBytes: badLogFile, MaxFiles: badLogs},
	}, func(w *World, c container) error {
		for _, m := range w.Machines() {
			if m.Name != c.Machine {
				continue
			}
			files, _ := filepath.Glob(filepath.Join(m.DataDir(), "*", c.Task, "log", "*")) // the pattern is right
			var sum int64
			for _, f := range files {
				if info, err := os.Stat(f); err == nil {
					sum += info.Size()
				}
			}
			switch {
			case sum > badLogs*badLogFile+64<<10:
				return notKept{"a container keeps to its limits", fmt.Sprintf("its log has %d bytes, its limit is %d", sum, badLogs*badLogFile)}
			case sum < badLogFile/4:
				return fmt.Errorf("its log has only %d bytes", sum)
			}
		}
		return nil
	}}
}

// counter reads a number of a container's cgroup; key picks the line of a file that has several.
func counter(c container, controller, file, key string) (int, error) {
	path, err := machines.CgroupOf(c.PID, controller)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(path, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case key == "" && len(f) == 1:
			return strconv.Atoi(f[0])
		case len(f) == 2 && f[0] == key:
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s has no %q", file, key)
}

// badJob runs one for a while, and removes it: then nothing of it may be left.
func badJob(kind func() bad) func(context.Context, *World, *rand.Rand) (*Broken, error) {
	return func(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
		span, name := w.Hold(r, 2*time.Second, 10*time.Second), fmt.Sprintf("bad-%d", r.IntN(1<<20))
		k := kind()
		s := k.service
		s.Name, s.Image, s.Replicas, s.StopGrace, s.Drain = "s", Image, 1, badGrace, job.NoDrain
		spec := job.Spec{Name: name, Services: []job.Service{s}}
		key := api.NewKey()
		if err := w.insist(ctx, func(ctx context.Context, c *api.Client) error {
			_, err := c.Submit(ctx, key, api.SubmitRequest{Spec: spec})
			return err
		}); err != nil {
			return nil, fmt.Errorf("submit %s: %w", name, err)
		}
		return &Broken{
			What: k.what, For: span,
			Acted: func() error { return awaitSeen(ctx, w, name, k) },
			End:   func(ctx context.Context) error { return w.removeBad(ctx, name) },
		}, nil
	}
}

// awaitSeen waits until a container of the job is seen to misbehave.
func awaitSeen(ctx context.Context, w *World, name string, k bad) error {
	last := errors.New("no container of it runs")
	for begun := time.Now(); time.Since(begun) < patience; {
		for _, c := range census(w.Machines()) {
			if c.Job == name {
				if last = k.seen(w, c); last == nil {
					return nil
				}
			}
		}
		if err := Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return last
}

// removeBad removes the job, and waits until its containers are gone.
func (w *World) removeBad(ctx context.Context, name string) error {
	err := w.insist(ctx, func(ctx context.Context, c *api.Client) error {
		if err := c.RemoveJob(ctx, name); err != nil && !errors.Is(err, job.NotFound) {
			return err
		}
		return nil
	})
	for begun := time.Now(); err == nil; {
		var left []container
		for _, c := range census(w.Machines()) {
			if c.Job == name {
				left = append(left, c)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%v after its job was removed: %v", patience, left)
		}
		err = Sleep(ctx, 100*time.Millisecond)
	}
	return err
}

// insist is Ask, again until it succeeds.
func (w *World) insist(ctx context.Context, f func(context.Context, *api.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := w.Ask(ctx, f)
		if err == nil {
			return nil
		}
		if Sleep(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}
