package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"shoal/consensus/job"
)

// memNet joins nodes by pipes, so that they can run in fake time, and can cut a node off.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	ids       map[string]job.NodeID // who is at an address
	cutOff    map[string]bool
	conns     map[*memConn][2]string // between whom
}

func newMemNet() *memNet {
	return &memNet{listeners: map[string]*memListener{}, ids: map[string]job.NodeID{}, cutOff: map[string]bool{}, conns: map[*memConn][2]string{}}
}

func (n *memNet) listen(addr string, id job.NodeID) net.Listener {
	l := &memListener{net: n, addr: addr, streams: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr], n.ids[addr] = l, id
	return l
}

func (n *memNet) dialer(from string) func(context.Context, job.NodeID, string) (net.Conn, error) {
	return func(ctx context.Context, id job.NodeID, to string) (net.Conn, error) {
		n.mu.Lock()
		l, cut, there := n.listeners[to], n.cutOff[from] || n.cutOff[to], n.ids[to]
		n.mu.Unlock()
		if l == nil || cut {
			return nil, errors.New("no route to " + to)
		}
		if there != id {
			return nil, fmt.Errorf("%s is %s, not %s", to, there, id)
		}
		one, other := net.Pipe()
		lost := &atomic.Bool{}
		near, far := &memConn{one, lost}, &memConn{other, lost}
		n.mu.Lock()
		n.conns[near] = [2]string{from, to}
		n.mu.Unlock()
		select {
		case l.streams <- far:
			return near, nil
		case <-l.closed:
			return nil, errors.New("connection refused by " + to)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// memConn is one end of a stream. When it is lost, what is written into it arrives nowhere, and it looks open.
type memConn struct {
	net.Conn
	lost *atomic.Bool
}

func (c *memConn) Write(b []byte) (int, error) {
	if c.lost.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// cut takes a node off the network, or puts it back. Its streams end.
func (n *memNet) cut(addr string, off bool) { n.sever(addr, off, func(c *memConn) { _ = c.Close() }) }

// lose is cut of which nobody is told: the streams stay open, and are no good ever after.
func (n *memNet) lose(addr string) { n.sever(addr, true, func(c *memConn) { c.lost.Store(true) }) }

func (n *memNet) sever(addr string, off bool, end func(*memConn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutOff[addr] = off
	for c, ends := range n.conns {
		if off && (ends[0] == addr || ends[1] == addr) {
			end(c)
			delete(n.conns, c)
		}
	}
}

type memListener struct {
	net     *memNet
	addr    string
	streams chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return advertised(l.addr) }
