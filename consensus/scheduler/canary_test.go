package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// canaryWorld is three nodes on which an update of j/s waits at its one canary.
func canaryWorld(t *testing.T, replicas int) *world {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, memory(1024))
	}
	opts := []func(*job.Service){updating(job.Update{Canaries: 1, Parallelism: 1}), wantMemory(100), priority(20)}
	w.submit("j", svc("s", replicas, append(opts, image("old"))...))
	w.settle()
	w.submit("j", svc("s", replicas, append(opts, image("new"))...))
	w.settle()
	w.oneCanary(replicas)
	return w
}

// oneCanary checks that one slot of j/s runs the new content and all others run the former one.
func (w *world) oneCanary(replicas int) {
	w.t.Helper()
	if got, want := w.images(replicas), "new"+strings.Repeat(" old", replicas-1); got != want || w.status("s") != job.RolloutCanary {
		w.t.Fatalf("%s: %s, want %s %s", w.status("s"), got, want, w.dump())
	}
}

// drainInTurn drains and activates each node, and gives it time in between.
func (w *world) drainInTurn(look func()) {
	w.t.Helper()
	for _, n := range w.store.View().Nodes() {
		for _, drained := range []bool{true, false} {
			w.apply(state.SetDrain{Node: n.ID, Drained: drained, At: w.now})
			w.pass(5*time.Minute, look)
		}
	}
}

func TestCanariesStayTheOnlyOnesWhenNodesAreDrained(t *testing.T) {
	w := canaryWorld(t, 6)
	w.drainInTurn(func() {
		if n := w.ready("j", "s"); n < 5 {
			t.Fatalf("%d slots serve %s", n, w.dump())
		}
	})
	w.oneCanary(6)
}

func TestCanariesStayTheOnlyOnesWhenOthersTakeTheirRoom(t *testing.T) {
	w := canaryWorld(t, 4)
	high := svc("high", 3, wantMemory(1000), priority(90))
	w.submit("high", high)
	w.settle()
	if n := len(w.running("j", "s")); n != 0 {
		t.Fatalf("%d were left their room", n)
	}
	w.apply(state.RemoveJob{Job: "high", At: w.now})
	w.settle()
	w.oneCanary(4)
}

func TestCanariesStayTheOnlyOnesWhenTheServiceGrows(t *testing.T) {
	w := canaryWorld(t, 3)
	w.apply(state.ScaleJob{Job: "j", Replicas: map[string]int{"s": 6}, At: w.now})
	w.settle()
	w.oneCanary(6)
}

func TestACanaryWithoutRoomIsAwaited(t *testing.T) {
	w := canaryWorld(t, 3)
	canary := w.running("j", "s")[0].Node
	w.submit("high", svc("high", 1, wantMemory(1000), priority(90), func(s *job.Service) {
		s.Constraints = []job.Constraint{con(t, "node.id=="+string(canary))}
	}))
	w.submit("full", svc("full", 2, wantMemory(900), priority(90), func(s *job.Service) {
		s.Constraints = []job.Constraint{con(t, "node.id!="+string(canary))}
	}))
	w.settle()
	if got := w.images(3); got != "- old old" || w.status("s") != job.RolloutCanary {
		t.Fatalf("%s: %s %s", w.status("s"), got, w.dump())
	}
	w.apply(state.RemoveJob{Job: "high", At: w.now})
	w.settle()
	w.oneCanary(3)
}

// What waits for the update of its dependency moves all the same when it must.
func TestADrainDoesNotWaitForTheUpdateOfADependency(t *testing.T) {
	for _, holds := range []string{"canary", "paused"} {
		w := newWorld(t, 1)
		for _, n := range []string{"a", "b", "c"} {
			w.node(n)
		}
		u := job.Update{Canaries: 1}
		if holds == "paused" {
			u = job.Update{Failure: job.FailPause}
		}
		db := svc("db", 2, image("old"), updating(u))
		web := svc("s", 6, image("old"), needs("db", job.DependStarted))
		w.submit("j", db, web)
		w.settle()
		if holds == "paused" {
			w.failing("new-db")
		}
		db.Image, web.Image = "new-db", "new"
		w.submit("j", db, web)
		w.settle()
		if got := w.blocked("j", "s"); !strings.Contains(got, "waits for db, whose") {
			t.Fatalf("%s: blocked: %q", holds, got)
		}
		w.drainInTurn(func() {
			if n := w.ready("j", "s"); n < 5 {
				t.Fatalf("%s: %d slots serve %s", holds, n, w.dump())
			}
		})
	}
}

// Slots that fit nowhere are no canaries.
func TestCanariesAreTasksThatRun(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	opts := []func(*job.Service){updating(job.Update{Canaries: 2, AutoPromote: true, Parallelism: 1}), wantMemory(500)}
	w.submit("j", svc("s", 4, append(opts, image("old"))...))
	w.settle()
	w.submit("j", svc("s", 4, append(opts, image("new"))...))
	w.pass(time.Hour, func() {
		fresh := 0
		for _, k := range w.running("j", "s") {
			if w.store.View().Service(k.Digest).Image == "new" {
				fresh++
			}
		}
		if r := w.store.View().Rollout("j", "s"); r.Canaries == 0 && fresh < 2 {
			t.Fatalf("promoted with %d canaries %s", fresh, w.dump())
		}
	})
	if got := fmt.Sprint(w.images(4)); got != "new new - -" || w.status("s") != job.RolloutComplete {
		t.Errorf("%s: %s %s", w.status("s"), got, w.dump())
	}
}

// A service of which nothing fits anywhere has no canaries, and is not complete either.
func TestCanariesAreAwaitedWhileNothingFits(t *testing.T) {
	w := canaryWorld(t, 2)
	w.submit("high", svc("high", 3, wantMemory(1000), priority(90)))
	w.settle()
	if n := len(w.running("j", "s")); n != 0 || w.status("s") != job.RolloutCanary {
		t.Errorf("%s with %d tasks %s", w.status("s"), n, w.dump())
	}
}
