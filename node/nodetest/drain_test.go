package nodetest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
)

func (c *Cluster) nodeOf(m *Machine) *job.Node {
	c.t.Helper()
	list, err := c.Leader().node.Nodes(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range list.Nodes {
		if list.Nodes[i].Name == m.Name {
			return &list.Nodes[i].Node
		}
	}
	c.t.Fatalf("no node %s", m.Name)
	return nil
}

// letDrain starts an agent again, as one that drains its node whenever it stops.
func (c *Cluster) letDrain(m *Machine) {
	c.t.Helper()
	if err := m.StopAgent(); err != nil {
		c.t.Fatal(err)
	}
	m.DrainOnStop = time.Minute
	m.StartAgent()
	c.Await(20*time.Second, "it to be ready", func() bool { return m.ready() })
}

// Each slot has a container that runs at every moment of a drain, and afterwards the node has none.
func TestDrainLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		m := c.Machines[1]
		if err := c.Leader().node.Drain(context.Background(), m.Name, nil); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if got := c.Running(); len(got) != 6 {
				t.Fatalf("only %v run", got)
			}
		}
		if left := c.containersOn(m); len(left) != 0 {
			t.Errorf("left on the drained node: %v", left)
		}
		c.awaitRunning(10*time.Second, 6)
	})
}

// An agent that drains on stop ends when its node is empty, and the node takes tasks again after its next start.
func TestAgentDrainsItselfBeforeItStops(t *testing.T) {
	for _, leader := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := cluster(t, 3)
			c.submit(web(6, "web:1"))
			c.awaitRunning(10*time.Second, 6)
			var m *Machine
			for _, m = range c.Machines {
				if (m == c.Leader()) == leader {
					break
				}
			}
			c.letDrain(m)
			c.awaitRunning(20*time.Second, 6)
			started := time.Now()
			if err := m.StopAgent(); err != nil {
				t.Fatal(err)
			}
			if left := c.containersOn(m); slices.Contains(left, "running") || time.Since(started) > time.Minute {
				t.Errorf("after %v are left: %v", time.Since(started), left)
			}
			c.Await(20*time.Second, "a leader", func() bool { return c.Leader() != nil })
			if got := c.Running(); len(got) != 6 {
				t.Errorf("while it is away run %v", got)
			}
			if !c.nodeOf(m).Drained {
				t.Error("it is not drained while it is away")
			}
			m.StartAgent()
			c.Await(20*time.Second, "it to be active", func() bool { return c.Leader() != nil && !c.nodeOf(m).Drained })
			c.awaitRunning(20*time.Second, 6)
		})
	}
}

// drained is a cluster with a node that drained itself when its agent stopped, and is away.
func drained(t *testing.T) (*Cluster, *Machine) {
	c := cluster(t, 3)
	c.submit(web(6, "web:1"))
	c.awaitRunning(10*time.Second, 6)
	m := c.Machines[2]
	c.letDrain(m)
	c.awaitRunning(20*time.Second, 6)
	if err := m.StopAgent(); err != nil {
		t.Fatal(err)
	}
	return c, m
}

// What an admin orders while the agent is away is not undone by its return, because it had drained itself before.
func TestADrainThatIsOrderedMeanwhileStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := drained(t)
		c.Await(20*time.Second, "a leader", func() bool { return c.Leader() != nil })
		if err := c.Leader().node.Drain(context.Background(), m.Name, nil); err != nil {
			t.Fatal(err)
		}
		m.StartAgent()
		c.Await(20*time.Second, "it to be ready", func() bool { return m.ready() })
		time.Sleep(20 * time.Second)
		if !c.nodeOf(m).Drained {
			t.Error("its return undid what an admin had ordered")
		}
	})
}

// An agent that is to end again before it has returned from its last drain, as without a leader, still returns from it.
func TestADrainThatWasNotUndoneYetIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := drained(t)
		for _, other := range c.Machines[:2] {
			if err := other.StopAgent(); err != nil {
				t.Fatal(err)
			}
		}
		m.StartAgent()
		time.Sleep(5 * time.Second)
		m.cancel()
		m.cancel, m.node = nil, nil
		for _, other := range c.Machines[:2] {
			other.StartAgent()
		}
		if err := <-m.done; err != nil {
			t.Fatal(err)
		}
		c.Await(20*time.Second, "a leader", func() bool { return c.Leader() != nil })
		if !c.nodeOf(m).Drained {
			t.Error("it did not drain itself")
		}
		m.StartAgent()
		c.Await(20*time.Second, "it to be active", func() bool { return c.Leader() != nil && !c.nodeOf(m).Drained })
	})
}
