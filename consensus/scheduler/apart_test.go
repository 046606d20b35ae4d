package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// down has nodes lost: nobody hears of them.
func (w *world) down(names ...string) {
	w.t.Helper()
	for _, name := range names {
		id := job.NodeID("id-" + name)
		w.cut[id] = true
		w.apply(state.NodeDown{Node: id, At: w.now})
	}
}

// zones is two nodes in each of three zones: a1 a2 b1 b2 c1 c2.
func zones(t *testing.T) *world {
	w := newWorld(t, 1)
	for _, name := range []string{"a1", "a2", "b1", "b2", "c1", "c2"} {
		w.node(name, label("zone", name[:1]))
	}
	return w
}

var apartByZone = job.Peer{Service: "s", Apart: true, By: "node.labels.zone"}

// What is on a node that is down does not keep its own zone from the one that takes its place.
func TestApartByALabelFailsOverIntoTheSameZone(t *testing.T) {
	w := zones(t)
	w.submit("j", svc("s", 3, peers(apartByZone)))
	w.settle()
	w.expect("j", "s", "a11 b11 c11")
	w.down("a1")
	w.settle()
	w.expect("j", "s", "a21 b11 c11")
	w.down("a2") // the whole zone: its slot waits, and says so
	w.settle()
	w.expect("j", "s", "a21 b11 c11")
	w.expectBlocked("j", "s", "1: no node fits: 4 are not apart from s by node.labels.zone, 2 are down or left")
	w.down("b1") // the lowest slot takes what is left of b
	w.settle()
	w.expect("j", "s", "b11 b21 c11")
	w.expectBlocked("j", "s", "1: no node fits: 3 are not apart from s by node.labels.zone, 3 are down or left")
}

// What may still run there, or is an admin's to decide on, does.
func TestApartByALabelWaitsForWhatMayStillRun(t *testing.T) {
	for _, mode := range []job.FailoverMode{job.FailoverFenced, job.FailoverManual} {
		w := zones(t)
		db := svc("db", 1, volume("v"), failover(mode), at(t, "a1"))
		w.submit("j", db, svc("web", 1, peers(job.Peer{Service: "db", Apart: true, By: "node.labels.zone"}), at(t, "a2")))
		w.settle()
		w.expectBlocked("j", "web", "1: no node fits: 1 is not apart from db by node.labels.zone, 5 do not match node.hostname==a2")
		since := w.now
		w.down("a1")
		w.pass(time.Hour, nil)
		w.expect("j", "web", "")
		k := w.running("j", "db")[0]
		w.apply(state.Release{Node: "id-a1", Since: since, Tasks: []job.TaskID{k.ID}, At: w.now})
		w.pass(time.Minute, nil) // db itself waits for its data
		w.expect("j", "web", "a21")
	}
}

// A friend on a node that is down is none.
func TestWithByALabelWantsAFriendThatIsThere(t *testing.T) {
	w := zones(t)
	w.submit("j", svc("db", 1, volume("v"), failover(job.FailoverManual), at(t, "a1")))
	w.settle()
	w.down("a1")
	w.submit("j", w.store.View().Job("j").Spec.Services[0], svc("web", 1, peers(job.Peer{Service: "db", By: "node.labels.zone"})))
	w.settle()
	w.expect("j", "web", "")
	w.expectBlocked("j", "web", "1: no node fits: 5 are not with db by node.labels.zone, 1 is down or left")
	w.cut["id-a1"] = false
	w.apply(state.NodeUp{Node: "id-a1", At: w.now})
	w.settle()
	w.expect("j", "web", "a21")
}

// A move keeps the former task until its successor is ready: both count.
func TestRebalancingKeepsApartWhatMovesAndWhatItComesFrom(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a1", label("zone", "a"), memory(1024))
	w.submit("j", svc("s", 1, wantMemory(600), peers(apartByZone)))
	w.submit("k", svc("s", 1, wantMemory(400)))
	w.settle()
	w.node("a2", label("zone", "a"), memory(4096))
	w.pass(time.Hour, func() {
		if n := len(w.running("j", "s")); n != 1 {
			t.Fatalf("%d tasks in zone a %s", n, w.dump())
		}
	})
	w.expect("k", "s", "a21") // the one that may be beside itself
}
