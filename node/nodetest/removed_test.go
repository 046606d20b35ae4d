package nodetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// A node that was removed knows keys and addresses, and has connections open. None of them may serve it any more, at a
// log-holder or at a worker, which would pass its requests on in its own name.
func TestRemovedNodeIsShutOutEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 9) // more than hold the log
		leader := c.Leader()
		victim := c.Machines[8]
		if victim == leader {
			victim = c.Machines[7]
		}
		asVictim := victim.node.Transport() // what was stolen from it works on without its agent
		if err := victim.StopAgent(); err != nil {
			t.Fatal(err)
		}
		ask := func(m *Machine) error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := api.NewClient(m.Addr.String(), asVictim).Status(ctx)
			return err
		}
		workers := 0
		c.Await(2*time.Minute, "the victim to count as down", func() bool {
			list, err := leader.node.Nodes(context.Background())
			for _, o := range list.Nodes {
				if err == nil && o.Name == victim.Name && o.State == job.NodeDown {
					return true
				}
			}
			return false
		})
		others := slices.DeleteFunc(slices.Clone(c.Machines), func(m *Machine) bool { return m == victim })
		for _, m := range others {
			if s, err := m.status(); err != nil {
				t.Fatal(err)
			} else if !s.LogHolder {
				workers++
			}
			if err := ask(m); err != nil {
				t.Fatalf("a member is refused by %s: %v", m.Name, err)
			}
		}
		if workers == 0 {
			t.Fatal("all nodes hold the log: the test proves less than it says")
		}
		if err := leader.node.RemoveNode(context.Background(), victim.Name, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		for _, m := range others {
			if err := ask(m); !errors.Is(err, job.Unavailable) {
				t.Errorf("%s still serves the removed node: %v", m.Name, err)
			}
		}
		for _, m := range others { // and nobody else is shut out
			if _, err := api.NewClient(m.Addr.String(), leader.node.Transport()).Status(context.Background()); err != nil {
				t.Errorf("%s refuses the leader: %v", m.Name, err)
			}
		}
	})
}
