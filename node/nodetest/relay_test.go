package nodetest

import (
	"testing"
	"testing/synctest"
	"time"

	"shoal/runtime"
)

// A machine that cannot reach the leader, though all others reach both, keeps its leases, and what it has to say arrives.
func TestACutToTheLeaderAloneCostsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 5)
		c.submit(fencedWeb(5))
		c.awaitRunning(20*time.Second, 5)
		c.watchSlots(t)
		time.Sleep(5 * time.Second)
		leader := c.Leader()
		var cut *Machine
		for i := 1; cut == nil || cut == leader; i++ {
			cut = c.where("web." + string(rune('0'+i)))
		}
		starts := c.starts()
		c.cutPair(leader, cut)
		for range 120 {
			time.Sleep(time.Second)
			if c.starts() != starts || !settled(c.Running(), 5) {
				t.Fatalf("%s was cut off from the leader %s alone: %d starts where there were %d, running %v", cut.Name, leader.Name, c.starts(), starts, c.Running())
			}
		}
		if l := c.Leader(); l != leader {
			t.Skip("another one leads by now")
		}
		for _, id := range containersOf(t, cut) { // its end is told, and made good
			cut.Runtime.Exit(id, 1)
		}
		c.Await(time.Minute, "the task to run again", func() bool { return settled(c.Running(), 5) && c.starts() > starts })
	})
}

func containersOf(t *testing.T, m *Machine) (ids []runtime.ID) {
	list, err := m.Runtime.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}
