package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// containerRounds is the least number of samples: the differences are small.
const containerRounds = 30

var containersGroup = group{
	name: "containers",
	how: "`go test -bench Speed ./runtime/container`: a busybox that runs `true`, from create to the exit code known, by the agent's runtime (with " +
		"network, log and monitor), by `runc run` and `crun run` (Docker's mounts and seccomp profile, no network, no log; cgroup2 hidden from them, as " +
		"crun refuses hybrid hosts), and by `docker run --rm` of the distribution's dockerd, in turn in each round; ratios are of the medians' samples " +
		"round by round. At once: 200 starts together, for docker 40. The memory of a monitor is in the group memory.",
	run: measureContainers,
}

func measureContainers(b *bench) (err error) {
	dir, err := os.MkdirTemp("", "shoal-bench-docker-")
	if err != nil {
		return err
	}
	out := dir + ".json"
	defer os.Remove(out)
	d, err := startDocker(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	cmd := exec.CommandContext(b.ctx, "go", "test", "-tags", "netgo osusergo seccomp", "-run", "^$", "-bench", "^BenchmarkSpeed$", "-benchtime", "1x", "./runtime/container")
	cmd.Dir = filepath.Dir(filepath.Dir(b.binary)) // bin/shoal of a checkout
	cmd.Env = append(os.Environ(), "SHOAL_BENCH_OUT="+out, "SHOAL_BENCH_DOCKER="+d.socket(), "SHOAL_BENCH_ROUNDS="+strconv.Itoa(max(containerRounds, b.samples)))
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	var got map[string][]float64
	if err := json.Unmarshal(text, &got); err != nil {
		return err
	}
	return b.keep("containers", containerSeries(got)...)
}

// containerSeries sets what was measured beside its goals.
func containerSeries(got map[string][]float64) []*series {
	var all []*series
	plain := func(name string, unit Unit, goal *Goal) {
		all = append(all, &series{name: name, unit: unit, goal: goal, samples: got[name]})
	}
	ratio := func(a, b string, goal *Goal) {
		s := &series{name: a + " / " + b, unit: Times, goal: goal}
		for i, v := range got[a] {
			if i < len(got[b]) {
				s.add(v / got[b][i])
			}
		}
		all = append(all, s)
	}
	for _, name := range []string{"shoal", "runc run", "crun run", "docker run"} {
		plain(name, Millis, nil)
	}
	ratio("shoal", "runc run", &Goal{Bound: 0.6})
	ratio("shoal", "crun run", &Goal{Bound: 0.85})
	ratio("shoal", "docker run", &Goal{Bound: 0.12})
	plain("shoal: exec true", Millis, nil)
	plain("docker run: exec true", Millis, nil)
	ratio("shoal: exec true", "docker run: exec true", &Goal{Bound: 0.3})
	plain("shoal: start", Millis, nil)
	plain("shoal: start with 0.05 CPU", Millis, nil)
	ratio("shoal: start with 0.05 CPU", "shoal: start", &Goal{Bound: 2})
	plain("shoal: 200 at once", PerSecond, &Goal{Bound: 40, AtLeast: true})
	plain("docker: 40 at once", PerSecond, nil)
	ratio("shoal: 200 at once", "docker: 40 at once", &Goal{Bound: 5, AtLeast: true})
	return all
}
