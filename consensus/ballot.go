package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ballot is what this node did of late about who leads next.
type ballot struct {
	mu       sync.Mutex
	stood    time.Time // when it last asked for votes itself
	promised time.Time // when it last promised its vote to somebody else
}

func (b *ballot) stand() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stood = time.Now()
}

func (b *ballot) promise() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.promised = time.Now()
}

func (b *ballot) get() (stood, promised time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stood, b.promised
}

// hedge is how long one try of a request for a vote may be unanswered before the next one begins: longer than an answer takes
// between machines on one network.
const hedge = 50 * time.Millisecond

// canvass asks for one vote. The streams between two followers lie idle from one election to the next, and then may be no good:
// their other end belongs to a process that is gone, or TCP waits for long before it sends again what a cut had swallowed. Raft
// takes one of those first, and after one failure waits for its next election. So a failure, and silence, have the next stream
// tried, and in the end a new one. To ask twice does no harm: a vote is given again to whoever has it.
func canvass[R any](call func(*R) error, resp *R) error {
	type result struct {
		resp R
		err  error
	}
	results := make(chan result, maxPool+1)
	var failed result
	for begun, open := 0, 0; begun <= maxPool || open > 0; {
		var next <-chan time.Time
		if begun <= maxPool {
			begun, open = begun+1, open+1
			go func() {
				var r result
				r.err = call(&r.resp)
				results <- r
			}()
			timer := time.NewTimer(hedge)
			defer timer.Stop()
			next = timer.C
		}
		select {
		case r := <-results:
			if r.err == nil {
				*resp = r.resp
				return nil
			}
			open--
			failed = r
		case <-next:
		}
	}
	return failed.err
}

func (t transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return canvass(func(resp *raft.RequestVoteResponse) error {
		return t.NetworkTransport.RequestVote(id, peerAt(id, to), req, resp)
	}, resp)
}

func (t transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	t.inbound.ballot.stand()
	return canvass(func(resp *raft.RequestPreVoteResponse) error {
		return t.NetworkTransport.RequestPreVote(id, peerAt(id, to), req, resp)
	}, resp)
}
