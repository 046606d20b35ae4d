package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Who removes a batch in its last retry and submits it again before the old container has stopped has a run with all of its
// retries: both are number 1.
func TestARunHasNothingOfTheFormerJobsRun(t *testing.T) {
	w := worldAt(t, 1, 1) // since level 2 the state forgets the former job's task itself
	w.node("a")
	submit := func() { w.submit("j", batch("b", 1, runs(job.Batch{Retries: new(3)}))) }
	w.ends(func(k *job.Task) job.State {
		if k.Attempt < 3 {
			return job.Failed
		}
		return job.Running
	})
	submit()
	w.pass(time.Hour, nil)
	old := w.running("j", "b")[0]
	if old.Attempt != 3 {
		t.Fatalf("not as the test wants it: attempt %d %s", old.Attempt, w.dump())
	}
	w.lingers = func(k *job.Task) bool { return k.ID == old.ID }
	w.apply(state.RemoveJob{Job: "j", At: w.now})
	w.settle()
	w.ends(func(*job.Task) job.State { return job.Failed })
	submit()
	w.settle()
	w.lingers = nil
	w.pass(time.Hour, func() {
		for _, k := range w.store.View().TasksOfService("j", "b") {
			if k.ID != old.ID && k.Replaces == old.ID {
				t.Fatalf("a task of the new run is attempt %d in place of the former job's: %s", k.Attempt, k.Cause)
			}
		}
	})
	if r := w.lastRun("j", "b"); r.Status != job.RunFailed || r.Failed != 4 {
		t.Errorf("run %+v, want one that failed 4 times %s", r, w.dump())
	}
}
