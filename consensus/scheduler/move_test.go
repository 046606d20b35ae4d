package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// live counts ready tasks by slot, and all that are meant to run.
func (w *world) live(jobName, service string) (ready map[int]int, all int) {
	ready = map[int]int{}
	v := w.store.View()
	for _, k := range w.running(jobName, service) {
		all++
		if v.Status(k.ID).Ready() {
			ready[k.Slot]++
		}
	}
	return ready, all
}

func TestDrainStartsTheSuccessorFirstOneAtATime(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 4), svc("r", 3))
	w.settle()
	w.node("b")
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	for range 60 {
		w.plan()
		w.act()
		for _, name := range []string{"s", "r"} {
			ready, all := w.live("j", name)
			want := map[string]int{"s": 4, "r": 3}[name]
			if len(ready) < want {
				t.Fatalf("%s: only %v slots serve during the drain %s", name, ready, w.dump())
			}
			if all > want+1 {
				t.Fatalf("%s: %d tasks at once for %d slots %s", name, all, want, w.dump())
			}
		}
		w.now = w.now.Add(time.Second)
	}
	if on := w.perNode("j", "s"); on[a] != 0 || len(w.running("j", "s")) != 4 || len(w.running("j", "r")) != 3 {
		t.Error(w.dump())
	}
}

func TestDrainStopsFirstWhatMustNotBeThereTwice(t *testing.T) {
	for name, f := range map[string]func(*job.Service){
		"fenced": failover(job.FailoverFenced),
		"data": func(s *job.Service) {
			s.Mounts = []job.Mount{{Type: job.MountVolume, Source: "v", Target: "/v"}}
			s.Failover = &job.Failover{Mode: job.FailoverFast} // else it would wait for its data's node
		},
		"asked": func(s *job.Service) { s.Update = &job.Update{Order: job.StopFirst} },
	} {
		w := newWorld(t, 1)
		a := w.node("a")
		w.submit("j", svc("s", 2, f))
		w.settle()
		w.node("b")
		w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
		for range 200 {
			w.plan()
			w.act()
			slots := map[int]int{}
			for _, k := range w.running("j", "s") {
				if slots[k.Slot]++; slots[k.Slot] > 1 {
					t.Fatalf("%s: a slot has two tasks %s", name, w.dump())
				}
			}
			w.now = w.now.Add(time.Second)
		}
		if on := w.perNode("j", "s"); on[a] != 0 || len(w.running("j", "s")) != 2 {
			t.Error(name, w.dump())
		}
	}
}

// A successor that does not become ready keeps the former task in its place, until the drain's time is up.
func TestDrainHonoursHealthUntilItsDeadline(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 3))
	w.settle()
	w.node("b")
	w.behave = func(k *job.Task) job.State {
		if k.Node != a {
			return job.Placed // never ready
		}
		return job.Running
	}
	by := w.now.Add(5 * time.Minute)
	w.apply(state.SetDrain{Node: a, Drained: true, By: by, At: w.now})
	for w.now.Before(by.Add(-time.Second)) {
		w.plan()
		w.act()
		if ready, _ := w.live("j", "s"); len(ready) < 3 {
			t.Fatalf("%v before the deadline only %v slots serve %s", by.Sub(w.now), ready, w.dump())
		}
		w.now = w.now.Add(time.Second)
	}
	w.pass(10*time.Second, func() {})
	if on := w.perNode("j", "s"); on[a] != 0 {
		t.Errorf("after the deadline %s", w.dump())
	}
}

// A successor that fails is tried again, later and later, and does not take the former one with it.
func TestAMoveThatFailsIsTriedAgain(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 1))
	w.settle()
	b := w.node("b")
	failures := 0
	w.behave = func(k *job.Task) job.State {
		if k.Node == b && failures < moveTries-1 {
			failures++
			return job.Failed
		}
		return job.Running
	}
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	w.pass(30*time.Second, func() {
		if ready, _ := w.live("j", "s"); len(ready) != 1 {
			t.Fatalf("%v %s", ready, w.dump())
		}
	})
	if on := w.perNode("j", "s"); on[b] != 1 || on[a] != 0 || failures != moveTries-1 {
		t.Errorf("after %d failures %s", failures, w.dump())
	}
}

func TestAMoveSurvivesTheLossOfEitherNode(t *testing.T) {
	for _, lost := range []string{"id-a", "id-b"} {
		w := newWorld(t, 1)
		a := w.node("a")
		w.submit("j", svc("s", 1))
		w.settle()
		w.node("b")
		w.behave = func(k *job.Task) job.State {
			if k.Node == "id-b" {
				return job.Placed
			}
			return job.Running
		}
		w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
		w.plan()
		if len(w.running("j", "s")) != 2 {
			t.Fatal("no move began", w.dump())
		}
		w.behave = nil
		w.cut[job.NodeID(lost)] = true
		w.apply(state.NodeDown{Node: job.NodeID(lost), At: w.now})
		w.node("c")
		w.pass(time.Minute, func() {})
		on := w.perNode("j", "s")
		if len(w.running("j", "s")) != 1 || on[a] != 0 || on[job.NodeID(lost)] != 0 {
			t.Errorf("%s lost %s", lost, w.dump())
		}
	}
}
