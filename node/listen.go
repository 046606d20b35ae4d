package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// The protocols that share the one port, told apart by ALPN.
const (
	alpnRaft   = "shoal-raft/1"
	alpnGossip = "shoal-gossip/1"
	alpnAPI    = "http/1.1"
)

// Limits of a connection that has not yet said who it is.
const (
	handshakeTimeout = 5 * time.Second
	maxHandshakes    = 256 // at once; further connections wait in the kernel's queue
)

// mux shares one TCP port among raft, gossip streams and the API. It does the TLS handshake itself, so that what it
// hands on is authenticated.
type mux struct {
	l    net.Listener
	conf *tls.Config
	log  *slog.Logger

	raft, gossip, api *connQueue
}

func newMux(l net.Listener, conf *tls.Config, log *slog.Logger) *mux {
	q := func() *connQueue { return newConnQueue(l.Addr()) }
	return &mux{l: l, conf: conf, log: log, raft: q(), gossip: q(), api: q()}
}

// run accepts until ctx ends.
func (m *mux) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = m.l.Close() })
	defer stop()
	defer func() {
		for _, q := range []*connQueue{m.raft, m.gossip, m.api} {
			_ = q.Close()
		}
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxHandshakes)
	for {
		slots <- struct{}{}
		conn, err := m.l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return err
			}
			m.log.Warn("cannot accept connections for now", "error", err)
			<-slots
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			m.welcome(ctx, conn)
		})
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
	var q *connQueue
	switch conn.ConnectionState().NegotiatedProtocol {
	case alpnRaft:
		q = m.raft
	case alpnGossip:
		q = m.gossip
	default:
		q = m.api
	}
	if !q.offer(conn) {
		_ = conn.Close()
	}
}

// connQueue is a net.Listener of connections that somebody else accepted.
type connQueue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// queueDepth is how many connections wait for one protocol's server before further ones are dropped.
const queueDepth = 128

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, conns: make(chan net.Conn, queueDepth), closed: make(chan struct{})}
}

func (q *connQueue) offer(c net.Conn) bool {
	select {
	case <-q.closed:
		return false
	default:
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
	q.once.Do(func() {
		close(q.closed)
		for {
			select {
			case c := <-q.conns:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
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
