package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run did and found.
type Report struct {
	Seed     uint64        `json:"seed"`
	Begun    time.Time     `json:"begun"`
	Took     time.Duration `json:"took"`
	Binary   string        `json:"binary"`
	Host     string        `json:"host"`
	Played   []Played      `json:"played"`
	Skipped  int           `json:"skipped"`           // faults that could not be played as things were
	Figures  []Figure      `json:"figures,omitempty"` // of scenarios
	Load     LoadFigures   `json:"load"`
	Checked  []string      `json:"checked"`  // what was judged, with how much of it there was
	Violated []Violation   `json:"violated"` // broken promises
	Void     []string      `json:"void"`     // why the run proves nothing
	Trouble  string        `json:"trouble,omitempty"`
}

// Played is one fault of a run.
type Played struct {
	N     int           `json:"n"`
	Name  string        `json:"name"`
	What  string        `json:"what"`
	Began time.Time     `json:"began"`
	Held  time.Duration `json:"held"`
	// Recovery is from its end, or from that of one which overlapped it and ended later, until all ran again.
	Recovery time.Duration `json:"recovery"`
	// NoWrites is the longest time without an acknowledged write, from its begin until all ran again.
	NoWrites time.Duration `json:"noWrites"`
	Overlaps bool          `json:"overlaps,omitempty"`
}

// Violation is a promise that was not kept.
type Violation struct {
	At       time.Time `json:"at"`
	Promise  string    `json:"promise"`
	What     string    `json:"what"`
	After    string    `json:"after"` // the faults just before
	Evidence string    `json:"evidence,omitempty"`
}

// Code is the exit code: 0 all promises were kept, 1 one was not, 2 the run itself failed, 3 it is void.
func (r *Report) Code() int {
	switch {
	case len(r.Violated) > 0:
		return 1
	case r.Trouble != "":
		return 2
	case len(r.Void) > 0:
		return 3
	}
	return 0
}

func (p Played) line() string {
	also := ""
	if p.Overlaps {
		also = " +"
	}
	return fmt.Sprintf("%4d  %-20s %-52s held %6s  recovered %6s  no writes %6s%s", p.N, p.Name, p.What, tenths(p.Held), tenths(p.Recovery), tenths(p.NoWrites), also)
}

func tenths(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

// print writes the table a fault kind, then what was found.
func (r *Report) print(w io.Writer) {
	if len(r.Figures) > 0 {
		r.figures(w)
	}
	if len(r.Played) > 0 {
		r.faults(w)
	}
	for _, v := range r.Violated {
		fmt.Fprintf(w, "VIOLATION %s: %s\n  after %s\n  evidence: %s\n", v.Promise, v.What, v.After, v.Evidence)
	}
	for _, v := range r.Void {
		fmt.Fprintf(w, "VOID: %s\n", v)
	}
	if r.Trouble != "" {
		fmt.Fprintf(w, "the run failed: %s\n", r.Trouble)
	}
	fmt.Fprintf(w, "%d violations; play it again with SEED=%d\n", len(r.Violated), r.Seed)
}

func (r *Report) faults(w io.Writer) {
	fmt.Fprintf(w, "\n%d faults in %s, seed %d, %d could not be played as things were\n\n", len(r.Played), r.Took.Round(time.Second), r.Seed, r.Skipped)
	r.table(w)
	fmt.Fprintf(w, "\nload: %s\n", r.Load)
	for _, c := range r.Checked {
		fmt.Fprintf(w, "checked: %s\n", c)
	}
}

func (r *Report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "fault\tcount\trecovery p50\tp99\tno writes p50\tp99\t")
	for _, row := range r.rows() {
		fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
	}
	_ = t.Flush() // as w does
}

// markdown is the same table for docs.
func (r *Report) markdown() string {
	var b strings.Builder
	b.WriteString("| fault | count | recovery p50 | p99 | without writes p50 | p99 |\n|---|---:|---:|---:|---:|---:|\n")
	for _, row := range r.rows() {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
	}
	return b.String()
}

func (r *Report) rows() [][]string {
	kinds := map[string][]Played{}
	var names []string
	for _, p := range r.Played {
		if kinds[p.Name] == nil {
			names = append(names, p.Name)
		}
		kinds[p.Name] = append(kinds[p.Name], p)
	}
	slices.Sort(names)
	var rows [][]string
	add := func(name string, of []Played) {
		var rec, un []time.Duration
		for _, p := range of {
			rec, un = append(rec, p.Recovery), append(un, p.NoWrites)
		}
		rows = append(rows, []string{name, fmt.Sprint(len(of)), tenths(quantile(rec, 0.5)), tenths(quantile(rec, 0.99)), tenths(quantile(un, 0.5)), tenths(quantile(un, 0.99))})
	}
	for _, n := range names {
		add(n, kinds[n])
	}
	if len(r.Played) > 0 {
		add("all", r.Played)
	}
	return rows
}

// quantile of some durations by the nearest rank; 0 of none.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

func (r *Report) json() []byte {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		panic("chaos: report: " + err.Error()) // plain fields always encode
	}
	return b
}
