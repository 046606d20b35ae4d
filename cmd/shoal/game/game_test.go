package game

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func options() Options {
	o := Options{For: 10 * time.Minute, Seed: 7, MaxDown: 1, Within: 30 * time.Second, Pause: 5 * time.Second}
	if err := o.Check(); err != nil {
		panic(err)
	}
	return o
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it):\n%s", path, got)
	}
}

// A schedule that was printed once must come out of its seed again, also in a later version.
func TestTheScheduleOfASeed(t *testing.T) {
	o := options()
	o.MaxDown = 2
	var b strings.Builder
	for _, p := range Schedule(o, []string{"a", "b", "c"})[:30] {
		fmt.Fprintf(&b, "%d %v %s on %s peer=%q hold=%v loss=%d pick=%d\n", p.Round, p.At, p.Fault, p.Node, p.Peer, p.Hold, p.Percent, p.Pick)
	}
	golden(t, "schedule.txt", b.String())
}

func TestSchedules(t *testing.T) {
	nodes := []string{"a", "b", "c", "d"}
	for seed := range uint64(300) {
		o := options()
		o.Seed, o.MaxDown, o.Hold = seed, 1+int(seed%3), time.Duration(seed%5)*time.Second
		plan := Schedule(o, nodes)
		if !reflect.DeepEqual(plan, Schedule(o, nodes)) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		seen := map[string]bool{}
		for i, p := range plan {
			seen[p.Fault] = true
			kind, _ := gameday.Find(p.Fault)
			var inRound []string
			for _, q := range plan {
				if q.Round == p.Round {
					inRound = append(inRound, q.Node)
				}
			}
			slices.Sort(inRound)
			switch {
			case kind.Destructive || kind.ByName:
				t.Fatalf("seed %d plays %s, which nobody named", seed, p.Fault)
			case p.At >= o.For:
				t.Fatalf("seed %d: a fault begins after the game: %+v", seed, p)
			case p.Hold > kind.Most || o.Hold > 0 && p.Hold > o.Hold:
				t.Fatalf("seed %d: %+v is held too long", seed, p)
			case len(inRound) > o.MaxDown || len(slices.Compact(slices.Clone(inRound))) != len(inRound):
				t.Fatalf("seed %d: round %d hits %v", seed, p.Round, inRound)
			case p.Fault == gameday.CutPair && (p.Peer == "" || p.Peer == p.Node):
				t.Fatalf("seed %d: %+v", seed, p)
			case i > 0 && p.At < plan[i-1].At:
				t.Fatalf("seed %d: %+v comes before the one before", seed, p)
			}
		}
		if o.MaxDown == 1 && len(seen) != len(o.Faults) {
			t.Fatalf("seed %d plays only %v", seed, seen)
		}
	}
	o := options()
	o.Nodes = []string{"b"}
	for _, p := range Schedule(o, o.Nodes) {
		if p.Node != "b" {
			t.Fatalf("%s is hit, though only b was named", p.Node)
		}
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"--for":                                  func(o *Options) { o.For = 0 },
		"--max-down":                             func(o *Options) { o.MaxDown = 0 },
		"--hold":                                 func(o *Options) { o.Hold = time.Hour },
		"--within":                               func(o *Options) { o.Within = 0 },
		"--rounds":                               func(o *Options) { o.Rounds = -1 },
		"none of that name; there are kill-task": func(o *Options) { o.Faults = []string{"meteor"} },
		"named twice":                            func(o *Options) { o.Faults = []string{"cpu", "cpu"} },
		"add --yes":                              func(o *Options) { o.Faults = []string{"cpu", "power-off"} },
	} {
		o := options()
		change(&o)
		if err := o.Check(); job.KindOf(err) != job.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v (%v), want one that says %q", err, job.KindOf(err), want)
		}
	}
	o := options()
	if o.Faults, o.Yes = []string{"power-off"}, true; o.Check() != nil {
		t.Errorf("with --yes: %v", o.Check())
	}
}

func voters(states ...string) []api.NodeView {
	var out []api.NodeView
	for i, s := range states {
		n := api.NodeView{Role: "voter", Gossip: "alive"}
		n.Name, n.State = string(rune('a'+i)), job.NodeReady
		switch s {
		case "down":
			n.State = job.NodeDown
		case "worker":
			n.Role = s
		}
		out = append(out, n)
	}
	return out
}

func TestTheMajorityIsKept(t *testing.T) {
	for _, c := range []struct {
		nodes  []api.NodeView
		silent string
		breaks bool
	}{
		{voters("", "", ""), "a", false},
		{voters("", "", ""), "a b", true},
		{voters("", "", "down"), "a", true},
		{voters("", "", "worker"), "c", false},
		{voters(""), "a", true},
		{voters("", "worker"), "b", false},
		{voters("", "", "", "", ""), "a b", false},
		{voters("", "", "", "", ""), "a b c", true},
	} {
		if why := breaksQuorum(c.nodes, strings.Fields(c.silent)); (why != "") != c.breaks {
			t.Errorf("%d nodes, %q silent: %q, want a refusal %v", len(c.nodes), c.silent, why, c.breaks)
		}
	}
}

// fakeCluster answers what it is told; a Game looks at it before it begins.
type fakeCluster struct {
	Cluster
	view  view
	chaos api.ChaosStatus
	err   error
}

func (f *fakeCluster) Status(context.Context) (api.Status, error)  { return api.Status{Node: "1"}, nil }
func (f *fakeCluster) Nodes(context.Context) (api.NodeList, error) { return f.view.nodes, nil }
func (f *fakeCluster) Jobs(context.Context) (api.JobList, error)   { return f.view.jobs, nil }
func (f *fakeCluster) Job(context.Context, string, bool) (api.JobDetail, error) {
	return api.JobDetail{}, nil
}
func (f *fakeCluster) Chaos(context.Context, job.NodeID) (api.ChaosStatus, error) {
	return f.chaos, f.err
}

func TestAClusterThatIsNotWholeIsRefused(t *testing.T) {
	whole := func() *fakeCluster {
		f := &fakeCluster{chaos: api.ChaosStatus{Policy: "allow"}}
		f.view.nodes.Nodes = voters("", "", "")
		f.view.nodes.Nodes[0].Leader = true
		f.view.jobs.Jobs = []api.JobSummary{{Name: "web", Services: 1, Want: 3, Ready: 3}, {Name: "batch", Services: 1, Batches: 1, Want: 1}}
		return f
	}
	for _, c := range []struct {
		want   string
		kind   job.Kind
		change func(*fakeCluster, *Options)
	}{
		{"", "", func(*fakeCluster, *Options) {}},
		{"node b is down", job.Conflict, func(f *fakeCluster, _ *Options) { f.view.nodes.Nodes[1].State = job.NodeDown }},
		{"node c is suspect", job.Conflict, func(f *fakeCluster, _ *Options) { f.view.nodes.Nodes[2].Gossip = "suspect" }},
		{"job web has 2 of 3", job.Conflict, func(f *fakeCluster, _ *Options) { f.view.jobs.Jobs[0].Ready = 2 }},
		{"no leader answers", job.Conflict, func(f *fakeCluster, _ *Options) { f.view.nodes.Stale = true }},
		{"no node leads", job.Conflict, func(f *fakeCluster, _ *Options) { f.view.nodes.Nodes[0].Leader = false }},
		{"job shop is gone", job.Conflict, func(_ *fakeCluster, o *Options) { o.Jobs = []string{"shop"} }},
		{"there is no node \"z\"", job.NotFound, func(_ *fakeCluster, o *Options) { o.Nodes = []string{"z"} }},
		{"--chaos=never", job.Denied, func(f *fakeCluster, _ *Options) { f.chaos.Policy = "never" }},
		{"allows nothing destructive", job.Denied, func(f *fakeCluster, o *Options) {
			f.chaos.Policy, o.Faults, o.Yes = "safe", []string{"disk-full"}, true
		}},
		{"that an admin began is on", job.Conflict, func(f *fakeCluster, _ *Options) { f.chaos.Game = &api.ChaosGame{ID: "x", By: "an admin"} }},
		{"is not undone", job.Conflict, func(f *fakeCluster, _ *Options) { f.chaos.Fault = &api.ChaosFault{Fault: "cpu"} }},
		{"knows no game days", job.Conflict, func(f *fakeCluster, _ *Options) { f.err = job.Errorf(job.NotFound, "no such route") }},
	} {
		f, o := whole(), options()
		o.Faults = nil
		c.change(f, &o)
		g, plan, err := New(context.Background(), f, o, "a test", nil)
		switch {
		case c.want == "" && (err != nil || len(plan) == 0 || !slices.Equal(g.Watched(), []string{"web"})):
			t.Errorf("a whole cluster: %v", err)
		case c.want != "" && (job.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v (%v), want %v that says %q", err, job.KindOf(err), c.kind, c.want)
		}
	}
}

func TestWhatTheProbesRead(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name       string
		floor, got uint64
		open       []uint64
		breach     int
		gone       int
	}{
		{"the last one", 5, 5, nil, 0, 0},
		{"one that is not yet acknowledged", 5, 6, nil, 0, 0},
		{"an older one", 5, 4, nil, 1, 0},
		{"an older one whose outcome is not known", 5, 4, []uint64{4}, 0, 0},
		{"one that was never made", 5, 9, nil, 1, 0},
		{"nothing", 5, 0, nil, 0, 1},
		{"nothing, before there was anything", 0, 0, nil, 0, 0},
	} {
		r := register{seq: 6, acked: 5, open: map[uint64]bool{}}
		for _, o := range c.open {
			r.open[o] = true
		}
		r.read(now, c.floor, c.got)
		if len(r.breach) != c.breach || len(r.gone) != c.gone {
			t.Errorf("%s: %v, %v", c.name, r.breach, r.gone)
		}
	}
}

func TestTwoTasksOfAFencedSlot(t *testing.T) {
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	task := func(id, node string, from, to int) api.Task {
		k := api.Task{Task: job.Task{ID: job.TaskID(id), Job: "shop", Service: "db", Slot: 1, Failover: job.FailoverFenced, Desired: job.DesiredLost}, NodeName: node}
		k.Status = &job.Status{State: job.Failed, At: map[job.State]time.Time{job.Running: at.Add(time.Duration(from) * time.Second)}}
		if to > 0 {
			k.Status.At[job.Failed] = at.Add(time.Duration(to) * time.Second)
		}
		return k
	}
	all := func(*api.Task) bool { return true }
	if got := overlaps([]api.Task{task("t1", "a", 0, 10), task("t2", "b", 10, 20)}, all); len(got) != 0 {
		t.Errorf("one after the other: %v", got)
	}
	if got := overlaps([]api.Task{task("t1", "a", 0, 0), task("t2", "b", 10, 20)}, all); len(got) != 0 {
		t.Errorf("an end that is not known: %v", got)
	}
	got := overlaps([]api.Task{task("t1", "a", 0, 15), task("t2", "b", 10, 20)}, all)
	if len(got) != 1 || !strings.Contains(got[0], "shop/db.1 had two tasks at once, for 5s: t1 on a and t2 on b") {
		t.Errorf("two at once: %v", got)
	}
}

// played is a game as it might have been, to be weighed and reported.
func played(broken bool) *Game {
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	sec := func(s float64) time.Time { return at.Add(time.Duration(s * float64(time.Second))) }
	g := &Game{o: options(), id: "GAME", by: "root on a", begun: at, w: &watcher{watched: []string{"web"}, reg: register{seq: 50, acked: 49, reads: 100}}}
	g.nodes = voters("", "", "")
	g.home = api.Status{Cluster: "c1", Name: "a", Node: "1", Version: "1.2.3"}
	for i := range 160 {
		s := sample{At: sec(float64(i) / 4), Took: 5 * time.Millisecond, OK: true, Leader: "a", Ready: 6, Want: 6}
		switch {
		case i >= 44 && i < 50:
			s.OK, s.Leader, s.NotWell = false, "", []string{"no answer: <timeout>"}
		case i >= 50:
			s.Leader = "b"
		}
		if i >= 48 && i < 60 || broken && i >= 60 && i < 130 {
			s.Ready, s.NotWell, s.Down = 4, []string{"job web has 4 of 6 tasks running"}, []string{"a"}
		}
		g.w.samples = append(g.w.samples, s)
	}
	for i := range 100 {
		w := write{At: sec(float64(i) * 0.4), Took: 12 * time.Millisecond, OK: i < 27 || i > 31, Seq: uint64(i)}
		if !w.OK {
			w.Err = "no leader"
		}
		g.w.writes = append(g.w.writes, w)
	}
	before := []api.Task{{Task: job.Task{ID: "t1", Job: "web", Desired: job.DesiredRun}, Name: "web.1", Status: &job.Status{State: job.Running}}}
	a := &Played{Planned: Planned{Round: 1, Fault: gameday.Partition, Node: Leader, Hold: 4 * time.Second}, On: "a", Began: sec(10.5), Ended: sec(14.5), UndidIt: "helper", Proof: "120 packets dropped", silent: true, before: before}
	b := &Played{Planned: Planned{Round: 2, Fault: gameday.KillAgent, Node: "c"}, On: "c", Began: sec(34), Ended: sec(37), UndidIt: "backup", Proof: "agent 12 is gone", silent: true, before: before}
	c := &Played{Planned: Planned{Round: 3, At: 39 * time.Second, Fault: gameday.PauseTask, Node: "b", Hold: time.Second}, On: "b", Skipped: "no task of the watched jobs runs there"}
	g.played = []*Played{a, b, c}
	after := slices.Clone(before)
	if broken {
		after[0].Status = &job.Status{State: job.Running, Restarts: 1}
	}
	for _, f := range g.played[:2] {
		f.Cost = costOf(f, g.w.since(f.Began.Add(-time.Second)), g.w.writesSince(f.Began.Add(-time.Second)), sec(40))
		f.Cost.count(f.before, after)
	}
	return g
}

func TestReports(t *testing.T) {
	time.Local = time.UTC
	for name, broken := range map[string]bool{"kept": false, "broken": true} {
		g := played(broken)
		r := g.report("", g.begun.Add(40*time.Second), nil)
		if r.Broken != broken {
			t.Errorf("%s: broken is %v: %+v", name, r.Broken, r.Promises)
		}
		var text, html strings.Builder
		if err := r.Text(&text); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.String())
		if err := r.HTML(&html); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".html", html.String())
		for _, foreign := range []string{"http://", "https://", "<script", "url(", "<timeout>"} {
			if strings.Contains(html.String(), foreign) {
				t.Errorf("%s: the page has %q", name, foreign)
			}
		}
	}
}

func TestCosts(t *testing.T) {
	f := played(false).played[0]
	c := f.Cost
	switch {
	case c.Detected == nil || *c.Detected != 505*time.Millisecond:
		t.Errorf("detected after %v", c.Detected)
	case c.Recovered == nil || *c.Recovered != 505*time.Millisecond:
		t.Errorf("recovered after %v", c.Recovered)
	case c.Leaders != 1 || c.Least != 4 || c.Want != 6:
		t.Errorf("%+v", c)
	case c.NoWrites < time.Second || c.NoWrites > 3*time.Second:
		t.Errorf("no changes for %v", c.NoWrites)
	}
}

func TestAReportOnAGameWithoutAnything(t *testing.T) {
	g := &Game{o: options(), w: &watcher{}, begun: time.Now()}
	r := g.report("interrupted", time.Now(), []string{"node b: it does not answer"})
	var b strings.Builder
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	if !r.Broken || !strings.Contains(b.String(), "NOT EVERYTHING WAS UNDONE") {
		t.Errorf("what is left is not said: %s", b.String())
	}
}
