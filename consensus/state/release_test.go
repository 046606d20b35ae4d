package state

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

// fencedJob is a job whose one service is fenced (or manual) and whose slot 1 runs on a.
func fencedJob(l *log, mode job.FailoverMode) *job.Job {
	s := aSpec("db", 1)
	s.Services[0].Failover = &job.Failover{Mode: mode}
	j := l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job)
	k := heldTask(j, "old", "a", "")
	l.place(k)
	l.report("a", "old", 1, job.Running)
	return j
}

func heldTask(j *job.Job, id, node, replaces string) job.Task {
	k := aTask(j, 1, id, node)
	f := j.Spec.Services[0].FailoverPolicy()
	k.Failover, k.Lease, k.Replaces = f.Mode, f.Lease, job.TaskID(replaces)
	return k
}

// replace plans new on b in the place of old; it gives the reason of a refusal.
func (l *log) replace(j *job.Job) string {
	old := l.s.View().Task("old")
	p := Plan{Place: []job.Task{heldTask(j, "new", "b", "old")}}
	if st := l.s.View().Status("old"); st == nil || !st.State.Terminal() {
		p.Stop = []TaskStop{{ID: old.ID, Desired: job.DesiredLost}}
	}
	return l.plan(p)["new"]
}

func TestAHeldTaskIsReplacedOnlyOnceItIsReleased(t *testing.T) {
	for mode, want := range map[job.FailoverMode]string{job.FailoverFenced: "its lease on node a may still run", job.FailoverManual: "an admin decides"} {
		l := newLog(t).cluster().nodes("a", "b")
		j := fencedJob(l, mode)
		if why := l.replace(j); why != "node a is back" {
			t.Errorf("%s: its node is there: %q", mode, why)
		}
		down := t0.Add(time.Second)
		l.do(NodeDown{Node: "id-a", At: down})
		if why := l.replace(j); !strings.HasPrefix(why, want) {
			t.Errorf("%s: not released: %q", mode, why)
		}
		l.fails(job.Conflict, Release{Node: "id-a", Since: t0, Tasks: []job.TaskID{"old"}, At: down}) // of another absence
		l.do(Release{Node: "id-a", Since: down, Tasks: []job.TaskID{"old", "none"}, Reason: "its lease has ended", At: down})
		// The node returns before it was replaced: the release is void.
		l.do(NodeUp{Node: "id-a", At: down.Add(time.Second)})
		if k := l.s.View().Task("old"); k.Released != 0 {
			t.Errorf("%s: still released after its node returned", mode)
		}
		down = down.Add(2 * time.Second)
		l.do(NodeDown{Node: "id-a", At: down})
		if why := l.replace(j); !strings.HasPrefix(why, want) {
			t.Errorf("%s: the release of an earlier absence counts: %q", mode, why)
		}
		l.do(Release{Node: "id-a", Since: down, Tasks: []job.TaskID{"old"}, At: down})
		if why := l.replace(j); why != "" {
			t.Errorf("%s: released: %q", mode, why)
		}
		if st := l.s.View().Status("old"); st.State != job.Lost {
			t.Errorf("%s: the former task is %s", mode, st.State)
		}
	}
}

func TestAFencedSlotIsNotFilledBesideATaskThatStops(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	j := fencedJob(l, job.FailoverFenced)
	l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredStop}}})
	k := heldTask(j, "new", "b", "old")
	if why := l.place(k)["new"]; why != "task old of the slot may still run" {
		t.Errorf("beside one that stops: %q", why)
	}
	l.do(NodeDown{Node: "id-a", At: t0.Add(time.Second)})
	if why := l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredLost}}})["old"]; !strings.HasPrefix(why, "its lease") {
		t.Errorf("given up with its lease: %q", why)
	}
	l.do(NodeUp{Node: "id-a", At: t0.Add(2 * time.Second)})
	l.report("a", "old", 2, job.Complete)
	if why := l.place(k)["new"]; why != "" {
		t.Errorf("after its end: %q", why)
	}
	fast := heldTask(j, "third", "b", "new")
	fast.Failover = ""
	l.report("b", "new", 1, job.Failed)
	if why := l.place(fast)["third"]; why != "service is fenced" {
		t.Errorf("without a lease: %q", why)
	}
}

func TestAFencedSlotIsFilledBesideATaskThatNeverBegan(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	j := fencedJob(l, job.FailoverFenced)
	s := aSpec("db", 1)
	s.Services[0].Failover = &job.Failover{Mode: job.FailoverFenced}
	s.Services[0].Env = []string{"VERSION=2"}
	waits := heldTask(l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job), "waits", "a", "old")
	waits.Wait = job.WaitRoom
	if why := l.place(waits)["waits"]; why != "" {
		t.Fatal(why)
	}
	l.report("a", "waits", 2, job.Created)
	l.plan(Plan{Stop: []TaskStop{{ID: "waits", Desired: job.DesiredStop}}})
	l.do(PutJob{Spec: j.Spec, At: t0})
	down := t0.Add(time.Second)
	l.do(NodeDown{Node: "id-a", At: down})
	l.do(Release{Node: "id-a", Since: down, Tasks: []job.TaskID{"old"}, Reason: "its lease has ended", At: down})
	if why := l.replace(j); why != "task waits of the slot may still run" {
		t.Errorf("by the rules of level 0, which older builds go by: %q", why)
	}
	l.upgraded("a", "b").do(RaiseRules{To: rulesWaiting, At: down})
	if why := l.replace(j); why != "" {
		t.Errorf("beside one that was stopped before it began: %q", why)
	}
}

func TestANodeWithALeaseIsNotRemoved(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	fencedJob(l, job.FailoverFenced)
	down := t0.Add(time.Second)
	l.do(NodeDown{Node: "id-a", At: down})
	if r := l.try(RemoveNode{Node: "id-a", Force: true, At: down}); r.Err == nil || !strings.Contains(r.Err.Error(), "shoal failover") {
		t.Errorf("removed: %v", r.Err)
	}
	l.do(Release{Node: "id-a", Since: down, Tasks: []job.TaskID{"old"}, At: down})
	l.do(RemoveNode{Node: "id-a", Force: true, At: down})
}

// scriptedHeal is the golden log of fail-over that is not fast. It is never changed.
func scriptedHeal(l *log) {
	l.cluster().nodes("a", "b")
	j := fencedJob(l, job.FailoverFenced)
	down := t0.Add(time.Minute)
	l.do(NodeDown{Node: "id-a", Reason: "gone", At: down})
	l.replace(j)
	l.do(Release{Node: "id-a", Since: down, Tasks: []job.TaskID{"old"}, Reason: "its lease has ended", At: down.Add(time.Minute)})
	l.replace(j)
	l.report("b", "new", 1, job.Running)
	l.do(NodeUp{Node: "id-a", At: down.Add(time.Hour)})
}
