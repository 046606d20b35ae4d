package scheduler

import (
	"slices"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func (w *world) moves() (n int) {
	for _, e := range w.store.View().Events(state.EventFilter{}) {
		if e.Kind == job.EventTaskPlaced && len(e.Message) > 10 && e.Message[:10] == "rebalanced" {
			n++
		}
	}
	return n
}

func TestANodeThatJoinsGetsItsShareOneTaskAtATime(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("j", svc("s", 9), svc("r", 6))
	w.pass(time.Minute, nil)
	c := w.node("c")
	joined := w.now
	w.pass(5*time.Minute, func() {
		for name, want := range map[string]int{"s": 9, "r": 6} {
			ready, all := w.live("j", name)
			if len(ready) < want || all > want+1 {
				t.Fatalf("%s: %d slots serve, %d tasks %s", name, len(ready), all, w.dump())
			}
		}
		if w.now.Sub(joined) < balanceQuiet && w.moves() > 0 {
			t.Fatalf("moved %v after the node joined", w.now.Sub(joined))
		}
	})
	if s, r := w.perNode("j", "s"), w.perNode("j", "r"); s[c] != 3 || r[c] != 2 {
		t.Errorf("it got %d and %d %s", s[c], r[c], w.dump())
	}
	moved := w.moves()
	if moved != 5 {
		t.Errorf("%d moves, want 5", moved)
	}
	// It stays so, also under another leader.
	w.p = New(w.store.View())
	w.pass(time.Hour, nil)
	if now := w.moves(); now != moved {
		t.Errorf("%d moves more %s", now-moved, w.dump())
	}
}

func TestManyServicesOfOneTaskSpreadToANewNode(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	var ss []job.Service
	for i := range 12 {
		ss = append(ss, svc(string(rune('a'+i)), 1, wantMemory(256)))
	}
	w.submit("j", ss...)
	w.pass(time.Minute, nil)
	w.node("b")
	w.pass(10*time.Minute, nil)
	on := map[job.NodeID]int{}
	for _, s := range ss {
		for n := range w.perNode("j", s.Name) {
			on[n]++
		}
	}
	if on["id-b"] < 4 || on["id-b"] > 6 || w.moves() != on["id-b"] {
		t.Errorf("%v after %d moves", on, w.moves())
	}
}

func TestWhatIsNotRebalanced(t *testing.T) {
	no := false
	for name, f := range map[string]func(*job.Service){
		"switched off": func(s *job.Service) { s.Rebalance = &no },
		"fenced":       failover(job.FailoverFenced),
		"manual":       failover(job.FailoverManual),
		"data": func(s *job.Service) {
			s.Mounts = []job.Mount{{Type: job.MountVolume, Source: "v", Target: "/v"}}
		},
		"packed": func(s *job.Service) { s.Strategy = job.StrategyBinpack },
	} {
		w := newWorld(t, 1)
		w.node("a")
		w.submit("j", svc("s", 4, f))
		w.pass(time.Minute, nil)
		w.node("b")
		if shown := Rebalance(w.store.View(), w.now); len(shown) != 0 {
			t.Errorf("%s: a dry run shows %v", name, shown)
		}
		w.pass(10*time.Minute, nil)
		if n := w.moves(); n != 0 {
			t.Errorf("%s: %d moves", name, n)
		}
	}
	w := newWorld(t, 1)
	w.apply(state.SetCluster{Set: map[string]string{"rebalance": "off"}, At: w.now})
	w.node("a")
	w.submit("j", svc("s", 4))
	w.pass(time.Minute, nil)
	w.node("b")
	w.pass(10*time.Minute, nil)
	if w.moves() != 0 {
		t.Error("moved although the cluster's switch is off")
	}
	if shown := Rebalance(w.store.View(), w.now); len(shown) != 2 || shown[0].To != "id-b" {
		t.Errorf("a dry run shows %v", shown)
	}
	w.p.BalanceNow()
	w.pass(time.Minute, nil)
	if w.moves() != 2 {
		t.Errorf("an admin asked for it: %d moves", w.moves())
	}
}

// A successor that never becomes ready is given up, and not tried again and again.
func TestAMoveThatDoesNotWorkIsGivenUp(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 2))
	w.pass(time.Minute, nil)
	w.behave = func(k *job.Task) job.State {
		if k.Node == "id-b" {
			return job.Placed
		}
		return job.Running
	}
	w.node("b")
	w.pass(2*time.Hour, func() {
		if ready, _ := w.live("j", "s"); len(ready) != 2 {
			t.Fatal(w.dump())
		}
	})
	if n := w.moves(); n == 0 || n > 2 {
		t.Errorf("%d moves in two hours", n)
	}
}

func TestNothingIsRebalancedWhileNodesComeAndGo(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 6))
	w.pass(time.Minute, nil)
	w.node("b")
	c := w.node("c")
	for i := range 8 {
		w.pass(20*time.Second, nil)
		if i%2 == 0 {
			w.apply(state.NodeDown{Node: c, At: w.now})
		} else {
			w.apply(state.NodeUp{Node: c, At: w.now})
		}
	}
	if n := w.moves(); n != 0 {
		t.Errorf("%d moves", n)
	}
	w.pass(30*time.Minute, nil)
	if on := w.perNode("j", "s"); on["id-b"] != 2 && on["id-b"] != 3 {
		t.Errorf("%v", on)
	}
}

// A wish about others is for the choice of a place, and nothing is moved for it: they move too.
func TestRebalancingDoesNotChaseOthers(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("two", svc("runner", 1, peers(job.Peer{Service: "one/chaser", Apart: true, Weight: 30})))
	w.submit("one", svc("chaser", 1, peers(job.Peer{Service: "two/runner", Weight: 50})))
	w.settle()
	w.node("c")
	before := len(w.store.View().Tasks())
	w.pass(time.Hour, nil)
	if n := len(w.store.View().Tasks()) - before; n > 2 {
		t.Errorf("%d tasks were placed %s", n, w.dump())
	}
	if at := w.p.balance.at; !at.IsZero() {
		t.Errorf("it still looks for moves at %v", at)
	}
}

// A round that takes several looks leaves out nobody, whatever services and jobs are called.
func TestEveryServiceIsLookedAtInARound(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	want := []string{"a-b/s", "a/s", "a/s2", "b/s"}
	w.submit("a", svc("s", 1), svc("s2", 1))
	w.submit("a-b", svc("s", 1))
	w.submit("b", svc("s", 1))
	w.settle()
	var got []string
	for after := ""; len(got) <= len(want); {
		next := w.p.byName(after, 1)
		if len(next) == 0 {
			break
		}
		after = next[0].job.name + "/" + next[0].name
		got = append(got, after)
	}
	if !slices.Equal(got, want) {
		t.Errorf("looked at %q", got)
	}
}
