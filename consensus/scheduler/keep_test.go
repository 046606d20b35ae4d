package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// The place of what an update has stopped is its successor's, also when a follower of another service waits for room there.
func TestAFollowerTakesNoPlaceOfAnUpdate(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	port := func(s *job.Service) { s.Ports = []job.Port{{Published: 80, Target: 80, Protocol: "tcp"}} }
	w.submit("web", svc("web", 1, wantMemory(600), port))
	w.submit("j", svc("app", 1, wantMemory(100)))
	w.settle()
	w.submit("j", svc("app", 1, wantMemory(100)), svc("aside", 1, wantMemory(600), follows("app")))
	w.settle()
	w.expect("j", "aside", "")
	w.submit("web", svc("web", 1, wantMemory(600), port, image("v2")))
	w.pass(10*time.Minute, nil)
	w.expect("web", "web", "a1")
	w.expect("j", "aside", "")
}

// What the one that is followed has waited for is no follower's.
func TestWhoIsFollowedBeginsBeforeItsFollowers(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.behave = func(k *job.Task) job.State {
		if k.Service == "aside" {
			return job.Pulling
		}
		return job.Running
	}
	port := func(s *job.Service) { s.Ports = []job.Port{{Published: 80, Target: 80, Protocol: "tcp"}} }
	w.submit("j", svc("app", 1, wantMemory(600), port), svc("aside", 1, wantMemory(300), follows("app")))
	w.settle()
	w.submit("j", svc("app", 1, wantMemory(600), port, image("v2")), svc("aside", 1, wantMemory(500), follows("app")))
	w.pass(time.Minute, nil)
	w.expect("j", "app", "a1")
	w.expect("j", "aside", "")
}

// The room of those that follow is kept in the same plan also when the one that is followed cannot be updated, or stops first.
func TestRoomForFollowersIsKeptInAnUpdate(t *testing.T) {
	for name, change := range map[string]func(*job.Service){"no room": wantMemory(800), "stop first": image("v2")} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.node("a", memory(1024))
			stopFirst := func(s *job.Service) { s.Update = &job.Update{Order: job.StopFirst, Parallelism: 1} }
			aside := svc("aside", 1, wantMemory(300), follows("app"), needs("init", job.DependCompleted))
			init := svc("init", 1)
			w.submit("j", svc("app", 1, wantMemory(300), stopFirst), aside, init)
			w.settle()
			w.submit("j", svc("app", 1, wantMemory(300), stopFirst, change), aside, init, svc("other", 1, wantMemory(600)))
			w.settle()
			w.expect("j", "other", "")
			w.expect("j", "app", "a1")
		})
	}
}

// Where a follower may not be, no room is kept for it: others get that.
func TestNoRoomIsKeptWhereAFollowerMayNotBe(t *testing.T) {
	for name, rule := range map[string]func(*job.Service){
		"constraint": func(s *job.Service) {
			s.Constraints = []job.Constraint{{Key: "node.labels.x", Op: "==", Value: "1"}}
		},
		"apart":       peers(job.Peer{Service: "foe", Apart: true}),
		"with":        peers(job.Peer{Service: "friend"}),
		"with nobody": peers(job.Peer{Service: "k/friend"}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.node("a", memory(1024))
			foe := svc("foe", 1)
			foe.Constraints = []job.Constraint{{Key: "node.id", Op: "==", Value: "id-a"}}
			w.submit("j", svc("app", 1, wantMemory(300)), foe)
			w.settle()
			w.node("b", memory(100))
			friend := svc("friend", 1, wantMemory(1))
			friend.Constraints = []job.Constraint{{Key: "node.id", Op: "==", Value: "id-b"}}
			w.submit("j", svc("app", 1, wantMemory(300)), foe, friend, svc("aside", 1, wantMemory(600), follows("app"), rule))
			w.settle()
			w.expect("j", "aside", "")
			w.submit("k", svc("other", 1, wantMemory(600)))
			w.pass(time.Minute, nil)
			w.expect("k", "other", "a1")
		})
	}
}

// Who is to be with another that has no task yet may come: its room is kept.
func TestRoomIsKeptForWhoseFriendIsToCome(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.submit("j", svc("app", 1, wantMemory(300)), svc("friend", 1, needs("app", job.DependHealthy)),
		svc("aside", 1, wantMemory(600), follows("app"), peers(job.Peer{Service: "friend"})), svc("other", 1, wantMemory(600)))
	w.settle()
	w.expect("j", "aside", "a1")
	w.expect("j", "other", "")
}

// Who waits for room that is kept hears when it is kept no longer.
func TestRoomThatIsKeptNoLongerIsFree(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.node("b", memory(100))
	for _, n := range w.store.View().Nodes() {
		w.apply(state.SetDrain{Node: n.ID, Drained: n.Name == "b", At: w.now})
	}
	at := func(node string) func(*job.Service) {
		return func(s *job.Service) {
			s.Constraints = []job.Constraint{{Key: "node.id", Op: "==", Value: "id-" + node}}
		}
	}
	w.submit("j", svc("app", 1, wantMemory(300)), svc("friend", 1, at("b"), needs("late", job.DependHealthy)), svc("late", 1, at("a")),
		svc("aside", 1, wantMemory(600), follows("app"), peers(job.Peer{Service: "friend"})))
	late := job.Pulling
	w.behave = func(k *job.Task) job.State {
		if k.Service == "late" {
			return late
		}
		return job.Running
	}
	w.pass(time.Minute, nil)
	w.submit("k", svc("other", 1, wantMemory(600)))
	w.pass(time.Hour, nil)
	w.expect("k", "other", "")
	w.apply(state.SetDrain{Node: "id-b", Drained: false, At: w.now})
	w.pass(time.Hour, nil)
	w.expect("k", "other", "")
	late = job.Running
	w.pass(time.Hour, nil)
	w.expect("j", "friend", "b1")
	w.expect("k", "other", "a1")
}

// Also where another one is placed that must be apart from the follower.
func TestRoomIsKeptNoLongerForWhomAnotherIsApart(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	late := job.Pulling
	w.behave = func(k *job.Task) job.State {
		if k.Service == "late" {
			return late
		}
		return job.Running
	}
	w.submit("j", svc("app", 1, wantMemory(300)), svc("late", 1), svc("never", 1),
		svc("aside", 1, wantMemory(600), follows("app"), needs("never", job.DependCompleted)),
		svc("foe", 1, peers(job.Peer{Service: "aside", Apart: true}), needs("late", job.DependHealthy)))
	w.pass(time.Minute, nil)
	w.submit("k", svc("other", 1, wantMemory(600)))
	w.pass(time.Hour, nil)
	w.expect("k", "other", "")
	late = job.Running
	w.pass(time.Hour, nil)
	w.expect("j", "foe", "a1")
	w.expect("k", "other", "a1")
}

// The one that is followed leaves a draining node for another, where its followers' room is kept until they come too.
func TestRoomForFollowersIsKeptDuringAMove(t *testing.T) {
	w := newWorld(t, 1)
	a := w.node("a", memory(1024))
	w.submit("j", svc("app", 1, wantMemory(300)), svc("aside", 1, wantMemory(600), follows("app")))
	w.settle()
	w.node("b", memory(1024))
	w.apply(state.SetDrain{Node: a, Drained: true, At: w.now})
	w.submit("k", svc("other", 1, wantMemory(600)))
	w.pass(10*time.Minute, nil)
	w.expect("j", "app", "b1")
	w.expect("j", "aside", "b1")
	w.expect("k", "other", "")
}
