package node

import (
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/gossip"
)

// MaxPatience bounds Config.Patience: with more, a dead leader would be noticed after ten seconds and more.
const MaxPatience = 20

// patient stretches a time-out between nodes by the node's patience.
func (n *Node) patient(d time.Duration) time.Duration {
	return time.Duration(float64(d) * max(n.cfg.Patience, 1))
}

// checkPatience also turns the patience into the timings of the parts that have their own, where nobody set those.
func (c *Config) checkPatience() error {
	switch p := c.Patience; {
	case p == 0 || p == 1:
		return nil
	case !(p > 1 && p <= MaxPatience):
		return job.Errorf(job.Invalid, "patience %v: it takes a factor from 1 to %d; give --patience", p, MaxPatience)
	}
	if c.Raft == (consensus.Timing{}) {
		c.Raft = consensus.DefaultTiming()
		for _, d := range []*time.Duration{&c.Raft.Heartbeat, &c.Raft.Election, &c.Raft.Lease, &c.Raft.DiskStall} {
			*d = time.Duration(float64(*d) * c.Patience)
		}
	}
	if c.Gossip == (gossip.Timing{}) {
		c.Gossip = gossip.DefaultTiming()
		for _, d := range []*time.Duration{&c.Gossip.ProbeInterval, &c.Gossip.ProbeTimeout, &c.Gossip.GossipInterval, &c.Gossip.StreamTimeout} {
			*d = time.Duration(float64(*d) * c.Patience)
		}
	}
	return nil
}
