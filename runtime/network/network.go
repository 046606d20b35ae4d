// Package network knows how containers on this machine reach each other, the other machines and the world: the bridge,
// addresses, routes to the other nodes' subnets, published ports and the answers of DNS. It refuses to know why: jobs,
// members and health arrive as whole sets that it was told, and it never asks anybody for more.
package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
)

// DefaultBridge is the name of the bridge when Config.Bridge is empty.
const DefaultBridge = "shoal0"

// maxInterfaceName is IFNAMSIZ-1 of linux/if.h.
const maxInterfaceName = 15

// Kinds that a caller may test for with errors.Is.
var (
	// ErrPortTaken: a host port is held by another container or another process. Trying again helps once it is free.
	ErrPortTaken = errors.New("port is taken")
	// ErrNoAddress: the subnet has no free address left. Trying again helps once a container was detached.
	ErrNoAddress = errors.New("no free address")
	// ErrNotReady: there is no subnet yet, or Setup has not run.
	ErrNotReady = errors.New("network is not set up")
	// ErrInvalid: what was asked can never work; the text says what to change.
	ErrInvalid = errors.New("invalid")
)

// Config says what New needs. Only Dir is required.
type Config struct {
	// Dir is where leases are kept, so that a restart of the agent moves no container. Created if missing.
	Dir string
	// Bridge is the name of the bridge, at most 15 bytes. Default DefaultBridge.
	Bridge string
	// Subnet is this node's part of Pool, IPv4, /8 to /29. The first address becomes the gateway. The zero value means
	// that the node does not know it yet: SetSubnet brings it.
	Subnet netip.Prefix
	// Pool is the whole cluster's range. Traffic inside it keeps its source address and never leaves by the default
	// route. Default: Subnet, that is a cluster of one node.
	Pool netip.Prefix
	// Upstream are the resolvers for names that are not ours, tried in order. Empty: those of /etc/resolv.conf, which
	// is read again when it changes.
	Upstream []netip.AddrPort
	// MTU of containers' interfaces, in bytes. Default: that of the interface with the default route, else 1500.
	MTU int
	// Logger receives repairs and refusals. Default: slog.Default().
	Logger *slog.Logger
}

// withDefaults fills what was left out and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, fmt.Errorf("network: no directory for leases: %w", ErrInvalid)
	}
	if c.Bridge == "" {
		c.Bridge = DefaultBridge
	}
	if len(c.Bridge) > maxInterfaceName {
		return c, fmt.Errorf("bridge name %q is longer than %d bytes: %w", c.Bridge, maxInterfaceName, ErrInvalid)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.MTU < 0 || c.MTU > 65535 {
		return c, fmt.Errorf("mtu %d is not between 0 and 65535: %w", c.MTU, ErrInvalid)
	}
	if c.Pool.IsValid() {
		if !c.Pool.Addr().Is4() {
			return c, fmt.Errorf("pool %s is not IPv4: %w", c.Pool, ErrInvalid)
		}
		c.Pool = c.Pool.Masked()
	}
	if c.Subnet.IsValid() {
		if err := checkSubnet(c.Subnet, c.Pool); err != nil {
			return c, err
		}
		c.Subnet = c.Subnet.Masked()
	}
	return c, nil
}

// checkSubnet says whether a node can live in subnet; pool may be invalid (unset).
func checkSubnet(subnet, pool netip.Prefix) error {
	switch {
	case !subnet.IsValid() || !subnet.Addr().Is4():
		return fmt.Errorf("subnet %s is not IPv4: %w", subnet, ErrInvalid)
	case subnet.Bits() < 8 || subnet.Bits() > 29:
		return fmt.Errorf("subnet %s: want a prefix length from 8 to 29: %w", subnet, ErrInvalid)
	case pool.IsValid() && (!pool.Contains(subnet.Addr()) || subnet.Bits() < pool.Bits()):
		return fmt.Errorf("subnet %s is not inside the pool %s: %w", subnet, pool, ErrInvalid)
	}
	return nil
}

// Protocols that can be published.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Port publishes ContainerPort of one container at HostPort of this machine.
type Port struct {
	// HostIP limits the publication to one IPv4 address of the host. Zero or 0.0.0.0: all, including 127.0.0.1.
	HostIP netip.Addr `json:"host_ip"`
	// HostPort 0 asks for a free one, chosen by the kernel; Endpoint.Ports tells which.
	HostPort uint16 `json:"host_port"`
	// ContainerPort is never 0.
	ContainerPort uint16 `json:"container_port"`
	// Protocol is TCP or UDP; empty means TCP.
	Protocol string `json:"protocol"`
}

// String returns for example "0.0.0.0:8080/tcp".
func (p Port) String() string {
	return net.JoinHostPort(p.HostIP.String(), strconv.Itoa(int(p.HostPort))) + "/" + p.Protocol
}

// wildcard says that the port is published on all addresses of the host. Only for normal ports.
func (p Port) wildcard() bool { return p.HostIP.IsUnspecified() }

// normal fills the defaults in and refuses what cannot be published.
func (p Port) normal() (Port, error) {
	if !p.HostIP.IsValid() {
		p.HostIP = netip.IPv4Unspecified()
	}
	p.HostIP = p.HostIP.Unmap()
	if p.Protocol == "" {
		p.Protocol = TCP
	}
	switch {
	case !p.HostIP.Is4():
		return p, fmt.Errorf("publish %s: only IPv4 addresses of the host can be published: %w", p, ErrInvalid)
	case p.Protocol != TCP && p.Protocol != UDP:
		return p, fmt.Errorf("publish %s: protocol %q is neither tcp nor udp: %w", p, p.Protocol, ErrInvalid)
	case p.ContainerPort == 0:
		return p, fmt.Errorf("publish %s: container port is 0: %w", p, ErrInvalid)
	}
	return p, nil
}

// Attachment asks for one container to be joined to the network.
type Attachment struct {
	// ID is the container's id: the key of its lease.
	ID string
	// PID is a process in the container's network namespace; used when NetNS is empty.
	PID int
	// NetNS is the path of the container's network namespace, for example /proc/7/ns/net.
	NetNS string
	// Hostname is the name that people know the container by; it appears in messages about taken ports.
	Hostname string
	// Ports are to be published on this machine. All or none.
	Ports []Port
	// MAC of its interface. Empty: it follows from the address.
	MAC net.HardwareAddr
	// DNS are the servers for its questions of names outside the cluster. Empty: the machine's.
	DNS []netip.Addr
}

// Endpoint is what an attached container has got.
type Endpoint struct {
	// Address is the container's own, with the subnet's length.
	Address netip.Prefix
	// Gateway is its default route, and its DNS server.
	Gateway netip.Addr
	// MAC follows from the address, so that an address that is used again leaves no stale neighbour entry.
	MAC net.HardwareAddr
	// Ports as bound: no HostPort is 0.
	Ports []Port
}

// Peer is another node, and where its containers live.
type Peer struct {
	// Node names it in messages.
	Node string
	// Address is the node's own, reachable from here without a router between.
	Address netip.Addr
	// Subnet is that of its containers.
	Subnet netip.Prefix
}

// Records is all that DNS knows. It is replaced as a whole.
type Records struct {
	// Scopes maps a container's address to its job: names without a job are looked up there.
	Scopes map[netip.Addr]string
	// Services holds one record a name. Several records of one name add up, so that services can share an alias.
	Services []Record
}

// Record says where a name leads.
type Record struct {
	// Job and Name: "shop" and "web", an alias of it, or a task as "web.2".
	Job, Name string
	// Addrs are those of healthy tasks on any node, in any order. Empty: the name exists but nothing answers for it.
	Addrs []netip.Addr
}

// Feature is something of the host that this package uses.
type Feature struct {
	// Name is a short word for it.
	Name string
	// OK says that it works here.
	OK bool
	// Lost tells what does not work without it.
	Lost string
	// Err is why it does not work; nil if OK.
	Err error
}
