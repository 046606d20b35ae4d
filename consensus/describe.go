package consensus

import (
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
)

// Description is what a log says about itself, for people who look for a fault.
type Description struct {
	ID            job.NodeID `json:"id"`
	State         string     `json:"state"` // follower, candidate, leader, shutdown, or out (see Trouble)
	Term          uint64     `json:"term"`
	Leader        job.NodeID `json:"leader,omitempty"`
	LeaderAddr    string     `json:"leaderAddr,omitempty"`
	LastContact   time.Time  `json:"lastContact,omitzero"` // with the leader, by this node's clock
	LastIndex     uint64     `json:"lastIndex"`            // newest entry here, committed or not
	CommitIndex   uint64     `json:"commitIndex"`
	AppliedIndex  uint64     `json:"appliedIndex"`
	SnapshotIndex uint64     `json:"snapshotIndex,omitempty"`
	Holders       []Holder   `json:"holders"`
	Trouble       string     `json:"trouble,omitempty"` // what keeps this node out of the cluster
}

// Describe reads all of it at about the same time.
func (l *Log) Describe() Description {
	d := Description{
		ID:           l.id,
		State:        stateName(l.raft.State()),
		Term:         l.raft.CurrentTerm(),
		LastContact:  l.LastContact(),
		LastIndex:    l.raft.LastIndex(),
		CommitIndex:  l.raft.CommitIndex(),
		AppliedIndex: l.AppliedIndex(),
	}
	d.Leader, d.LeaderAddr = l.Leader()
	d.Holders, _ = l.Holders()
	if snaps, err := l.stores.Snapshots.List(); err == nil && len(snaps) > 0 {
		d.SnapshotIndex = snaps[0].Index
	}
	if err := l.usable(); err != nil {
		d.State, d.Trouble = "out", err.Error()
	}
	return d
}

func stateName(s raft.RaftState) string {
	switch s {
	case raft.Follower:
		return "follower"
	case raft.Candidate:
		return "candidate"
	case raft.Leader:
		return "leader"
	}
	return "shutdown"
}

// LastContact is when the leader was last heard (now on the leader itself; zero: never).
func (l *Log) LastContact() time.Time {
	if l.IsLeader() {
		return time.Now()
	}
	return l.raft.LastContact()
}

// AppliedIndex is the newest entry that was handed to the state here. The state's own index is that of the newest
// command, and may trail it: raft writes entries of its own.
func (l *Log) AppliedIndex() uint64 { return l.raft.AppliedIndex() }
