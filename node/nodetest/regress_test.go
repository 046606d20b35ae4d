package nodetest

import (
	"testing"
	"testing/synctest"
	"time"
)

// Of six nodes five hold the log. One that is cut off for so long that another takes its part in the log does not hear
// of that, and must not go by its own old copy for ever.
func TestReplacedLogHolderComesBackAsAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 6)
		c.submit(web(6, "web:1"))
		c.awaitRunning(10*time.Second, 6)
		var lost *Machine
		for _, m := range c.Machines {
			if m.node.HasState() && m != c.Leader() {
				lost = m
			}
		}
		c.cutOff(lost)
		time.Sleep(40 * time.Second)
		if c.holds(lost) {
			t.Fatal("nobody took over the part of a log-holder that was cut off")
		}
		c.Net.Heal()
		time.Sleep(20 * time.Second)
		c.submit(web(12, "web:2"))
		c.Await(3*time.Minute, "all to run the new version", func() bool { return c.unsettled() == "" })
	})
}

func (c *Cluster) cutOff(m *Machine) { c.Net.Partition(addrs([]*Machine{m})) }
