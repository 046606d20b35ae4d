package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

var plannerGroup = group{
	name: "planner",
	how: "go test -bench of the scheduler: nodes in 50 racks, half of the racks eligible by constraint, one job of so many tasks planned at " +
		"once, with and without spread over racks: the work of Nomad's BenchmarkServiceScheduler. One sample is one run of the benchmark. Quality is how much " +
		"less even or less tight than the best of all possible placements the planner is, in the mean over 60 small clusters.",
	run: func(b *bench) error {
		later := &Goal{Bound: 100_000, AtLeast: true}
		var all []*series
		for _, c := range []struct{ nodes, tasks, spread string }{
			{"5000", "300", "no"}, {"5000", "300", "racks"}, {"5000", "1200", "no"}, {"5000", "1200", "racks"}, {"500", "300", "racks"}, {"20000", "300", "racks"},
		} {
			s := &series{name: "placements a second, " + c.nodes + " nodes, job of " + c.tasks, unit: PerSecond, later: later}
			if c.spread == "racks" {
				s.name += ", spread over racks"
			}
			out, err := benchmark(b, fmt.Sprintf("^BenchmarkPlan$/^nodes=%s$/^tasks=%s$/^spread=%s$", c.nodes, c.tasks, c.spread), "200ms")
			if err != nil {
				return err
			}
			if s.samples, err = figures(placementsLine, out); err != nil {
				return err
			}
			all = append(all, s)
		}
		out, err := benchmark(b, "^BenchmarkQuality$", "1x")
		if err != nil {
			return err
		}
		for name, line := range map[string]*regexp.Regexp{"less even than the best": unevenLine, "less tight than the best": looseLine} {
			s := &series{name: name, unit: Percent, later: &Goal{Bound: 1}}
			if s.samples, err = figures(line, out); err != nil {
				return err
			}
			all = append(all, s)
		}
		return b.keep("planner", all...)
	},
}

// benchmark runs one of the scheduler's and gives what it prints.
func benchmark(b *bench, name, benchtime string) (string, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", name, "-benchtime", benchtime, "-count", strconv.Itoa(b.samples), "shoal/consensus/scheduler")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return string(out), nil
}

var (
	placementsLine = regexp.MustCompile(`(?m)^Benchmark\S+\s.*?([0-9.e+]+) placements/s`)
	unevenLine     = regexp.MustCompile(`(?m)^Benchmark\S+\s.*?([0-9.e+-]+) %uneven`)
	looseLine      = regexp.MustCompile(`(?m)^Benchmark\S+\s.*?([0-9.e+-]+) %loose`)
)

// figures reads what the benchmark prints.
func figures(line *regexp.Regexp, out string) ([]float64, error) {
	var all []float64
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, fmt.Errorf("the benchmark printed %q: %w", m[0], err)
		}
		all = append(all, v)
	}
	return all, nil
}
