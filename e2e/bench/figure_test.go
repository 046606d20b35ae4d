package main

import (
	"strings"
	"testing"
	"time"
)

func TestFigureSumsUpSamples(t *testing.T) {
	tests := []struct {
		samples     []float64
		median, p95 float64
	}{
		{[]float64{7}, 7, 7},
		{[]float64{2, 1}, 1.5, 2},
		{[]float64{9, 1, 5}, 5, 9},
		{[]float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 5.5, 10},
		{upTo(20), 10.5, 19},
		{upTo(100), 50.5, 95},
	}
	for _, tt := range tests {
		f := (&series{unit: Seconds, samples: tt.samples}).figure("g")
		if f.Median != tt.median || f.P95 != tt.p95 || f.N != len(tt.samples) || f.Reached != nil {
			t.Errorf("%v: median %v, p95 %v, n %d; want %v, %v", tt.samples, f.Median, f.P95, f.N, tt.median, tt.p95)
		}
	}
}

func upTo(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = float64(n - i)
	}
	return out
}

func TestGoalIsJudgedByItsQuantileAndDirection(t *testing.T) {
	samples := []float64{1, 1, 1, 9}
	tests := []struct {
		goal *Goal
		text string
		want string
	}{
		{nil, "", ""},
		{&Goal{Bound: 5}, "≤ 5 s", "yes"},
		{&Goal{Bound: 1}, "≤ 1 s", "yes"},
		{&Goal{Bound: 0.5}, "≤ 0.500 s", "NO"},
		{&Goal{Bound: 5, P95: true}, "≤ 5 s (p95)", "NO"},
		{&Goal{Bound: 2, AtLeast: true}, "≥ 2 s", "NO"},
		{&Goal{Bound: 1, AtLeast: true}, "≥ 1 s", "yes"},
	}
	for _, tt := range tests {
		f := (&series{unit: Seconds, goal: tt.goal, samples: samples}).figure("g")
		if got := tt.goal.text(Seconds); got != tt.text || verdict(f.Reached, "NO") != tt.want {
			t.Errorf("%+v: %q %q, want %q %q", tt.goal, got, verdict(f.Reached, "NO"), tt.text, tt.want)
		}
		now, later := report{Figures: []Figure{f}}, report{Figures: []Figure{(&series{later: tt.goal, samples: samples}).figure("g")}}
		if now.missed() != (tt.want == "NO") || later.missed() {
			t.Errorf("%+v: missed %v, as a later goal %v", tt.goal, now.missed(), later.missed())
		}
	}
}

func TestShortNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 60: "60", 0.0421: "0.042", 1.2345: "1.23", 25.28: "25.3", 163.4: "163", 1212: "1,212", 565235.4: "565,235", 1234567: "1,234,567", -1212: "-1,212",
	} {
		if got := short(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}

func TestTableKeepsItsColumns(t *testing.T) {
	r := report{Version: "shoal v1", Figures: []Figure{
		(&series{name: "short", unit: Seconds, goal: &Goal{Bound: 5}, later: &Goal{Bound: 1}, samples: []float64{1.5}}).figure("g"),
		(&series{name: "a much longer name", unit: PerSecond, samples: []float64{565235}}).figure("g"),
	}}
	table := `FIGURE               MEDIAN      P95  UNIT  N  GOAL   REACHED  LATER GOAL  REACHED
short                  1.50     1.50  s     1  ≤ 5 s  yes      ≤ 1 s       not yet
a much longer name  565,235  565,235  /s    1
`
	if got := r.text(); !strings.HasSuffix(got, table) {
		t.Errorf("got:\n%s\nwant in the end:\n%s", got, table)
	}
	if got := r.markdown(); !strings.Contains(got, "| short | 1.50 | 1.50 | s | 1 | ≤ 5 s | yes | ≤ 1 s | not yet |\n") {
		t.Errorf("got:\n%s", got)
	}
}

func TestForeignOutputIsRead(t *testing.T) {
	bench := "goos: linux\nBenchmarkPlan/nodes=5000/tasks=300-2   \t     100\t  530742 ns/op\t    565235 placements/s\t  1 B/op\n" +
		"BenchmarkPlan/nodes=5000/tasks=300-2   \t     100\t  530742 ns/op\t    1.2e+06 placements/s\nPASS\n"
	if got, err := figures(placementsLine, bench); err != nil || len(got) != 2 || got[0] != 565235 || got[1] != 1.2e6 {
		t.Errorf("placements: %v, %v", got, err)
	}
	clocks := parseClocks("    mode: 0\n    time.tv_sec:  1795393728\n    time.tv_usec: 760247\n    return value: 5\n    time.tv_sec:  1\n    time.tv_usec: 2\n")
	if len(clocks) != 2 || !clocks[0].Equal(time.UnixMicro(1795393728760247)) || !clocks[1].Equal(time.UnixMicro(1000002)) {
		t.Errorf("clocks: %v", clocks)
	}
}
