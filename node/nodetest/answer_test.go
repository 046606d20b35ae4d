package nodetest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shoal/node/api"
)

// A leader whose machine loses power while it is asked to end a node's drain never answers; the node asks the next one soon.
func TestAReturnFromADrainOutlivesItsLeader(t *testing.T) {
	for try := range 60 { // until it was being asked at that moment, which is about one of four
		after := 350*time.Millisecond + time.Duration(try%4)*25*time.Millisecond
		var took time.Duration
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
			cut := time.Now()
			c.Await(4*time.Second, "it to be active", func() bool { return c.active(m) })
			took = time.Since(cut)
		})
		if took > 900*time.Millisecond { // longer than an election: its first request came to nothing
			t.Logf("active %v after the power cut, which was %v after its start", took, after)
			return
		}
	}
	t.Error("the leader was never lost while it was asked")
}

// active tells whether the leader says that a machine's node takes tasks; false if there is none.
func (c *Cluster) active(m *Machine) bool {
	l := c.Leader()
	if l == nil {
		return false
	}
	list, err := l.node.Nodes(context.Background())
	return err == nil && slices.ContainsFunc(list.Nodes, func(n api.NodeView) bool { return n.Name == m.Name && !n.Drained })
}
