package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// report is what a run has found, and on what.
type report struct {
	Version string        `json:"version"`
	Kernel  string        `json:"kernel"`
	CPU     string        `json:"cpu"`
	Cores   int           `json:"cores"`
	Begun   time.Time     `json:"begun"`
	Took    time.Duration `json:"took"`
	Start   string        `json:"loadAtStart"` // averages of 1, 5 and 15 minutes
	End     string        `json:"loadAtEnd"`
	Figures []Figure      `json:"figures"`
	Methods []method      `json:"methods"`
}

type method struct {
	Group string `json:"group"`
	How   string `json:"how"`
}

func (r *report) host(binary string) {
	r.Begun, r.Start, r.Cores, r.CPU = time.Now(), readLoad(), runtime.NumCPU(), cpuModel()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if out, err := exec.Command(binary, "--version").Output(); err == nil {
		r.Version = strings.TrimSpace(string(out))
	}
}

func readLoad() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func (r *report) missed() bool {
	for i := range r.Figures {
		if ok := r.Figures[i].Reached; ok != nil && !*ok {
			return true
		}
	}
	return false
}

func (r *report) heading() []string {
	return []string{
		fmt.Sprintf("shoal %s, kernel %s, %d cores (%s)", strings.TrimPrefix(r.Version, "shoal "), r.Kernel, r.Cores, r.CPU),
		fmt.Sprintf("%s, took %v; load at start %s, at end %s", r.Begun.Format("2006-01-02 15:04"), r.Took.Round(time.Second), r.Start, r.End),
	}
}

var columns = []string{"FIGURE", "MEDIAN", "P95", "UNIT", "N", "GOAL", "REACHED", "LATER GOAL", "REACHED"}

func (r *report) rows() [][]string {
	var out [][]string
	for i := range r.Figures {
		f := &r.Figures[i]
		out = append(out, []string{
			f.Name, short(f.Median), short(f.P95), string(f.Unit), fmt.Sprint(f.N),
			f.Goal.text(f.Unit), verdict(f.Reached, "NO"), f.Later.text(f.Unit), verdict(f.LaterReached, "not yet"),
		})
	}
	return out
}

// text is the report for a terminal: a table, numbers to the right.
func (r *report) text() string {
	var b strings.Builder
	for _, l := range r.heading() {
		b.WriteString(l + "\n")
	}
	b.WriteString("\n")
	rows := append([][]string{columns}, r.rows()...)
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	right := map[int]bool{1: true, 2: true, 4: true}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if right[i] {
				line.WriteString(pad + c + "  ")
			} else {
				line.WriteString(c + pad + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	if len(r.Methods) > 0 {
		b.WriteString("\nHow:\n")
		for _, m := range r.Methods {
			b.WriteString("  " + m.Group + ": " + m.How + "\n")
		}
	}
	return b.String()
}

// markdown is the report as a page.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Figures\n\nWritten by `make bench`. Medians and 95th percentiles; compare within one run only.\n\n")
	for _, l := range r.heading() {
		b.WriteString("- " + l + "\n")
	}
	b.WriteString("\n| figure | median | p95 | unit | n | goal | reached | later goal | reached |\n|---|---:|---:|---|---:|---|---|---|---|\n")
	for _, row := range r.rows() {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
	}
	b.WriteString("\n## How\n\n")
	for _, m := range r.Methods {
		b.WriteString("- **" + m.Group + "**: " + m.How + "\n")
	}
	return b.String()
}
