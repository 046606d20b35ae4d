package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
	"shoal/runtime/step"
)

// maxPromoteLag is how many entries a standby may lack and still become a voter. A voter that lags stands in the way of
// every commit that needs it.
const maxPromoteLag = 256

// promotePoll is how often Promote looks whether the standby has caught up.
const promotePoll = 50 * time.Millisecond

// spreadTimeout bounds how long a change of voters waits for the voters beyond a quorum.
const spreadTimeout = time.Second

// Holder is a node that holds the log.
type Holder struct {
	ID    job.NodeID `json:"id"`
	Life  string     `json:"life,omitempty"` // see HolderID
	Addr  string     `json:"addr"`
	Voter bool       `json:"voter"` // false: a standby
	// Leader tells who leads, as far as this node knows.
	Leader bool `json:"leader,omitempty"`
	// LastIndex and Contact are what the leader last heard from it: the index of its last entry, and when. Zero on
	// other nodes, and for the leader itself.
	LastIndex uint64    `json:"lastIndex,omitempty"`
	Contact   time.Time `json:"contact,omitzero"`
}

// Holders are the nodes that hold the log, sorted by id, as this node knows it: the newest configuration in its log,
// which may not be committed yet. Empty on a node that never belonged to a cluster.
func (l *Log) Holders() ([]Holder, error) {
	future := l.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, fmt.Errorf("read the log-holders: %w", err)
	}
	var leader raft.ServerID
	if l.usable() == nil {
		_, leader = l.raft.LeaderWithID()
	}
	leads := l.IsLeader()
	var hs []Holder
	for _, s := range future.Configuration().Servers {
		id, life := NodeOf(job.NodeID(s.ID))
		h := Holder{ID: id, Life: life, Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader}
		if leads && s.ID != l.name {
			p := l.peers.of(s.ID)
			h.LastIndex, h.Contact = p.lastIndex, p.at
		}
		hs = append(hs, h)
	}
	slices.SortFunc(hs, func(a, b Holder) int { return cmp.Compare(a.ID, b.ID) })
	return hs, nil
}

// IsHolder tells whether this node holds the log, as far as it knows: one that was removed while it was away does not
// know it.
func (l *Log) IsHolder() bool {
	_, ok := l.holder(job.NodeID(l.name))
	return ok
}

func (l *Log) holder(id job.NodeID) (Holder, bool) {
	hs, _ := l.Holders()
	i := slices.IndexFunc(hs, func(h Holder) bool { return HolderID(h.ID, h.Life) == id })
	if i < 0 {
		return Holder{}, false
	}
	return hs[i], true
}

func (l *Log) hasOtherVoter() bool {
	hs, _ := l.Holders()
	return slices.ContainsFunc(hs, func(h Holder) bool { return h.Voter && HolderID(h.ID, h.Life) != job.NodeID(l.name) })
}

// AddStandby makes a node a standby: it is sent the log and has no vote. For a node that holds the log already it only
// updates the address. Here and below, id is the node's name in the log: HolderID. Leader only, like the methods below; each returns once its change is committed, and one whose
// outcome is unknown is ErrUnknownOutcome.
func (l *Log) AddStandby(ctx context.Context, id job.NodeID, addr string) error {
	return l.change(ctx, "add standby", id, func(timeout time.Duration) raft.IndexFuture {
		return l.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, timeout)
	})
}

// Promote gives a standby a vote, once it has caught up; it waits for that as long as ctx lasts.
func (l *Log) Promote(ctx context.Context, id job.NodeID) error {
	h, ok := l.holder(id)
	if !ok {
		return job.Errorf(job.NotFound, "promote node %.8s: it is no standby", string(id))
	}
	if h.Voter {
		return nil
	}
	if err := l.caughtUp(ctx, id); err != nil {
		return err
	}
	return l.change(ctx, "promote", id, func(timeout time.Duration) raft.IndexFuture {
		return l.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(h.Addr), 0, timeout)
	})
}

// caughtUp waits until the standby answered lately and lacks little.
func (l *Log) caughtUp(ctx context.Context, id job.NodeID) error {
	for {
		if err := l.leads(); err != nil {
			return err
		}
		p, last := l.peers.of(raft.ServerID(id)), l.raft.LastIndex()
		if time.Since(p.at) < l.cfg.Timing.Heartbeat && p.lastIndex+maxPromoteLag >= last {
			return nil
		}
		select {
		case <-time.After(promotePoll):
		case <-l.endCh:
			return ErrClosed
		case <-ctx.Done():
			return job.Errorf(job.Unavailable, "promote node %.8s: it has entry %d of %d: %v", string(id), p.lastIndex, last, context.Cause(ctx))
		}
	}
}

// Demote makes a voter a standby.
func (l *Log) Demote(ctx context.Context, id job.NodeID) error {
	return l.change(ctx, "demote", id, func(timeout time.Duration) raft.IndexFuture {
		return l.raft.DemoteVoter(raft.ServerID(id), 0, timeout)
	})
}

// Remove takes the log away from a node, voter or standby. It never learns of it by itself.
func (l *Log) Remove(ctx context.Context, id job.NodeID) error {
	return l.change(ctx, "remove", id, func(timeout time.Duration) raft.IndexFuture {
		return l.raft.RemoveServer(raft.ServerID(id), 0, timeout)
	})
}

func (l *Log) change(ctx context.Context, verb string, id job.NodeID, fn func(timeout time.Duration) raft.IndexFuture) error {
	if err := l.leads(); err != nil {
		return err
	}
	var index uint64
	if err := step.Reach(StepChange); err != nil {
		return err
	}
	err := l.call(ctx, func() error {
		future := fn(enqueueTimeout)
		if err := future.Error(); err != nil {
			return l.proposalError(err)
		}
		index = future.Index()
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s node %.8s: %w", verb, string(id), outcome(err))
	}
	l.logger.Info("log-holders changed", "change", verb, "node", id, "index", index)
	l.spread(ctx, index)
	return step.Reach(StepChanged)
}

// spread waits a moment until all voters within reach have the change too. A quorum is enough to commit it, but raft
// lets a voter that has not seen it refuse its vote to one that it does not know as a voter yet, and then no leader may
// be found should this one die: fewer such moments are better. (Seen in fake time: 1 of 75 clusters of three whose
// leader died right after the last promotion.)
func (l *Log) spread(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, spreadTimeout)
	defer cancel()
	for l.IsLeader() && !l.allHave(index) {
		select {
		case <-time.After(promotePoll):
		case <-l.endCh:
			return
		case <-ctx.Done():
			return
		}
	}
}

// allHave tells whether every voter that answers has entry index.
func (l *Log) allHave(index uint64) bool {
	hs, _ := l.Holders()
	return !slices.ContainsFunc(hs, func(h Holder) bool {
		return h.Voter && HolderID(h.ID, h.Life) != job.NodeID(l.name) && h.LastIndex < index && time.Since(h.Contact) < l.cfg.Timing.Heartbeat
	})
}

// TransferLeadership hands leadership to another voter; "" picks the one with the most entries. It returns once this
// node leads no more; whether the other won is seen in Leader.
func (l *Log) TransferLeadership(ctx context.Context, to job.NodeID) error {
	if err := l.leads(); err != nil {
		return err
	}
	var h Holder
	if to != "" {
		var ok bool
		if h, ok = l.holder(to); !ok || !h.Voter {
			return job.Errorf(job.Invalid, "hand leadership to node %.8s: it is no voter", string(to))
		}
	}
	err := l.call(ctx, func() error {
		if to == "" {
			return l.raft.LeadershipTransfer().Error()
		}
		return l.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(h.Addr)).Error()
	})
	var mine *job.Error
	switch {
	case err == nil, errors.As(err, &mine):
		return err
	}
	return job.Errorf(job.Unavailable, "hand over leadership: %v", err)
}
