package consensus

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Succession makes a lost leader's followers agree soon on who comes next. Raft by itself looks for a silent leader at random
// times, and each follower stands by the leader until its own time has come: of five nodes a third one must have noticed,
// which with a patience of 500 ms takes 0.97 s (median; 1.44 s at most of 400). Here the followers have turns, in the order
// of their ids: the first asks for votes as soon as the patience is over, and the others, who have not heard the leader
// either, give them. The next one's turn comes a little later, in case that the first is lost too or lags behind: so two
// seldom ask at once, which would divide the votes. Raft's own timers go on beneath it: when one of them makes two ask at once
// all the same, the one that comes later in that order, unless its log reaches further, gets no promise from the other.
//
// None of it touches what makes raft safe: a follower whose leader is silent may vote for whoever has all entries that it
// has, and its vote is raft's to give. Only the courtesy towards a leader is ours, and ends earlier.
const (
	// turnSpacing is between the turns of two followers: longer than two heartbeats, by whose chance they differ about the
	// last word of the leader, and the fsync of a vote.
	turnSpacing = 120 * time.Millisecond
	// lateWake is how late a look may come before this node must be thought to have slept itself, and the leader's words
	// to wait in its sockets.
	lateWake = 50 * time.Millisecond
)

// silenceBefore is for how long a follower must not have heard a leader to vote against it, of the whole patience: less,
// because its last heartbeat came up to two intervals (a fifth) later than the candidate's.
func silenceBefore(patience time.Duration) time.Duration { return patience * 7 / 10 }

// turnOf is how much later than the first follower a voter may ask for votes; false if it may not vote.
func turnOf(r *raft.Raft, id raft.ServerID) (time.Duration, bool) {
	_, leader := r.LeaderWithID()
	var voters []raft.ServerID
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != leader {
			voters = append(voters, s.ID)
		}
	}
	slices.Sort(voters)
	at, ok := slices.BinarySearch(voters, id)
	return time.Duration(at) * turnSpacing, ok
}

// watchContact asks for an election when the leader has been silent for long enough and this node's turn has come.
func (l *Log) watchContact(ctx context.Context) {
	patience := l.cfg.Timing.Heartbeat
	for {
		wait := patience
		if turn, ok := turnOf(l.raft, l.name); ok && l.follows() {
			wait = max(time.Until(l.standAt(patience+turn)), time.Millisecond)
		}
		due := time.Now().Add(wait)
		if !pause(ctx, wait) {
			return
		}
		if time.Since(due) > lateWake && !pause(ctx, patience/5) {
			return
		}
		turn, ok := turnOf(l.raft, l.name)
		if ok && l.follows() && !time.Now().Before(l.standAt(patience+turn)) {
			l.askForElection()
			if !pause(ctx, patience) {
				return
			}
		}
	}
}

// standAt is when this node may ask for votes if it hears nothing more: after so much silence, and not just after it promised
// its vote to somebody else.
func (l *Log) standAt(silence time.Duration) time.Time {
	at := l.raft.LastContact().Add(silence)
	if _, promised := l.trans.inbound.ballot.get(); promised.Add(turnSpacing).After(at) {
		return promised.Add(turnSpacing)
	}
	return at
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follows tells whether this node takes part, and follows a leader that it has heard.
func (l *Log) follows() bool {
	addr, _ := l.raft.LeaderWithID()
	return l.usable() == nil && l.raft.State() == raft.Follower && addr != "" && !l.raft.LastContact().IsZero()
}

// askForElection makes raft look at once whether its leader is silent. There is no call for that, but it looks when its
// patience is made shorter; a nanosecond does.
func (l *Log) askForElection() {
	l.trans.inbound.ballot.stand() // from now on: raft takes a moment, in which a rival's request may come
	for _, patience := range []time.Duration{l.cfg.Timing.Heartbeat, l.cfg.Timing.Heartbeat - 1} {
		if err := l.reconfigure(l.raft, func(c *raft.ReloadableConfig) { c.HeartbeatTimeout = patience }); err != nil {
			l.logger.Warn("cannot ask for an election early; raft will by itself", "err", err)
			return
		}
	}
}

// electorate answers for raft where it would stand by a leader that it has not heard for a while, or help a rival whose turn
// comes later. patience 0: never.
type electorate struct {
	self     raft.ServerID
	patience time.Duration
	ballot   *ballot
}

// judge answers a request in raft's place (true), or leaves it to raft, changed if need be.
func (e electorate) judge(r *raft.Raft, rpc raft.RPC) bool {
	switch req := rpc.Command.(type) {
	case *raft.RequestPreVoteRequest:
		candidate := raft.ServerID(req.ID)
		behind, further := compareLog(r, req.LastLogTerm, req.LastLogIndex)
		rivals := !further && e.stands(candidate)
		granted := !rivals && !behind && e.disloyal(r, candidate) && req.Term > r.CurrentTerm()
		if !granted && !rivals {
			return false
		}
		if granted {
			e.ballot.promise()
		}
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: req.ProtocolVersion}, Term: req.Term, Granted: granted}, nil)
		return true
	case *raft.RequestVoteRequest:
		if e.disloyal(r, raft.ServerID(req.ID)) {
			req.LeadershipTransfer = true // only: do not refuse for the leader's sake
		}
	}
	return false
}

// disloyal tells whether this node may hear a candidate although it knows a leader.
func (e electorate) disloyal(r *raft.Raft, candidate raft.ServerID) bool {
	if r.State() != raft.Follower || e.patience == 0 {
		return false
	}
	turn, ok := turnOf(r, candidate)
	return ok && time.Since(r.LastContact()) >= silenceBefore(e.patience)+turn
}

// stands tells whether this node asks for votes itself just now, and its turn is before the candidate's.
func (e electorate) stands(candidate raft.ServerID) bool {
	stood, _ := e.ballot.get()
	return time.Since(stood) < turnSpacing && e.self < candidate
}

// compareLog tells whether a log that ends so lacks what this node's has, or has what this node's lacks.
func compareLog(r *raft.Raft, term, index uint64) (behind, further bool) {
	s := r.Stats()
	last := func(kind string) (term, index uint64) {
		term, _ = strconv.ParseUint(s["last_"+kind+"_term"], 10, 64)   // raft wrote it
		index, _ = strconv.ParseUint(s["last_"+kind+"_index"], 10, 64) // likewise
		return term, index
	}
	mine, at := last("log")
	if t, i := last("snapshot"); i > at {
		mine, at = t, i
	}
	c := cmp.Or(cmp.Compare(term, mine), cmp.Compare(index, at))
	return c < 0, c > 0
}
