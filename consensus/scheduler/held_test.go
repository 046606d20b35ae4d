package scheduler

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func failover(mode job.FailoverMode) func(*job.Service) {
	return func(s *job.Service) { s.Failover = &job.Failover{Mode: mode} }
}

func TestHeldTasksWaitForTheirReleaseAndSaySo(t *testing.T) {
	for mode, says := range map[job.FailoverMode]string{
		job.FailoverFenced: "waits for the lease of task", job.FailoverManual: "waits for an admin, because x-failover is manual: node a is down",
	} {
		w := newWorld(t, 1)
		a := w.node("a")
		w.submit("j", svc("db", 1, failover(mode)))
		w.settle()
		w.node("b")
		was := w.running("j", "db")[0]
		if was.Failover != mode || mode == job.FailoverFenced && was.Lease != job.DefaultLease {
			t.Fatalf("%s: placed as %q with a lease of %v", mode, was.Failover, was.Lease)
		}
		w.cut[a] = true
		down := w.now
		w.apply(state.NodeDown{Node: a, At: down})
		w.now = w.now.Add(time.Hour) // time alone releases nothing here
		w.settle()
		if now := w.running("j", "db"); len(now) != 1 || now[0].ID != was.ID {
			t.Errorf("%s: moved before it was released %s", mode, w.dump())
		}
		if got := w.blocked("j", "db"); !strings.Contains(got, says) {
			t.Errorf("%s: %q", mode, got)
		}
		w.apply(state.Release{Node: a, Since: down, Tasks: []job.TaskID{was.ID}, At: w.now})
		w.settle()
		if now := w.running("j", "db"); len(now) != 1 || now[0].Node == a || now[0].Replaces != was.ID || w.blocked("j", "db") != "" {
			t.Errorf("%s: not moved after its release %s", mode, w.dump())
		}
	}
}

func TestAHeldTaskIsKeptWhenItsNodeReturns(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("db", 1, failover(job.FailoverFenced)))
	w.settle()
	w.node("b")
	was := w.running("j", "db")[0]
	w.apply(state.NodeDown{Node: a, At: w.now})
	w.settle()
	w.apply(state.NodeUp{Node: a, At: w.now})
	w.settle()
	if now := w.running("j", "db"); len(now) != 1 || now[0].ID != was.ID || w.blocked("j", "db") != "" {
		t.Error(w.dump())
	}
}

func TestAFencedTaskThatStopsOnALostNodeHoldsItsSlot(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("db", 1, failover(job.FailoverFenced)))
	w.settle()
	w.node("b")
	w.cut[a] = true
	w.submit("j", svc("db", 1, failover(job.FailoverFenced), func(s *job.Service) { s.Image = "two" }))
	w.plan()
	down := w.now
	w.apply(state.NodeDown{Node: a, At: down})
	w.settle()
	now := w.store.View().TasksOfService("j", "db")
	if len(w.started("j", "db")) != 1 || !strings.Contains(w.blocked("j", "db"), "waits for the lease of task "+string(now[0].ID)) {
		t.Fatal(w.dump())
	}
	w.apply(state.Release{Node: a, Since: down, Tasks: []job.TaskID{now[0].ID}, At: w.now})
	w.settle()
	if now := w.running("j", "db"); len(now) != 1 || now[0].Node == a {
		t.Error(w.dump())
	}
}

// What an update had told to end on a node that went off is given up when its slot becomes a fenced one's and needs another task.
func TestWhatWasToEndOnALostNodeDoesNotHoldAFencedSlot(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	first := updating(job.Update{Order: job.StartFirst})
	w.submit("j", svc("db", 1, failover(job.FailoverFast), first, image("one")))
	w.settle()
	b := w.node("b")
	w.cut[a] = true
	w.submit("j", svc("db", 1, failover(job.FailoverFast), first, image("two")))
	w.pass(time.Minute, nil)
	w.apply(state.NodeDown{Node: a, At: w.now})
	w.pass(time.Minute, nil)
	var leaves *job.Task
	for _, k := range w.store.View().TasksOfService("j", "db") {
		if k.Node == a {
			leaves = k
		}
	}
	if leaves == nil || leaves.Desired != job.DesiredStop {
		t.Fatalf("want one on its way out on a %s", w.dump())
	}
	w.cut[b] = true
	w.apply(state.NodeDown{Node: b, At: w.now})
	w.submit("j", svc("db", 1, failover(job.FailoverFenced), image("two")))
	c := w.node("c")
	w.settle()
	if now := w.running("j", "db"); len(now) != 1 || now[0].Node != c {
		t.Error(w.dump())
	}
}

// A task with a former content beside canaries is fenced as the new content is. What comes after need not be fenced, and
// must not be placed beside it all the same.
func TestAFencedTaskOfAnUnfencedContentIsNeverDoubled(t *testing.T) {
	for _, after := range []string{"update", "drain", "rebalance"} {
		t.Run(after, func(t *testing.T) {
			w := newWorld(t, 1)
			w.leasesEnd = true
			w.node("a")
			w.node("b")
			opts := []func(*job.Service){updating(job.Update{Canaries: 1, Parallelism: 1}), failover(job.FailoverFast)}
			w.submit("j", svc("s", 3, append(opts, image("one"))...))
			w.settle()
			w.submit("j", svc("s", 3, opts[0], failover(job.FailoverFenced), image("two")))
			w.pass(5*time.Minute, nil)
			node := job.NodeID("")
			for _, k := range w.running("j", "s") {
				if k.Failover != job.FailoverFenced {
					node = k.Node
				}
			}
			w.cut[node] = true
			w.apply(state.NodeDown{Node: node, At: w.now})
			w.pass(5*time.Minute, nil)
			var fenced *job.Task
			for _, k := range w.running("j", "s") {
				if s := w.store.View().Service(k.Digest); k.Failover == job.FailoverFenced && s.Image == "one" {
					fenced = k
				}
			}
			if fenced == nil {
				t.Fatalf("no fenced task of the former content %s", w.dump())
			}
			w.cut[node] = false
			w.apply(state.NodeUp{Node: node, At: w.now})
			want := "one"
			switch after {
			case "update":
				want = "three"
				w.submit("j", svc("s", 3, append(opts, image(want))...))
				w.pass(5*time.Minute, nil)
				w.apply(state.PromoteJob{Job: "j", Services: []string{"s"}, At: w.now})
			case "drain":
				w.apply(state.FailJob{Job: "j", Reason: "too slow", At: w.now})
				w.pass(5*time.Minute, nil)
				w.apply(state.SetDrain{Node: fenced.Node, Drained: true, At: w.now})
			case "rebalance":
				w.apply(state.FailJob{Job: "j", Reason: "too slow", At: w.now})
				w.pass(5*time.Minute, nil)
				w.apply(state.SetDrain{Node: node, At: w.now})
				w.node("c")
				w.node("d")
			}
			w.pass(30*time.Minute, nil)
			w.allRun("j", "s", 3, want)
		})
	}
}

// fence does what the leader does about leases on lost nodes; it tells whether it did anything.
func (w *world) fence() (did bool) {
	v := w.store.View()
	for _, n := range v.Nodes() {
		var due []job.TaskID
		for _, k := range v.TasksOfNode(n.ID) {
			st := v.Status(k.ID)
			if n.State != job.NodeReady && k.Held() && k.Failover == job.FailoverFenced && (st == nil || !st.State.Terminal()) && w.leasesEnd {
				due = append(due, k.ID)
			}
		}
		if len(due) > 0 {
			w.apply(state.Release{Node: n.ID, Since: n.Since, Tasks: due, At: w.now})
			did = true
		}
	}
	return did
}
