package scheduler

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func TestFailedTaskIsTriedElsewhereLaterAndLater(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.behave = func(*job.Task) job.State { return job.Failed }
	w.submit("j", svc("s", 1))
	var waits []time.Duration
	last := ""
	for len(waits) < 9 {
		start := w.now
		for {
			pl, next := w.plan()
			if len(pl.Place) > 0 {
				waits = append(waits, w.now.Sub(start))
				if string(pl.Place[0].Node) == last {
					t.Errorf("try %d on the node where it failed", len(waits))
				}
				last = string(pl.Place[0].Node)
				w.act()
				break
			}
			w.now = next.At
		}
	}
	want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60}
	for i := range want {
		if waits[i] != want[i]*time.Second {
			t.Fatalf("waits %v, want %v s", waits, want)
		}
	}
	w.plan()
	if got := w.blocked("j", "s"); !strings.Contains(got, "s.1 failed 9 times in a row") {
		t.Errorf("blocked: %q", got)
	}
	if n := len(w.store.View().TasksOfJob("j")); n > state.KeepDead+1 {
		t.Errorf("%d tasks kept", n)
	}
}

func TestRestartPolicyNoIsFinalUntilTheJobChanges(t *testing.T) {
	never := func(s *job.Service) { s.Restart.Policy = job.RestartNever }
	for _, end := range []job.State{job.Complete, job.Failed} {
		w := newWorld(t, 1)
		w.node("a")
		w.behave = func(*job.Task) job.State { return end }
		w.submit("j", svc("s", 2, never))
		w.settle()
		if n := len(w.store.View().TasksOfJob("j")); n != 2 {
			t.Errorf("%s: %d tasks, want 2", end, n)
		}
		w.submit("j", svc("s", 2, never, func(s *job.Service) {
			s.Image, s.Update = "new", &job.Update{Failure: job.FailContinue}
		}))
		w.settle()
		if n := len(w.store.View().TasksOfJob("j")); n != 4 {
			t.Errorf("%s: after an update %d tasks, want 4", end, n)
		}
	}
}

func TestALostTaskIsReplacedAtOnceTheFirstTime(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 1))
	w.settle()
	w.behave = func(*job.Task) job.State { return job.Lost }
	w.act()
	if pl, _ := w.plan(); len(pl.Place) != 1 || pl.Place[0].Cause != "its task was lost on node a" {
		t.Errorf("plan %+v", pl)
	}
	w.act()
	if pl, next := w.plan(); len(pl.Place) != 0 || next.At.IsZero() {
		t.Errorf("the second time it must wait: %+v", pl)
	}
}

// Failures in a row are forgotten when a task has run for long, also if it ends with its node.
func TestFailuresBeforeALongRunAreForgottenWithItsNode(t *testing.T) {
	for ran, want := range map[time.Duration]int{steadyAfter - time.Second: 1, steadyAfter + time.Second: 0} {
		w := newWorld(t, 1)
		w.node("a")
		w.behave = func(k *job.Task) job.State {
			if k.Attempt == 0 {
				return job.Failed
			}
			return job.Running
		}
		w.submit("j", svc("s", 1))
		w.pass(10*time.Second, nil)
		runs := w.running("j", "s")
		if len(runs) != 1 || runs[0].Attempt != 1 {
			t.Fatalf("want one that runs after a failure %s", w.dump())
		}
		w.node("b")
		up := w.store.View().Status(runs[0].ID).At[job.Running]
		w.now = up.Add(ran)
		w.apply(state.NodeDown{Node: runs[0].Node, At: w.now})
		if pl, _ := w.plan(); len(pl.Place) != 1 || pl.Place[0].Attempt != want {
			t.Errorf("after %v: plan %+v, want an attempt of %d", ran, pl, want)
		}
	}
}
