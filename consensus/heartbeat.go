package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// inbound is the way of requests from peers into raft.
//
// Raft takes heartbeats on the goroutine of their stream, beside its own loop, so that a slow write delays none. But one that
// brings a new term, or ends a candidacy, writes the term to disk there. When that write is slow, raft's loop goes on meanwhile:
// the node becomes a candidate, and only then is told of a leader that may be dead by now. A candidate never forgets a
// leader, and for its sake refuses everybody else. So these heartbeats take the way of all other requests.
type inbound struct {
	rpcs chan raft.RPC
	stop chan struct{}
	once sync.Once
	raft atomic.Pointer[raft.Raft] // nil until it runs
	electorate
}

func newInbound(self raft.ServerID, patience time.Duration) *inbound {
	return &inbound{rpcs: make(chan raft.RPC), stop: make(chan struct{}), electorate: electorate{self, patience, &ballot{}}}
}

// pump passes on what the transport received until close.
func (in *inbound) pump(from <-chan raft.RPC) {
	for {
		select {
		case rpc := <-from:
			if r := in.raft.Load(); r == nil || !in.judge(r, rpc) {
				in.put(rpc)
			}
		case <-in.stop:
			return
		}
	}
}

func (in *inbound) put(rpc raft.RPC) {
	select {
	case in.rpcs <- rpc:
	case <-in.stop:
	}
}

func (in *inbound) close() { in.once.Do(func() { close(in.stop) }) }

// heartbeats gives raft's own handler those that change nothing.
func (in *inbound) heartbeats(handle func(raft.RPC)) func(raft.RPC) {
	return func(rpc raft.RPC) {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if r := in.raft.Load(); ok && r != nil && r.State() == raft.Follower && req.Term <= r.CurrentTerm() {
			handle(rpc)
			return
		}
		in.put(rpc)
	}
}
