package nodetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime"
	"shoal/runtime/fake"
)

// limits counts the containers that run by their memory limit, in MiB.
func (c *Cluster) limits() map[int64]int {
	out := map[int64]int{}
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, i := range list {
			if i.State == runtime.Running {
				out[i.Resources.MemoryBytes>>20]++
			}
		}
	}
	return out
}

func limited(replicas int, mib int64) job.Spec {
	s := serving(replicas, "web:1")
	s.Services[0].Limits.MemoryBytes = mib << 20
	s.Services[0].Update = &job.Update{Monitor: time.Second}
	return s
}

// loseLeader kills the leader's agent, and starts it again a while later.
func (c *Cluster) loseLeader(d time.Duration) {
	m := c.Leader()
	if m == nil {
		return
	}
	m.KillAgent()
	time.Sleep(d)
	m.StartAgent()
}

// TestChangesSurviveTheirLeader loses the leader at some moments of a change in place, of one whose successors must wait
// for their predecessors' end, and of one with canaries.
func TestChangesSurviveTheirLeader(t *testing.T) {
	for _, at := range []time.Duration{15 * time.Millisecond, 250 * time.Millisecond, 1500 * time.Millisecond} {
		t.Run(fmt.Sprintf("in place %v", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 3)
				time.Sleep(5 * time.Second) // all nodes take tasks
				c.submit(limited(3, 64))
				c.awaitRunning(10*time.Second, 3)
				before := c.ids()
				for id := range before { // those of the leader are placed elsewhere when it is lost
					if _, there := c.Leader().Runtime.Spec(id); there {
						delete(before, id)
					}
				}
				c.submit(limited(3, 128))
				time.Sleep(at)
				c.loseLeader(8 * time.Second)
				c.Await(time.Minute, "the new limits", func() bool { return c.limits()[128] == 3 })
				if r := c.watch(time.Minute, func() {}); r.Status != job.RolloutComplete || r.Version != 2 {
					t.Errorf("rollout: %+v", r)
				}
				after := c.ids()
				for id := range before {
					if !after[id] {
						t.Errorf("container %s was replaced; now %v", id, after)
					}
				}
				if len(before) != 2 {
					t.Errorf("%d containers were on other nodes than the leader", len(before))
				}
			})
		})
		t.Run(fmt.Sprintf("stop first %v", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 3)
				for _, m := range c.Machines {
					m.Runtime.SetImage("web:2", fake.Image{Absent: true, PullDelay: 4 * time.Second})
				}
				spec := func(image string) job.Spec {
					s := serving(3, image)
					s.Services[0].Update = &job.Update{Order: job.StopFirst, Monitor: time.Second}
					return s
				}
				c.submit(spec("web:1"))
				c.awaitRunning(10*time.Second, 3)
				c.submit(spec("web:2"))
				begun := time.Now()
				time.Sleep(at)
				go c.loseLeader(8 * time.Second)
				for time.Since(begun) < 3900*time.Millisecond {
					if n := c.imagesRunning()["web:1"]; n != 3 {
						t.Fatalf("%d old tasks run %v after the submit, while the new image is pulled", n, time.Since(begun))
					}
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(15 * time.Second) // the leader that was lost is back
				c.Await(2*time.Minute, "the new image everywhere", func() bool { return c.imagesRunning()["web:2"] == 3 })
				c.wantImages("web:2", 3)
			})
		})
		t.Run(fmt.Sprintf("canary %v", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 3)
				spec := func(image string) job.Spec {
					s := serving(4, image)
					s.Services[0].Update = &job.Update{Canaries: 1, Monitor: time.Second}
					return s
				}
				c.submit(spec("web:1"))
				c.awaitRunning(10*time.Second, 4)
				c.submit(spec("web:2"))
				time.Sleep(at)
				c.loseLeader(8 * time.Second)
				if r := c.watch(time.Minute, func() {}); r.Status != job.RolloutCanary {
					t.Errorf("rollout: %+v", r)
				}
				time.Sleep(time.Minute)
				if got := c.imagesRunning(); got["web:2"] != 1 || got["web:1"] != 3 {
					t.Fatalf("with one canary %v run", got)
				}
				c.loseLeader(8 * time.Second)
				c.Await(time.Minute, "a leader", func() bool { return c.Leader() != nil })
				key := api.NewKey()
				promote := func() error {
					_, err := c.Leader().node.Promote(context.Background(), key, "shop", api.PromoteRequest{Services: []string{"web"}})
					return err
				}
				if err := errors.Join(promote(), promote()); err != nil { // the same key: once
					t.Fatal(err)
				}
				c.loseLeader(8 * time.Second)
				c.Await(2*time.Minute, "the new image everywhere", func() bool { return c.imagesRunning()["web:2"] == 4 })
				c.wantImages("web:2", 4)
			})
		})
	}
}

// TestALimitThatDoesNotFitReplaces lowers a limit under what one task uses: that one is replaced, the others are not.
func TestALimitThatDoesNotFitReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(limited(3, 128))
		c.awaitRunning(10*time.Second, 3)
		before := c.ids()
		for id := range before {
			for _, m := range c.Machines {
				m.Runtime.Memory(id, 100<<20)
			}
			break
		}
		c.submit(limited(3, 64))
		r := c.watch(2*time.Minute, func() {
			if n := c.slotsServing(); n < 3 {
				t.Fatalf("only %d of 3 slots serve", n)
			}
		})
		time.Sleep(5 * time.Second)
		kept := 0
		for id := range c.ids() {
			if before[id] {
				kept++
			}
		}
		if r.Status != job.RolloutComplete || kept != 2 || c.limits()[64] != 3 {
			t.Errorf("rollout %+v; %d kept; limits %v", r, kept, c.limits())
		}
	})
}
