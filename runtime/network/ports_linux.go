package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hold is a socket that keeps a published port from being taken by another process of this machine. Nobody reads from
// it: the kernel rewrites packets to the port before they could reach it. Until it does, a TCP socket must not listen: it
// would take clients in that nobody ever answers.
type hold struct {
	port   Port
	socket io.Closer
	listen func() error // nil: there is nothing to do
}

// listenHolds makes the ports show as taken, once packets to them go elsewhere.
func listenHolds(hs []hold) error {
	for _, h := range hs {
		if h.listen == nil {
			continue
		}
		switch err := h.listen(); {
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("publish %s: %w by another since a moment ago", h.port, ErrPortTaken)
		case err != nil:
			return fmt.Errorf("publish %s: %w", h.port, err)
		}
	}
	return nil
}

func closeHolds(hs []hold) {
	for _, h := range hs {
		_ = h.socket.Close()
	}
}

// holdPorts binds all of ports or none. The ports come back as bound.
func (n *Network) holdPorts(ports []Port) ([]hold, error) {
	var holds []hold
	gw := n.Gateway()
	err := n.home.do(func() error {
		for _, p := range ports {
			h, err := bind(p, gw)
			if err != nil {
				return n.explain(p, err)
			}
			holds = append(holds, h)
		}
		return nil
	})
	if err != nil {
		closeHolds(holds)
		return nil, err
	}
	return holds, nil
}

// bind holds p. Port 53 on all addresses is special: our own name server must keep (or get) it on the gateway's address,
// where the table leaves it alone. So we look for others by hand, and hold 127.0.0.1 in place of all.
func bind(p Port, gw netip.Addr) (hold, error) {
	if !p.wildcard() || p.HostPort != dnsPort {
		return bindExactly(p)
	}
	for _, at := range boundSockets(p) {
		if at != gw {
			return hold{}, unix.EADDRINUSE
		}
	}
	one := p
	one.HostIP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	h, err := bindExactly(one)
	h.port = p
	return h, err
}

func bindExactly(p Port) (hold, error) {
	if p.Protocol == UDP {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(p.HostIP, p.HostPort).String())
		if err != nil {
			return hold{}, err
		}
		p.HostPort = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		return hold{port: p, socket: c}, nil
	}
	s, err := bindTCP(netip.AddrPortFrom(p.HostIP, p.HostPort))
	if err != nil {
		return hold{}, err
	}
	if p.HostPort, err = s.port(); err != nil {
		return hold{}, errors.Join(err, s.Close())
	}
	return hold{port: p, socket: s, listen: s.listen}, nil
}

// tcpSocket is bound to a port, and listens or not: package net has only both at once.
type tcpSocket int

func bindTCP(at netip.AddrPort) (tcpSocket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	s := tcpSocket(fd)
	// As package net does: connections of a server that has ended are not in the way. Two that do not listen could so have
	// the same port: the later to listen is refused.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	}
	if err != nil {
		return -1, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s tcpSocket) port() (uint16, error) {
	sa, err := unix.Getsockname(int(s))
	if err != nil {
		return 0, err
	}
	if in, ok := sa.(*unix.SockaddrInet4); ok {
		return uint16(in.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}

func (s tcpSocket) listen() error { return unix.Listen(int(s), 1) }
func (s tcpSocket) Close() error  { return unix.Close(int(s)) }

// explain turns a failed bind into an error that says who has the port.
func (n *Network) explain(p Port, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("publish %s: this machine has no address %s: %w", p, p.HostIP, ErrInvalid)
	default:
		return fmt.Errorf("publish %s: %w", p, err)
	}
	n.mu.Lock()
	id, ls, ours := n.leases.published(p)
	name := id
	if ours && ls.Name != "" {
		name = ls.Name + " (" + id + ")"
	}
	n.mu.Unlock()
	if ours {
		return fmt.Errorf("publish %s: %w by container %s", p, ErrPortTaken, name)
	}
	if who := portOwner(p); who != "" {
		return fmt.Errorf("publish %s: %w by %s", p, ErrPortTaken, who)
	}
	return fmt.Errorf("publish %s: %w by a process that cannot be told", p, ErrPortTaken)
}
