package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func priority(p int) func(*job.Service) { return func(s *job.Service) { s.Priority = &p } }

func at(t *testing.T, node string) func(*job.Service) {
	return func(s *job.Service) { s.Constraints = append(s.Constraints, con(t, "node.hostname=="+node)) }
}

func TestPreemptionTakesTheFewestOfTheLowestPriority(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.node("b", memory(1024))
	w.submit("low", svc("s", 2, wantMemory(256), priority(20), at(t, "a")))
	w.submit("low2", svc("s", 1, wantMemory(512), priority(20), at(t, "b")))
	w.submit("mid", svc("s", 1, wantMemory(512), priority(40), at(t, "a")))
	w.submit("peer", svc("s", 1, wantMemory(512), priority(61), at(t, "b")))
	w.settle()
	w.submit("high", svc("s", 1, wantMemory(512), priority(70)))
	// In one plan, and the room is kept until it is there.
	pl, _ := w.plan()
	if len(pl.Stop) != 1 || !strings.Contains(pl.Stop[0].Cause, "preempted by high/s, whose priority is 70 and not 20") {
		t.Errorf("plan %+v", pl)
	}
	if got := w.blocked("high", "s"); !strings.HasPrefix(got, "1: takes the room of tasks of lower priority, and waits for them to stop: low2/s.1 on node b") {
		t.Errorf("blocked: %q", got)
	}
	w.submit("thief", svc("s", 1, wantMemory(512), priority(25)))
	w.settle()
	w.expect("high", "s", "b1")
	w.expect("low", "s", "a2")
	w.expect("mid", "s", "a1")
	w.expect("peer", "s", "b1")
	w.expect("thief", "s", "")
	w.expectBlocked("low2", "s", "1: no node fits: 1 lacks memory (want 512 MiB, most free 0 B), 1 does not match node.hostname==b")
	// When there is room again it comes back and says why it had gone.
	w.apply(state.RemoveJob{Job: "thief", At: w.now})
	w.apply(state.RemoveJob{Job: "high", At: w.now})
	w.settle()
	w.expect("low2", "s", "b1")
	if k := w.running("low2", "s")[0]; !strings.Contains(k.Cause, "preempted by high/s") {
		t.Errorf("cause %q", k.Cause)
	}
}

func TestNobodyIsPreemptedByAnEqualOrWhenItIsOff(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.submit("one", svc("s", 1, wantMemory(1024), priority(50)))
	w.settle()
	w.submit("two", svc("s", 1, wantMemory(1024), priority(59)))
	w.settle()
	w.expect("one", "s", "a1")
	w.expectBlocked("two", "s", "1: no node fits: 1 lacks memory (want 1 GiB, most free 0 B)")
	w.apply(state.SetCluster{Set: map[string]string{"preemption": "off"}, At: w.now})
	w.submit("three", svc("s", 1, wantMemory(1024), priority(100)))
	w.settle()
	w.expect("one", "s", "a1")
	w.apply(state.SetCluster{Set: map[string]string{"preemption": ""}, At: w.now})
	w.settle()
	w.expect("three", "s", "a1")
	w.expect("one", "s", "")
}

func TestWhoIsNotNeededIsLeftAlone(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024), func(n *job.Node) { n.Generic = []job.Generic{{Kind: "gpu", Count: 1}} })
	w.submit("small", svc("s", 4, wantMemory(128), priority(10)))
	w.submit("gpu", svc("s", 1, wantMemory(256), priority(30), gpus(1)))
	w.settle()
	w.submit("high", svc("s", 1, wantMemory(256), priority(90), gpus(1)))
	w.settle()
	w.expect("high", "s", "a1")
	w.expect("small", "s", "a4")
	w.expect("gpu", "s", "")
}

func gpus(n int) func(*job.Service) {
	return func(s *job.Service) { s.Generic = []job.GenericRequest{{Kind: "gpu", Count: n}} }
}

// Those who make room end one after the other: what the first has given back is kept until the last has too.
func TestDevicesAreKeptForWhomOthersMakeRoom(t *testing.T) {
	for name, has := range map[string]job.Generic{"counted": {Kind: "gpu", Count: 2}, "named": {Kind: "gpu", IDs: []string{"u0", "u1"}}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.node("a", func(n *job.Node) { n.Generic = []job.Generic{has} })
			w.submit("low1", svc("s", 1, gpus(1), priority(10)))
			w.submit("low2", svc("s", 1, gpus(1), priority(10)))
			w.settle()
			asked, stops := map[job.TaskID]time.Time{}, 0
			w.lingers = func(k *job.Task) bool {
				if asked[k.ID].IsZero() {
					asked[k.ID] = w.now
					stops++
				}
				return w.now.Sub(asked[k.ID]) < map[string]time.Duration{"low1": time.Second, "low2": 11 * time.Second}[k.Job]
			}
			w.submit("high", svc("s", 1, gpus(2), priority(90)))
			for range 60 {
				w.plan()
				w.act()
				w.now = w.now.Add(time.Second)
			}
			w.expect("high", "s", "a1")
			if stops != 2 {
				t.Errorf("%d stops, want 2", stops)
			}
			w.expectBlocked("low1", "s", "1: no node fits: 1 lacks gpu (want 1, most free 0)")
		})
	}
}

// A task that fails again and again must not end others each time that it is tried.
func TestWhoKeepsFailingTakesNobodysRoom(t *testing.T) {
	service := svc("s", 1, wantMemory(1024), priority(90))
	batch := batch("s", 1, wantMemory(1024), priority(90), runs(job.Batch{Retries: retries(1000)}))
	for i, high := range []job.Service{service, batch, service, batch} {
		restart := i >= 2
		t.Run(fmt.Sprint(high.Mode, restart), func(t *testing.T) {
			w := newWorld(t, 1)
			w.node("a", memory(1024))
			w.submit("low", svc("s", 1, wantMemory(1024), priority(20)))
			w.settle()
			broken := true
			w.behave = func(k *job.Task) job.State {
				if k.Job == "high" && broken {
					return job.Failed
				}
				return job.Running
			}
			stopped := map[job.TaskID]bool{} // the state forgets some
			w.lingers = func(k *job.Task) bool {
				stopped[k.ID] = stopped[k.ID] || strings.HasPrefix(k.StopCause, preemptedBy)
				return false
			}
			w.submit("high", high)
			w.pass(30*time.Minute, nil)
			w.expect("low", "s", "a1")
			want := "1: no node fits: 1 lacks memory (want 1 GiB, most free 0 B); s.1 failed 3 times in a row and takes nobody's room before "
			if got := w.blocked("high", "s"); !strings.HasPrefix(got, want) {
				t.Errorf("blocked: %q, want %q", got, want)
			}
			w.pass(3*time.Hour, nil)
			if len(stopped) != preemptTries+3 {
				t.Errorf("%d stops, want %d", len(stopped), preemptTries+3)
			}
			// But it is not left out for ever, and not at all when somebody says that it is mended.
			broken = false
			wait := preemptPause
			if restart {
				w.apply(state.RestartJob{Job: "high", At: w.now})
				wait = time.Minute
			}
			w.pass(wait, nil)
			w.expect("high", "s", "a1")
		})
	}
}
