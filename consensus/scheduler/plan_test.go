package scheduler

import (
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func TestSpreadsTasksOfAService(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n)
	}
	w.submit("shop", svc("web", 7), svc("api", 3))
	w.settle()
	for id, n := range w.perNode("shop", "web") {
		if n < 2 || n > 3 {
			t.Errorf("web has %d tasks on %s, want 2 or 3", n, id)
		}
	}
	for id, n := range w.perNode("shop", "api") {
		if n != 1 {
			t.Errorf("api has %d tasks on %s, want 1", n, id)
		}
	}
	if len(w.running("shop", "web")) != 7 || len(w.running("shop", "api")) != 3 {
		t.Error(w.dump())
	}
}

func TestConstraints(t *testing.T) {
	for _, tt := range []struct {
		c    job.Constraint
		want string // names of nodes that may run it
	}{
		{job.Constraint{Key: "node.labels.zone", Op: "==", Value: "x"}, "a"},
		{job.Constraint{Key: "node.labels.zone", Op: "!=", Value: "x"}, "bc"},
		{job.Constraint{Key: "node.hostname", Op: "==", Value: "c"}, "c"},
		{job.Constraint{Key: "node.id", Op: "!=", Value: "id-b"}, "ac"},
		{job.Constraint{Key: "node.colour", Op: "!=", Value: "red"}, ""},
	} {
		w := newWorld(t, 1)
		w.node("a", label("zone", "x"))
		w.node("b", label("zone", "y"))
		w.node("c")
		w.submit("j", svc("s", 4, func(s *job.Service) { s.Constraints = []job.Constraint{tt.c} }))
		w.settle()
		on := w.perNode("j", "s")
		for _, n := range []string{"a", "b", "c"} {
			if got := on[job.NodeID("id-"+n)] > 0; got != strings.Contains(tt.want, n) {
				t.Errorf("%s: tasks on node %s: %v", tt.c, n, got)
			}
		}
	}
}

func TestSaysWhyNothingFitsWithCounts(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(256))
	w.node("b", memory(256))
	c := w.node("c")
	w.apply(state.SetDrain{Node: c, Drained: true, At: w.now})
	w.submit("j", svc("s", 3, wantMemory(512)))
	w.settle()
	if got, want := w.blocked("j", "s"), "3: no node fits: 2 lack memory (want 512 MiB, most free 256 MiB), 1 is draining"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	w.apply(state.SetDrain{Node: c, Drained: false, At: w.now})
	w.settle()
	if got := w.blocked("j", "s"); got != "" || len(w.running("j", "s")) != 3 {
		t.Errorf("after the drain ended: %q %s", got, w.dump())
	}
}

func TestHostPortsAreExclusiveOnANode(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("j", svc("s", 3, func(s *job.Service) { s.Ports = []job.Port{{Published: 80, Target: 80, Protocol: "tcp"}} }))
	w.settle()
	if len(w.running("j", "s")) != 2 || !strings.Contains(w.blocked("j", "s"), "2 have the host port taken (80/tcp)") {
		t.Error(w.dump())
	}
}

func TestNodeDownMovesItsTasksAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	b := w.node("b")
	w.node("c")
	w.submit("j", svc("s", 3))
	w.settle()
	w.cut[b] = true
	w.apply(state.NodeDown{Node: b, At: w.now})
	pl, _ := w.plan()
	if len(pl.Place) != 1 || pl.Place[0].Cause != "node b is down" || pl.Place[0].Replaces == "" || len(pl.Stop) != 1 || pl.Stop[0].Desired != job.DesiredLost {
		t.Fatalf("plan: %+v", pl)
	}
	w.settle()
	if n := len(w.running("j", "s")); n != 3 {
		t.Errorf("%d running, want 3 %s", n, w.dump())
	}
	// It comes back: what was replaced stays lost, and nobody runs twice.
	w.cut[b] = false
	w.apply(state.NodeUp{Node: b, At: w.now})
	w.settle()
	if n := len(w.running("j", "s")); n != 3 || w.store.View().Status(pl.Place[0].Replaces).State != job.Lost || w.perNode("j", "s")[b] != 1 {
		t.Error(w.dump())
	}
}

func TestNodeThatReturnsUnreplacedKeepsItsTasks(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 2))
	w.settle()
	before := w.running("j", "s")
	w.apply(state.NodeDown{Node: a, At: w.now})
	w.settle()
	if got := w.blocked("j", "s"); got != "2: no node fits: 1 is down or left" {
		t.Errorf("blocked: %q", got)
	}
	w.apply(state.NodeUp{Node: a, At: w.now})
	w.settle()
	after := w.running("j", "s")
	if len(after) != 2 || after[0].ID != before[0].ID || after[1].ID != before[1].ID || w.blocked("j", "s") != "" {
		t.Error(w.dump())
	}
}

func TestScaleDownTakesTheHighestSlots(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 5))
	w.settle()
	w.apply(state.ScaleJob{Job: "j", Replicas: map[string]int{"s": 2}, At: w.now})
	w.settle()
	got := w.running("j", "s")
	if len(got) != 2 || got[0].Slot != 1 || got[1].Slot != 2 {
		t.Error(w.dump())
	}
	w.apply(state.ScaleJob{Job: "j", Replicas: map[string]int{"s": 3}, At: w.now})
	w.settle()
	if got := w.running("j", "s"); len(got) != 3 || got[2].Cause != "scaled" {
		t.Error(w.dump())
	}
}

func TestDrainMovesTasksAndEmptiesTheNode(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.node("b")
	w.node("c")
	w.submit("j", svc("s", 6), svc("agent", 0, global))
	w.settle()
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	for range 100 {
		w.plan()
		if n := len(w.store.View().Ready("j", "s")); n < 5 {
			t.Fatalf("only %d of 6 ready during the drain", n)
		}
		w.act()
	}
	if w.perNode("j", "s")[a] != 0 || w.perNode("j", "agent")[a] != 0 || len(w.running("j", "s")) != 6 || len(w.running("j", "agent")) != 2 {
		t.Error(w.dump())
	}
	w.apply(state.SetDrain{Node: a, Drained: false, At: w.now})
	w.settle()
	if len(w.running("j", "agent")) != 3 {
		t.Error(w.dump())
	}
}

func TestDrainEmptiesTheNodeAlsoWhenNothingElseFits(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.submit("j", svc("s", 3))
	w.settle()
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	w.settle()
	if len(w.running("j", "s")) != 0 || w.blocked("j", "s") != "3: no node fits: 1 is draining" {
		t.Error(w.dump())
	}
}

func TestGlobalServiceFollowsNodes(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("agent", 0, global))
	w.settle()
	b := w.node("b")
	w.settle()
	if len(w.running("j", "agent")) != 2 {
		t.Fatal(w.dump())
	}
	// A node that is down keeps its task for its return.
	before := w.running("j", "agent")
	w.apply(state.NodeDown{Node: b, At: w.now})
	w.settle()
	w.apply(state.NodeUp{Node: b, At: w.now})
	w.settle()
	after := w.running("j", "agent")
	if len(after) != 2 || before[0].ID != after[0].ID || before[1].ID != after[1].ID {
		t.Error(w.dump())
	}
	w.apply(state.NodeLeft{Node: b, At: w.now})
	w.settle()
	if len(w.running("j", "agent")) != 1 {
		t.Error(w.dump())
	}
}

func TestDependenciesHoldServicesBack(t *testing.T) {
	on := func(name, cond string) func(*job.Service) {
		return func(s *job.Service) { s.DependsOn = []job.Dependency{{Service: name, Condition: cond}} }
	}
	for _, tt := range []struct {
		cond, why string
		opens     job.State
	}{
		{job.DependStarted, "1: waits for db to start", job.Running},
		{job.DependHealthy, "1: waits for db to be healthy", job.Running},
		{job.DependCompleted, "1: waits for db to complete", job.Complete},
	} {
		w := newWorld(t, 1)
		w.node("a")
		db := job.Pulling
		w.behave = func(k *job.Task) job.State {
			if k.Service == "db" {
				return db
			}
			return job.Running
		}
		w.submit("j", svc("db", 1, func(s *job.Service) { s.Restart.Policy = job.RestartNever }), svc("app", 1, on("db", tt.cond)))
		w.settle()
		if got := w.blocked("j", "app"); got != tt.why || len(w.running("j", "app")) != 0 {
			t.Errorf("%s: blocked %q, want %q", tt.cond, got, tt.why)
		}
		db = tt.opens
		w.settle()
		if len(w.running("j", "app")) != 1 || w.blocked("j", "app") != "" {
			t.Errorf("%s: still waits: %s", tt.cond, w.dump())
		}
	}
}

func TestStopAndRemoveEndAllTasks(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 3))
	w.settle()
	w.apply(state.StopJob{Job: "j", At: w.now})
	w.settle()
	if len(w.running("j", "s")) != 0 {
		t.Error(w.dump())
	}
	w.submit("j", svc("s", 3))
	w.settle()
	if len(w.running("j", "s")) != 3 {
		t.Error(w.dump())
	}
	w.apply(state.RemoveJob{Job: "j", At: w.now})
	w.settle()
	if n := len(w.store.View().Tasks()); n != 0 || len(w.p.jobs) != 0 || len(w.p.tasks) != 0 {
		t.Errorf("%d tasks, planner has %d jobs and %d tasks", n, len(w.p.jobs), len(w.p.tasks))
	}
}

func TestLimitCutsAPlanAndTheRestFollows(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 25))
	sizes := []int{}
	for {
		pl, next := w.p.Plan(w.now, 10)
		if pl.Empty() {
			break
		}
		if next.Dirty != (len(pl.Place) == 10) {
			t.Errorf("dirty %v with %d placed", next.Dirty, len(pl.Place))
		}
		sizes = append(sizes, len(pl.Place))
		w.apply(pl)
	}
	if len(sizes) != 3 || sizes[0] != 10 || sizes[2] != 5 {
		t.Errorf("plans of %v", sizes)
	}
}

func TestALostPlanIsMadeAgain(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 2))
	first, next := w.p.Plan(w.now, 0)
	if next.At.IsZero() {
		t.Error("a plan must be verified after a while")
	}
	again, _ := w.p.Plan(w.now, 0)
	if len(first.Place) != 2 || len(again.Place) != 2 {
		t.Errorf("%d, then %d placed", len(first.Place), len(again.Place))
	}
	w.apply(first)
	// The second one comes late: every slot has its task by then.
	if res := w.apply(again).Value.(*state.PlanResult); res.Placed != 0 || len(res.Refused) != 2 {
		t.Errorf("late plan: %+v", res)
	}
	w.settle()
}

func TestRoomThatARefusedPlacementDidNotTakeIsGivenToOthers(t *testing.T) {
	w := newWorld(t, 1)
	w.node("n", memory(1000))
	w.submit("a", svc("s", 1, wantMemory(600)))
	w.settle()
	w.submit("b", svc("s", 1, wantMemory(600)))
	w.settle()
	failed := w.running("a", "s")[0]
	w.seq++
	w.apply(state.Report{Node: failed.Node, At: w.now, Statuses: []job.Status{{Task: failed.ID, Seq: w.seq, State: job.Lost}}})
	pl, _ := w.p.Plan(w.now, 0)
	if len(pl.Place) != 1 || pl.Place[0].Job != "a" || len(pl.Block) > 0 {
		t.Fatalf("placed: %+v, blocked: %+v", pl.Place, pl.Block)
	}
	w.submit("a", svc("s", 1, wantMemory(300)))
	w.apply(pl)
	w.settle()
	if len(w.running("a", "s")) != 1 || len(w.running("b", "s")) != 1 {
		t.Error(w.dump())
	}
}

func TestVolumesKeepASlotOnItsNode(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.node("c")
	vol := func(s *job.Service) {
		s.Mounts = []job.Mount{{Type: job.MountVolume, Source: "j_data", Target: "/data"}}
	}
	w.submit("j", svc("db", 1, vol))
	w.settle()
	was := w.running("j", "db")[0].Node
	for i := range 4 {
		w.submit("j", svc("db", 1, vol, func(s *job.Service) { s.Image = string(rune('a' + i)) }))
		w.submit("k", svc("s", i)) // move the loads
		w.settle()
		if now := w.running("j", "db"); len(now) != 1 || now[0].Node != was {
			t.Fatalf("update %d moved db from %s %s", i, was, w.dump())
		}
	}
}

func TestASlotWaitsForItsFormerTaskToEnd(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	b := w.node("b")
	w.submit("j", svc("s", 1, func(s *job.Service) {
		s.Constraints = []job.Constraint{{Key: "node.hostname", Op: "==", Value: "b"}}
	}))
	w.settle()
	w.cut[b] = true // it neither stops nor reports
	w.submit("j", svc("s", 1, image("new"), func(s *job.Service) { s.Update = &job.Update{Order: job.StopFirst} }))
	w.plan()
	w.act()
	for range 3 {
		if pl, _ := w.plan(); len(pl.Begin) > 0 {
			t.Fatalf("begun while the old task runs: %+v", pl)
		}
	}
	w.settle()
	if got := w.blocked("j", "s"); !strings.Contains(got, "to stop on node b") {
		t.Errorf("blocked: %q", got)
	}
	// When the node is given up, so is the wait.
	w.apply(state.NodeDown{Node: b, At: w.now})
	w.settle()
	if got := w.running("j", "s"); len(got) != 1 || got[0].Node != "id-a" || w.blocked("j", "s") != "" {
		t.Error(w.dump())
	}
}

// The state does not let two tasks into a slot; should it ever hold two, the planner leaves one.
func TestOneTaskRemainsInASlotTheHealthierThenTheOlder(t *testing.T) {
	for _, tt := range []struct {
		oldReady, newReady bool
		stops              job.TaskID
	}{{true, true, "new"}, {false, true, "old"}, {true, false, "new"}, {false, false, "new"}} {
		w := newWorld(t, 1)
		w.node("a")
		w.node("b")
		j := w.submit("j", svc("s", 1))
		d := j.Spec.Services[0].Digest()
		b := state.Batch{Index: w.index + 1}
		for i, id := range []job.TaskID{"old", "new"} {
			k := &job.Task{ID: id, Job: "j", Service: "s", Digest: d, Slot: 1, Node: "id-a", Desired: job.DesiredRun, Index: uint64(10 + i)}
			b.Changes = append(b.Changes, state.Change{Table: state.TableTasks, After: k})
			if (i == 0 && tt.oldReady) || (i == 1 && tt.newReady) {
				b.Changes = append(b.Changes, state.Change{Table: state.TableStatuses, After: &job.Status{Task: id, Node: "id-a", State: job.Running}})
			}
		}
		w.p.Update(b)
		pl, _ := w.p.Plan(w.now, 0)
		if len(pl.Place) != 0 || len(pl.Stop) != 1 || pl.Stop[0].ID != tt.stops {
			t.Errorf("%+v: plan %+v", tt, pl)
		}
	}
}

func TestAPlanThatChangesNothingDoesNotSpin(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 2))
	plans := 0
	for range 50 { // every proposal is lost
		if pl, _ := w.p.Plan(w.now, 0); !pl.Empty() {
			plans++
		}
	}
	if plans == 0 || plans > patientTries+1 {
		t.Errorf("planned %d times at once", plans)
	}
	pl, next := w.p.Plan(w.now, 0)
	if !pl.Empty() || next.At.IsZero() {
		t.Errorf("plan %+v, next at %v", pl, next.At)
	}
	w.now = next.At
	if pl, _ := w.p.Plan(w.now, 0); len(pl.Place) != 2 {
		t.Errorf("after a while: %+v", pl)
	}
}

// A service that is larger than the cluster is updated all the same, and no slot that ran is lost by it.
func TestUpdateOfAServiceThatDoesNotFitGoesOn(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, memory(512))
	}
	w.submit("j", svc("s", 5, wantMemory(512)))
	w.settle()
	j := w.submit("j", svc("s", 5, wantMemory(512), func(s *job.Service) { s.Image = "new" }))
	for range 20 {
		w.plan()
		if n := len(w.store.View().Ready("j", "s")); n < 2 {
			t.Fatalf("only %d of 3 ready during the update", n)
		}
		w.act()
	}
	w.settle()
	got := w.running("j", "s")
	for _, k := range got {
		if k.Digest != j.Spec.Service("s").Digest() {
			t.Error("old content runs on", w.dump())
		}
	}
	if len(got) != 3 {
		t.Errorf("%d run, want 3 %s", len(got), w.dump())
	}
}

// A task that moves does not wait for dependencies that held when its service began.
func TestDrainedTaskDoesNotWaitForADependencyThatCameShort(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a")
	w.node("b")
	w.submit("j", svc("db", 1), svc("app", 2, func(s *job.Service) {
		s.DependsOn = []job.Dependency{{Service: "db", Condition: job.DependStarted}}
	}))
	w.settle()
	w.apply(state.ScaleJob{Job: "j", Replicas: map[string]int{"db": 3}, At: w.now}) // some of them never run
	w.behave = func(k *job.Task) job.State {
		if k.Service == "db" {
			return job.Pulling
		}
		return job.Running
	}
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	for range 10 {
		w.plan()
		w.act()
	}
	if got := w.running("j", "app"); len(got) != 2 {
		t.Errorf("%d of 2 run %s", len(got), w.dump())
	}
}
