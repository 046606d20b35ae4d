package nodetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func batchJob(n, parallel int, command ...string) job.Spec {
	return job.Spec{Name: "work", Services: []job.Service{{
		Name: "b", Mode: job.ReplicatedJob, Replicas: n, Image: "web:1", Command: command, Batch: &job.Batch{Parallelism: parallel},
	}}}
}

// run asks the leader for the newest run of work/b, nil while there is none.
func (c *Cluster) run() *job.Run {
	l := c.Leader()
	if l == nil {
		return nil
	}
	list, err := l.node.Tasks(context.Background(), api.TaskQuery{})
	if err != nil {
		return nil
	}
	return list.LastRun("work", "b")
}

func (c *Cluster) awaitRun(limit time.Duration, what string, cond func(*job.Run) bool) job.Run {
	c.t.Helper()
	c.Await(limit, what, func() bool { r := c.run(); return r != nil && cond(r) })
	return *c.run()
}

func TestABatchSurvivesTheLossOfAWorkerAndOfTheLeader(t *testing.T) {
	for _, victim := range []string{"worker", "leader"} {
		t.Run(victim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 5)
				c.submit(batchJob(12, 5, "sleep", "8"))
				c.awaitRun(30*time.Second, "the first completions", func(r *job.Run) bool { return r.Completed >= 2 })
				m := c.Leader()
				for _, o := range c.Machines {
					if victim == "worker" && o != c.Leader() {
						m = o
					}
				}
				m.PowerOff()
				r := c.awaitRun(3*time.Minute, "the batch to complete", func(r *job.Run) bool { return !r.Active() })
				if r.Status != job.RunComplete || r.Completed != 12 || r.Failed != 0 || r.Seq != 1 {
					t.Errorf("run %+v", r)
				}
				m.PowerOn()
				time.Sleep(time.Minute)
				if r := c.run(); r.Seq != 1 || r.Completed != 12 {
					t.Errorf("after the machine came back: %+v", r)
				}
				if on := c.Running(); len(on) != 0 {
					t.Errorf("still running: %v", on)
				}
			})
		})
	}
}

func TestABatchThatLosesItsMachineByAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 1)
		s := batchJob(2, 0, "sleep", "60")
		s.Services[0].Batch.Retries = new(int)
		c.submit(s)
		c.Await(20*time.Second, "both to run", func() bool { return len(c.Running()) == 2 })
		c.Machines[0].PowerOff()
		time.Sleep(5 * time.Second)
		c.Machines[0].PowerOn()
		r := c.awaitRun(3*time.Minute, "the batch to complete", func(r *job.Run) bool { return !r.Active() })
		if r.Status != job.RunComplete || r.Failed != 0 || r.Lost != 2 {
			t.Errorf("run %+v", r)
		}
	})
}

// The leader goes just before, at, and just after the time that a run is due: there is one run for each due time.
func TestOneRunForEachDueTimeWhoeverLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		s := batchJob(1, 0, "sleep", "1")
		s.Services[0].Schedule = &job.Schedule{Cron: "* * * * *", Overlap: job.OverlapAllow}
		s.Services[0].Batch = &job.Batch{KeepComplete: 50}
		c.submit(s)
		begun := time.Now()
		for _, before := range []time.Duration{1200 * time.Millisecond, 50 * time.Millisecond, time.Millisecond, 0, -20 * time.Millisecond, -300 * time.Millisecond} {
			next := time.Now().Truncate(time.Minute).Add(2 * time.Minute)
			time.Sleep(time.Until(next.Add(-before)))
			l := c.Leader()
			if l == nil {
				t.Fatal("nobody leads")
			}
			l.PowerOff()
			time.Sleep(10 * time.Second)
			l.PowerOn()
			c.Await(30*time.Second, "all to be there again", func() bool { return l.ready() && c.Leader() != nil })
		}
		time.Sleep(30 * time.Second)
		list, err := c.Leader().node.Tasks(context.Background(), api.TaskQuery{})
		if err != nil {
			t.Fatal(err)
		}
		want := begun.Truncate(time.Minute).Add(time.Minute)
		for _, r := range list.Runs {
			if !r.Due.Equal(want) || r.Status != job.RunComplete || r.Completed != 1 {
				t.Errorf("run %d is due %v and %s, want one due %v", r.Seq, r.Due, r.Status, want)
			}
			want = want.Add(time.Minute)
		}
		if time.Until(want) < 0 {
			t.Errorf("none for %v and after", want)
		}
	})
}
