package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func (n *Network) leasePath() string { return filepath.Join(n.cfg.Dir, leaseFile) }

// persist writes the leases as they are now.
func (n *Network) persist() error {
	n.saveMu.Lock()
	defer n.saveMu.Unlock()
	n.mu.Lock()
	data, err := n.leases.encode(n.boot)
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encode leases: %w", err)
	}
	return save(n.cfg.Dir, data)
}

// Reserve gives the container an address and remembers it; the same id gets the same address until Detach. Errors:
// ErrNotReady without a subnet, ErrNoAddress when the subnet is full.
func (n *Network) Reserve(id string) (netip.Addr, error) {
	ls, fresh, err := n.reserve(id)
	if err != nil {
		return netip.Addr{}, err
	}
	if fresh {
		if err := n.persist(); err != nil {
			n.forget(id)
			return netip.Addr{}, fmt.Errorf("reserve address for container %s: %w", id, err)
		}
	}
	return ls.Addr, nil
}

func (n *Network) reserve(id string) (lease, bool, error) {
	if id == "" {
		return lease{}, false, fmt.Errorf("reserve address: empty container id: %w", ErrInvalid)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.subnet.IsValid() {
		return lease{}, false, fmt.Errorf("reserve address for container %s: this node has no subnet yet: %w", id, ErrNotReady)
	}
	ls, fresh, err := n.leases.reserve(id)
	if err != nil {
		return lease{}, false, err
	}
	ls.live = true
	return *ls, fresh, nil
}

func (n *Network) forget(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leases.release(id)
}

// Attach joins a container to the network: address (a reserved one, if there is), interface eth0, default route and
// published ports. The container's namespace must exist and have no eth0. Attaching an id again replaces what it had.
// On an error nothing is left but what Reserve gave before. Errors: ErrNotReady, ErrNoAddress, ErrPortTaken, ErrInvalid.
func (n *Network) Attach(ctx context.Context, a Attachment) (Endpoint, error) {
	ep, err := n.attach(ctx, a)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach container %s to the network: %w", a.ID, err)
	}
	return ep, nil
}

func (n *Network) attach(ctx context.Context, a Attachment) (ep Endpoint, err error) {
	if err := ctx.Err(); err != nil {
		return ep, err
	}
	if _, active := n.state(); !active {
		return ep, ErrNotReady
	}
	ports, err := normalPorts(a.Ports)
	if err != nil {
		return ep, err
	}
	ns, err := n.openContainer(a)
	if err != nil {
		return ep, err
	}
	kept := false
	defer func() {
		if !kept {
			ns.Close()
		}
	}()
	ls, fresh, err := n.reserve(a.ID)
	if err != nil {
		return ep, err
	}
	ls.MAC = a.MAC
	// A second Attach of the id means that its container was started anew: the old ports make room.
	if !fresh {
		closeHolds(n.takeHolds(a.ID))
	}
	var holds []hold
	defer func() {
		if err != nil {
			n.abandon(a.ID, fresh, len(ports) > 0, holds)
		}
	}()
	if holds, err = n.holdPorts(ports); err != nil {
		return ep, err
	}
	for i, h := range holds {
		ports[i] = h.port
	}
	subnet := n.Subnet()
	ep = Endpoint{Address: netip.PrefixFrom(ls.Addr, subnet.Bits()), Gateway: gateway(subnet), MAC: ls.mac(), Ports: ports}
	if err := n.wire(a.ID, ns, ep); err != nil {
		return ep, err
	}
	n.bindPorts(a, ports, holds)
	if len(ports) > 0 || len(ls.Ports) > 0 {
		if err := n.applySets(); err != nil {
			return ep, err
		}
		n.flushUDP(ports, ls.Addr)
	}
	if err := listenHolds(holds); err != nil {
		return ep, err
	}
	if err := n.persist(); err != nil {
		return ep, err
	}
	kept = true
	n.keepSpace(a.ID, ns)
	return ep, nil
}

func normalPorts(in []Port) ([]Port, error) {
	out := make([]Port, len(in))
	for i, p := range in {
		var err error
		if out[i], err = p.normal(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// openContainer opens the target once, so that a pid that is used again cannot send half of the work elsewhere.
func (n *Network) openContainer(a Attachment) (netns.NsHandle, error) {
	path := a.NetNS
	if path == "" {
		if a.PID <= 0 {
			return -1, fmt.Errorf("neither a pid nor a network namespace was given: %w", ErrInvalid)
		}
		path = fmt.Sprintf("/proc/%d/ns/net", a.PID)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return -1, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	if ns.Equal(n.home.ns) {
		ns.Close()
		return -1, fmt.Errorf("%s is this machine's own network namespace: %w", path, ErrInvalid)
	}
	return ns, nil
}

func (n *Network) bindPorts(a Attachment, ports []Port, holds []hold) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ls, ok := n.leases.byID[a.ID]; ok {
		ls.Ports, ls.Name, ls.MAC, ls.DNS = ports, a.Hostname, a.MAC, a.DNS
	}
	if len(holds) > 0 {
		n.holds[a.ID] = holds
	}
}

// serversOf are the DNS servers that the container at an address asked for; nil: none.
func (n *Network) serversOf(from netip.Addr) []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	ls := n.leases.byID[n.leases.byAddr[from]]
	if ls == nil || len(ls.DNS) == 0 {
		return nil
	}
	out := make([]netip.AddrPort, len(ls.DNS))
	for i, a := range ls.DNS {
		out[i] = netip.AddrPortFrom(a, dnsPort)
	}
	return out
}

func (n *Network) takeHolds(id string) []hold {
	n.mu.Lock()
	defer n.mu.Unlock()
	hs := n.holds[id]
	delete(n.holds, id)
	return hs
}

// abandon undoes a failed attach.
func (n *Network) abandon(id string, forget, hadPorts bool, holds []hold) {
	n.takeHolds(id)
	n.leaveSpace(id)
	if err := n.deleteLinks(id); err != nil {
		n.cfg.Logger.Warn("undo attach", "container", id, "err", err)
	}
	n.mu.Lock()
	if ls, ok := n.leases.byID[id]; ok {
		hadPorts = hadPorts || len(ls.Ports) > 0
		ls.Ports = nil
	}
	if forget {
		n.leases.release(id)
	}
	n.mu.Unlock()
	if hadPorts {
		if err := n.applySets(); err != nil {
			n.cfg.Logger.Warn("undo attach", "container", id, "err", err)
		}
	}
	closeHolds(holds)
}

// wire makes the pair of links and configures the container's end.
func (n *Network) wire(id string, ns netns.NsHandle, ep Endpoint) error {
	bridge, err := n.nl.LinkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("look up bridge %s: %w", n.cfg.Bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	names := vethNames(id)
	attrs.Name = names[0]
	before := names[1] // of a life before, if there was one
	attrs.MTU = bridge.Attrs().MTU
	attrs.MasterIndex = bridge.Attrs().Index
	// One message makes both ends, each in its place: no end is ever seen in the wrong namespace or under a wrong name.
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: containerLink, PeerHardwareAddr: ep.MAC, PeerNamespace: netlink.NsFd(ns)}
	err = n.nl.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// Ours from a life before: it goes when the new one stands. Both are there if somebody was cut short in between.
		veth.Name, before = names[1], names[0]
		if err := n.deleteLink(veth.Name); err != nil {
			return err
		}
		err = n.nl.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("create link %s with %s in the container: %w", veth.Name, containerLink, err)
	}
	in, err := openInside(ns)
	if err != nil {
		return err
	}
	defer in.Close()
	// The container's end first: the host's end then comes up with a carrier, and the bridge uses it at once. The other
	// way round the bridge waits for the kernel's link watch.
	if err := configure(in, ep); err != nil {
		return err
	}
	if err := n.raise(veth.Name, id, len(ep.Ports) > 0, ep.Address.Addr()); err != nil {
		return err
	}
	settle(in, containerLink)
	settle(n.nl, veth.Name)
	settle(n.nl, n.cfg.Bridge) // it has no carrier either before its first container
	return n.deleteLink(before)
}

// raise finishes the host's end of a container's link.
func (n *Network) raise(name, id string, hairpin bool, addr netip.Addr) error {
	link, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look up link %s: %w", name, err)
	}
	// The alias is for people, and for recoverLeases.
	if err := n.nl.LinkSetAlias(link, addr.String()+" "+id); err != nil {
		return fmt.Errorf("set alias of link %s: %w", name, err)
	}
	if hairpin {
		// Where the kernel shows bridged packets to netfilter (bridge-nf-call-iptables), a container that asks for its own
		// published port is answered within the bridge, out of the port that the question came in by.
		if err := n.nl.LinkSetHairpin(link, true); err != nil {
			return fmt.Errorf("set hairpin on link %s: %w", name, err)
		}
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// openInside makes a netlink socket in the container's namespace; no thread stays there.
func openInside(ns netns.NsHandle) (in *netlink.Handle, err error) {
	err = inNetNS(ns, func() (err error) {
		in, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in the container: %w", err)
	}
	return in, nil
}

const (
	settleTries = 20
	settlePause = time.Millisecond
)

// settle waits until a link sends. After its carrier has come, and until the kernel's link watch has seen it, all that is
// sent is dropped: a container's first connection would take a second. Asking makes the watch look (rtnl_getlink since
// Linux 6.9); on older kernels we wait for it, but not for long, as nothing is wrong without.
func settle(nl *netlink.Handle, name string) {
	for range settleTries {
		link, err := nl.LinkByName(name)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return
		}
		time.Sleep(settlePause)
	}
}

// configure sets up the container's side: lo, address, default route.
func configure(in *netlink.Handle, ep Endpoint) error {
	lo, err := in.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up lo in the container: %w", err)
	}
	if err := in.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up in the container: %w", err)
	}
	eth, err := in.LinkByName(containerLink)
	if err != nil {
		return fmt.Errorf("look up %s in the container: %w", containerLink, err)
	}
	if err := in.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(ep.Address), Broadcast: lastAddr(ep.Address).AsSlice()}); err != nil {
		return fmt.Errorf("give the container the address %s: %w", ep.Address, err)
	}
	if err := in.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set %s up in the container: %w", containerLink, err)
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: ep.Gateway.AsSlice()}
	if err := in.RouteAdd(route); err != nil {
		return fmt.Errorf("add the container's default route via %s: %w", ep.Gateway, err)
	}
	return nil
}

// Endpoint returns what id has; false if it has no lease.
func (n *Network) Endpoint(id string) (Endpoint, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ls, ok := n.leases.byID[id]
	if !ok {
		return Endpoint{}, false
	}
	return Endpoint{
		Address: netip.PrefixFrom(ls.Addr, n.subnet.Bits()), Gateway: gateway(n.subnet), MAC: ls.mac(),
		Ports: append([]Port(nil), ls.Ports...),
	}, true
}

// Detach takes a container off the network and frees its address and ports. An id that is not attached is no error.
func (n *Network) Detach(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var errs []error
	n.mu.Lock()
	var ports []Port
	var addr netip.Addr
	if ls, ok := n.leases.byID[id]; ok {
		ports, addr, ls.Ports = ls.Ports, ls.Addr, nil
	}
	active := n.active
	n.mu.Unlock()
	// First nothing leads to the container, then it goes, then its address is free. The sockets go before the rules: a
	// client that the rules send nowhere any more would be taken by one, and then be dropped.
	closeHolds(n.takeHolds(id))
	if len(ports) > 0 && active {
		errs = append(errs, n.applySets())
		n.flushUDP(ports, addr)
	}
	errs = append(errs, n.deleteLinks(id))
	if len(ports) > 0 {
		n.flushTCP(addr)
	}
	n.leaveSpace(id)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach container %s from the network: %w", id, err)
	}
	n.mu.Lock()
	had := n.leases.release(id)
	n.mu.Unlock()
	if had {
		// A full disk must not keep a container from going. What the file says too much, Adopt drops.
		if err := n.persist(); err != nil {
			n.cfg.Logger.Warn("lease is freed but not on disk", "container", id, "err", err)
		}
	}
	return nil
}
