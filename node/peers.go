package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// peers is how this node reaches the others, always as itself.
type peers struct {
	underlay  Underlay
	ident     *pki.Identity
	transport *http.Transport
}

func newPeers(u Underlay, ident *pki.Identity) *peers {
	p := &peers{underlay: u, ident: ident}
	p.transport = newTransport(p.dialer(pki.ALPNHTTP1))
	return p
}

// newTransport makes an HTTP transport over connections that are authenticated already.
func newTransport(dial func(ctx context.Context, addr string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialTLSContext:        func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 75 * time.Second, // longer than a read may wait for a change
	}
}

// dial opens an authenticated stream of one protocol.
func (p *peers) dial(ctx context.Context, addr, alpn string) (net.Conn, error) {
	return dialTLS(ctx, p.underlay, addr, p.ident.ClientTLS(alpn, ""))
}

// dialTLS connects and does the handshake, both within handshakeTimeout.
func dialTLS(ctx context.Context, u Underlay, addr string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := u.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

func (p *peers) dialer(alpn string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return p.dial(ctx, addr, alpn) }
}

// dialRaft opens a stream to one node: another one may have come to its address.
func (p *peers) dialRaft(ctx context.Context, id job.NodeID, addr string) (net.Conn, error) {
	node, life := consensus.NodeOf(id)
	return dialTLS(ctx, p.underlay, addr, p.ident.ClientTLS(raftProtocol(life), string(node)))
}

// knownPeers are the addresses of all other nodes as last known, to find the cluster by.
func (n *Node) knownPeers() []string {
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	return slices.Clone(n.member.Peers)
}

func (n *Node) savePeers(full *api.FeedFull) {
	addrs := make([]string, 0, len(full.Nodes))
	for _, p := range full.Nodes {
		addrs = append(addrs, p.Addr.String())
	}
	n.memberMu.Lock()
	defer n.memberMu.Unlock()
	if slices.Equal(addrs, n.member.Peers) {
		return
	}
	n.member.Peers = addrs
	if err := n.saveMembership(); err != nil {
		n.log.Warn("cannot remember the other nodes' addresses", "error", err)
	}
}

// knowsAddr tells whether an address is that of a node, so that nobody can make this one dial about.
func (n *Node) knowsAddr(addr string) bool {
	if addr == n.cfg.Advertise.String() || slices.Contains(n.knownPeers(), addr) {
		return true
	}
	return slices.ContainsFunc(n.state.View().Nodes(), func(o *job.Node) bool { return o.Addr.String() == addr })
}

// pinned tells whether a node is known by this key, so that it may renew a certificate that has expired.
func (n *Node) pinned(id string, key pki.Pin) bool {
	if node := n.state.View().Node(job.NodeID(id)); node != nil {
		return node.KeyPin == key.String()
	}
	if f := n.fed.Load(); f != nil {
		return slices.ContainsFunc(f.full.Nodes, func(o api.FeedNode) bool { return string(o.ID) == id && o.KeyPin == key.String() })
	}
	return false
}

// HasState tells whether this node's copy of the log is one to answer and to feed from.
func (n *Node) HasState() bool { return n.raft.IsHolder() && n.state.View().Node(n.id) != nil }

// Holder is some log-holder's address.
func (n *Node) Holder() string {
	if a := n.holderAddrs(); len(a) > 0 {
		return a[0]
	}
	return ""
}

// Transport reaches other nodes with this node's certificate.
func (n *Node) Transport() http.RoundTripper { return n.peers.transport }

// Confirm makes sure that this node still leads.
func (n *Node) Confirm(ctx context.Context) error { return n.raft.VerifyLeader(ctx) }

// confirmPatience is how long a read at the leader waits for a quorum's word.
const confirmPatience = 2 * time.Second

// confirmed is Confirm for a read that goes to the leader alone and changes nothing: without it one that was deposed would
// answer what is old.
func (n *Node) confirmed(ctx context.Context, what string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	if err := n.Confirm(ctx); err != nil {
		return job.Errorf(job.Unavailable, "%s: this node cannot confirm that it leads: %w", what, err)
	}
	return nil
}

// Leader tells who leads. This node itself does so only when it has applied what was committed before its term: until
// then it would deny what is there.
func (n *Node) Leader() (addr string, id job.NodeID, self, ok bool) {
	addr, id = n.knownLeader()
	self = id == n.id
	return addr, id, self, addr != "" && (!self || n.caughtUp.Load() != nil)
}

// hintLife is how long the feed's word about the leader counts; it is renewed with every heartbeat.
const hintLife = 3 * time.Second

// raftLeader is the leader as this node hears from it as a log-holder, "" if it does not.
func (n *Node) raftLeader() (addr string, id job.NodeID) {
	if !n.raft.IsHolder() {
		return "", ""
	}
	id, addr = n.raft.Leader()
	return addr, id
}

// orphaned tells whether this node holds the log but has not heard from a leader for a while. Either nobody leads, or
// others have taken its part in the log while it was away: that is in entries which nobody sends it.
func (n *Node) orphaned() bool {
	addr, _ := n.raftLeader()
	return addr == "" && time.Since(n.raft.LastContact()) > n.patient(feedPatience)
}

// knownLeader asks raft if this node holds the log, else the last frame of its feed.
func (n *Node) knownLeader() (addr string, id job.NodeID) {
	if addr, id = n.raftLeader(); addr != "" {
		return addr, id
	}
	if h := n.leaderHint.Load(); h != nil && time.Since(h.at) < hintLife {
		return h.addr, h.id
	}
	return "", ""
}

// Owner finds the node that runs a task.
func (n *Node) Owner(ctx context.Context, ref string) (addr string, id job.NodeID, self bool, err error) {
	if _, ok := n.rec.Container(job.TaskID(ref)); ok {
		return n.cfg.Advertise.String(), n.id, true, nil
	}
	t, err := n.lookUp(ctx, ref)
	if err != nil {
		return "", "", false, err
	}
	if t.Node == n.id {
		return n.cfg.Advertise.String(), n.id, true, nil
	}
	addr, err = n.addrOf(ctx, t.Node)
	return addr, t.Node, false, err
}

func (n *Node) addrOf(ctx context.Context, id job.NodeID) (string, error) {
	if node := n.state.View().Node(id); node != nil && n.HasState() {
		return node.Addr.String(), nil
	}
	if f := n.fed.Load(); f != nil {
		for _, p := range f.full.Nodes {
			if p.ID == id {
				return p.Addr.String(), nil
			}
		}
	}
	return "", job.Errorf(job.NotFound, "node %s is not known here", id)
}

// lookUp finds a task in the freshest state to be had: a task that was just placed may not have reached this node yet.
func (n *Node) lookUp(ctx context.Context, ref string) (api.Task, error) {
	addr, _, self, ok := n.Leader()
	if ok && !self {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		t, err := api.NewClient(addr, n.peers.transport).Task(ctx, ref)
		if job.KindOf(err) != job.Unavailable && job.KindOf(err) != job.Internal {
			return t, err
		}
	}
	if n.HasState() {
		return n.Task(ctx, ref)
	}
	if h := n.Holder(); h != "" && h != addr {
		return api.NewClient(h, n.peers.transport).Task(ctx, ref)
	}
	return api.Task{}, job.Errorf(job.Unavailable, "task %s: no node that holds the log can be reached from here", ref)
}

// lastLeaderLife is how long a leader of whom nothing is heard any more is asked nevertheless: it may be this node alone that
// does not hear it, and until its feed comes from one that does, it knows no better. Who leads no more says so.
const lastLeaderLife = 30 * time.Second

// leaderToAsk is where the leader is, or was when it was last heard of. A node that leads and does not know all yet asks nobody: the
// last one leads no more.
func (n *Node) leaderToAsk() (addr string, self, ok bool) {
	addr, id, self, ok := n.Leader()
	if ok {
		n.lastLeader.Store(&leaderHint{id: id, addr: addr, at: time.Now()})
	} else if l := n.lastLeader.Load(); !self && l != nil && l.id != n.id && time.Since(l.at) < lastLeaderLife {
		return l.addr, false, true
	}
	return addr, self, ok
}

// atLeader calls remote with a client of the leader, or local if this node leads.
func atLeader[T any](ctx context.Context, n *Node, remote func(*api.Client) (T, error), local func() (T, error)) (T, error) {
	addr, self, ok := n.leaderToAsk()
	switch {
	case !ok:
		var zero T
		return zero, job.Errorf(job.Unavailable, "no leader is known")
	case self:
		return local()
	}
	return remote(api.NewClient(addr, n.toLeader))
}

// leaderAnswer is how long this node waits for the leader to answer what it tells of itself.
const leaderAnswer = 10 * time.Second

// tellLeader is atLeader for what has no answer but that it is done, within leaderAnswer. It gives up sooner when another node
// leads: a machine that lost its power leaves its connections open, and never answers.
func (n *Node) tellLeader(ctx context.Context, remote func(context.Context, *api.Client) error, local func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, leaderAnswer, fmt.Errorf("the leader did not answer within %v", leaderAnswer))
	defer cancel()
	addr, self, ok := n.leaderToAsk()
	switch {
	case !ok:
		return job.Errorf(job.Unavailable, "no leader is known")
	case self:
		return local(ctx)
	}
	ctx, deposed := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer deposed(nil)
	watch.Go(func() {
		// That none is known is no reason: it may be this node alone that hears of none.
		if api.Deposed(ctx, func() bool { now, _, _, ok := n.Leader(); return ok && now != addr }) {
			deposed(fmt.Errorf("%s does not lead any more and did not answer", addr))
		}
	})
	err := remote(ctx, api.NewClient(addr, n.toLeader))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return job.Errorf(job.Unavailable, "%w", cause)
	}
	return err
}
