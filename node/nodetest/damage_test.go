package nodetest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus"
)

// spoil changes one byte in every KiB of a file in a machine's raft directory, but for its beginning.
func spoil(t *testing.T, m *Machine, name string) {
	t.Helper()
	path := filepath.Join(m.dir(), "raft", name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := min(8<<10, len(b)/2); i < len(b); i += 1 << 10 {
		b[i] ^= 0x10
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// life is what tells this log of a machine from those before it.
func life(m *Machine) string {
	b, _ := os.ReadFile(m.dir() + "/raft/log-life")
	return string(b)
}

// votes tells whether a machine is a voter by what its own log says, under the name that it has there now.
func votes(m *Machine) bool {
	if m.node == nil || !m.node.Started() {
		return false
	}
	d, err := m.node.Debug(context.Background())
	if err != nil {
		return false
	}
	raft := d.(map[string]any)["raft"].(consensus.Description)
	return slices.ContainsFunc(raft.Holders, func(h consensus.Holder) bool {
		return h.Voter && h.ID == raft.ID && h.Life == strings.TrimSpace(life(m))
	})
}

// TestDamagedLogHealsFromTheOthers: a node whose copy of the log is damaged gets it anew from the others by itself, and
// votes again, under a name in the log that never voted; its containers never notice. Each file, leaders and followers,
// and twice the same node.
func TestDamagedLogHealsFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(6, "web:1"))
		c.awaitRunning(time.Minute, 6)
		starts := c.starts()
		var last *Machine
		for round, name := range []string{"raft.db", "raft.db", "node-id", "raft.db"} {
			victim := c.Leader()
			if round%2 == 0 {
				victim = c.Machines[(round+1)%3]
			}
			if round == 3 {
				victim = last
			}
			last = victim
			if err := victim.StopAgent(); err != nil {
				t.Fatal(err)
			}
			before := life(victim)
			spoil(t, victim, name)
			victim.StartAgent()
			begun := time.Now()
			c.Await(2*time.Minute, victim.Name+" to be a voter again under a new name in the log", func() bool {
				return life(victim) != before && votes(victim) && c.Leader() != nil && c.wrongHolders(c.Leader(), 3) == ""
			})
			if err, ended := victim.Exited(); ended {
				t.Fatalf("round %d: its agent ended: %v", round, err)
			}
			t.Logf("round %d: %s of %s: three voters again after %v", round, name, victim.Name, time.Since(begun))
			if _, err := os.Stat(victim.dir() + "/raft.damaged/" + name); err != nil {
				t.Errorf("the damaged directory is not set aside: %v", err)
			}
			// Its vote counts: with another one off, the cluster goes on.
			other := c.Machines[0]
			if other == victim {
				other = c.Machines[1]
			}
			if err := other.StopAgent(); err != nil {
				t.Fatal(err)
			}
			c.Await(time.Minute, "a leader without "+other.Name, func() bool { return c.Leader() != nil && c.Leader() != other })
			other.StartAgent()
			c.awaitRunning(time.Minute, 6)
			c.Await(2*time.Minute, "three voters", func() bool { return c.Leader() != nil && c.wrongHolders(c.Leader(), 3) == "" })
		}
		if got := c.starts(); got != starts {
			t.Errorf("containers were started %d times more", got-starts)
		}
	})
}

// TestDamagedLogIsKeptWhileNobodyElseLeads: without a quorum of others the damaged copy may be the best one there is.
func TestDamagedLogIsKeptWhileNobodyElseLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.Await(time.Minute, "three voters", func() bool { return c.Leader() != nil && c.wrongHolders(c.Leader(), 3) == "" })
		for _, m := range c.Machines[:2] {
			if err := m.StopAgent(); err != nil {
				t.Fatal(err)
			}
		}
		victim := c.Machines[0]
		spoil(t, victim, "raft.db")
		victim.StartAgent()
		var err error
		c.Await(5*time.Minute, "the agent to give up", func() (ended bool) { err, ended = victim.Exited(); return ended })
		if err == nil || !strings.Contains(err.Error(), "raft/raft.db is damaged") || !strings.Contains(err.Error(), "start enough of them") {
			t.Errorf("it ended with %v", err)
		}
		if _, err := os.Stat(victim.dir() + "/raft.damaged"); err == nil {
			t.Error("the damaged copy was set aside")
		}
		// With the others there it heals.
		c.Machines[1].StartAgent()
		victim.StartAgent()
		c.Await(5*time.Minute, "a voter again", func() bool {
			return c.Leader() != nil && c.wrongHolders(c.Leader(), 3) == "" && votes(victim)
		})
	})
}
