package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
)

// ErrUnknownOutcome says that a proposal may or may not have been committed, now or later: leadership was lost, the
// caller stopped waiting, or the disk hung while it was under way. Try again with the same idempotency key. It is of
// kind job.Unavailable.
var ErrUnknownOutcome error = &job.Error{Kind: job.Unavailable, Message: "outcome unknown: it may still be committed; try again with the same key"}

// ErrClosed says that the log was closed; it is of kind job.Unavailable.
var ErrClosed error = &job.Error{Kind: job.Unavailable, Message: "the log is closed: this node is stopping"}

// NotLeaderError refuses what only the leader can do, with the leader's address where one is known. Nothing was
// proposed. It is of kind job.Unavailable.
type NotLeaderError struct {
	ID   job.NodeID // "" while there is no leader
	Addr string
}

func (e *NotLeaderError) Error() string {
	if e.ID == "" {
		return "no leader: an election is under way, or most log-holders are out of reach"
	}
	return fmt.Sprintf("not the leader: ask node %.8s at %s", string(e.ID), e.Addr)
}

// Unwrap gives the kind.
func (e *NotLeaderError) Unwrap() error { return job.Unavailable }

// DiskError says that the raft directory's disk does not take writes. While Full or Stalled the node is out of the
// cluster and comes back by itself; otherwise the log has ended. It is of kind job.Unavailable.
type DiskError struct {
	Dir     string
	Op      string // what was being written
	Full    bool
	Stalled bool
	Err     error // nil when stalled
}

func (e *DiskError) Error() string {
	where := e.Dir
	if where == "" {
		where = "the raft store"
	}
	switch {
	case e.Full:
		return fmt.Sprintf("disk full: %s in %s: %v; free some space there, the node goes on by itself", e.Op, where, e.Err)
	case e.Stalled:
		return fmt.Sprintf("disk stalled: %s in %s has not returned; the node comes back when it does", e.Op, where)
	}
	return fmt.Sprintf("disk failed: %s in %s: %v; nothing more is written there: check the disk, then start again", e.Op, where, e.Err)
}

// Unwrap gives the cause and the kind.
func (e *DiskError) Unwrap() []error {
	if e.Err == nil {
		return []error{job.Unavailable}
	}
	return []error{job.Unavailable, e.Err}
}

func unknownOutcome(why error) error {
	return fmt.Errorf("%w (%w)", ErrUnknownOutcome, why)
}

// proposalError tells apart what certainly did not reach the log from what may have.
func (l *Log) proposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return l.notLeader()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return job.Errorf(job.Unavailable, "leadership is being handed over: try again")
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return job.Errorf(job.Unavailable, "the leader is too busy to take a proposal: try again")
	}
	return unknownOutcome(err)
}

func (l *Log) notLeader() error {
	id, addr := l.Leader()
	return &NotLeaderError{ID: id, Addr: addr}
}
