package consensus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"shoal/consensus/job"
)

// memNet joins nodes by pipes, so that they can run in fake time, and can cut a node off.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	ids       map[string]job.NodeID // who is at an address
	cutOff    map[string]bool
	conns     map[net.Conn][2]string // between whom
}

func newMemNet() *memNet {
	return &memNet{listeners: map[string]*memListener{}, ids: map[string]job.NodeID{}, cutOff: map[string]bool{}, conns: map[net.Conn][2]string{}}
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
		near, far := net.Pipe()
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

// cut takes a node off the network, or puts it back.
func (n *memNet) cut(addr string, off bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutOff[addr] = off
	for c, ends := range n.conns {
		if off && (ends[0] == addr || ends[1] == addr) {
			_ = c.Close()
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
