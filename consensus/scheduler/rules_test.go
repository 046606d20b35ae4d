package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func con(t *testing.T, text string) job.Constraint {
	t.Helper()
	c, err := job.ParseConstraint(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func placed(f func(*job.Placement)) func(*job.Service) {
	return func(s *job.Service) {
		if s.Placement == nil {
			s.Placement = &job.Placement{}
		}
		f(s.Placement)
	}
}

func peers(ps ...job.Peer) func(*job.Service) {
	return placed(func(p *job.Placement) { p.Peers = ps })
}

func spreadOver(keys ...string) func(*job.Service) {
	return placed(func(p *job.Placement) { p.Spread = keys })
}

// where tells on which nodes a service's tasks are: "a2 b1".
func (w *world) where(jobName, service string) string {
	var out []string
	v := w.store.View()
	per := w.perNode(jobName, service)
	for _, n := range v.Nodes() {
		if c := per[n.ID]; c > 0 {
			out = append(out, fmt.Sprintf("%s%d", n.Name, c))
		}
	}
	return strings.Join(out, " ")
}

func (w *world) expect(jobName, service, want string) {
	w.t.Helper()
	if got := w.where(jobName, service); got != want {
		w.t.Errorf("%s/%s is on %q, want %q %s", jobName, service, got, want, w.dump())
	}
}

func (w *world) expectBlocked(jobName, service, want string) {
	w.t.Helper()
	if got := w.blocked(jobName, service); got != want {
		w.t.Errorf("%s/%s is blocked with\n  %q, want\n  %q %s", jobName, service, got, want, w.dump())
	}
}

// racks is six nodes, three in rack x, two in y, one in z; a is the largest.
func racks(t *testing.T) *world {
	w := newWorld(t, 1)
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		w.node(name, label("rack", string("xxxyyz"[i])), memory(int64(4096-i*256)))
	}
	return w
}

func TestSpreadDividesEvenlyAmongLabelsThenNodes(t *testing.T) {
	w := racks(t)
	w.submit("j", svc("s", 6, spreadOver("node.labels.rack")))
	w.settle()
	w.expect("j", "s", "a1 b1 d1 e1 f2")
	// What is added keeps the balance; so does what replaces a lost node's tasks.
	w.submit("j", svc("s", 9, spreadOver("node.labels.rack")))
	w.settle()
	w.expect("j", "s", "a1 b1 c1 d2 e1 f3")
	w.apply(state.NodeDown{Node: "id-d", At: w.now})
	w.settle()
	w.expect("j", "s", "a1 b1 c1 e3 f3")
}

func TestSpreadInTwoLevels(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a/x", "b/x", "c/x", "d/y", "e/y", "f/z", "g/z", "h/z"} {
		name, rack, _ := strings.Cut(n, "/")
		dc := "1"
		if rack == "z" {
			dc = "2"
		}
		w.node(name, func(n *job.Node) { n.Labels = map[string]string{"rack": rack, "dc": dc} })
	}
	w.submit("j", svc("s", 8, spreadOver("node.labels.dc", "node.labels.rack")))
	w.settle()
	w.expect("j", "s", "a1 b1 d1 e1 f2 g1 h1")
}

func TestBinpackFillsTheFullestThatHasRoom(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.node("b", memory(2048))
	w.node("c", memory(1024))
	w.apply(state.SetCluster{Set: map[string]string{"strategy": "binpack"}, At: w.now})
	w.submit("j", svc("s", 3, wantMemory(512)))
	w.settle()
	w.expect("j", "s", "b3")
	w.submit("k", svc("s", 3, wantMemory(512)))
	w.settle()
	w.expect("k", "s", "a2 b1")
	// A service may say otherwise, and so may the cluster later.
	w.submit("l", svc("s", 1, wantMemory(512), func(s *job.Service) { s.Strategy = job.StrategySpread }))
	w.settle()
	w.expect("l", "s", "c1")
}

func TestMaxPerNodeHolds(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("j", svc("s", 5, placed(func(p *job.Placement) { p.MaxPerNode = 2 })))
	w.settle()
	w.expect("j", "s", "a2 b2")
	w.expectBlocked("j", "s", "1: no node fits: 2 have 2 of it already, the most allowed")
	w.node("c")
	w.settle()
	w.expect("j", "s", "a2 b2 c1")
}

func TestWishesAreFollowedAsLongAsThereIsRoom(t *testing.T) {
	w := racks(t)
	w.submit("j", svc("s", 3, wantMemory(1500), placed(func(p *job.Placement) {
		p.Prefer = []job.Preference{{Constraint: con(t, "node.labels.rack==z"), Weight: 50}, {Constraint: con(t, "node.labels.rack==x"), Weight: -10}}
	})))
	w.settle()
	w.expect("j", "s", "d1 f1 e1"[:2]+" e1 f1")
	w.submit("k", svc("s", 1, placed(func(p *job.Placement) {
		p.Prefer = []job.Preference{{Constraint: con(t, "node.labels.rack==z"), Weight: 50}}
	})))
	w.settle()
	w.expect("k", "s", "f1")
}

func TestApartHoldsInBothDirections(t *testing.T) {
	w := racks(t)
	w.submit("db", svc("main", 1))
	w.submit("web", svc("s", 3, peers(job.Peer{Service: "db/main", Apart: true, By: "node.labels.rack"})))
	w.settle()
	w.expect("db", "main", "a1")
	w.expect("web", "s", "d1 e1 f1")
	// The other one, when it moves, keeps away too although it did not ask for it.
	w.apply(state.SetDrain{Node: "id-a", Drained: true, At: w.now})
	w.apply(state.SetDrain{Node: "id-b", Drained: true, At: w.now})
	w.settle()
	w.expect("db", "main", "c1")
	w.apply(state.SetDrain{Node: "id-c", Drained: true, At: w.now})
	w.settle()
	w.expectBlocked("db", "main", "1: no node fits: 3 have a task that must be apart from it, of web/s by node.labels.rack, 3 are draining")
}

// A service that waits for a place finds it free in the plan in which an update's old task is found ended. What is being
// updated keeps it, unless the other has a higher priority; in no case do both get it.
func TestAnUpdateKeepsItsPlaceBeforeAFoeOfItsPriority(t *testing.T) {
	for _, tt := range []struct {
		priority int
		foe, web string
	}{{50, "", "n1"}, {90, "n1", ""}} {
		w := newWorld(t, 1)
		w.node("n")
		web := func(img string) job.Service {
			return svc("web", 1, image(img), updating(job.Update{Order: job.StopFirst}))
		}
		w.submit("j", web("old"))
		w.settle()
		foe := svc("foe", 1, priority(tt.priority), func(s *job.Service) {
			s.Placement = &job.Placement{Peers: []job.Peer{{Service: "web", Apart: true}}}
		})
		w.submit("j", web("new"), foe)
		w.settle()
		w.expect("j", "foe", tt.foe)
		w.expect("j", "web", tt.web)
	}
}

func TestApartFromItselfByALabel(t *testing.T) {
	w := racks(t)
	w.submit("j", svc("s", 4, peers(job.Peer{Service: "s", Apart: true, By: "node.labels.rack"})))
	w.settle()
	if got := len(w.running("j", "s")); got != 3 {
		t.Errorf("%d run %s", got, w.dump())
	}
	w.expectBlocked("j", "s", "1: no node fits: 6 are not apart from s by node.labels.rack")
}

func TestWithIsWaitedForAndWished(t *testing.T) {
	w := racks(t)
	w.submit("web", svc("hard", 2, peers(job.Peer{Service: "db/main"})), svc("soft", 2, peers(job.Peer{Service: "db/main", By: "node.labels.rack", Weight: 10})))
	w.settle()
	w.expect("web", "soft", "a1 b1")
	w.expectBlocked("web", "hard", "2: no node fits: 6 are not with db/main")
	w.submit("db", svc("main", 1, func(s *job.Service) { s.Constraints = []job.Constraint{con(t, "node.hostname==f")} }))
	w.settle()
	w.expect("web", "hard", "f2")
	w.submit("web", svc("hard", 2, peers(job.Peer{Service: "db/main"})), svc("soft", 4, peers(job.Peer{Service: "db/main", By: "node.labels.rack", Weight: 10})))
	w.settle()
	w.expect("web", "soft", "a1 b1 f2")
}

func follows(on string) func(*job.Service) {
	return func(s *job.Service) { s.NetworkMode = "service:" + on }
}

func TestWhoJoinsANamespaceFollowsSlotBySlot(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, memory(1024))
	}
	// "aside" comes before "web" by name, and needs room there.
	aside, web := svc("aside", 3, wantMemory(600), follows("web")), svc("web", 3, wantMemory(300))
	w.submit("j", aside, web)
	w.settle()
	w.expect("j", "web", "a1 b1 c1")
	together := func() {
		t.Helper()
		at := map[int]job.NodeID{}
		for _, k := range w.running("j", "web") {
			at[k.Slot] = k.Node
		}
		n := 0
		for _, k := range w.running("j", "aside") {
			if n++; k.Node != at[k.Slot] {
				t.Errorf("aside.%d is on %s, web.%d on %s %s", k.Slot, k.Node, k.Slot, at[k.Slot], w.dump())
			}
		}
		if n != len(at) {
			t.Errorf("%d of %d follow %s", n, len(at), w.dump())
		}
	}
	together()
	// Room is sought for both: 1024 MiB take one pair each.
	aside.Replicas, web.Replicas = 4, 4
	w.submit("j", aside, web)
	w.settle()
	w.expectBlocked("j", "web", "1: no node fits: 3 lack memory (want 900 MiB, most free 124 MiB)")
	w.expectBlocked("j", "aside", "1: waits for web.4 to be placed, whose node it shares")
	w.node("d", memory(1024))
	w.settle()
	together()
	// They move together.
	w.node("e", memory(1024))
	w.apply(state.SetDrain{Node: "id-a", Drained: true, At: w.now})
	w.settle()
	w.expect("j", "web", "b1 c1 d1 e1")
	together()
	w.cut["id-b"] = true
	w.apply(state.NodeDown{Node: "id-b", At: w.now})
	w.apply(state.SetDrain{Node: "id-a", At: w.now})
	w.settle()
	w.expect("j", "web", "a1 c1 d1 e1")
	together()
	// And when the one that is followed changes.
	web.Image = "web:2"
	w.submit("j", aside, web)
	w.settle()
	together()
}

func volume(name string) func(*job.Service) {
	return func(s *job.Service) {
		s.Mounts = []job.Mount{{Type: job.MountVolume, Source: name, Target: "/data"}}
	}
}

func TestASlotStaysWhereItsDataIs(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n)
	}
	db := svc("db", 1, volume("shop_db"), func(s *job.Service) { s.Constraints = []job.Constraint{con(t, "node.hostname==b")} })
	w.submit("shop", db)
	w.settle()
	w.expect("shop", "db", "b1")
	db.Constraints = nil
	w.apply(state.RemoveJob{Job: "shop", At: w.now})
	w.settle()
	if left := len(w.store.View().Tasks()); left != 0 {
		t.Fatalf("%d tasks are left", left)
	}
	// After rm and run again, and for another service with the volume.
	w.submit("shop", db, svc("backup", 1, volume("shop_db")))
	w.settle()
	w.expect("shop", "db", "b1")
	w.expect("shop", "backup", "b1")
	// The data's node drains: it waits and says so.
	w.apply(state.SetDrain{Node: "id-b", Drained: true, At: w.now})
	w.settle()
	w.expectBlocked("shop", "db", "1: the data of volume shop_db is on node b, which is draining")
	w.apply(state.SetDrain{Node: "id-b", At: w.now})
	w.settle()
	w.expect("shop", "db", "b1")
	// It is down: the same, once the lease is over.
	w.cut["id-b"] = true
	down := w.now
	w.apply(state.NodeDown{Node: "id-b", At: down})
	w.settle()
	var ids []job.TaskID
	for _, k := range w.store.View().TasksOfNode("id-b") {
		ids = append(ids, k.ID)
	}
	w.apply(state.Release{Node: "id-b", Since: down, Tasks: ids, At: w.now})
	w.settle()
	w.expectBlocked("shop", "db", "1: the data of volume shop_db is on node b, which is down or left")
	// Unless the file says otherwise, or the node is gone for good.
	db.Failover = &job.Failover{Mode: job.FailoverFast}
	w.submit("shop", db)
	w.settle()
	w.expect("shop", "db", "a1")
}

func TestEachSlotHasItsOwnData(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n)
	}
	w.submit("j", svc("s", 2, volume("v")))
	w.settle()
	was := map[int]job.NodeID{}
	for _, k := range w.running("j", "s") {
		was[k.Slot] = k.Node
	}
	w.apply(state.StopJob{Job: "j", At: w.now})
	w.settle()
	w.submit("other", svc("s", 1)) // the order of loads is another one now
	w.submit("j", svc("s", 3, volume("v")))
	w.settle()
	for _, k := range w.running("j", "s") {
		if was[k.Slot] != "" && was[k.Slot] != k.Node {
			t.Errorf("slot %d was on %s and is on %s", k.Slot, was[k.Slot], k.Node)
		}
	}
	w.expect("j", "s", "a1 b1 c1")
}

func TestAnImageThatIsThereCountsButNotAgainstSpread(t *testing.T) {
	w := newWorld(t, 1)
	for _, n := range []string{"a", "b", "c"} {
		w.node(n, memory(4096))
	}
	w.submit("first", svc("s", 1, func(s *job.Service) { s.Image, s.Constraints = "x", []job.Constraint{con(t, "node.hostname==c")} }))
	w.settle()
	for _, k := range w.running("first", "s") {
		w.seq++
		w.apply(state.Report{Node: k.Node, At: w.now, Statuses: []job.Status{{Task: k.ID, Seq: w.seq, State: job.Running, At: map[job.State]time.Time{job.Created: w.now, job.Running: w.now}}}})
	}
	w.submit("again", svc("s", 1, func(s *job.Service) { s.Image = "x" }))
	w.submit("other", svc("s", 1, func(s *job.Service) { s.Image = "y" }))
	w.settle()
	w.expect("again", "s", "c1")
	w.expect("other", "s", "a1")
	w.submit("many", svc("s", 3, func(s *job.Service) { s.Image = "x" }))
	w.settle()
	w.expect("many", "s", "a1 b1 c1")
	// A node that is fuller by more than a twentieth is not worth it.
	w.submit("big", svc("s", 1, wantMemory(1024), func(s *job.Service) { s.Constraints = []job.Constraint{con(t, "node.hostname==c")} }))
	w.submit("last", svc("s", 1, func(s *job.Service) { s.Image = "x" }))
	w.settle()
	if got := w.where("last", "s"); got == "c1" {
		t.Errorf("last is on %s", got)
	}
}

func TestGenericResourcesAreGivenOutOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", func(n *job.Node) { n.Generic = []job.Generic{{Kind: "gpu", IDs: []string{"u1", "u2", "u3"}}} })
	w.node("b", func(n *job.Node) { n.Generic = []job.Generic{{Kind: "gpu", Count: 2}} })
	w.submit("j", svc("s", 3, func(s *job.Service) { s.Generic = []job.GenericRequest{{Kind: "gpu", Count: 2}} }))
	w.settle()
	w.expect("j", "s", "a1 b1")
	w.expectBlocked("j", "s", "1: no node fits: 2 lack gpu (want 2, most free 1)")
	for _, k := range w.running("j", "s") {
		if got := k.Generic[0].String(); got != "gpu=u1,u2" && got != "gpu=2" {
			t.Errorf("%s got %s", k.Name(), got)
		}
	}
	w.apply(state.StopJob{Job: "j", At: w.now})
	w.settle()
	w.submit("k", svc("s", 3, func(s *job.Service) {
		s.Generic = []job.GenericRequest{{Kind: "gpu", Count: 1}}
		s.Constraints = []job.Constraint{con(t, "node.hostname==a")}
	}))
	w.settle()
	seen := map[string]bool{}
	for _, k := range w.running("k", "s") {
		seen[k.Generic[0].IDs[0]] = true
	}
	if len(seen) != 3 {
		t.Errorf("gave out %v", seen)
	}
}
