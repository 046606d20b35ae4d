package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// allowance is how much more a figure may be in the end: the larger of a share and an absolute amount.
type allowance struct{ share, absolute float64 }

// allowances by kind. Counts are of the same tasks each time; a figure for memory breathes with the collector, and a
// log file of tasks is turned over at any time.
var allowances = map[kind]allowance{
	counted:   {0.01, 2},
	breathing: {0.10, 4},
	memory:    {0.05, 2 << 10},
	disk:      {0.05, 2 << 10},
}

// maxPoints bounds those that the slope is made of: all pairs are looked at.
const maxPoints = 240

// verdict on one figure of one machine.
type verdict struct {
	metric, machine string
	early, late     float64 // medians of the second and the last quarter
	perHour         float64 // Theil-Sen slope of all after the first quarter
	allowed         float64
	judged, flat    bool
}

// judge says whether a figure is flat. The first quarter is warm-up: caches fill, the log reaches its first snapshot. A
// figure grows if both say so: the median of the last quarter against that of the second, and the median of the slopes
// between all pairs of points (Theil 1950, Sen 1968) over the same time; a step up and down again is no growth, and a
// saw-tooth that was cut at another tooth neither.
func judge(m metric, machine string, points []point, judged bool) verdict {
	v := verdict{metric: m.name, machine: machine, judged: judged, flat: true}
	if m.kind == counted || m.kind == breathing {
		points = slices.DeleteFunc(slices.Clone(points), func(p point) bool { return !p.rest })
	}
	if len(points) == 0 {
		v.judged = false
		return v
	}
	first, end := points[0].at, points[len(points)-1].at
	quarter := (end - first) / 4
	part := func(from, to float64) (out []point) {
		for _, p := range points {
			if p.at >= first+from*quarter && p.at <= first+to*quarter {
				out = append(out, p)
			}
		}
		return out
	}
	early, late := part(1, 2), part(3, 4)
	if len(early) == 0 || len(late) == 0 {
		v.judged = false
		return v
	}
	v.early, v.late = medianOf(early), medianOf(late)
	slope := theilSen(part(1, 4))
	v.perHour = slope * 3600
	a := allowances[m.kind]
	if m.absolute > 0 {
		a.absolute = m.absolute
	}
	v.allowed = max(a.absolute, a.share*v.early)
	// Between the middles of the two quarters lie two of them.
	v.flat = min(v.late-v.early, slope*2*quarter) <= v.allowed
	return v
}

// together sums what the machines had at nearly the same time; a time at which one of them was not asked is left out.
func together(byMachine map[string][]point) (sums []point) {
	const near = sampleEvery / 2
	next := map[string]int{}
	for _, p := range byMachine["m1"] {
		sum, complete := point{p.at, 0, p.rest}, true
		for i := range machineCount {
			machine := fmt.Sprintf("m%d", i+1)
			points, k := byMachine[machine], next[machine]
			for k < len(points) && points[k].at < p.at-near.Seconds() {
				k++
			}
			if next[machine] = k; k == len(points) || points[k].at > p.at+near.Seconds() {
				complete = false
				continue
			}
			sum.value += points[k].value
			sum.rest = sum.rest && points[k].rest
		}
		if complete {
			sums = append(sums, sum)
		}
	}
	return sums
}

func medianOf(points []point) float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = p.value
	}
	return median(values)
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// theilSen is the median slope between pairs of points; 0 for less than two.
func theilSen(points []point) float64 {
	step := (len(points) + maxPoints - 1) / maxPoints
	var slopes []float64
	for i := 0; i < len(points); i += step {
		for k := i + step; k < len(points); k += step {
			if dt := points[k].at - points[i].at; dt > 0 {
				slopes = append(slopes, (points[k].value-points[i].value)/dt)
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	return median(slopes)
}

// report judges all samples, prints the table and writes the page; it tells whether everything is flat.
func report(csv, page string) (bool, error) {
	samples, err := readSamples(csv)
	if err != nil {
		return false, err
	}
	var verdicts []verdict
	flat, any := true, false
	last := fmt.Sprintf("m%d", machineCount)
	for _, m := range metrics {
		if m.kind == counted || m.kind == breathing {
			// Tasks move from one machine to another, and their cgroups, watchers and descriptors with them.
			verdicts = append(verdicts, judge(m, "all", together(samples[m.name]), true))
			continue
		}
		for i := range machineCount {
			machine := fmt.Sprintf("m%d", i+1)
			if points := samples[m.name][machine]; len(points) > 0 {
				verdicts = append(verdicts, judge(m, machine, points, !m.ofAgent || machine != last))
			}
		}
	}
	for _, v := range verdicts {
		any = any || v.judged
		flat = flat && (v.flat || !v.judged)
	}
	fmt.Print(table(verdicts))
	if err := os.WriteFile(page, []byte(html(samples, verdicts)), 0o644); err != nil {
		return false, err
	}
	if !any {
		return false, fmt.Errorf("%s has too few samples to judge", csv)
	}
	fmt.Printf("\nthe plot: %s\n", page)
	return flat, nil
}

func table(verdicts []verdict) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tmachine\tsecond quarter\tlast quarter\tper hour\tallowed\tverdict\t")
	for _, v := range verdicts {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%+.1f\t%+.0f\t%s\t\n", v.metric, v.machine, v.early, v.late, v.perHour, v.allowed, v.word())
	}
	_ = w.Flush() // into memory
	return b.String()
}

func (v verdict) word() string {
	switch {
	case !v.judged:
		return "not judged"
	case v.flat:
		return "flat"
	default:
		return "GROWS"
	}
}

// round is a number for people.
func round(v float64) string {
	if math.Abs(v) >= 10*1024 {
		return fmt.Sprintf("%.0f Ki", v/1024)
	}
	return fmt.Sprintf("%.0f", v)
}
