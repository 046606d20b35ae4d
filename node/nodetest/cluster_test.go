package nodetest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/node/api"
	"shoal/runtime/fake"
)

var images = map[string]fake.Image{"web:1": {}, "web:2": {}}

func cluster(t *testing.T, n int) *Cluster {
	c := New(t, n, 1, images)
	if os.Getenv("SHOAL_TEST_LOG") != "" {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	c.Form()
	return c
}

// web is a job that stays where it is: who looks for tasks that run twice must not find one that is being moved.
func web(replicas int, image string) job.Spec {
	no := false
	return job.Spec{Name: "shop", Services: []job.Service{{Name: "web", Rebalance: &no, Mode: job.Replicated, Replicas: replicas, Image: image, Command: []string{"sleep", "1000000"}}}}
}

func (c *Cluster) submit(s job.Spec) {
	c.t.Helper()
	c.Await(20*time.Second, "a leader", func() bool { return c.Leader() != nil })
	if _, err := c.Leader().node.Submit(context.Background(), api.NewKey(), api.SubmitRequest{Spec: s}); err != nil {
		c.t.Fatalf("submit: %v", err)
	}
}

func (c *Cluster) awaitRunning(limit time.Duration, want int) {
	c.t.Helper()
	c.Await(limit, fmt.Sprintf("%d replicas, each slot once", want), func() bool { return settled(c.Running(), want) })
	time.Sleep(20 * time.Second) // it must stay so
	if got := c.Running(); !settled(got, want) {
		c.t.Fatalf("it did not stay settled: want %d, running %v", want, got)
	}
}

func settled(running map[string]int, want int) bool {
	for _, k := range running {
		if k != 1 {
			return false
		}
	}
	return len(running) == want
}

func TestSubmittedReplicasRunAndScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(5, "web:1"))
		c.awaitRunning(10*time.Second, 5)
		c.submit(web(2, "web:1"))
		c.awaitRunning(30*time.Second, 2)
	})
}

func TestLostMachineIsReplacedWithinSeconds(t *testing.T) {
	for _, victim := range []string{"worker", "leader"} {
		t.Run(victim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 5)
				c.submit(web(10, "web:1"))
				c.awaitRunning(10*time.Second, 10)
				m := c.Leader()
				if victim == "worker" {
					m = c.Machines[4]
					if m == c.Leader() {
						m = c.Machines[3]
					}
				}
				m.PowerOff()
				start := time.Now()
				c.Await(10*time.Second, "10 replicas on four machines", func() bool { return settled(c.Running(), 10) })
				t.Logf("%s lost: its work runs elsewhere after %v", victim, time.Since(start))
				m.PowerOn()
				c.awaitRunning(30*time.Second, 10)
			})
		})
	}
}

func TestPartitionedNodeReturnsAndEachSlotRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		lost := c.Machines[2]
		c.Net.Partition([]netip.Addr{lost.Addr.Addr()})
		time.Sleep(30 * time.Second)
		if on, err := lost.Runtime.List(context.Background()); err != nil || len(on) == 0 {
			t.Fatalf("a cut-off node must keep its containers: %v, %v", on, err)
		}
		c.Net.Heal()
		c.awaitRunning(time.Minute, 6)
	})
}

func TestShortBlipRestartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		before := c.starts()
		c.Net.Partition([]netip.Addr{c.Machines[1].Addr.Addr()})
		time.Sleep(400 * time.Millisecond)
		c.Net.Heal()
		c.awaitRunning(30*time.Second, 6)
		if after := c.starts(); after != before {
			t.Errorf("containers were started %d times before the blip and %d times after", before, after)
		}
	})
}

func TestStoppedAgentTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		before := c.starts()
		for _, m := range c.Machines {
			if err := m.StopAgent(); err != nil {
				t.Fatalf("stop the agent of %s: %v", m.Name, err)
			}
			time.Sleep(10 * time.Second) // an upgrade takes its time
			m.StartAgent()
			c.Await(30*time.Second, "the agent to be back", m.ready)
		}
		c.awaitRunning(30*time.Second, 6)
		if after := c.starts(); after != before {
			t.Errorf("containers were started %d times before the agents' restarts and %d times after", before, after)
		}
	})
}

func TestAllMachinesOffAndOnAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		for _, m := range c.Machines {
			m.PowerOff()
		}
		time.Sleep(time.Minute)
		for _, m := range c.Machines {
			m.PowerOn()
		}
		c.awaitRunning(30*time.Second, 6)
	})
}

// copyOf makes a machine at another address with a copy of m's disk.
func (c *Cluster) copyOf(m *Machine, host byte) *Machine {
	c.t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), node.DefaultPort)
	twin := &Machine{c: c, Name: fmt.Sprintf("m%d", host), Addr: addr, Runtime: c.newRuntime(int(host))}
	if err := os.CopyFS(twin.dir(), os.DirFS(m.dir())); err != nil {
		c.t.Fatal(err)
	}
	c.Machines = append(c.Machines, twin)
	return twin
}

func TestCopiedDataDirectoryIsRefusedWhileTheNodeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		twin := c.copyOf(c.Machines[1], 9)
		twin.StartAgent()
		err := <-twin.done
		if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), c.Machines[1].Addr.String()) {
			t.Errorf("the copy ended with %v, want a conflict that names the address of the node", err)
		}
		twin.cancel, twin.node = nil, nil
		if !c.Machines[1].ready() {
			t.Error("the node itself suffered")
		}
	})
}

func TestNodeMovesToAnotherAddressAndItsOldSelfGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		old := c.Machines[1]
		old.PowerOff()
		moved := c.copyOf(old, 9)
		moved.StartAgent()
		c.Await(time.Minute, "the moved node to be ready at its new address", func() bool {
			list, err := c.Machines[0].node.Nodes(context.Background())
			return moved.ready() && err == nil && slices.ContainsFunc(list.Nodes, func(n api.NodeView) bool { return n.Addr == moved.Addr })
		})
		old.PowerOn() // it finds nobody at its own old address, so it takes its id back
		err := <-moved.done
		if job.KindOf(err) != job.Conflict {
			t.Errorf("the copy ended with %v, want a conflict", err)
		}
		moved.cancel, moved.node = nil, nil
		c.Await(time.Minute, "the old self to be ready", old.ready)
	})
}
