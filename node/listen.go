package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"shoal/node/pki"
)

// The protocols that share the one port, told apart by ALPN.
const (
	alpnRaft   = "shoal-raft/1"
	alpnGossip = "shoal-gossip/1"
	alpnAPI    = "http/1.1"
)

// raftProtocol is how raft is asked for at a node of which the log knows this life: none answers for another's.
func raftProtocol(life string) string {
	if life == "" {
		return alpnRaft
	}
	return alpnRaft + "." + life
}

// Limits of connections that have not yet said who they are, or never do.
const (
	handshakeTimeout     = 5 * time.Second
	maxHandshakes        = 256  // at once from members' addresses, and as many from all others, whose further connections are closed
	maxExpected          = 4096 // connections from members' addresses that are in a handshake or wait for one; further ones are closed
	maxHandshakesPerHost = 64   // of these from one address, so that one stranger cannot keep all others out
	maxGuests            = 128  // connections without a certificate: machines that join, and strangers
	maxGuestsPerHost     = 32   // of these from one address
	guestLife            = time.Minute
)

// mux shares one TCP port among raft, gossip streams and the API. It does the TLS handshake itself, so that what it
// hands on is authenticated.
type mux struct {
	l    net.Listener
	conf *tls.Config
	log  *slog.Logger
	life string // of this node's log
	// stranger tells whether a peer with a good certificate is to be refused. It must not block.
	stranger func(p pki.Peer, forRaft bool) bool

	raft, gossip, api, relay *connQueue
	members                  atomic.Pointer[map[netip.Addr]bool] // addresses of nodes: whoever else comes cannot keep them out; nil: none is known

	mu         sync.Mutex
	conns      map[*peerConn]struct{}
	handshakes crowd // of strangers' addresses
	expected   crowd // of members', also those that wait for their turn
	guests     crowd

	turns chan struct{} // of members' handshakes: all of them come at once to a new leader
}

// crowd counts who is there by address, within bounds.
type crowd struct {
	most, perHost int
	all           int
	hosts         map[netip.Addr]int
}

func newCrowd(most, perHost int) crowd {
	return crowd{most: most, perHost: perHost, hosts: map[netip.Addr]int{}}
}

func (c *crowd) enter(host netip.Addr) bool {
	if c.all >= c.most || c.hosts[host] >= c.perHost {
		return false
	}
	c.all++
	c.hosts[host]++
	return true
}

func (c *crowd) leave(host netip.Addr) {
	c.all--
	if c.hosts[host]--; c.hosts[host] <= 0 {
		delete(c.hosts, host)
	}
}

func newMux(l net.Listener, conf *tls.Config, stranger func(p pki.Peer, forRaft bool) bool, log *slog.Logger) *mux {
	q := func() *connQueue { return newConnQueue(l.Addr()) }
	return &mux{
		l: l, conf: conf, stranger: stranger, log: log, raft: q(), gossip: q(), api: q(), relay: q(),
		conns:      map[*peerConn]struct{}{},
		handshakes: newCrowd(maxHandshakes, maxHandshakesPerHost), expected: newCrowd(maxExpected, maxHandshakesPerHost), guests: newCrowd(maxGuests, maxGuestsPerHost),
		turns: make(chan struct{}, maxHandshakes),
	}
}

// run accepts until ctx ends.
func (m *mux) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = m.l.Close() })
	defer stop()
	defer func() {
		for _, q := range []*connQueue{m.raft, m.gossip, m.api, m.relay} {
			_ = q.Close()
		}
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := m.l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return err
			}
			m.log.Warn("cannot accept connections for now", "error", err)
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		}
		host := hostOf(conn)
		in := &m.handshakes
		if known := m.members.Load(); known != nil && (*known)[host] {
			in = &m.expected
		}
		if !m.enter(in, host) {
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer m.exit(in, host)
			if in == &m.expected {
				if !m.turn(ctx) {
					_ = conn.Close()
					return
				}
				defer func() { <-m.turns }()
			}
			m.welcome(ctx, conn)
		})
	}
}

// turn waits until a member's handshake may begin, for as long as its node waits for the end of it.
func (m *mux) turn(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	select {
	case m.turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func hostOf(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{} // all of these count together
	}
	return a.Addr().Unmap()
}

func (m *mux) enter(c *crowd, host netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.enter(host)
}

func (m *mux) exit(c *crowd, host netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.leave(host)
}

// evict closes what peers hold open that are to go.
func (m *mux) evict(goes func(p pki.Peer, forRaft bool) bool) {
	m.mu.Lock()
	var out []*peerConn
	for c := range m.conns {
		if goes(c.peer, c.forRaft) {
			out = append(out, c)
		}
	}
	m.mu.Unlock()
	for _, c := range out {
		m.log.Info("closing a connection of a peer that is no member", "peer", c.peer.Name, "id", c.peer.ID)
		_ = c.Close()
	}
}

// temporary: out of descriptors or memory, or a peer that was gone before it was accepted; a closed listener is not.
func temporary(err error) bool { return !errors.Is(err, net.ErrClosed) }

func (m *mux) welcome(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, m.conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		// Probes connect and close, strangers try things: not worth more than debug.
		m.log.Debug("handshake failed", "peer", raw.RemoteAddr(), "error", err)
		_ = raw.Close()
		return
	}
	c := m.admit(conn)
	if c == nil {
		m.log.Debug("connection not taken: a node that is no member, or too many without a certificate", "peer", raw.RemoteAddr())
		_ = raw.Close()
		return
	}
	var q *connQueue
	switch conn.ConnectionState().NegotiatedProtocol {
	case raftProtocol(m.life):
		q = m.raft
	case alpnGossip:
		q = m.gossip
	case alpnRelay:
		q = m.relay
	default:
		q = m.api
	}
	if !q.offer(c) {
		_ = c.Close()
	}
}

// admit keeps account of a connection until it is closed; nil: it is not wanted, or there is no place for one more guest.
func (m *mux) admit(conn *tls.Conn) net.Conn {
	cs := conn.ConnectionState()
	peer, known := pki.PeerOf(cs)
	if known {
		forRaft := cs.NegotiatedProtocol == raftProtocol(m.life)
		if m.stranger(peer, forRaft) {
			return nil
		}
		c := &peerConn{Conn: conn, m: m, peer: peer, forRaft: forRaft}
		m.mu.Lock()
		m.conns[c] = struct{}{}
		m.mu.Unlock()
		return c
	}
	host := hostOf(conn)
	if !m.enter(&m.guests, host) {
		return nil
	}
	c := &guestConn{Conn: conn, leave: sync.OnceFunc(func() { m.exit(&m.guests, host) })}
	c.life = time.AfterFunc(guestLife, func() { _ = c.Close() }) // whatever a guest is doing: one request takes seconds
	return c
}

// peerConn is a connection of somebody known.
type peerConn struct {
	*tls.Conn
	m       *mux
	peer    pki.Peer
	forRaft bool
}

func (c *peerConn) Close() error {
	c.m.mu.Lock()
	delete(c.m.conns, c)
	c.m.mu.Unlock()
	return c.Conn.Close()
}

// guestConn is a connection without a certificate.
type guestConn struct {
	*tls.Conn
	life  *time.Timer
	leave func()
}

func (c *guestConn) Close() error {
	c.life.Stop()
	c.leave()
	return c.Conn.Close()
}

// connQueue is a net.Listener of connections that somebody else accepted.
type connQueue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}

	mu   sync.Mutex // makes offers and the end exclude each other, so that no connection is left behind
	over bool
}

// queueDepth is how many connections wait for one protocol's server before further ones are dropped.
const queueDepth = 128

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, conns: make(chan net.Conn, queueDepth), closed: make(chan struct{})}
}

func (q *connQueue) offer(c net.Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return false
	}
	select {
	case q.conns <- c:
		return true
	default:
		return false
	}
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return nil
	}
	q.over = true
	close(q.closed)
	for {
		select {
		case c := <-q.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

func (q *connQueue) Addr() net.Addr { return q.addr }

// sleep waits for d, or gives false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
