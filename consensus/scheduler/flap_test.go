package scheduler

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func (w *world) flap(id job.NodeID, changes int) {
	for i := range changes {
		w.now = w.now.Add(10 * time.Second)
		if i%2 == 0 {
			w.apply(state.NodeDown{Node: id, At: w.now})
		} else {
			w.apply(state.NodeUp{Node: id, At: w.now})
		}
	}
}

func TestAFlappingNodeGetsNoNewTasksForAWhileAndKeepsWhatItHas(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 1))
	w.settle()
	b := w.node("b")
	w.flap(b, 4)
	if why := Flapping(w.store.View(), w.now)[b]; why != "" {
		t.Errorf("after four changes: %q", why)
	}
	w.flap(b, 2)
	if why := Flapping(w.store.View(), w.now)[b]; !strings.HasPrefix(why, "flapping: it came and went 6 times in 10m0s") {
		t.Errorf("after six changes: %q", why)
	}
	w.submit("k", svc("s", 4))
	w.plan()
	if on := w.perNode("k", "s"); on[a] != 4 {
		t.Errorf("tasks are at %v", on)
	}
	// Another leader knows it too, and where nothing else fits it is better than nothing.
	w.p = New(w.store.View())
	w.submit("l", svc("s", 2))
	w.plan()
	if on := w.perNode("l", "s"); on[a] != 2 {
		t.Errorf("another leader: %v", on)
	}
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	w.submit("m", svc("s", 1))
	w.plan()
	if on := w.perNode("m", "s"); on[b] != 1 {
		t.Errorf("nothing else fits: %s", w.dump())
	}
	// It ends by itself.
	w.apply(state.SetDrain{Node: a, At: w.now})
	w.now = w.now.Add(maxFlapPause)
	w.submit("n", svc("s", 2))
	w.plan()
	if on := w.perNode("n", "s"); on[b] != 1 {
		t.Errorf("afterwards %v", on)
	}
}

func TestANodeWhereAServiceKeepsFailingIsTheLastChoice(t *testing.T) {
	w := newWorld(t, 1)
	bad := w.node("a")
	w.node("b")
	w.node("c")
	w.behave = func(k *job.Task) job.State {
		if k.Node == bad && k.Service == "s" {
			return job.Failed
		}
		return job.Running
	}
	w.submit("j", svc("s", 9), svc("other", 3))
	w.pass(5*time.Minute, nil)
	failed := 0
	for _, e := range w.store.View().Events(state.EventFilter{}) {
		if e.Kind == job.EventTaskState && e.Message == string(job.Failed) {
			failed++
		}
	}
	if on := w.perNode("j", "s"); on[bad] != 0 || len(w.running("j", "s")) != 9 {
		t.Errorf("%s", w.dump())
	}
	if failed > 6 {
		t.Errorf("%d failures before it was avoided", failed)
	}
	if on := w.perNode("j", "other"); on[bad] != 1 {
		t.Errorf("another service avoids it too: %v", on)
	}
	// A node on which all fails is still better than none.
	w.submit("k", svc("s", 1, func(s *job.Service) {
		s.Constraints = []job.Constraint{{Key: "node.hostname", Op: "==", Value: "a"}}
	}))
	w.pass(time.Minute, nil)
	if got := w.blocked("k", "s"); !strings.HasPrefix(got, "1: crash loop: s.1 failed") || !strings.Contains(got, "next try at") {
		t.Errorf("blocked: %q", got)
	}
}
