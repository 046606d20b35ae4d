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
// it: the kernel rewrites packets to the port before they could reach it.
type hold struct {
	port   Port
	socket io.Closer
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
	at := netip.AddrPortFrom(p.HostIP, p.HostPort).String()
	var lc net.ListenConfig
	if p.Protocol == UDP {
		c, err := lc.ListenPacket(context.Background(), "udp4", at)
		if err != nil {
			return hold{}, err
		}
		p.HostPort = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		return hold{port: p, socket: c}, nil
	}
	l, err := lc.Listen(context.Background(), "tcp4", at)
	if err != nil {
		return hold{}, err
	}
	p.HostPort = l.Addr().(*net.TCPAddr).AddrPort().Port()
	return hold{port: p, socket: l}, nil
}

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
