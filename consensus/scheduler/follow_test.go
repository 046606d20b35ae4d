package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Whose followers run on the only node with room comes back there: what they use is theirs already.
func TestWhoIsFollowedComesBackAfterAFailure(t *testing.T) {
	for _, nodes := range []int{1, 2} {
		w := newWorld(t, 1)
		w.node("a", memory(1024))
		w.submit("j", svc("aside", 1, wantMemory(400), follows("web")), svc("web", 1, wantMemory(300)))
		w.settle()
		if nodes == 2 {
			w.node("b", memory(1024)) // elsewhere, if it can; the others follow
		}
		failed := false
		w.behave = func(k *job.Task) job.State {
			if k.Service == "web" && !failed {
				failed = true
				return job.Failed
			}
			return job.Running
		}
		w.pass(10*time.Minute, nil)
		want := map[int]string{1: "a1", 2: "b1"}[nodes]
		w.expect("j", "web", want)
		w.expect("j", "aside", want)
		if got := w.blocked("j", "web"); got != "" || !failed {
			t.Errorf("blocked: %q", got)
		}
	}
}

// Room is sought for those that follow too, and nobody else gets it before they come: in the same plan, or when their
// dependency on the one that they follow holds.
func TestRoomForFollowersIsKept(t *testing.T) {
	for _, waits := range []bool{false, true} {
		w := newWorld(t, 1)
		w.node("a", memory(1024))
		w.node("b", memory(1024))
		w.pass(time.Hour, nil)
		aside := svc("aside", 1, wantMemory(600), follows("app"))
		if waits {
			needs("app", job.DependStarted)(&aside)
		}
		other := svc("other", 1, wantMemory(600), func(s *job.Service) { s.Strategy = job.StrategyBinpack })
		w.submit("j", svc("app", 1, wantMemory(300)), aside, other)
		w.settle()
		w.expect("j", "app", "a1")
		w.expect("j", "aside", "a1")
		w.expect("j", "other", "b1")
	}
}

// Whatever happens to nodes and jobs, planning leaves the index as it was, the world comes to rest, and who follows is where
// the other one is.
func TestFollowersSurviveTrouble(t *testing.T) {
	for i := range 40 {
		seed := rand.Uint64()
		if *seedFlag != 0 {
			seed = *seedFlag
		}
		if !t.Run(fmt.Sprint(i), func(t *testing.T) { troubledFollowers(t, seed) }) {
			t.Fatalf("again with: go test ./consensus/scheduler -run TestFollowersSurviveTrouble -seed %d", seed)
		}
	}
}

func troubledFollowers(t *testing.T, seed uint64) {
	r := newRand(seed)
	w := newWorld(t, seed)
	for i := range 3 + r.IntN(3) {
		w.node(fmt.Sprint("n", i), memory(1024))
	}
	for range 20 {
		nodes := w.store.View().Nodes()
		n := nodes[r.IntN(len(nodes))]
		w.now = w.now.Add(5 * time.Minute) // nothing flaps
		switch r.IntN(5) {
		case 0, 1:
			k := 1 + r.IntN(4)
			app := svc("app", k, image(fmt.Sprint("i", r.IntN(2))), wantMemory(100*r.Int64N(4)))
			aside := svc("aside", k, image(fmt.Sprint("i", r.IntN(2))), wantMemory(100*r.Int64N(6)), follows("app"))
			if r.IntN(2) == 0 {
				needs("app", job.DependStarted)(&aside)
			}
			w.submit(fmt.Sprint("j", r.IntN(2)), app, aside, svc("other", r.IntN(4), wantMemory(300), priority(40+r.IntN(30))))
		case 2:
			w.apply(state.SetDrain{Node: n.ID, Drained: !n.Drained, At: w.now})
		case 3:
			if w.cut[n.ID] = !w.cut[n.ID]; w.cut[n.ID] {
				w.apply(state.NodeDown{Node: n.ID, At: w.now})
			} else {
				w.apply(state.NodeUp{Node: n.ID, At: w.now})
			}
		case 4:
			w.tryApply(state.RemoveJob{Job: "j1", At: w.now})
		}
		w.pass(5*time.Minute, func() {
			w.p.Plan(w.now, 0)
			if !sameIndex(w.p, New(w.store.View())) {
				t.Fatalf("planning changed the index %s", w.dump())
			}
		})
	}
	v := w.store.View()
	for _, j := range v.Jobs() {
		at := map[int]job.NodeID{}
		for _, k := range w.running(j.Name, "app") {
			if v.Node(k.Node).State == job.NodeReady {
				at[k.Slot] = k.Node
			}
		}
		for _, k := range w.running(j.Name, "aside") {
			if to := at[k.Slot]; to != "" && to != k.Node && v.Node(k.Node).State == job.NodeReady {
				t.Fatalf("%s is on %s and not on %s %s", k.Name(), k.Node, to, w.dump())
			}
		}
	}
}
