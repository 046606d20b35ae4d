package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// vethPrefix marks the host's ends of our containers' links.
	vethPrefix = "shl"
	// containerLink is the name of the interface inside.
	containerLink = "eth0"
	defaultMTU    = 1500
)

// vethName is the host's end of a container's link: short enough for IFNAMSIZ, and found again without being stored. A
// container that is started anew has the other of vethNames, so that there is no moment without a link.
func vethName(id string) string { return vethNames(id)[0] }

func vethNames(id string) [2]string {
	sum := sha256.Sum256([]byte(id))
	return [2]string{vethPrefix + hex.EncodeToString(sum[:6]), vethPrefix + hex.EncodeToString(sum[6:12])}
}

func (n *Network) deleteLinks(id string) error {
	names := vethNames(id)
	return errors.Join(n.deleteLink(names[0]), n.deleteLink(names[1]))
}

// ipNet turns a prefix into what netlink wants, keeping the host part.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func notFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

// ensureBridge makes the bridge, its address and its members as they should be.
func (n *Network) ensureBridge(subnet netip.Prefix) error {
	gw := gateway(subnet)
	mtu := n.mtu()
	name := n.cfg.Bridge
	link, err := n.nl.LinkByName(name)
	if notFound(err) {
		// A fixed MAC, else the bridge takes that of its lowest member and changes it under the containers' ARP caches.
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = name, macOf(gw), mtu
		if err := n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("create bridge %s: %w", name, err)
		}
		link, err = n.nl.LinkByName(name)
	}
	if err != nil {
		return fmt.Errorf("look up bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("interface %s exists and is a %s, not a bridge; rename it or choose another bridge name", name, link.Type())
	}
	if err := n.ensureAddress(link, netip.PrefixFrom(gw, subnet.Bits())); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set bridge %s up: %w", name, err)
		}
	}
	return n.rejoin(link.Attrs().Index)
}

// ensureAddress leaves exactly one IPv4 address on link.
func (n *Network) ensureAddress(link netlink.Link, want netip.Prefix) error {
	addrs, err := n.nl.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	found := false
	for _, a := range addrs {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := n.nl.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s of %s: %w", a.IPNet, link.Attrs().Name, err)
		}
	}
	if found {
		return nil
	}
	if err := n.nl.AddrAdd(link, &netlink.Addr{IPNet: ipNet(want), Broadcast: lastAddr(want).AsSlice()}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, want, err)
	}
	return nil
}

// rejoin puts our links back on the bridge, in case it was removed and made anew.
func (n *Network) rejoin(bridge int) error {
	links, err := n.ourLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge {
			continue
		}
		if err := n.nl.LinkSetMasterByIndex(l, bridge); err != nil && !notFound(err) {
			return fmt.Errorf("put %s on bridge %s: %w", l.Attrs().Name, n.cfg.Bridge, err)
		}
	}
	return nil
}

// ourLinks lists the host's ends of containers' links.
func (n *Network) ourLinks() ([]netlink.Link, error) {
	all, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ours []netlink.Link
	for _, l := range all {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, vethPrefix) {
			ours = append(ours, l)
		}
	}
	return ours, nil
}

// removeLinks deletes the bridge and every link of a container.
func (n *Network) removeLinks() error {
	links, err := n.ourLinks()
	errs := []error{err}
	for _, l := range links {
		errs = append(errs, n.deleteLink(l.Attrs().Name))
	}
	return errors.Join(append(errs, n.deleteLink(n.cfg.Bridge))...)
}

// deleteLink is content when the link is already gone: a namespace that ends takes its links along.
func (n *Network) deleteLink(name string) error {
	link, err := n.nl.LinkByName(name)
	if err == nil {
		err = n.nl.LinkDel(link)
	}
	if err != nil && !notFound(err) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// mtu is the configured one or that of the way out.
func (n *Network) mtu() int {
	if n.cfg.MTU > 0 {
		return n.cfg.MTU
	}
	routes, err := n.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	if err != nil {
		return defaultMTU
	}
	for _, r := range routes {
		if link, err := n.nl.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			return link.Attrs().MTU
		}
	}
	return defaultMTU
}

// checkOverlap refuses a subnet that the machine already uses for something else, and warns of such a pool.
func (n *Network) checkOverlap(subnet netip.Prefix) error {
	addrs, err := n.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	pool := n.pool(subnet)
	bridge := 0
	if link, err := n.nl.LinkByName(n.cfg.Bridge); err == nil {
		bridge = link.Attrs().Index
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || a.LinkIndex == bridge {
			continue
		}
		ones, _ := a.Mask.Size()
		used := netip.PrefixFrom(addr, ones)
		if used.Overlaps(subnet) {
			return fmt.Errorf("subnet %s overlaps with %s, which this machine has already: %w; choose another pool", subnet, used, ErrInvalid)
		}
		if pool.Contains(addr) {
			n.cfg.Logger.Warn("the machine's own address lies in the cluster's pool", "address", used, "pool", pool)
		}
	}
	return nil
}

// setSysctls must run in the namespace: /proc/sys/net shows that of the thread that looks.
func setSysctls(bridge string) error {
	// Without forwarding nothing leaves the bridge; without route_localnet the kernel drops what comes from 127.0.0.1 on
	// its way to a published port. The guard chain of our table closes what the latter opens.
	for _, path := range []string{
		"/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/net/ipv4/conf/" + bridge + "/route_localnet",
	} {
		if err := setSysctl(path, "1"); err != nil {
			return err
		}
	}
	// The bridge needs no IPv6 address of its own yet. A kernel without IPv6 has no such file.
	_ = setSysctl("/proc/sys/net/ipv6/conf/"+bridge+"/disable_ipv6", "1")
	return nil
}

// setSysctl writes only what differs: writing ip_forward resets other settings even when it does not change.
func setSysctl(path, want string) error {
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == want {
		return nil
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w; is /proc/sys writable here?", err)
	}
	return nil
}
