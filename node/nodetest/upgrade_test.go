package nodetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// A cluster is upgraded node by node: what changes an answer of the log holds from the last one on, and nobody notices. A
// node that is put back to its old build keeps out, instead of making something else of the log than the others.
func TestRulesFollowAnUpgradeNodeByNode(t *testing.T) {
	for behind := 1; behind <= state.Rules; behind++ { // the last build, and those before it
		t.Run(fmt.Sprint("from level ", state.Rules-behind), func(t *testing.T) { upgradeNodeByNode(t, behind) })
	}
}

func upgradeNodeByNode(t *testing.T, behind int) {
	synctest.Test(t, func(t *testing.T) {
		c := New(t, 5, 1, images)
		for _, m := range c.Machines {
			m.BuildsBehind = behind
		}
		c.Form()
		c.submit(web(5, "web:1"))
		c.awaitRunning(time.Minute, 5)
		starts := c.starts()
		for i, m := range c.Machines {
			if got := c.Leader().node.State().View().Rules(); got != state.Rules-behind {
				t.Fatalf("after %d upgrades of 5 the rules are of level %d", i, got)
			}
			if err := m.StopAgent(); err != nil {
				t.Fatal(err)
			}
			m.BuildsBehind = 0
			m.StartAgent()
			c.Await(time.Minute, "the upgraded node", m.ready)
			c.Await(time.Minute, "a leader", func() bool { return c.Leader() != nil })
			time.Sleep(10 * time.Second)
		}
		raised := func() bool {
			for _, m := range c.Machines {
				if c.holds(m) && m.node.State().View().Rules() != state.Rules {
					return false
				}
			}
			return true
		}
		c.Await(time.Minute, "the new rules on every log-holder", raised)

		var back *Machine
		for _, m := range c.Machines {
			if m != c.Leader() && c.holds(m) {
				back = m
			}
		}
		if err := back.StopAgent(); err != nil {
			t.Fatal(err)
		}
		back.BuildsBehind = behind
		back.StartAgent()
		var old *state.OutdatedError
		if err := <-back.done; !errors.As(err, &old) {
			t.Errorf("a log-holder with its old build ended with %v", err)
		}
		back.cancel()
		back.cancel, back.node = nil, nil
		late := c.copyOf(c.Machines[0], 9)
		late.life++ // an empty disk
		late.Name, late.BuildsBehind = "late", behind
		token, err := c.Leader().node.CreateToken(context.Background(), api.TokenRequest{MaxUses: 1})
		if err != nil {
			t.Fatal(err)
		}
		late.start([]string{c.Leader().Addr.String()}, token.Secret)
		if err := <-late.done; job.KindOf(err) != job.Conflict {
			t.Errorf("a new machine with an old build ended with %v", err)
		}
		late.cancel()
		late.cancel, late.node = nil, nil
		back.BuildsBehind = 0
		back.StartAgent()
		c.Await(time.Minute, "the node with its new build again", back.ready)
		c.awaitRunning(time.Minute, 5)
		if got := c.starts(); got != starts {
			t.Errorf("%d containers were started by it", got-starts)
		}
	})
}
