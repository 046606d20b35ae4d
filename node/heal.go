package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// healPatience is how long a node whose log is damaged asks the others for a leader: all may just have been switched on.
const healPatience = time.Minute

// heal begins a damaged log anew, if the cluster goes on without it: a leader that this node, whose log is closed, is no
// part of has confirmed that it is a member. Otherwise nothing is touched, because the damaged copy may be the best one
// that there is. The node's id stays, and so do its tasks and containers.
func (n *Node) heal(ctx context.Context, damage error) error {
	n.log.Error("this node's copy of the log is damaged: asking the others whether they go on without it", "error", damage)
	ctx, cancel := context.WithTimeout(ctx, healPatience)
	defer cancel()
	if len(n.member.Peers) == 0 {
		return fmt.Errorf("%w. No other node is known that could have the log", damage)
	}
	for {
		member, known := n.askLeader(ctx)
		switch {
		case known && !member:
			return fmt.Errorf("%w. The cluster removed this node meanwhile", damage)
		case known:
			if err := consensus.Renew(n.path(raftDir), n.id); err != nil {
				return fmt.Errorf("%w; it cannot be set aside: %w", damage, err)
			}
			n.log.Warn("the damaged log is set aside, and this node gets it from the others; its containers run on",
				"node", n.cfg.Name, "aside", n.path(raftDir+".damaged"))
			id, fresh, err := consensus.LoadOrCreateID(n.path(raftDir))
			if err == nil && (fresh || id != n.id) {
				err = job.Errorf(job.Internal, "the log was begun anew as node %s, and this is %s", id, n.id)
			}
			return err
		}
		if !sleep(ctx, time.Second) {
			return fmt.Errorf("%w. None of the other nodes (%v) knew of a leader within %v, so this copy is kept: start enough of them that they have a quorum without this one, and start it again", damage, n.member.Peers, healPatience)
		}
	}
}

// askLeader asks all known nodes, as a guest, whether a leader takes this one for a member.
func (n *Node) askLeader(ctx context.Context) (member, known bool) {
	conf := n.ident.GuestTLS(pki.ALPNHTTP1)
	t := newTransport(func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, n.cfg.Underlay, addr, conf)
	})
	defer t.CloseIdleConnections()
	addrs := slices.Clone(n.member.Peers)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	for _, addr := range addrs {
		if addr == n.cfg.Advertise.String() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, membershipTimeout)
		m, err := api.NewClient(addr, t).Membership(ctx, n.id)
		cancel()
		if err == nil && m.Node == n.id {
			return m.Member, true
		}
		n.log.Debug("no leader to be heard through this node", "at", addr, "error", err)
	}
	return false, false
}

// damagedLog is the error of a damaged raft directory, nil for any other.
func damagedLog(err error) error {
	var d *consensus.DamageError
	if errors.As(err, &d) {
		return err
	}
	return nil
}
