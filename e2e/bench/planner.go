package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

var plannerGroup = group{
	name: "planner",
	how: "go test -bench of the scheduler: 5,000 nodes in 50 racks, half of them eligible, one job of so many tasks planned at once; " +
		"one sample is one run of the benchmark.",
	run: func(b *bench) error {
		later := &Goal{Bound: 100_000, AtLeast: true}
		var all []*series
		for _, tasks := range []string{"300", "1200"} {
			s := &series{name: "placements a second, job of " + tasks, unit: PerSecond, later: later}
			name := fmt.Sprintf("^BenchmarkPlan$/^nodes=5000$/^tasks=%s$", tasks)
			cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", name, "-benchtime", "200ms", "-count", strconv.Itoa(b.samples), "shoal/consensus/scheduler")
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			if s.samples, err = placements(string(out)); err != nil {
				return err
			}
			all = append(all, s)
		}
		return b.keep("planner", all...)
	},
}

var placementsLine = regexp.MustCompile(`(?m)^Benchmark\S+\s.*?([0-9.e+]+) placements/s`)

// placements reads the figures that the benchmark prints.
func placements(out string) ([]float64, error) {
	var all []float64
	for _, m := range placementsLine.FindAllStringSubmatch(out, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, fmt.Errorf("the benchmark printed %q: %w", m[0], err)
		}
		all = append(all, v)
	}
	return all, nil
}
