package consensus

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// enqueueTimeout is how long raft's main loop may be busy before a proposal gives up without having been made.
const enqueueTimeout = 10 * time.Second

// Propose puts a command into the log, and returns what the state made of it once it is committed and applied here: the
// result's own Err is the state's refusal. Concurrent proposals share disk writes and messages.
//
// The error is of one of these kinds. *NotLeaderError, *DiskError, job.Invalid (too large or not encodable) and other
// job.Unavailable ones: certainly not proposed. ErrUnknownOutcome: it may be committed, now or later; the command's
// idempotency key makes it safe to try again.
func (l *Log) Propose(ctx context.Context, cmd state.Command) (state.Result, error) {
	raw, err := state.Encode(cmd)
	if err != nil {
		return state.Result{}, job.Errorf(job.Invalid, "propose %T: %v", cmd, err)
	}
	if len(raw) > MaxCommandBytes {
		return state.Result{}, job.Errorf(job.Invalid, "propose %T: %d bytes, at most %d fit", cmd, len(raw), MaxCommandBytes)
	}
	if err := l.leads(); err != nil {
		return state.Result{}, err
	}
	release, err := l.place(ctx, int64(len(raw)))
	if err != nil {
		return state.Result{}, err
	}
	answer := make(chan state.Result, 1)
	done, err := l.start(func() error {
		defer release()
		future := l.raft.Apply(raw, enqueueTimeout)
		if err := future.Error(); err != nil {
			return l.proposalError(err)
		}
		result, ok := future.Response().(state.Result)
		if !ok {
			return unknownOutcome(errors.New("the state gave no answer"))
		}
		answer <- result
		return nil
	})
	if err != nil {
		release()
		return state.Result{}, err
	}
	if err := l.await(ctx, done); err != nil {
		return state.Result{}, outcome(err)
	}
	return <-answer, nil
}

// outcome says what it means for a proposal that nobody waited for its end.
func outcome(err error) error {
	var a abandoned
	if errors.As(err, &a) {
		return unknownOutcome(a.error)
	}
	return err
}

// place takes a place among the proposals that wait, so that a cluster in trouble gathers no endless queue.
func (l *Log) place(ctx context.Context, size int64) (release func(), err error) {
	if err := l.places.Acquire(ctx, 1); err != nil {
		return nil, job.Errorf(job.Unavailable, "propose: %d proposals are waiting already: %v", maxProposals, err)
	}
	if err := l.bytes.Acquire(ctx, size); err != nil {
		l.places.Release(1)
		return nil, job.Errorf(job.Unavailable, "propose: %d bytes of proposals are waiting already: %v", maxPendingBytes, err)
	}
	return func() { l.bytes.Release(size); l.places.Release(1) }, nil
}

// leads is nil when this node is the leader as far as it knows.
func (l *Log) leads() error {
	if err := l.usable(); err != nil {
		return err
	}
	if l.raft.State() != raft.Leader {
		return l.notLeader()
	}
	return nil
}

// Barrier returns once everything that was committed before it is applied here. Leader only; it writes an entry.
func (l *Log) Barrier(ctx context.Context) error {
	if err := l.leads(); err != nil {
		return err
	}
	return l.call(ctx, func() error { return l.proposalError(l.raft.Barrier(enqueueTimeout).Error()) })
}

// VerifyLeader returns nil when a quorum confirmed, after the call, that this node leads: what it has applied is then
// no older than the call. It writes nothing.
func (l *Log) VerifyLeader(ctx context.Context) error {
	if err := l.leads(); err != nil {
		return err
	}
	return l.call(ctx, func() error {
		err := l.raft.VerifyLeader().Error()
		if errors.Is(err, raft.ErrLeadershipLost) {
			return l.notLeader()
		}
		return l.proposalError(err)
	})
}
