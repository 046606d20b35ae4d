package nodetest

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
)

// A node that was removed is forgotten by gossip at every node, not only where the admin's request was carried out.
func TestEveryNodeForgetsWhoWasRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 9) // more than hold the log
		victim := c.Machines[8]
		if victim == c.Leader() {
			victim = c.Machines[7]
		}
		victim.PowerOff()
		c.Await(2*time.Minute, "the victim to count as down", func() bool {
			list, err := c.Leader().node.Nodes(context.Background())
			for _, o := range list.Nodes {
				if err == nil && o.Name == victim.Name && o.State == job.NodeDown {
					return true
				}
			}
			return false
		})
		if err := c.Leader().node.RemoveNode(context.Background(), victim.Name, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, m := range c.Machines {
			if m == victim {
				continue
			}
			if states := m.gossipStates(); states["dead"]+states["left"]+states["suspect"] != 0 || states["alive"] != 8 {
				t.Errorf("%s: %v", m.Name, states)
			}
		}
	})
}

// gossipStates counts the members that the machine's agent knows, by state.
func (m *Machine) gossipStates() map[string]int {
	m.c.t.Helper()
	all, err := m.node.Debug(context.Background())
	if err != nil {
		m.c.t.Fatal(err)
	}
	var parts struct {
		Gossip struct{ States map[string]int }
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(b, &parts)
	}
	if err != nil {
		m.c.t.Fatal(err)
	}
	return parts.Gossip.States
}
