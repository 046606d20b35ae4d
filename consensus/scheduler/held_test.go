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
