package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks our routes, so that we remove no other. It is free in iproute2's rt_protos.
	routeProtocol = 83
	// unreachableMetric makes the pool's own route the last choice.
	unreachableMetric = 4_000_000_000
)

// SetPeers replaces the set of other nodes. Traffic to each one's subnet goes to its address; routes to former peers
// are removed. An entry with this node's own subnet is left out. A peer that cannot be routed to is an error that names
// it; the others are served, and Run tries again.
func (n *Network) SetPeers(peers []Peer) error {
	var errs []error
	var good []Peer
	subnet := n.Subnet()
	for _, p := range peers {
		p.Address, p.Subnet = p.Address.Unmap(), p.Subnet.Masked()
		switch {
		case p.Subnet == subnet:
		case !p.Address.Is4() || checkSubnet(p.Subnet, n.cfg.Pool) != nil:
			errs = append(errs, fmt.Errorf("node %s: no route to %s via %s: want IPv4 inside the pool: %w", p.Node, p.Subnet, p.Address, ErrInvalid))
		case p.Subnet.Overlaps(subnet):
			errs = append(errs, fmt.Errorf("node %s: its subnet %s overlaps with ours, %s: %w", p.Node, p.Subnet, subnet, ErrInvalid))
		default:
			good = append(good, p)
		}
	}
	n.mu.Lock()
	changed := !slices.Equal(n.peers, good)
	n.peers = good
	active := n.active
	n.mu.Unlock()
	if active && changed {
		errs = append(errs, n.applySets(), n.syncRoutes())
	}
	return errors.Join(errs...)
}

// syncRoutes makes our routes those of the peers, and the rest of the pool unreachable: traffic to a node that is gone
// must not leave by the default route.
func (n *Network) syncRoutes() error {
	n.applyMu.Lock()
	defer n.applyMu.Unlock()
	n.mu.Lock()
	peers := slices.Clone(n.peers)
	pool := n.pool(n.subnet)
	n.mu.Unlock()

	have, err := n.ourRoutes()
	if err != nil {
		return err
	}
	var errs []error
	want := map[netip.Prefix]bool{pool: true}
	if _, ok := have[pool]; !ok {
		r := &netlink.Route{Dst: ipNet(pool), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Priority: unreachableMetric}
		if err := n.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("close pool %s: %w", pool, err))
		}
	}
	for _, p := range peers {
		want[p.Subnet] = true
		if r, ok := have[p.Subnet]; ok && r.Gw.Equal(net.IP(p.Address.AsSlice())) {
			continue
		}
		r := &netlink.Route{Dst: ipNet(p.Subnet), Gw: p.Address.AsSlice(), Protocol: routeProtocol}
		if err := n.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("route to %s of node %s via %s: %w; nodes must share a network segment", p.Subnet, p.Node, p.Address, err))
		}
	}
	for dst, r := range have {
		if !want[dst] {
			errs = append(errs, n.deleteRoute(r))
		}
	}
	return errors.Join(errs...)
}

// ourRoutes are those with our protocol number, by destination.
func (n *Network) ourRoutes() (map[netip.Prefix]netlink.Route, error) {
	list, err := n.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	routes := map[netip.Prefix]netlink.Route{}
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		if dst, err := netip.ParsePrefix(r.Dst.String()); err == nil {
			routes[dst] = r
		}
	}
	return routes, nil
}

func (n *Network) removeRoutes() error {
	n.applyMu.Lock()
	defer n.applyMu.Unlock()
	routes, err := n.ourRoutes()
	errs := []error{err}
	for _, r := range routes {
		errs = append(errs, n.deleteRoute(r))
	}
	return errors.Join(errs...)
}

func (n *Network) deleteRoute(r netlink.Route) error {
	if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route to %s: %w", r.Dst, err)
	}
	return nil
}
