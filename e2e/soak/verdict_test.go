package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// series makes two hours of samples, one each ten seconds, at rest for three of every thirty.
func series(f func(at float64) float64) (out []point) {
	for i := range 720 {
		at := float64(i) * 10
		out = append(out, point{at, f(at), i%30 < 3})
	}
	return out
}

// TestGrowthIsSeen is the soak's positive control: a little growth is found under much noise, and what only breathes,
// warms up, or goes up and down in teeth is flat.
func TestGrowthIsSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(size float64) float64 { return (r.Float64() - 0.5) * size }
	for _, c := range []struct {
		name string
		kind kind
		f    func(at float64) float64
		flat bool
	}{
		{"steady with noise", memory, func(float64) float64 { return 40000 + noise(20000) }, true},
		{"warms up for a quarter", memory, func(at float64) float64 { return 40000 + 10000*min(at/1700, 1) + noise(2000) }, true},
		{"falls", memory, func(at float64) float64 { return 40000 - at }, true},
		{"saw-tooth", disk, func(at float64) float64 { return 8000 + 6*math.Mod(at, 700) }, true},
		{"one step up and down", memory, func(at float64) float64 {
			if at > 3000 && at < 4000 {
				return 90000
			}
			return 40000
		}, true},
		{"leaks 4 MiB an hour", memory, func(at float64) float64 { return 40000 + at*4096/3600 + noise(4000) }, false},
		{"leaks on top of a saw-tooth", disk, func(at float64) float64 { return 8000 + 6*math.Mod(at, 700) + at }, false},
		{"a mount every ten minutes", counted, func(at float64) float64 { return 30 + math.Floor(at/600) }, false},
		{"counts jump under load and return", counted, func(at float64) float64 {
			if int(at)/10%30 < 3 {
				return 30
			}
			return 30 + at
		}, true},
		{"one more for a moment", counted, func(at float64) float64 {
			if at > 3600 && at < 4000 {
				return 33
			}
			return 30
		}, true},
	} {
		if v := judge(metric{name: c.name, kind: c.kind}, "m1", series(c.f), true); !v.judged || v.flat != c.flat {
			t.Errorf("%s: flat %v, judged %v; want flat %v: %+v", c.name, v.flat, v.judged, c.flat, v)
		}
	}
	if v := judge(metric{name: "few"}, "m1", []point{{at: 1, value: 1}}, true); v.judged {
		t.Error("judged by samples that were not taken at rest")
	}
}

func TestSamplesOfARunThatGoesOnAreRead(t *testing.T) {
	dir := t.TempDir()
	csv := filepath.Join(dir, "samples.csv")
	const name = "monitors: private, mean"
	lines := "seconds,machine,rest,metric,value\n"
	for i := range 10 {
		lines += fmt.Sprintf("%d,m1,%d,%s,%d\n", 10*i, i%2, name, 70+5*i)
	}
	lines += "100,m1,0,monitors: priv"
	if err := os.WriteFile(csv, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readSamples(csv)
	if p := got[name]["m1"]; err != nil || len(p) != 10 || p[0] != (point{0, 70, false}) || p[9] != (point{90, 115, true}) {
		t.Fatalf("%v, %v", got, err)
	}
	page := filepath.Join(dir, "index.html")
	if flat, err := report(csv, page); err != nil || flat {
		t.Fatalf("judged: flat %v, %v: it grew by 45 KiB", flat, err)
	}
	if b, err := os.ReadFile(page); err != nil || !strings.Contains(string(b), "<polyline") || strings.Contains(string(b), "NaN") {
		t.Errorf("the page: %v\n%s", err, b)
	}
}

func TestMachinesAreSummed(t *testing.T) {
	got := together(map[string][]point{
		"m1": {{0, 1, true}, {10, 2, true}, {20, 3, false}, {30, 4, true}},
		"m2": {{1, 10, true}, {11, 20, true}, {21, 30, true}, {31, 40, true}},
		"m3": {{1, 100, true}, {22, 300, true}, {31, 400, true}}, // its agent was away for a moment
	})
	if want := []point{{0, 111, true}, {20, 333, false}, {30, 444, true}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
