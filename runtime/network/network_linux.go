package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// repairEvery is how often Run compares the kernel with what should be there. A firewall that is reloaded takes our
// table with it, and a link that was down takes its routes.
const repairEvery = 5 * time.Second

// Network is one machine's part of the cluster's network. It acts in the network namespace that New was called in.
// All methods are safe for concurrent use; calls for one container id must not overlap.
type Network struct {
	cfg  Config
	home home
	boot string
	nl   *netlink.Handle
	// conntrack is nil where the kernel has no conntrack netlink.
	conntrack *netlink.Handle
	dns       *resolver
	// kick wakes Run.
	kick chan struct{}

	// applyMu orders the writers of nftables and saveMu those of the lease file: each writes a picture taken after it
	// got its turn, so the last writer writes the newest. They are held across the write on purpose.
	applyMu, saveMu sync.Mutex
	// written is what our sets in nftables hold; nil if that is not known. Guarded by applyMu.
	written []contents

	// mu guards what follows and is never held while calling the kernel or the disk.
	mu         sync.Mutex
	subnet     netip.Prefix
	leases     *leases
	holds      map[string][]hold
	spaces     spaces
	staleFlows tcpFlows // that flushing has still to do
	flushing   sync.WaitGroup
	closed     bool
	peers      []Peer
	// active is set between Setup and Teardown.
	active bool
}

// New checks cfg and reads the leases of an earlier run. It changes nothing on the machine. Close frees what it holds.
func New(cfg Config) (*Network, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg, subnet: cfg.Subnet, holds: map[string][]hold{}, spaces: spaces{}, kick: make(chan struct{}, 1), boot: bootID()}
	if n.home, err = openHome(); err != nil {
		return nil, err
	}
	if err := n.home.do(n.openNetlink); err != nil {
		n.home.ns.Close()
		return nil, err
	}
	if n.leases, err = load(cfg.Dir, n.boot); err != nil {
		cfg.Logger.Warn("leases are lost, running containers keep their addresses but must be detached", "err", err)
	}
	n.forgetOutside(n.subnet)
	n.leases.subnet = n.subnet
	n.dns = newResolver(n.home, cfg)
	n.dns.serversOf = n.serversOf
	return n, nil
}

func (n *Network) openNetlink() error {
	var err error
	if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	n.conntrack, _ = netlink.NewHandle(unix.NETLINK_NETFILTER)
	return nil
}

// bootID is empty where it cannot be read; leases then survive a boot, and Adopt drops them.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// Close gives back the sockets of n, and with them the held host ports. The network itself stays as it is: containers go
// on. Call it after Run has returned.
func (n *Network) Close() error {
	n.mu.Lock()
	holds := n.holds
	n.holds = map[string][]hold{}
	n.closed = true
	n.mu.Unlock()
	for _, hs := range holds {
		closeHolds(hs)
	}
	n.flushing.Wait()
	n.leaveSpaces()
	n.nl.Close()
	if n.conntrack != nil {
		n.conntrack.Close()
	}
	return n.home.ns.Close()
}

// SetSubnet tells the node's subnet when New could not know it. It is an error to change it while containers that were
// attached or adopted hold addresses of another one. Setup must follow.
func (n *Network) SetSubnet(subnet netip.Prefix) error {
	if err := checkSubnet(subnet, n.cfg.Pool); err != nil {
		return err
	}
	subnet = subnet.Masked()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.subnet == subnet {
		return nil
	}
	live := 0
	for _, ls := range n.leases.byID {
		if ls.live && !given(subnet, ls.Addr) {
			live++
		}
	}
	if live > 0 {
		return fmt.Errorf("change subnet %s to %s: %d containers have addresses of the old one; stop them first", n.subnet, subnet, live)
	}
	n.forgetOutside(subnet)
	n.subnet, n.leases.subnet = subnet, subnet
	return nil
}

// forgetOutside drops leases of an earlier run that lie outside subnet.
func (n *Network) forgetOutside(subnet netip.Prefix) {
	if !subnet.IsValid() {
		return
	}
	for id, ls := range n.leases.byID {
		if !given(subnet, ls.Addr) {
			n.cfg.Logger.Warn("lease is not of this node's subnet any more", "container", id, "address", ls.Addr, "subnet", subnet)
			n.leases.release(id)
		}
	}
}

// Subnet returns this node's subnet, the zero value while it is not known.
func (n *Network) Subnet() netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.subnet
}

// Gateway returns the address of this machine on the bridge, where DNS answers too; the zero value while the subnet is
// not known.
func (n *Network) Gateway() netip.Addr { return gateway(n.Subnet()) }

// pool is the range without masquerade.
func (n *Network) pool(subnet netip.Prefix) netip.Prefix {
	if n.cfg.Pool.IsValid() {
		return n.cfg.Pool
	}
	return subnet
}

// Setup brings the machine's part into being: bridge, gateway address, sysctls, the nftables table, routes. It may be
// called at any time and again; what is right stays untouched. It knows the leases of an earlier run, so published ports
// of containers that live on are served without a gap.
func (n *Network) Setup(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	subnet := n.Subnet()
	if !subnet.IsValid() {
		return fmt.Errorf("set up network: this node has no subnet yet: %w", ErrNotReady)
	}
	if err := n.checkOverlap(subnet); err != nil {
		return err
	}
	if err := n.ensureBridge(subnet); err != nil {
		return err
	}
	if err := n.home.do(func() error { return setSysctls(n.cfg.Bridge) }); err != nil {
		return err
	}
	if err := n.applyRules(); err != nil {
		return err
	}
	n.mu.Lock()
	n.active = true
	n.mu.Unlock()
	n.wake()
	return n.syncRoutes()
}

// Teardown removes all that is ours from the machine and forgets every lease: links, routes, the nftables table, held
// ports. What is already gone is no error. ip_forward stays on, because others may rely on it by now.
func (n *Network) Teardown(ctx context.Context) error {
	n.mu.Lock()
	n.active = false
	holds := n.holds
	n.holds = map[string][]hold{}
	n.leases = newLeases()
	n.leases.subnet = n.subnet
	n.peers = nil
	n.mu.Unlock()
	n.wake()
	for _, hs := range holds {
		closeHolds(hs)
	}
	errs := []error{ctx.Err(), n.removeRules(), n.removeRoutes(), n.removeLinks()}
	n.leaveSpaces()
	if err := os.Remove(n.leasePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove leases: %w", err))
	}
	return errors.Join(errs...)
}

// Run answers DNS and keeps the machine's part in order until ctx ends; then it returns nil. What goes wrong is logged
// and tried again.
func (n *Network) Run(ctx context.Context) error {
	defer n.dns.stop()
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		gw, active := n.state()
		if active {
			n.dns.serve(gw, n.pool(n.Subnet()))
		} else {
			n.dns.stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.kick:
		case <-tick.C:
			n.repair(ctx)
		}
	}
}

func (n *Network) state() (gw netip.Addr, active bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return gateway(n.subnet), n.active
}

func (n *Network) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// repair puts back what somebody else removed.
func (n *Network) repair(ctx context.Context) {
	if _, active := n.state(); !active {
		return
	}
	missing := n.missing()
	if missing == "" {
		if err := n.syncRoutes(); err != nil {
			n.cfg.Logger.Debug("routes to peers", "err", err)
		}
		return
	}
	n.cfg.Logger.Warn("somebody removed a part of the network, setting it up again", "missing", missing)
	if err := n.Setup(ctx); err != nil {
		n.cfg.Logger.Error("repair network", "err", err)
	}
}

// missing names the first of our things that is not there.
func (n *Network) missing() string {
	if link, err := n.nl.LinkByName(n.cfg.Bridge); err != nil || link.Attrs().Flags&unix.IFF_UP == 0 {
		return "bridge " + n.cfg.Bridge
	}
	if ok, err := n.hasRules(); err == nil && !ok {
		return "nftables table " + tableName
	}
	return ""
}
