package node

import (
	"testing"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func TestAGrantOfATaskThatWasJustPlacedIsKept(t *testing.T) {
	w := newWorld(t)
	w.submit(0, job.Service{Name: "db", Mode: job.Replicated, Replicas: 2, Image: "db:1"})
	w.place(1, "t1", 1, nodeIDs[1], "")
	w.place(2, "t2", 2, nodeIDs[1], "")
	w.report("t1", job.Status{State: job.Failed}, nil)
	g := newGranter()
	g.note([]job.TaskID{"t1", "t2", "gone"})
	g.forget(func() *state.View {
		if g.mu.TryLock() {
			g.mu.Unlock()
			t.Error("a grant could be noted after the look at the state and before the forgetting")
		}
		return w.View()
	})
	if len(g.last) != 1 || g.last["t2"].IsZero() {
		t.Errorf("remembered: %v", g.last)
	}
}
