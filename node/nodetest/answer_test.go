package nodetest

import (
	"testing"
	"testing/synctest"
	"time"
)

// A leader whose machine loses power while it is asked to end a node's drain never answers; the node asks the next one soon.
func TestAReturnFromADrainOutlivesItsLeader(t *testing.T) {
	for after := 350 * time.Millisecond; after < 450*time.Millisecond; after += 25 * time.Millisecond { // it is asked in there
		synctest.Test(t, func(t *testing.T) {
			c := cluster(t, 5)
			time.Sleep(20 * time.Second) // all standbys are there
			m := c.Machines[2]
			if m == c.Leader() {
				m = c.Machines[1]
			}
			c.letDrain(m)
			if err := m.StopAgent(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
			if !c.nodeOf(m).Drained {
				t.Fatal("it did not drain itself")
			}
			c.Net.SetLatency(25 * time.Millisecond)
			m.StartAgent()
			time.Sleep(after)
			c.Leader().PowerCut()
			c.Await(4*time.Second, "it to be active", func() bool { return c.Leader() != nil && !c.nodeOf(m).Drained })
		})
	}
}
