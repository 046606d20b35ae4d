package node

import (
	"testing"
	"time"

	"shoal/consensus"
	"shoal/gossip"
)

// TestPatienceStretchesAllTimeouts: what the parts and the node itself wait for grows alike, and the order of times in
// which it must be stays.
func TestPatienceStretchesAllTimeouts(t *testing.T) {
	c := Config{Patience: 4}
	if err := c.checkPatience(); err != nil {
		t.Fatal(err)
	}
	r, g := consensus.DefaultTiming(), gossip.DefaultTiming()
	for what, pair := range map[string][2]time.Duration{
		"heartbeat": {c.Raft.Heartbeat, r.Heartbeat}, "election": {c.Raft.Election, r.Election}, "lease": {c.Raft.Lease, r.Lease},
		"probe": {c.Gossip.ProbeInterval, g.ProbeInterval}, "probe time-out": {c.Gossip.ProbeTimeout, g.ProbeTimeout},
		"feed silence": {(&Node{cfg: c}).patient(feedSilence), feedSilence},
	} {
		if pair[0] != 4*pair[1] {
			t.Errorf("%s is %v, want four times %v", what, pair[0], pair[1])
		}
	}
	if c.Raft.Lease > c.Raft.Heartbeat || c.Gossip.ProbeTimeout >= c.Gossip.ProbeInterval {
		t.Errorf("times out of order: %+v %+v", c.Raft, c.Gossip)
	}
	for _, bad := range []float64{0.5, -1, MaxPatience + 1} {
		if err := (&Config{Patience: bad}).checkPatience(); err == nil {
			t.Errorf("patience %v was taken", bad)
		}
	}
}

// TestPatienceIsOneByDefault: nothing changes unless it is asked for.
func TestPatienceIsOneByDefault(t *testing.T) {
	c := Config{}
	if err := c.checkPatience(); err != nil || c.Raft != (consensus.Timing{}) || c.Gossip != (gossip.Timing{}) {
		t.Errorf("%v, %+v, %+v", err, c.Raft, c.Gossip)
	}
	if got := (&Node{}).patient(feedSilence); got != feedSilence {
		t.Errorf("%v, want %v", got, feedSilence)
	}
}
