package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
)

var errIsolated = errors.New("this node is out of the cluster until its disk takes writes again")

// gate is raft's stream layer: the streams that we are given, and a way to cut all of them at once. Raft cannot be told
// to step down because its disk hangs; cutting its streams makes the others elect a leader that works.
type gate struct {
	listener  net.Listener
	dial      func(ctx context.Context, id job.NodeID, addr string) (net.Conn, error)
	advertise string

	mu     sync.Mutex
	conns  map[*gateConn]struct{}
	shut   bool
	closed bool
}

var _ raft.StreamLayer = (*gate)(nil)

func newGate(l net.Listener, dial func(context.Context, job.NodeID, string) (net.Conn, error), advertise string) *gate {
	return &gate{listener: l, dial: dial, advertise: advertise, conns: make(map[*gateConn]struct{})}
}

// Accept returns the next stream of a peer; while the gate is shut, peers find their streams closed.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return nil, err
		}
		if gc, err := g.admit(c); err == nil {
			return gc, nil
		}
	}
}

// Dial opens a stream to a peer.
func (g *gate) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if !g.open() {
		return nil, errIsolated
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	id, at, ok := strings.Cut(string(addr), peerSep)
	if !ok {
		return nil, fmt.Errorf("dial raft peer %s: nobody said which node it must be", addr)
	}
	c, err := g.dial(ctx, job.NodeID(id), at)
	if err != nil {
		return nil, err
	}
	return g.admit(c)
}

// Addr is what others dial.
func (g *gate) Addr() net.Addr { return advertised(g.advertise) }

// Close closes the listener and every stream: raft leaves the streams it accepted to themselves.
func (g *gate) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	err := g.listener.Close()
	g.cut()
	return err
}

// setShut cuts all streams and lets no new ones through, or lets them through again.
func (g *gate) setShut(shut bool) {
	g.mu.Lock()
	g.shut = shut
	g.mu.Unlock()
	if shut {
		g.cut()
	}
}

func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.shut && !g.closed
}

func (g *gate) admit(c net.Conn) (net.Conn, error) {
	gc := &gateConn{Conn: c, gate: g}
	g.mu.Lock()
	admitted := !g.shut && !g.closed
	if admitted {
		g.conns[gc] = struct{}{}
	}
	g.mu.Unlock()
	if !admitted {
		_ = c.Close()
		return nil, errIsolated
	}
	return gc, nil
}

func (g *gate) cut() {
	g.mu.Lock()
	conns := make([]*gateConn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type gateConn struct {
	net.Conn
	gate *gate
}

func (c *gateConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// transport is raft's network transport, and remembers what heartbeats tell of each follower's log.
//
// It names to whom a stream must lead. Raft itself goes by addresses: a vote, or an entry, asked of a node that was replaced
// would be given by the one that came anew at its address, and an old configuration would find a majority that there is not.
type transport struct {
	*raft.NetworkTransport
	progress *progress
	inbound  *inbound
}

func newTransport(t *raft.NetworkTransport, p *progress, self raft.ServerID, patience time.Duration) transport {
	in := newInbound(self, patience)
	go in.pump(t.Consumer())
	return transport{t, p, in}
}

// Consumer is where raft takes requests from.
func (t transport) Consumer() <-chan raft.RPC { return t.inbound.rpcs }

// SetHeartbeatHandler is raft's wish to have heartbeats beside the others.
func (t transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil { // raft is shutting down
		t.NetworkTransport.SetHeartbeatHandler(nil)
		return
	}
	t.NetworkTransport.SetHeartbeatHandler(t.inbound.heartbeats(handle))
}

// Close ends all streams.
func (t transport) Close() error {
	t.inbound.close()
	return t.NetworkTransport.Close()
}

var (
	_ raft.Transport   = transport{}
	_ raft.WithPreVote = transport{}
	_ raft.WithClose   = transport{}
)

// peerSep stands between id and address; no id has it.
const peerSep = "@"

func peerAt(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(string(id) + peerSep + string(addr))
}

func (t transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, peerAt(id, to))
}

func (t transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, peerAt(id, to), req, resp, data)
}

func (t transport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, peerAt(id, to), req, resp)
}

// AppendEntries is also the heartbeat; its answer carries the index of the follower's last entry.
func (t transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, peerAt(id, to), req, resp)
	if err == nil {
		t.progress.note(id, resp.LastLog)
	}
	return err
}

// progress is how far each follower's log reached when it last answered, as this node saw it while it led.
type progress struct {
	mu    sync.Mutex
	peers map[raft.ServerID]peerProgress
}

type peerProgress struct {
	lastIndex uint64
	at        time.Time
}

func (p *progress) note(id raft.ServerID, lastIndex uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers[id] = peerProgress{lastIndex, time.Now()}
}

func (p *progress) of(id raft.ServerID) peerProgress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers[id]
}
