package game

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

// Limits of what is promised.
const (
	// writesWithin is how long changes may fail while a majority of the voters is whole: a failover takes about a second, the
	// detection of a silent leader a few.
	writesWithin = 15 * time.Second
	// agentGrace is how long an agent may be away before its node's work is moved; see node/DESIGN.md.
	agentGrace = 25 * time.Second
	// clocks of two machines may differ by so much when times that they wrote down are compared.
	clockTolerance = time.Second
)

// Cost is what a fault did, as the game's client saw it.
type Cost struct {
	Detected  *time.Duration `json:"detected,omitempty"`  // from its beginning until the cluster showed something; nil: it did not
	Recovered *time.Duration `json:"recovered,omitempty"` // from its end until everything ran; nil: it did not while it was watched
	NoWrites  time.Duration  `json:"noWrites"`            // the longest time in which no change was taken
	NoReads   time.Duration  `json:"noReads"`             // the same for confirmed reads
	Below     time.Duration  `json:"below"`               // how long fewer tasks served than are wanted
	Least     int            `json:"least"`               // the fewest that served
	Want      int            `json:"want"`
	Leaders   int            `json:"leaderChanges"`
	Restarted int            `json:"tasksRestarted"` // in place, of the watched ones on the node
	Replaced  int            `json:"tasksReplaced"`  // by others, of these
	Blind     bool           `json:"blind,omitempty"`
	touched   []string
}

func (c *Cost) sentence() string {
	var parts []string
	switch {
	case c.Recovered == nil:
		parts = append(parts, "NOT recovered")
	case *c.Recovered < 100*time.Millisecond:
		parts = append(parts, "nothing to recover from at its end")
	default:
		parts = append(parts, "whole again "+round(*c.Recovered)+" after its end")
	}
	if c.Detected != nil {
		parts = append(parts, "noticed after "+round(*c.Detected))
	}
	if c.NoWrites > 0 {
		parts = append(parts, "no changes for "+round(c.NoWrites))
	}
	if c.Below > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d tasks served at the least, fewer than wanted for %s", c.Least, c.Want, round(c.Below)))
	}
	if c.Leaders > 0 {
		parts = append(parts, plural(c.Leaders, "leader change"))
	}
	if c.Restarted > 0 {
		parts = append(parts, plural(c.Restarted, "task")+" restarted")
	}
	if c.Replaced > 0 {
		parts = append(parts, plural(c.Replaced, "task")+" replaced")
	}
	if c.Blind {
		parts = append(parts, "the game asks this node, so it saw nothing meanwhile")
	}
	return strings.Join(parts, ", ")
}

// round is a duration for people: tenths of a second, or whole milliseconds below one.
func round(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// weigh measures what a round cost.
func (g *Game) weigh(ctx context.Context, under []*Played, ended time.Time) {
	after, err := g.cl.Tasks(ctx, api.TaskQuery{All: true})
	now := time.Now()
	for _, f := range under {
		if f.Began.IsZero() {
			continue
		}
		f.Cost = costOf(f, g.w.since(f.Began.Add(-2*lookEvery)), g.w.writesSince(f.Began.Add(-2*writeEvery)), now)
		f.Cost.Blind = f.blind
		if err == nil {
			f.Cost.count(f.before, after.Tasks)
		}
	}
	if err == nil {
		g.checkFenced(under, after.Tasks)
	}
}

// costOf reads a fault's cost out of the samples, which begin a little before it.
func costOf(f *Played, looks []sample, writes []write, now time.Time) Cost {
	var c Cost
	leader := ""
	for i, s := range looks {
		if s.At.Before(f.Began) {
			if s.Leader != "" {
				leader = s.Leader
			}
			continue
		}
		if s.OK && s.Leader != "" && leader != "" && s.Leader != leader {
			c.Leaders++
		}
		notices := !s.OK || s.Leader != leader || slices.Contains(s.Down, f.On) || s.Ready < s.Want
		if notices && c.Detected == nil && !(f.blind && !s.OK) && s.At.Before(f.Ended.Add(lookEvery)) {
			d := s.At.Add(s.Took).Sub(f.Began)
			c.Detected = &d
		}
		if s.Leader != "" {
			leader = s.Leader
		}
		if !s.OK {
			continue
		}
		if c.Want == 0 || s.Want-s.Ready > c.Want-c.Least {
			c.Want, c.Least = s.Want, s.Ready
		}
		if s.Ready < s.Want && i+1 < len(looks) {
			c.Below += looks[i+1].At.Sub(s.At)
		}
	}
	c.NoReads = longestGap(len(looks), func(i int) (time.Time, time.Duration, bool) { return looks[i].At, looks[i].Took, looks[i].OK }, now, 2*lookEvery)
	c.NoWrites = longestGap(len(writes), func(i int) (time.Time, time.Duration, bool) { return writes[i].At, writes[i].Took, writes[i].OK }, now, 2*writeEvery)
	i := 0
	for i < len(looks) && looks[i].At.Before(f.Ended) {
		i++
	}
	if at, ok := settledAt(looks[i:], settleLooks); ok {
		d := max(0, at.Sub(f.Ended))
		if at.Equal(looks[i].At.Add(looks[i].Took)) { // the first look found it whole
			d = 0
		}
		c.Recovered = &d
	}
	return c
}

// longestGap is the longest time from the end of a probe that worked to that of the next one, what is usual taken off.
func longestGap(n int, probe func(int) (at time.Time, took time.Duration, ok bool), now time.Time, usual time.Duration) time.Duration {
	var longest time.Duration
	var last time.Time
	for i := range n {
		at, took, ok := probe(i)
		if !ok {
			continue
		}
		if end := at.Add(took); last.IsZero() {
			last = end
		} else {
			longest, last = max(longest, end.Sub(last)), end
		}
	}
	if last.IsZero() && n > 0 {
		last, _, _ = probe(0)
	}
	if !last.IsZero() {
		longest = max(longest, now.Sub(last))
	}
	if longest <= 2*usual {
		return 0
	}
	return longest - usual
}

// count tells what became of the tasks that ran on the node before.
func (c *Cost) count(before, after []api.Task) {
	for i := range before {
		was := &before[i]
		if was.Run > 0 {
			continue // a batch's tasks end by themselves
		}
		j := slices.IndexFunc(after, func(t api.Task) bool { return t.ID == was.ID })
		moved := slices.ContainsFunc(after, func(t api.Task) bool { return t.Replaces == was.ID && t.Move })
		switch {
		case moved:
		case j < 0 || after[j].Desired != job.DesiredRun:
			c.Replaced++
			c.touched = append(c.touched, was.Job+"/"+was.Name+" was replaced")
		case restarts(&after[j]) > restarts(was):
			c.Restarted++
			c.touched = append(c.touched, was.Job+"/"+was.Name+" was restarted")
		}
	}
}

func restarts(t *api.Task) int {
	if t.Status == nil {
		return 0
	}
	return t.Status.Restarts
}

// checkFenced looks for two tasks of a fenced slot whose times to run overlap, by the clocks of their nodes.
func (g *Game) checkFenced(under []*Played, tasks []api.Task) {
	for _, text := range overlaps(tasks, func(t *api.Task) bool {
		return g.fenced[t.Job+"/"+t.Service] && (t.Status == nil || t.Status.At[job.Running].After(g.begun))
	}) {
		if len(under) > 0 {
			under[len(under)-1].unfenced = text
		}
	}
}

// span is when a task ran.
type span struct {
	task     *api.Task
	from, to time.Time
}

// overlaps lists pairs of tasks of one slot that ran at the same time, at least one of them new.
func overlaps(tasks []api.Task, isNew func(*api.Task) bool) []string {
	slots := map[string][]span{}
	for i := range tasks {
		t := &tasks[i]
		if t.Failover != job.FailoverFenced || t.Status == nil {
			continue
		}
		from := t.Status.At[job.Running]
		if from.IsZero() {
			continue
		}
		s := span{task: t, from: from}
		for _, end := range []job.State{job.Complete, job.Failed, job.Lost} {
			if at := t.Status.At[end]; !at.IsZero() {
				s.to = at
			}
		}
		switch {
		case !s.to.IsZero():
		case t.Desired == job.DesiredRun && t.Status.State == job.Running:
			s.to = time.Now()
		default:
			continue // its node has not said when it ended
		}
		key := fmt.Sprintf("%s/%s.%d", t.Job, t.Service, t.Slot)
		slots[key] = append(slots[key], s)
	}
	var out []string
	for key, spans := range slots {
		for i, a := range spans {
			for _, b := range spans[i+1:] {
				from, to := later(a.from, b.from), earlier(a.to, b.to)
				if to.Sub(from) > clockTolerance && (isNew(a.task) || isNew(b.task)) {
					out = append(out, fmt.Sprintf("slot %s had two tasks at once, for %s: %s on %s and %s on %s", key, round(to.Sub(from)), a.task.ID, a.task.NodeName, b.task.ID, b.task.NodeName))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Promise is what shoal promises, and whether the game saw it kept.
type Promise struct {
	Name     string   `json:"name"`
	Says     string   `json:"says"`
	Checked  int      `json:"checked"` // how many times it was put to the test; 0: the game says nothing about it
	Breaches []Breach `json:"breaches,omitempty"`
}

// Breach is one time that a promise was broken.
type Breach struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	Look string    `json:"look"` // where to look
}

// promises judges what was played so far.
func (g *Game) promises() []Promise {
	g.w.mu.Lock()
	reg := g.w.reg
	acked := int(reg.acked)
	g.w.mu.Unlock()
	keep := Promise{Name: "changes", Says: "what was acknowledged is there", Checked: min(reg.reads, acked)}
	broken := reg.breach
	if !slices.ContainsFunc(g.played, func(f *Played) bool { return f.Failed == stoppedElsewhere }) {
		broken = append(slices.Clip(broken), reg.gone...)
	}
	for _, b := range broken[:min(len(broken), maxBreaches)] {
		keep.Breaches = append(keep.Breaches, Breach{b.at, b.text, "`shoal events`, `shoal debug` on each node that holds the log"})
	}
	runs := Promise{Name: "recovery", Says: fmt.Sprintf("everything runs again within %v of a fault's end", g.o.Within)}
	writes := Promise{Name: "availability", Says: fmt.Sprintf("while a majority is whole, changes are taken again within %v", writesWithin)}
	agents := Promise{Name: "containers", Says: "an agent's death touches no container"}
	fence := Promise{Name: "fencing", Says: "a slot of a fenced service never has two tasks that run"}
	undone := Promise{Name: "undone", Says: "every fault is undone at its deadline"}
	for _, f := range g.played {
		if f.Skipped != "" || f.Began.IsZero() {
			continue
		}
		at := "around " + f.Began.Local().Format(time.TimeOnly)
		undone.Checked++
		if f.late > undoLate {
			undone.Breaches = append(undone.Breaches, Breach{f.Ended, fmt.Sprintf("%s: undone %s late, or not at all: %s", f.title(), round(f.late), f.Failed), "`shoal chaos status`, and on " + f.On + " `shoal chaos stop --local`"})
		}
		if f.Failed != "" {
			continue
		}
		runs.Checked++
		if r := f.Cost.Recovered; r == nil || *r > g.o.Within {
			text := f.title() + ": not whole again while it was watched"
			if r != nil {
				text = fmt.Sprintf("%s: whole again after %s", f.title(), round(*r))
			}
			if bad := g.w.lastComplaint(f.Ended, f.Ended.Add(g.patience())); bad != "" {
				text += "; last: " + bad
			}
			runs.Breaches = append(runs.Breaches, Breach{f.Ended, text, "`shoal ps`, `shoal why` of what does not run, `shoal events` " + at})
		}
		if !f.blind && (!g.o.NoQuorumNeeded || f.Fault == gameday.KillTask) {
			writes.Checked++
			if f.Cost.NoWrites > writesWithin {
				writes.Breaches = append(writes.Breaches, Breach{f.Began, fmt.Sprintf("%s: no change was taken for %s", f.title(), round(f.Cost.NoWrites)), "`shoal events` and the agents' logs " + at})
			}
		}
		if f.Fault == gameday.KillAgent && f.Ended.Sub(f.Began) < agentGrace {
			agents.Checked += len(f.before)
			for _, t := range f.Cost.touched {
				agents.Breaches = append(agents.Breaches, Breach{f.Began, f.title() + ": " + t, "`shoal why`, and the agent's log on " + f.On + " " + at})
			}
		}
		if len(g.fenced) > 0 {
			fence.Checked++
		}
		if f.unfenced != "" {
			fence.Breaches = append(fence.Breaches, Breach{f.Began, f.title() + ": " + f.unfenced, "the clocks of the two nodes first, then `shoal why` of both tasks"})
		}
	}
	return []Promise{keep, runs, writes, agents, fence, undone}
}

// maxBreaches of one kind are listed.
const maxBreaches = 20

func (g *Game) firstBroken() string {
	for _, p := range g.promises() {
		if len(p.Breaches) > 0 {
			return p.Breaches[0].Text
		}
	}
	return ""
}
