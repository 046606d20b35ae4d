package game

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"shoal/node/gameday"
)

// Report is how a game was.
type Report struct {
	Game     string        `json:"game"`
	By       string        `json:"by"`
	Cluster  string        `json:"cluster"`
	Version  string        `json:"version"`
	From     string        `json:"from"` // the node that the game asked
	Seed     uint64        `json:"seed"`
	For      time.Duration `json:"for"`
	Kinds    []string      `json:"faultKinds"`
	Nodes    []string      `json:"nodes"`
	Jobs     []string      `json:"jobs"`
	Began    time.Time     `json:"began"`
	Ended    time.Time     `json:"ended"`
	Why      string        `json:"why,omitempty"` // it ended before its time
	Faults   []*Played     `json:"faults"`
	Promises []Promise     `json:"promises"`
	Writes   Probes        `json:"writes"`
	Reads    Probes        `json:"reads"`
	Left     []string      `json:"left,omitempty"` // what could not be undone
	Broken   bool          `json:"broken"`

	samples []sample
	writes  []write
}

// Probes sums up the probes of a kind.
type Probes struct {
	Made   int           `json:"made"`
	Worked int           `json:"worked"`
	P50    time.Duration `json:"p50"` // of those that worked
	P99    time.Duration `json:"p99"`
	Max    time.Duration `json:"max"`
}

func summary(n int, probe func(int) (time.Duration, bool)) Probes {
	p := Probes{Made: n}
	var took []time.Duration
	for i := range n {
		if d, ok := probe(i); ok {
			took = append(took, d)
		}
	}
	if p.Worked = len(took); p.Worked == 0 {
		return p
	}
	slices.Sort(took)
	p.P50, p.P99, p.Max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	return p
}

func (g *Game) report(why string, ended time.Time, left []string) *Report {
	r := &Report{
		Game: g.id, By: g.by, Cluster: g.home.Cluster, Version: g.home.Version, From: g.home.Name, Seed: g.o.Seed, For: g.o.For, Kinds: g.o.Faults,
		Jobs: g.w.watched, Began: g.begun, Ended: ended, Why: why, Faults: g.played, Left: left,
	}
	for i := range g.nodes {
		r.Nodes = append(r.Nodes, g.nodes[i].Name)
	}
	r.Promises = g.promises()
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	r.samples, r.writes = g.w.samples, g.w.writes
	r.Writes = summary(len(r.writes), func(i int) (time.Duration, bool) { return r.writes[i].Took, r.writes[i].OK })
	r.Reads = summary(len(r.samples), func(i int) (time.Duration, bool) { return r.samples[i].Took, r.samples[i].OK })
	r.Broken = len(left) > 0 || slices.ContainsFunc(r.Promises, func(p Promise) bool { return len(p.Breaches) > 0 })
	return r
}

// Verdict is the report in a sentence.
func (r *Report) Verdict() string {
	played := 0
	for _, f := range r.Faults {
		if f.Skipped == "" && f.Failed == "" {
			played++
		}
	}
	switch {
	case len(r.Left) > 0:
		return "NOT EVERYTHING WAS UNDONE"
	case r.Broken:
		return "A PROMISE WAS BROKEN"
	case played == 0:
		return "nothing was played, so nothing is proven"
	}
	return fmt.Sprintf("%s, no promise was broken", plural(played, "fault"))
}

// state of a promise in a word.
func (p *Promise) state() string {
	switch {
	case len(p.Breaches) > 0:
		return "BROKEN"
	case p.Checked == 0:
		return "not tested"
	}
	return "kept"
}

// Void says that a fault was not seen to act, "" if it was.
func (f *Played) void() string {
	if f.Proof == "0 packets dropped" {
		return "VOID: not a packet was dropped, so it proves nothing"
	}
	return ""
}

// Text writes the report for a terminal or a mail.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Game day %s on cluster %s: %s\n", r.Game, r.Cluster, r.Verdict())
	fmt.Fprintf(&b, "  %s to %s, by %s from node %s, seed %d, version %s\n", r.Began.Local().Format(time.DateTime), r.Ended.Local().Format(time.TimeOnly), r.By, r.From, r.Seed, r.Version)
	fmt.Fprintf(&b, "  nodes %s; jobs %s\n", strings.Join(r.Nodes, ", "), cmp.Or(strings.Join(r.Jobs, ", "), "none"))
	if r.Why != "" {
		fmt.Fprintf(&b, "  It ended early: %s.\n", r.Why)
	}
	b.WriteString("\nPromises\n")
	for i := range r.Promises {
		p := &r.Promises[i]
		fmt.Fprintf(&b, "  %-10s  %s", p.state(), p.Says)
		if p.Checked > 0 {
			fmt.Fprintf(&b, " (tested %d times)", p.Checked)
		}
		b.WriteString("\n")
		for _, x := range p.Breaches {
			fmt.Fprintf(&b, "              %s %s\n              look at: %s\n", x.At.Local().Format(time.TimeOnly), x.Text, x.Look)
		}
	}
	for _, l := range r.Left {
		fmt.Fprintf(&b, "  LEFT        %s\n", l)
	}
	b.WriteString("\nFaults\n")
	for _, f := range r.Faults {
		at := f.Began
		if at.IsZero() {
			at = r.Began.Add(f.At)
		}
		fmt.Fprintf(&b, "  %s  %s\n", at.Local().Format(time.TimeOnly), f.title())
		fmt.Fprintf(&b, "            %s\n", f.outcome())
	}
	fmt.Fprintf(&b, "\nProbes from node %s\n  changes: %s\n  reads:   %s\n", r.From, r.Writes, r.Reads)
	b.WriteString(r.kinds())
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *Played) outcome() string {
	switch {
	case f.Skipped != "":
		return "left out: " + f.Skipped
	case f.Failed != "":
		return "failed: " + f.Failed
	}
	out := f.Cost.sentence()
	if f.Proof != "" {
		out += "; seen: " + f.Proof
	}
	if f.UndidIt != "" && f.UndidIt != "helper" {
		out += "; undone by " + f.UndidIt
	}
	if v := f.void(); v != "" {
		out += "; " + v
	}
	return out
}

func (p Probes) String() string {
	if p.Worked == 0 {
		return fmt.Sprintf("%d, none worked", p.Made)
	}
	return fmt.Sprintf("%d, %d worked; half within %s, 99 %% within %s, the slowest %s", p.Made, p.Worked, round(p.P50), round(p.P99), round(p.Max))
}

// kinds sums up the costs of each kind of fault.
func (r *Report) kinds() string {
	var b strings.Builder
	for _, k := range gameday.Catalogue {
		var n int
		var recovered, noWrites, below time.Duration
		for _, f := range r.Faults {
			if f.Fault == k.Name && f.Skipped == "" && f.Failed == "" {
				n++
				if f.Cost.Recovered != nil {
					recovered = max(recovered, *f.Cost.Recovered)
				}
				noWrites, below = max(noWrites, f.Cost.NoWrites), max(below, f.Cost.Below)
			}
		}
		if n == 0 {
			continue
		}
		if b.Len() == 0 {
			fmt.Fprintf(&b, "\n%-14s%7s  %-10s  %-10s  %s\n", "At the worst", "played", "recovered", "no changes", "fewer tasks than wanted")
		}
		fmt.Fprintf(&b, "  %-12s%7d  %-10s  %-10s  %s\n", k.Name, n, round(recovered), round(noWrites), round(below))
	}
	return b.String()
}
