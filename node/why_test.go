package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// timeline renders steps as "what+ms", one word each.
func (w *world) timeline(ref string) string {
	w.t.Helper()
	n := &Node{state: w.Store}
	why, err := n.Why(context.Background(), ref)
	if err != nil {
		w.t.Fatalf("why %s: %v", ref, err)
	}
	var out []string
	for _, s := range why.Steps {
		if s.Since < 0 {
			w.t.Errorf("step %q comes %v before the one that led to it", s.What, -s.Since)
		}
		out = append(out, fmt.Sprintf("%s+%d", strings.ReplaceAll(s.What, " ", "-"), s.Since.Milliseconds()))
	}
	return strings.Join(out, " ")
}

func TestWhyTellsWhatLedToATask(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*world)
		want    string
	}{
		"submitted": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t1", 1, nodeIDs[1], "")
			w.runs("t1", 30)
		}, "submitted+0 placed+20 pulling+10 created+10 running+20"},
		"scaled": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t0", 1, nodeIDs[1], "")
			w.apply(state.ScaleJob{Job: "shop", Replicas: map[string]int{"web": 2}, Key: "k", At: at(5000)})
			w.place(5010, "t1", 2, nodeIDs[2], "")
		}, "scaled+0 placed+10"},
		"failed predecessor": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t0", 1, nodeIDs[1], "")
			w.runs("t0", 30)
			w.report("t0", job.Status{State: job.Failed, Message: "exit code 1"}, map[job.State]time.Time{job.Failed: at(900)})
			w.place(1000, "t1", 1, nodeIDs[2], "t0")
		}, "predecessor-failed+0 placed+100"},
		"lost node": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t0", 1, nodeIDs[2], "")
			w.runs("t0", 30)
			w.apply(state.NodeDown{Node: nodeIDs[2], SuspectAt: at(1000), DeadAt: at(1800), At: at(1850)})
			w.place(1860, "t1", 1, nodeIDs[1], "t0")
			w.runs("t1", 1900)
		}, "suspect+0 dead+800 node-down+50 placed+10 pulling+40 created+10 running+20"},
		"an older loss of the same node is not the cause": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.apply(state.NodeDown{Node: nodeIDs[2], SuspectAt: at(100), DeadAt: at(200), At: at(300)})
			w.apply(state.NodeUp{Node: nodeIDs[2], At: at(400)})
			w.place(500, "t0", 1, nodeIDs[2], "")
			w.apply(state.NodeDown{Node: nodeIDs[2], At: at(9000)})
			w.place(9010, "t1", 1, nodeIDs[1], "t0")
		}, "node-down+0 placed+10"},
		"a node's clock that is behind": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t1", 1, nodeIDs[1], "")
			w.runs("t1", -60_000)
		}, "submitted+0 placed+20 pulling+0 created+10 running+20"},
		"stopped and ended": {func(w *world) {
			w.submit(0, job.Service{Replicas: 1})
			w.place(20, "t1", 1, nodeIDs[1], "")
			w.apply(state.Plan{Base: w.View().Index(), Stop: []state.TaskStop{{ID: "t1", Desired: job.DesiredStop, Cause: "scaled down"}}, At: at(2000)})
			code := 143
			w.report("t1", job.Status{State: job.Complete, ExitCode: &code}, map[job.State]time.Time{job.Running: at(50), job.Stopping: at(2010), job.Complete: at(2100)})
		}, "submitted+0 placed+20 running+30 asked-to-stop+1950 stopping+10 complete+90"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.prepare(w)
			if got := w.timeline("t1"); got != c.want {
				t.Errorf("timeline\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWhySaysWhatHoldsAServiceBack(t *testing.T) {
	w := newWorld(t)
	n := &Node{state: w.Store}
	w.submit(0, job.Service{Replicas: 3})
	w.place(10, "t1", 1, nodeIDs[1], "")
	w.apply(state.Plan{Base: w.View().Index(), Block: []job.Blocked{{Job: "shop", Service: "web", Slots: 2, Reason: "no node fits"}}, At: at(20)})
	for _, ref := range []string{"shop", "shop/web", "shop/web.3"} {
		why, err := n.Why(context.Background(), ref)
		if err != nil || len(why.Blocked) != 1 || why.Blocked[0].Reason != "no node fits" {
			t.Errorf("why %s: %+v, %v", ref, why.Blocked, err)
		}
	}
	for _, ref := range []string{"nothing", "shop/db", "zz9"} {
		if _, err := n.Why(context.Background(), ref); !errors.Is(err, job.NotFound) {
			t.Errorf("why %s: %v, want not found", ref, err)
		}
	}
}

func TestEndingsSayCodeMemoryAndMessage(t *testing.T) {
	code := 137
	for want, st := range map[string]*job.Status{
		"":                                     nil,
		"exit code 137":                        {ExitCode: &code},
		"exit code 137, out of memory, killed": {ExitCode: &code, OOM: true, Message: "killed"},
	} {
		if got := ending(st); got != want {
			t.Errorf("ending %+v: %q, want %q", st, got, want)
		}
	}
}
