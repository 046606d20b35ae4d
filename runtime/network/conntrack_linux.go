package network

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// A flow that the kernel knows keeps the way it once took: to a container that is gone, or to the host from before a port
// was published. A UDP flow goes on as long as its client sends. A TCP flow ends, but it may be remembered as it was when
// its container went, for days, and a new connection out of the same port of the same client takes its way and waits for
// ever. So the kernel is made to forget both: best effort, by a walk through all that it knows.

// flushUDP forgets flows to ports. That is done at once, and left out where no UDP port is concerned.
func (n *Network) flushUDP(ports []Port, container netip.Addr) {
	if slices.ContainsFunc(ports, func(p Port) bool { return p.Protocol == UDP }) {
		n.deleteFlows(udpFlows{ports, container})
	}
}

type udpFlows struct {
	ports     []Port
	container netip.Addr
}

// MatchConntrackFlow says whether a flow was sent to one of the ports, or comes back from the container.
func (f udpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
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

// tcpFlows are those that led to containers which are gone.
type tcpFlows []netip.Addr

// MatchConntrackFlow says whether a flow is answered by one of them.
func (f tcpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	back, _ := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	return flow.Forward.Protocol == protocolNumber(TCP) && slices.Contains(f, back)
}

// flushTCP forgets the flows to a container soon, since nobody should wait for it; what comes together is done in one walk.
func (n *Network) flushTCP(gone netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	begin := len(n.staleFlows) == 0
	n.staleFlows = append(n.staleFlows, gone)
	if begin {
		n.flushing.Go(n.flushStale)
	}
}

func (n *Network) flushStale() {
	for {
		n.mu.Lock()
		flows := slices.Clone(n.staleFlows)
		n.mu.Unlock()
		n.deleteFlows(flows)
		n.mu.Lock()
		n.staleFlows = n.staleFlows[len(flows):]
		done := len(n.staleFlows) == 0
		n.mu.Unlock()
		if done {
			return
		}
	}
}

func (n *Network) deleteFlows(f netlink.CustomConntrackFilter) {
	if n.conntrack == nil {
		return
	}
	if _, err := n.conntrack.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, f); err != nil {
		n.cfg.Logger.Debug("forget flows", "err", err)
	}
}
