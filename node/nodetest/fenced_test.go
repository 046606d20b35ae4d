package nodetest

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

const testLease = 5 * time.Second

func fencedWeb(replicas int) job.Spec {
	s := web(replicas, "web:1")
	s.Services[0].Failover = &job.Failover{Mode: job.FailoverFenced, Lease: testLease}
	return s
}

// watchSlots looks at all machines all the time: no slot may ever have two containers that run.
func (c *Cluster) watchSlots(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for name, n := range c.Running() {
				if n > 1 {
					t.Errorf("%d containers run as %s", n, name)
					return
				}
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// where finds the machine that runs a task, nil if none does.
func (c *Cluster) where(name string) *Machine {
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, i := range list {
			if i.Name == name && i.State == "running" {
				return m
			}
		}
	}
	return nil
}

func TestFencedSlotNeverRunsTwice(t *testing.T) {
	for _, fault := range []struct {
		name string
		do   func(*Cluster, *Machine)
		undo func(*Cluster, *Machine)
	}{
		{"cut off", func(c *Cluster, m *Machine) { c.Net.Partition([]netip.Addr{m.Addr.Addr()}) }, func(c *Cluster, _ *Machine) { c.Net.Heal() }},
		{"power", func(_ *Cluster, m *Machine) { m.PowerOff() }, func(_ *Cluster, m *Machine) { m.PowerOn() }},
		{"agent killed and machine silent", func(c *Cluster, m *Machine) { m.KillAgent(); c.Net.SetDown(m.Addr.Addr(), true) },
			func(_ *Cluster, m *Machine) { m.PowerOn() }},
	} {
		for _, who := range []string{"worker", "leader"} {
			t.Run(fault.name+"/"+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := cluster(t, 5)
					c.submit(fencedWeb(10))
					c.awaitRunning(20*time.Second, 10)
					c.watchSlots(t)
					leader := c.Leader()
					m := leader
					if who == "worker" {
						for _, m = range c.Machines {
							if m != leader {
								break
							}
						}
					}
					start := time.Now()
					fault.do(c, m)
					c.Await(time.Minute, "all slots to run on the other machines", func() bool {
						n := 0
						for _, o := range c.Machines {
							if o != m {
								for _, i := range c.containersOn(o) {
									if i == "running" {
										n++
									}
								}
							}
						}
						return n == 10
					})
					took := time.Since(start)
					t.Logf("moved after %v", took)
					if limit := 2*testLease + 5*time.Second; took > limit {
						t.Errorf("moved after %v, more than %v", took, limit)
					}
					fault.undo(c, m)
					c.awaitRunning(time.Minute, 10)
				})
			})
		}
	}
}

func (c *Cluster) containersOn(m *Machine) (states []string) {
	list, err := m.Runtime.List(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, i := range list {
		states = append(states, string(i.State))
	}
	return states
}

// An outage of the agent, or of the leader, that is shorter than the lease restarts nothing; a longer one of the agent
// ends the container, and the agent starts it again.
func TestFencedContainerOutlivesAShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(fencedWeb(1))
		c.awaitRunning(20*time.Second, 1)
		c.watchSlots(t)
		m := c.where("web.1")
		before := c.starts()
		_ = m.StopAgent()
		time.Sleep(2 * time.Second)
		m.StartAgent()
		time.Sleep(10 * time.Second)
		if got := c.starts(); got != before || c.where("web.1") != m {
			t.Errorf("a short outage of the agent: %d starts, were %d; on %v", got, before, c.where("web.1"))
		}
		_ = m.StopAgent()
		time.Sleep(testLease + time.Second)
		if c.where("web.1") != nil {
			t.Error("it runs without a lease")
		}
		m.StartAgent()
		c.Await(20*time.Second, "it to run again", func() bool { return c.where("web.1") == m })
	})
}

// Without a quorum nobody gives leases: a fenced container ends, and starts again where it was when there is one.
func TestFencedContainerEndsWithoutAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(fencedWeb(3))
		c.awaitRunning(20*time.Second, 3)
		c.watchSlots(t)
		for _, m := range c.Machines { // each alone
			c.Net.Partition([]netip.Addr{m.Addr.Addr()})
		}
		for i, a := range c.Machines {
			for _, b := range c.Machines[i+1:] {
				c.cutPair(a, b)
			}
		}
		time.Sleep(testLease + 2*time.Second)
		if got := c.Running(); len(got) != 0 {
			t.Errorf("without a quorum for longer than the lease there run %v", got)
		}
		c.Net.Heal()
		c.awaitRunning(time.Minute, 3)
	})
}

func TestManualIsMovedByAnAdminOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		s := web(1, "web:1")
		s.Services[0].Failover = &job.Failover{Mode: job.FailoverManual}
		c.submit(s)
		c.awaitRunning(20*time.Second, 1)
		m := c.where("web.1")
		m.PowerOff()
		time.Sleep(2 * time.Minute)
		if got := c.where("web.1"); got != nil {
			t.Fatalf("moved by itself to %s", got.Name)
		}
		list, err := c.Leader().node.Tasks(context.Background(), api.TaskQuery{Job: "shop"})
		if err != nil || len(list.Blocked) != 1 || !strings.Contains(list.Blocked[0].Reason, "shoal failover shop/web") {
			t.Errorf("it does not say so: %+v, %v", list.Blocked, err)
		}
		res, err := c.Leader().node.Failover(context.Background(), "shop", api.FailoverRequest{})
		if err != nil || len(res.Released) != 1 || res.Released[0].Node != m.Name {
			t.Fatalf("failover: %+v, %v", res, err)
		}
		c.Await(10*time.Second, "it to run elsewhere", func() bool { return c.where("web.1") != nil })
		m.PowerOn()
		c.awaitRunning(time.Minute, 1)
	})
}
