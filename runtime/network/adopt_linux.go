package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Adopt tells, after a restart of the agent or of the machine, which containers there are, and which address each was told
// to have: the zero value for one that is not on the network. Their leases and ports are kept, those of all others and
// links without a lease are removed. One without a lease gets the address that it has, or else had, unless that is
// another's by now. Call it before the first Reserve or Attach. A port whose holder was lost in between is logged, and still
// served.
func (n *Network) Adopt(addrs map[string]netip.Addr) error {
	links := map[string]bool{}
	for id := range addrs {
		for _, name := range vethNames(id) {
			links[name] = true
		}
	}
	var missing []hold // ports to bind again; socket is nil
	var owners []string
	n.mu.Lock()
	var stale [][]hold
	for id, ls := range n.leases.byID {
		if _, live := addrs[id]; !live {
			n.leases.release(id)
			stale = append(stale, n.holds[id])
			delete(n.holds, id)
			continue
		}
		ls.live = true
		if len(n.holds[id]) == 0 {
			for _, p := range ls.Ports {
				missing, owners = append(missing, hold{port: p}), append(owners, id)
			}
		}
	}
	active := n.active
	n.mu.Unlock()
	for _, hs := range stale {
		closeHolds(hs)
	}
	for i, m := range missing {
		hs, err := n.holdPorts([]Port{m.port})
		if err != nil {
			n.cfg.Logger.Warn("published port of an adopted container is held by another", "container", owners[i], "err", err)
			continue
		}
		if err := listenHolds(hs); err != nil { // the rules of a life before lead to the container already
			closeHolds(hs)
			n.cfg.Logger.Warn("published port of an adopted container is held by another", "container", owners[i], "err", err)
			continue
		}
		n.mu.Lock()
		n.holds[owners[i]] = append(n.holds[owners[i]], hs...)
		n.mu.Unlock()
	}
	errs := []error{n.sweep(links), n.recoverLeases(slices.Sorted(maps.Keys(addrs)))}
	n.claimRecorded(addrs)
	if active {
		errs = append(errs, n.applySets())
	}
	return errors.Join(append(errs, n.persist())...)
}

// recoverLeases finds the addresses of living containers in their links, for when the lease file was lost: nobody else
// may get them. What ports they had is not known any more.
func (n *Network) recoverLeases(ids []string) error {
	links, err := n.ourLinks()
	aliases := map[string]string{}
	for _, l := range links {
		aliases[l.Attrs().Name] = l.Attrs().Alias
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		names := vethNames(id)
		alias := aliases[names[0]]
		if alias == "" {
			alias = aliases[names[1]]
		}
		text, _, _ := strings.Cut(alias, " ")
		addr, parseErr := netip.ParseAddr(text)
		if parseErr != nil {
			continue
		}
		if ls := n.leases.claim(id, addr); ls != nil {
			ls.live = true
			n.cfg.Logger.Warn("lease was lost, its address is known by the link; published ports are not served", "container", id, "address", addr)
		}
	}
	return err
}

// claimRecorded keeps for each container without a lease the address that others were told of: after a boot, which no
// lease outlives, it is started again and must be found where it was.
func (n *Network) claimRecorded(addrs map[string]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(addrs)) {
		if addr := addrs[id]; addr.IsValid() && n.leases.byID[id] == nil && n.leases.claim(id, addr) == nil {
			n.cfg.Logger.Warn("the address of a container is another's by now, or not of this node's subnet; it gets a new one when it is started",
				"container", id, "address", addr)
		}
	}
}

// sweep deletes our links but those to keep.
func (n *Network) sweep(keep map[string]bool) error {
	links, err := n.ourLinks()
	errs := []error{err}
	for _, l := range links {
		if !keep[l.Attrs().Name] {
			errs = append(errs, n.deleteLink(l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// Keep does for a container that was adopted, and runs as pid, what Attach did for those that came later: its end is heard
// of by whoever is connected to it. One that has no lease is left alone.
func (n *Network) Keep(id string, pid int) error {
	if _, ok := n.Endpoint(id); !ok {
		return nil
	}
	ns, err := n.openContainer(Attachment{ID: id, PID: pid})
	if err != nil {
		return fmt.Errorf("keep the network namespace of container %s: %w", id, err)
	}
	n.keepSpace(id, ns)
	return nil
}
