package nodetest

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime"
)

// slotsServing counts the slots of web that serve by what the containers of all machines say.
func (c *Cluster) slotsServing() int {
	n := 0
	for name := range c.Running() {
		if strings.HasPrefix(name, "web.") {
			n++
		}
	}
	return n
}

// watch calls look every 50 ms until the rollout of web is not running any more, and returns it.
func (c *Cluster) watch(limit time.Duration, look func()) job.Rollout {
	c.t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		look()
		for _, m := range c.Machines {
			if m.node == nil || !m.node.Started() || !m.node.HasState() {
				continue
			}
			list, err := m.node.Tasks(context.Background(), api.TaskQuery{Job: "shop"})
			if err == nil && m == c.Leader() && len(list.Rollouts) > 0 && list.Rollouts[0].Status != job.RolloutRunning {
				return list.Rollouts[0]
			}
		}
		if time.Since(start) > limit {
			c.t.Fatalf("the update did not end within %v: %v", limit, c.Running())
		}
	}
}

// ids of the containers that run.
func (c *Cluster) ids() map[runtime.ID]bool {
	out := map[runtime.ID]bool{}
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, i := range list {
			if i.State == runtime.Running {
				out[i.ID] = true
			}
		}
	}
	return out
}

// imagesRunning counts what runs by its image.
func (c *Cluster) imagesRunning() map[string]int {
	out := map[string]int{}
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, i := range list {
			if i.State != runtime.Running {
				continue
			}
			if spec, ok := m.Runtime.Spec(i.ID); ok {
				out[spec.Image]++
			}
		}
	}
	return out
}

func (c *Cluster) wantImages(want string, n int) {
	c.t.Helper()
	time.Sleep(5 * time.Second) // what was replaced has its grace period
	c.awaitRunning(30*time.Second, n)
	if got := c.imagesRunning(); len(got) != 1 || got[want] != n {
		c.t.Fatalf("running %v, want %d of %s", got, n, want)
	}
}

func serving(replicas int, image string) job.Spec {
	s := web(replicas, image)
	s.Services[0].Command = []string{"serve"}
	return s
}

func TestHealthyUpdateLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(serving(4, "web:1"))
		c.awaitRunning(10*time.Second, 4)
		c.submit(serving(4, "web:2"))
		start := time.Now()
		r := c.watch(time.Minute, func() {
			if n := c.slotsServing(); n < 4 {
				t.Fatalf("only %d of 4 slots serve after %v", n, time.Since(start))
			}
		})
		t.Logf("4 tasks updated one by one in %v", time.Since(start))
		if r.Status != job.RolloutComplete || r.Version != 2 {
			t.Errorf("rollout: %+v", r)
		}
		c.wantImages("web:2", 4)
	})
}

// crashing is a content that exits with 3 soon after its start.
func crashing(replicas int) job.Spec {
	s := web(replicas, "web:2")
	s.Services[0].Command = []string{"sh", "-c", "sleep 0.2; exit 3"}
	return s
}

func (c *Cluster) wantRolledBack(r job.Rollout) {
	c.t.Helper()
	if !r.Automatic || r.RollbackOf != 2 || r.RollbackTo != 1 || r.Status != job.RolloutComplete || !strings.Contains(r.Reason, "exit code 3") {
		c.t.Errorf("rollout: %+v", r)
	}
	j := c.Leader().node.State().View().Job("shop")
	if j.Version != 3 || !strings.HasPrefix(j.Cause, "rolled back from version 2: web.") {
		c.t.Errorf("version %d: %q", j.Version, j.Cause)
	}
}

func TestFailingUpdateRollsBackByItselfAndNobodyNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(serving(4, "web:1"))
		c.awaitRunning(10*time.Second, 4)
		before := c.ids()
		c.submit(crashing(4))
		start := time.Now()
		r := c.watch(2*time.Minute, func() {
			if n := c.imagesRunning()["web:1"]; n < 4 {
				t.Fatalf("only %d of the 4 old tasks run", n)
			}
		})
		t.Logf("a failing update was taken back after %v", time.Since(start))
		c.wantRolledBack(r)
		c.wantImages("web:1", 4)
		if after := c.ids(); !maps.Equal(after, before) {
			t.Errorf("containers %v, before the update %v", after, before)
		}
	})
}

// TestUpdateGoesOnWhenAMachineIsLost loses the leader or a worker in the middle of an update that goes well, and of one
// that fails.
func TestUpdateGoesOnWhenAMachineIsLost(t *testing.T) {
	for _, victim := range []string{"leader", "worker"} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fails=%v", victim, fails), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := cluster(t, 5)
					c.submit(serving(5, "web:1"))
					c.awaitRunning(10*time.Second, 5)
					spec, want := serving(5, "web:2"), "web:2"
					if fails {
						spec, want = crashing(5), "web:1"
					}
					c.submit(spec)
					if fails {
						time.Sleep(time.Second) // its first task is being restarted where it is
					} else {
						c.Await(time.Minute, "the update to have begun", func() bool { return c.imagesRunning()["web:2"] >= 2 })
					}
					m := c.Leader()
					if victim == "worker" {
						for _, o := range c.Machines {
							if o == c.Leader() {
								continue
							}
							m = o // one with a new task, if the leader is not the only one
							if list, err := o.Runtime.List(context.Background()); err == nil && len(list) > 1 {
								break
							}
						}
					}
					m.PowerOff()
					start := time.Now()
					r := c.watch(3*time.Minute, func() {})
					t.Logf("%s lost: the update ended after %v: %s", victim, time.Since(start), r.Status)
					if fails {
						c.wantRolledBack(r)
					} else if r.Status != job.RolloutComplete || r.Version != 2 {
						t.Errorf("rollout: %+v", r)
					}
					c.wantImages(want, 5)
					m.PowerOn()
					c.wantImages(want, 5)
				})
			})
		}
	}
}

func TestRestartAndStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(serving(3, "web:1"))
		c.awaitRunning(10*time.Second, 3)
		ctx := context.Background()
		if _, err := c.Leader().node.RestartJob(ctx, api.NewKey(), "shop", api.RestartRequest{}); err != nil {
			t.Fatal(err)
		}
		r := c.watch(time.Minute, func() {
			if n := c.slotsServing(); n < 3 {
				t.Fatalf("only %d of 3 slots serve", n)
			}
		})
		if r.Status != job.RolloutComplete {
			t.Errorf("rollout: %+v", r)
		}
		c.wantImages("web:1", 3)
		if err := c.Leader().node.StopJob(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Leader().node.RestartJob(ctx, api.NewKey(), "shop", api.RestartRequest{}); job.KindOf(err) != job.Conflict {
			t.Errorf("restart of a stopped job: %v, want a conflict", err)
		}
		c.Await(20*time.Second, "all to stop", func() bool { return len(c.Running()) == 0 })
		if _, err := c.Leader().node.StartJob(ctx, api.NewKey(), "shop"); err != nil {
			t.Fatal(err)
		}
		c.wantImages("web:1", 3)
	})
}
