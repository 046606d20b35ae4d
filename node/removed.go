package node

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// A node that was removed while it was away is refused by everybody, and a refusal tells it nothing: a broken certificate
// or a log-holder that lags would look the same. So it asks as a guest, without its certificate, and believes a leader.

// Times of asking whether this node is still a member.
const (
	membershipDoubt   = 10 * time.Second // without a leader: longer than an election
	membershipPause   = 5 * time.Second
	membershipTimeout = 6 * time.Second // of one question: longer than the asked node waits for a leader
	membershipAsked   = 3               // nodes at a time
	stopPatience      = 2 * time.Minute // for the containers of a node that was removed
)

// watchMembership asks, while this node hears from no leader, whether that is because it was removed. If so it stops what
// runs here and ends the agent.
func (n *Node) watchMembership(ctx context.Context) error {
	led := time.Now()
	for sleep(ctx, membershipPause) {
		if addr, _ := n.knownLeader(); addr != "" {
			led = time.Now()
			continue
		}
		if time.Since(led) < membershipDoubt {
			continue
		}
		if at, removed := n.askMembership(ctx); removed {
			return n.disband(ctx, at)
		}
	}
	return nil
}

// askMembership asks a few nodes; removed only if a leader said so, at that index.
func (n *Node) askMembership(ctx context.Context) (at uint64, removed bool) {
	conf := n.ident.GuestTLS(pki.ALPNHTTP1)
	t := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, n.cfg.Underlay, addr, conf)
	})
	defer t.CloseIdleConnections()
	addrs := n.holderAddrs()
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	for _, addr := range addrs[:min(len(addrs), membershipAsked)] {
		ctx, cancel := context.WithTimeout(ctx, membershipTimeout)
		m, err := api.NewClient(addr, t).Membership(ctx, n.id)
		cancel()
		switch {
		case err != nil:
			n.log.Debug("cannot ask whether this node is a member", "at", addr, "error", err)
		case m.Node == n.id: // a node that does not know the question gives no such answer
			return m.Index, !m.Member
		}
	}
	return 0, false
}

// disband stops all containers, and returns what the agent ends with.
func (n *Node) disband(ctx context.Context, at uint64) error {
	err := job.Errorf(job.NotFound, "this node (%s, %s) was removed from the cluster and its containers are stopped: empty %s and join anew with a token", n.cfg.Name, n.id, n.cfg.DataDir)
	n.log.Error("this node was removed from the cluster: stopping its containers", "node", n.cfg.Name, "id", n.id, "index", at)
	if f := n.fed.Load(); f != nil {
		at = max(at, f.index)
	}
	n.rec.Set(nil, at, true) // what an old copy of the log says later is older than this
	for start := time.Now(); sleep(ctx, 500*time.Millisecond); {
		left := len(n.rec.Local())
		if left == 0 {
			return err
		}
		if time.Since(start) > stopPatience {
			return job.Errorf(job.NotFound, "%w; %d of them do not stop: remove them by hand or restart the machine", err, left)
		}
	}
	return nil
}

// Membership tells, at the leader, whether a node is a member. It is asked by nodes that nobody takes for one.
func (n *Node) Membership(ctx context.Context, id job.NodeID) (api.Membership, error) {
	if err := n.Confirm(ctx); err != nil { // one that was deposed may not know the younger nodes
		return api.Membership{}, job.Errorf(job.Unavailable, "membership: this node does not lead any more: %w", err)
	}
	v := n.state.View()
	if v.Cluster() == nil {
		return api.Membership{}, job.Errorf(job.Unavailable, "the cluster is still being made; try again")
	}
	return api.Membership{Node: id, Member: v.Node(id) != nil, Index: v.Index()}, nil
}
