package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Probe tries out, in a network namespace of its own, what this package needs of the kernel, and looks at what of the
// machine's own settings stands in the way. It changes nothing.
func Probe() []Feature {
	scratch, err := newNetNS()
	if err != nil {
		return []Feature{{Name: "network namespaces", Lost: "containers cannot have a network of their own", Err: err}}
	}
	defer scratch.Close()
	h := home{ns: scratch, foreign: true}
	return []Feature{
		feature("bridge", "containers cannot be connected", tryLink(scratch, &netlink.Bridge{LinkAttrs: named("probe0")})),
		feature("veth", "containers cannot be connected", tryLink(scratch, &netlink.Veth{LinkAttrs: named("probe1"), PeerName: "probe2"})),
		feature("nftables nat", "no published ports, no way from containers to the outside", tryTable(h)),
		feature("conntrack netlink", "UDP clients of a container that was replaced may wait for half a minute", tryConntrack(scratch)),
		feature("vxlan", "an overlay between nodes that a router parts, not encrypted", tryLink(scratch, &netlink.Vxlan{LinkAttrs: named("probe3"), VxlanId: 1, Port: 4789})),
		feature("wireguard", "an encrypted overlay between nodes", tryLink(scratch, &netlink.Wireguard{LinkAttrs: named("probe4")})),
		feature("ip_forward", "containers reach only each other, and only on their own node", tryForward()),
		feature("firewall", "traffic of containers may be dropped by a rule that is not ours", tryFirewall()),
	}
}

func feature(name, lost string, err error) Feature {
	return Feature{Name: name, OK: err == nil, Lost: lost, Err: err}
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func tryLink(ns netns.NsHandle, l netlink.Link) error {
	return inNetNS(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		return nl.LinkAdd(l)
	})
}

// tryTable writes our table with one of each kind of entry.
func tryTable(h home) error {
	p := Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 1, ContainerPort: 1, Protocol: TCP}
	q := p
	q.HostIP = netip.IPv4Unspecified()
	to := netip.MustParseAddr("10.0.0.2")
	subnet := netip.MustParsePrefix("10.0.0.0/24")
	return h.replaceTable(ruleSet{bridge: DefaultBridge, subnet: subnet, pool: subnet, peers: []netip.Addr{to},
		bindings: []binding{{Port: p, to: to}, {Port: q, to: to}}})
}

func tryConntrack(ns netns.NsHandle) error {
	return inNetNS(ns, func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer nl.Close()
		_, err = nl.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		return err
	})
}

// tryForward opens the switch for writing without turning it.
func tryForward() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		return f.Close()
	}
	if have, readErr := os.ReadFile(path); readErr == nil && len(have) > 0 && have[0] == '1' {
		return nil
	}
	return err
}

// tryFirewall looks for forward chains of others that drop by default: accepting in our table does not help there,
// because a packet must be accepted by all.
func tryFirewall() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range chains {
		if c.Table.Name == tableName || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			continue
		}
		forwards := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
		if forwards && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			errs = append(errs, fmt.Errorf("chain %s of nftables table %s drops by default: let it accept traffic from and to %s",
				c.Name, c.Table.Name, DefaultBridge))
		}
	}
	return errors.Join(errs...)
}
