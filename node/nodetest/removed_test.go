package nodetest

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
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
		away := others[slices.IndexFunc(others, func(m *Machine) bool { return !m.node.HasState() })] // the victim may have been a voter of three
		if err := away.StopAgent(); err != nil {
			t.Fatal(err)
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
		// Nor does a restart forget it. One of them was off when the node was removed.
		for _, m := range others {
			if m != away {
				if err := m.StopAgent(); err != nil {
					t.Fatal(err)
				}
			}
			m.StartAgent()
			for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if err := ask(m); !errors.Is(err, job.Unavailable) && m != away {
					t.Fatalf("%s serves the removed node after a restart: %v", m.Name, err)
				}
			}
			if err := ask(m); !errors.Is(err, job.Unavailable) {
				t.Errorf("%s serves the removed node after a restart: %v", m.Name, err)
			}
			if err := speakRaft(t, m, victim); err == nil {
				t.Errorf("%s speaks raft with the removed node after a restart", m.Name)
			}
		}
		leader = c.Leader()
		for _, m := range others { // and nobody else is shut out
			if _, err := api.NewClient(m.Addr.String(), leader.node.Transport()).Status(context.Background()); err != nil {
				t.Errorf("%s refuses the leader: %v", m.Name, err)
			}
		}
	})
}

// speakRaft does the handshake of a log-holder with a machine, as another one, and waits for a word against it.
func speakRaft(t *testing.T, m, as *Machine) error {
	t.Helper()
	ident, err := pki.LoadIdentity(filepath.Join(as.dir(), "identity"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	life, err := consensus.Life(filepath.Join(m.dir(), "raft"))
	if err != nil {
		t.Fatal(err)
	}
	alpn := "shoal-raft/1"
	if life != "" {
		alpn += "." + life
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	raw, err := underlay{m.c.Net, as.Addr.Addr()}.Dial(ctx, m.Addr.String())
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := tls.Client(raw, ident.ClientTLS(alpn, ""))
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil // it waits for what the removed node has to say
}

// The machine with the only vote of two is taken away in the way that the refusal to remove it says.
func TestTheOnlyVoterMovesBeforeItIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 2)
		first, second := c.Machines[0], c.Machines[1]
		c.Await(time.Minute, "the second to hold the log", func() bool { return c.holds(second) })
		err := first.node.RemoveNode(context.Background(), first.Name, true)
		if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "only vote") || !strings.Contains(err.Error(), "--voter never") {
			t.Errorf("the leader was asked to remove itself: %v", err)
		}
		if err := first.StopAgent(); err != nil {
			t.Fatal(err)
		}
		first.Voter = job.VoterNever
		first.StartAgent()
		c.Await(time.Minute, "the second to lead without the first", func() bool {
			return c.Leader() == second && first.ready() && !c.holds(first)
		})
		if err := first.StopAgent(); err != nil {
			t.Fatal(err)
		}
		c.Await(2*time.Minute, "the first to be removed", func() bool {
			return second.node.RemoveNode(context.Background(), first.Name, true) == nil
		})
		c.submit(web(2, "web:1"))
		c.awaitRunning(time.Minute, 2)
	})
}

// A machine that was removed while it was cut off must learn of it when it is back, though no node takes it for a member any
// more: the cluster has given its work to others, and nobody else would ever stop what runs there.
func TestNodeRemovedWhileCutOffStopsItsContainers(t *testing.T) {
	for _, kind := range []string{"worker", "log-holder"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 6) // five hold the log
				c.submit(web(12, "web:1"))
				c.awaitRunning(20*time.Second, 12)
				i := slices.IndexFunc(c.Machines, func(m *Machine) bool { return m != c.Leader() && m.node.HasState() == (kind == "log-holder") })
				lost := c.Machines[i]
				c.cutOff(lost)
				time.Sleep(20 * time.Second)
				leader := c.Leader()
				if err := leader.node.RemoveNode(context.Background(), lost.Name, true); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Second)
				if n := running(t, lost); n == 0 {
					t.Fatal("a machine that was told nothing must keep its containers")
				}
				c.Net.Heal()
				c.Await(time.Minute, "the removed machine to stop what it runs", func() bool { return running(t, lost) == 0 })
				c.Await(time.Minute, "its agent to end", func() bool { return len(lost.done) > 0 })
				if err := lost.StopAgent(); !errors.Is(err, job.NotFound) || !strings.Contains(err.Error(), "join anew") {
					t.Errorf("the agent must end with the next step, got: %v", err)
				}
				c.awaitRunning(10*time.Second, 12)

				lost.StartAgent() // as a service manager would
				time.Sleep(20 * time.Second)
				if n := running(t, lost); n > 0 {
					t.Errorf("%d containers were started by a removed machine", n)
				}
				c.Await(time.Minute, "the agent to end again", func() bool { return len(lost.done) > 0 })
			})
		})
	}
}

// Who cannot reach a leader is not told that it was removed, however long.
func TestNobodyStopsContainersForWantOfALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 6)
		c.submit(web(12, "web:1"))
		c.awaitRunning(20*time.Second, 12)
		c.Net.Partition(addrs(c.Machines[:3])) // no majority on either side
		time.Sleep(3 * time.Minute)
		for _, m := range c.Machines {
			if running(t, m) == 0 || len(m.done) > 0 {
				t.Errorf("%s: %d containers, agent ended: %v", m.Name, running(t, m), len(m.done) > 0)
			}
		}
		c.Net.Heal()
		c.awaitRunning(time.Minute, 12)
	})
}

func running(t *testing.T, m *Machine) (n int) {
	list, err := m.Runtime.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if i.State == "running" {
			n++
		}
	}
	return n
}
