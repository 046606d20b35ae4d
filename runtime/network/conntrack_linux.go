package network

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// flushFlows makes the kernel forget UDP flows to ports, because a flow that is in use keeps the way it once took: to a
// container that is gone, or to the host from before the port was published. TCP needs none of it, its flows end.
// It walks the conntrack table and is therefore left out where no UDP port is concerned. Best effort.
func (n *Network) flushFlows(ports []Port, container netip.Addr) {
	udp := slices.ContainsFunc(ports, func(p Port) bool { return p.Protocol == UDP })
	if !udp || n.conntrack == nil {
		return
	}
	if _, err := n.conntrack.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, flowFilter{ports, container}); err != nil {
		n.cfg.Logger.Debug("forget udp flows", "err", err)
	}
}

type flowFilter struct {
	ports     []Port
	container netip.Addr
}

// MatchConntrackFlow says whether a flow was sent to one of the ports, or comes back from the container.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != protocolNumber(UDP) {
		return false
	}
	back, _ := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	return slices.ContainsFunc(f.ports, func(p Port) bool {
		return p.Protocol == UDP && flow.Forward.DstPort == p.HostPort &&
			(back == f.container || p.wildcard() || to == p.HostIP)
	})
}
