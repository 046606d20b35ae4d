package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/nodetest"
)

// A node that was recorded as down may be elected before anybody took it back. It leads, so it is there; nobody else judges
// it. (Found by seed 17135867164 of the simulation: it stayed down for as long as it led.)
func TestALeaderThatIsRecordedAsDownTakesItselfBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := nodetest.New(t, 3, 1, nil)
		c.Form()
		c.Await(20*time.Second, "a leader", func() bool { return c.Leader() != nil })
		n := c.Leader().Node()
		if err := n.Record(t.Context(), state.NodeDown{Node: n.ID(), Reason: "cut off", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		is := func() job.NodeState { return n.State().View().Node(n.ID()).State }
		if is() != job.NodeDown {
			t.Fatalf("the leader is %s, want down", is())
		}
		c.Await(2*time.Second, "the leader to be up", func() bool { return is() == job.NodeReady })
	})
}
