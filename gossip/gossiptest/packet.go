package gossiptest

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// packetQueue is how many packets wait for a reader; more are dropped.
const packetQueue = 512

type packet struct {
	data []byte
	from netip.AddrPort
}

type packetConn struct {
	net    *Network
	addr   netip.AddrPort
	queue  chan packet
	closed chan struct{}
	once   sync.Once
	read   deadline
}

var _ net.PacketConn = (*packetConn)(nil)

// ListenPacket opens a packet socket at addr; port 0 means any free one.
func (n *Network) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr = n.portLocked(addr)
	if n.packets[addr] != nil {
		return nil, inUse("udp", addr)
	}
	c := &packetConn{net: n, addr: addr, queue: make(chan packet, packetQueue), closed: make(chan struct{}), read: newDeadline()}
	n.packets[addr] = c
	return c, nil
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.closed:
		return 0, nil, c.failed("read", net.ErrClosed)
	case <-c.read.passed():
		return 0, nil, c.failed("read", os.ErrDeadlineExceeded)
	default:
	}
	select {
	case p := <-c.queue:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.closed:
		return 0, nil, c.failed("read", net.ErrClosed)
	case <-c.read.passed():
		return 0, nil, c.failed("read", os.ErrDeadlineExceeded)
	}
}

// WriteTo sends and forgets: only a closed socket is an error.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, c.failed("write", net.ErrClosed)
	default:
	}
	dst, err := addrOf(to)
	if err != nil {
		return 0, c.failed("write", err)
	}
	c.net.send(packet{slices.Clone(b), c.addr}, dst)
	return len(b), nil
}

func (n *Network) send(p packet, to netip.AddrPort) {
	n.mu.Lock()
	n.sent++
	if !n.reachesLocked(p.from.Addr(), to.Addr()) || n.loss > 0 && n.random.Float64() < n.loss {
		n.dropped++
		n.mu.Unlock()
		return
	}
	latency := n.latency
	n.mu.Unlock()
	if latency > 0 {
		time.AfterFunc(latency, func() { n.deliver(p, to) })
		return
	}
	n.deliver(p, to)
}

func (n *Network) deliver(p packet, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.packets[to]
	if c == nil || n.down[to.Addr()] {
		n.dropped++
		return
	}
	select {
	case c.queue <- p:
	default:
		n.dropped++
	}
}

func (c *packetConn) Close() error {
	err := c.failed("close", net.ErrClosed)
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		delete(c.net.packets, c.addr)
		c.net.mu.Unlock()
		err = nil
	})
	return err
}

func (c *packetConn) LocalAddr() net.Addr                { return net.UDPAddrFromAddrPort(c.addr) }
func (c *packetConn) SetDeadline(t time.Time) error      { c.read.set(t); return nil }
func (c *packetConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *packetConn) SetWriteDeadline(t time.Time) error { return nil }

func (c *packetConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Err: err}
}
