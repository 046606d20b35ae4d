package nodetest

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/runtime"
)

// from tells which of the addresses are a machine's containers'.
func (c *Cluster) from(m *Machine, addrs []netip.Addr) (n int) {
	list, err := m.Runtime.List(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, i := range list {
		for _, a := range addrs {
			if a == i.Address {
				n++
			}
		}
	}
	return n
}

// A suspect's containers leave DNS on all other machines before anything is decided about it, and are back in it with it.
func TestSuspectsLeaveRoutingAtOnceAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 5)
		c.submit(web(5, "web:1"))
		c.awaitRunning(10*time.Second, 5)
		var lost *Machine
		for _, lost = range c.Machines {
			if lost != c.Leader() && len(c.containersOn(lost)) > 0 {
				break
			}
		}
		others := func(cond func(*Machine) bool) bool {
			for _, m := range c.Machines {
				if m != lost && !cond(m) {
					return false
				}
			}
			return true
		}
		starts := c.starts()
		c.Net.Partition([]netip.Addr{lost.Addr.Addr()})
		cut := time.Now()
		c.Await(5*time.Second, "its addresses to leave the others' DNS", func() bool {
			return others(func(m *Machine) bool { return c.from(lost, m.Resolve("shop", "web")) == 0 })
		})
		if st := c.nodeOf(lost).State; st != job.NodeReady {
			t.Errorf("they left only when the node was %s, after %v", st, time.Since(cut))
		}
		t.Logf("out of DNS everywhere after %v", time.Since(cut))
		c.Net.Heal()
		c.Await(20*time.Second, "its addresses to be back", func() bool {
			return others(func(m *Machine) bool { return len(m.Resolve("shop", "web")) == 5 })
		})
		if got := c.starts(); got != starts {
			t.Errorf("a suspicion started something: %d starts, were %d", got, starts)
		}
	})
}

func TestFlappingNodeSaysSoAndGetsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 4)
		c.Await(time.Minute, "all to be settled", func() bool { return c.unsettled() == "" })
		var m *Machine
		for _, m = range c.Machines {
			if m != c.Leader() {
				break
			}
		}
		for range 3 {
			c.Net.Partition([]netip.Addr{m.Addr.Addr()})
			c.Await(20*time.Second, "it to be down", func() bool { return c.Leader() != nil && c.nodeOf(m).State == job.NodeDown })
			c.Net.Heal()
			c.Await(20*time.Second, "it to be back", func() bool { return c.Leader() != nil && c.nodeOf(m).State == job.NodeReady })
		}
		list, err := c.Leader().node.Nodes(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list.Nodes {
			if flapping := n.Flapping != ""; flapping != (n.Name == m.Name) {
				t.Errorf("node %s: %q", n.Name, n.Flapping)
			}
		}
		c.submit(web(9, "web:1"))
		c.awaitRunning(10*time.Second, 9)
		if got := c.containersOn(m); len(got) != 0 {
			t.Errorf("it got %v", got)
		}
	})
}

// What is unwell leaves DNS, is started again in place, and when that does not help is replaced on another machine.
func TestUnhealthyTaskIsRestartedThenReplacedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		s := web(3, "web:1")
		s.Services[0].Health = &job.Health{Test: []string{"CMD", "check"}, Interval: time.Second, Timeout: time.Second, Retries: 2}
		s.Services[0].Restart.Max = 2
		c.submit(s)
		c.awaitRunning(20*time.Second, 3)
		m := c.where("web.2")
		var id runtime.ID
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.Name == "web.2" {
				id = i.ID
			}
		}
		m.Runtime.Health(id, 1, "no database")
		for _, o := range c.Machines {
			c.Await(10*time.Second, "its address to leave DNS", func() bool { return len(o.Resolve("shop", "web")) == 2 })
		}
		c.Await(2*time.Minute, "a restart in place", func() bool {
			i, err := m.Runtime.Inspect(context.Background(), id)
			return err == nil && i.Starts >= 2
		})
		c.Await(5*time.Minute, "it to run on another machine", func() bool { w := c.where("web.2"); return w != nil && w != m })
		now := c.where("web.2")
		c.Await(10*time.Second, "all three to be in DNS", func() bool { return len(now.Resolve("shop", "web")) == 3 })
	})
}

// A task that always fails backs off, and ps says so.
func TestCrashLoopShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		s := web(1, "web:1")
		s.Services[0].Command = []string{"false"}
		c.submit(s)
		c.Await(5*time.Minute, "it to be called a crash loop", func() bool {
			v := c.Leader().node.State().View()
			for _, b := range v.Blocked("shop") {
				if strings.HasPrefix(b.Reason, "crash loop: web.1 failed") {
					return true
				}
			}
			return false
		})
		time.Sleep(10 * time.Minute)
		before := c.Leader().node.State().View().Index()
		time.Sleep(10 * time.Minute)
		if wrote := c.Leader().node.State().View().Index() - before; wrote > 600 {
			t.Errorf("a crash loop at its slowest writes %d entries in 10 minutes", wrote)
		}
	})
}

// A machine that returns gets its share back, one task at a time, and no slot is without a container meanwhile.
func TestTasksMoveBackToAMachineThatReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		s := web(9, "web:1")
		s.Services[0].Rebalance = nil
		c.submit(s)
		c.awaitRunning(10*time.Second, 9)
		var m *Machine
		for _, m = range c.Machines {
			if m != c.Leader() {
				break
			}
		}
		m.PowerOff()
		c.Await(20*time.Second, "nine elsewhere", func() bool { return len(c.Running()) == 9 })
		m.PowerOn()
		for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			two := 0
			got := c.Running()
			for _, n := range got {
				two += n - 1
			}
			if len(got) != 9 || two > 1 {
				t.Fatalf("while it moves run %v", got)
			}
		}
		c.awaitRunning(time.Second, 9)
		if on := c.containersOn(m); len(on) != 3 {
			t.Errorf("it got %v", on)
		}
		res, err := c.Leader().node.Rebalance(context.Background(), true)
		if err != nil || len(res.Moves) != 0 {
			t.Errorf("still to move: %+v, %v", res, err)
		}
	})
}

// A machine that nobody heard for a moment is heard again when gossip's patience is over: what a try found while it was cut off
// says nothing about then. (Found by seed 372423336 of make chaos.)
func TestACutThatHealsBeforeTheVerdictIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 5)
		mute := c.Machines[4]
		if mute == c.Leader() {
			mute = c.Machines[3]
		}
		for i := range 20 {
			for _, m := range c.Machines {
				if m != mute {
					c.Net.Cut(mute.Addr.Addr(), m.Addr.Addr())
				}
			}
			time.Sleep(time.Duration(1000+i*25) * time.Millisecond)
			c.Net.Heal()
			healed := time.Now()
			time.Sleep(10 * time.Second)
			for _, e := range c.Leader().node.State().View().Events(state.EventFilter{}) {
				if after := e.Time.Sub(healed); e.Kind == job.EventNodeDown && after > 500*time.Millisecond {
					t.Fatalf("round %d: %s, %v after the cut had healed", i, e.Message, after)
				}
			}
		}
	})
}
