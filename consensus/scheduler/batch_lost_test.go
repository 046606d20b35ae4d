package scheduler

import (
	"testing"
	"time"

	"shoal/consensus/job"
)

// A run of a former content that loses its node is at its end: nobody would do the rest of it, and the next one is due.
func TestAScheduledRunOfAFormerContentEndsWithItsNode(t *testing.T) {
	for _, mode := range []job.Mode{job.ReplicatedJob, job.GlobalJob} {
		w := newWorld(t, 1)
		w.node("a")
		w.ends(func(k *job.Task) job.State {
			if k.Node == "id-b" {
				return job.Complete
			}
			return job.Running
		})
		s := batch("b", 1)
		if mode == job.GlobalJob {
			s.Mode, s.Replicas = mode, 0
		}
		s.Schedule = &job.Schedule{Cron: "@hourly"}
		w.submit("j", s)
		var due Schedules
		hour := func() {
			w.now = w.now.Add(time.Hour)
			fire, _ := due.Due(w.store.View(), w.now)
			for _, c := range fire {
				w.apply(c)
			}
			w.settle()
		}
		hour()
		if w.where("j", "b") != "a1" {
			t.Fatalf("%s: not as the test wants it %s", mode, w.dump())
		}
		s.Image = "other"
		w.submit("j", s)
		w.settle()
		if r := w.lastRun("j", "b"); !r.Active() {
			t.Errorf("%s: what runs may finish: %+v", mode, r)
		}
		w.node("b")
		w.down("a")
		w.settle()
		hour()
		first, r := w.store.View().Runs("j", "b")[0], w.lastRun("j", "b")
		if first.Status != job.RunStopped || r.Seq != 2 || r.Status != job.RunComplete {
			t.Errorf("%s: runs %+v and %+v %s", mode, *first, r, w.dump())
		}
	}
}
