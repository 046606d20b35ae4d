package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
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
