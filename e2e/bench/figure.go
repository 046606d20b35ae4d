package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unit of a figure.
type Unit string

// Units.
const (
	Seconds   Unit = "s"
	Millis    Unit = "ms"
	MiB       Unit = "MiB"
	KiB       Unit = "KiB"
	PerSecond Unit = "/s"
	Times     Unit = "x" // a ratio
	Percent   Unit = "%"
)

// Goal is what a figure is to reach.
type Goal struct {
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"atLeast,omitempty"` // else at most
	P95     bool    `json:"p95,omitempty"`     // of the 95th percentile, else of the median
}

// Figure is one measured thing.
type Figure struct {
	Group   string  `json:"group"`
	Name    string  `json:"name"`
	Unit    Unit    `json:"unit"`
	N       int     `json:"n"`
	Median  float64 `json:"median"`
	P95     float64 `json:"p95"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	Goal    *Goal   `json:"goal,omitempty"`
	Reached *bool   `json:"reached,omitempty"` // nil: there is no goal
	// Later is what a later version is to reach: shown, but nothing is missed without it.
	Later        *Goal     `json:"later,omitempty"`
	LaterReached *bool     `json:"laterReached,omitempty"`
	Samples      []float64 `json:"samples"`
}

// figure sums up samples, of which there must be one at least.
func (s *series) figure(group string) Figure {
	sorted := slices.Sorted(slices.Values(s.samples))
	f := Figure{
		Group: group, Name: s.name, Unit: s.unit, N: len(sorted), Goal: s.goal, Later: s.later, Samples: s.samples,
		Median: median(sorted), P95: percentile(sorted, 95), Min: sorted[0], Max: sorted[len(sorted)-1],
	}
	f.Reached, f.LaterReached = f.Goal.reached(&f), f.Later.reached(&f)
	return f
}

// median of sorted samples.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// percentile by nearest rank: the smallest sample that at least p percent of all do not exceed. Of ten samples the
// 95th is the largest.
func percentile(sorted []float64, p float64) float64 {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// reached is nil without a goal.
func (g *Goal) reached(f *Figure) *bool {
	if g == nil {
		return nil
	}
	v := f.Median
	if g.P95 {
		v = f.P95
	}
	ok := v <= g.Bound
	if g.AtLeast {
		ok = v >= g.Bound
	}
	return &ok
}

func (g *Goal) text(u Unit) string {
	if g == nil {
		return ""
	}
	out := "≤ "
	if g.AtLeast {
		out = "≥ "
	}
	out += short(g.Bound) + " " + string(u)
	if g.P95 {
		out += " (p95)"
	}
	return out
}

// verdict is yes, no, or nothing without a goal.
func verdict(reached *bool, no string) string {
	switch {
	case reached == nil:
		return ""
	case *reached:
		return "yes"
	}
	return no
}

// short writes a number with about three digits that say something, and thousands apart.
func short(v float64) string {
	digits := 0
	switch a := math.Abs(v); {
	case a == math.Trunc(a) && a < 1e15, a >= 100:
	case a >= 10:
		digits = 1
	case a >= 1:
		digits = 2
	default:
		digits = 3
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		return whole + "." + fraction
	}
	return whole
}

// series collects samples of one figure.
type series struct {
	name    string
	unit    Unit
	goal    *Goal
	later   *Goal
	samples []float64
}

func (s *series) add(v float64) { s.samples = append(s.samples, v) }

// took adds a time in the series' unit.
func (s *series) took(d time.Duration) {
	if s.unit == Millis {
		s.add(float64(d) / float64(time.Millisecond))
		return
	}
	s.add(d.Seconds())
}

// keep adds the figures of a group's series to the report. What has no sample was not measured, and is an error.
func (b *bench) keep(group string, all ...*series) error {
	for _, s := range all {
		if len(s.samples) == 0 {
			return fmt.Errorf("%s has no sample", s.name)
		}
		b.report.Figures = append(b.report.Figures, s.figure(group))
	}
	return nil
}
