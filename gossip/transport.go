package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// packetMaxBytes is the largest packet that is read. memberlist sends at most 1400 bytes of its own.
	packetMaxBytes = 64 << 10
	// packetBacklog is how many packets wait for memberlist; more are dropped, as the kernel would.
	packetBacklog = 256
	// packetSocketBytes is the receive buffer asked of the kernel.
	packetSocketBytes = 2 << 20
	// streamsMax is how many incoming streams may be open at a time; more are closed at once. memberlist itself refuses
	// more than 128 exchanges.
	streamsMax = 128
	// acceptPause is the wait after a failed accept that may heal, such as one for want of file descriptors.
	acceptPause = 50 * time.Millisecond
)

// transport carries memberlist's packets and streams over the sockets that the pool was given.
type transport struct {
	advertise netip.AddrPort
	packets   net.PacketConn
	listener  net.Listener
	dial      func(ctx context.Context, addr string) (net.Conn, error)
	log       *slog.Logger

	packetCh chan *memberlist.Packet
	streamCh chan net.Conn
	slots    chan struct{} // one token for each open incoming stream

	ctx    context.Context // ends with the transport
	cancel context.CancelFunc
	wg     sync.WaitGroup

	packetsDropped, streamsRefused atomic.Uint64
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(cfg *Config) *transport {
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		advertise: cfg.Advertise,
		packets:   cfg.Packets,
		listener:  cfg.Streams,
		dial:      cfg.Dial,
		log:       cfg.Logger,
		packetCh:  make(chan *memberlist.Packet, packetBacklog),
		streamCh:  make(chan net.Conn),
		slots:     make(chan struct{}, streamsMax),
		ctx:       ctx,
		cancel:    cancel,
	}
}

// start begins to read packets and to accept streams.
func (t *transport) start() {
	if s, ok := t.packets.(interface{ SetReadBuffer(int) error }); ok {
		if err := s.SetReadBuffer(packetSocketBytes); err != nil {
			t.log.Debug("gossip: receive buffer stays at the kernel's default", "err", err)
		}
	}
	t.wg.Go(t.readPackets)
	t.wg.Go(t.acceptStreams)
}

// readPackets hands packets on and never waits for the one who takes them.
func (t *transport) readPackets() {
	buf := make([]byte, packetMaxBytes)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		now := time.Now()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// An ICMP error of an earlier send surfaces here on some kernels; it says nothing about the socket.
			t.log.Debug("gossip: read packet", "err", err)
			if !t.pause() {
				return
			}
			continue
		}
		if n == 0 || packetPadded(buf[:n]) {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: now}
		select {
		case t.packetCh <- p:
		default:
			t.packetsDropped.Add(1)
		}
	}
}

// acceptStreams hands streams to memberlist, which gives each a goroutine and a deadline of its own.
func (t *transport) acceptStreams() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			t.log.Warn("gossip: accept stream", "err", err)
			if !t.pause() {
				return
			}
			continue
		}
		select {
		case t.slots <- struct{}{}:
		default:
			t.streamsRefused.Add(1)
			_ = conn.Close()
			continue
		}
		slot := &slotConn{Conn: &guardedConn{Conn: conn}, free: sync.OnceFunc(func() { <-t.slots })}
		select {
		case t.streamCh <- slot:
		case <-t.ctx.Done():
			_ = slot.Close()
			return
		}
	}
}

// pause waits a little after an error and tells whether to go on.
func (t *transport) pause() bool {
	timer := time.NewTimer(acceptPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	free func()
}

func (c *slotConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}

// FinalAdvertiseAddr returns the advertised address, whatever memberlist was configured with.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(t.advertise.Addr().Unmap().AsSlice()), int(t.advertise.Port()), nil
}

// WriteTo sends one packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends one packet. The error of the socket is returned as it is: memberlist looks into it to tell a
// failed peer from a failure of our own.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	ap, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send gossip packet to %s: %w", a.String(), err)
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(ap))
	return time.Now(), err
}

// PacketCh yields incoming packets.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// StreamCh yields incoming streams.
func (t *transport) StreamCh() <-chan net.Conn { return t.streamCh }

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream whose deadline is set already, because memberlist writes the label to it before it
// sets one.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	deadline := time.Now().Add(timeout)
	conn, err := t.dial(ctx, a.Addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &guardedConn{Conn: conn}, nil
}

// Shutdown closes the sockets and waits for the readers.
func (t *transport) Shutdown() error {
	t.cancel()
	err := errors.Join(t.packets.Close(), t.listener.Close())
	t.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
