package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
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
