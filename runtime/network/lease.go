package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// lease is one container's address and ports.
type lease struct {
	Addr netip.Addr `json:"addr"`
	// Name is for people only.
	Name string `json:"name,omitempty"`
	// Ports are normal and have a host port.
	Ports []Port `json:"ports,omitempty"`
	// MAC and DNS are what the container asked for instead of what is usual; nil for most.
	MAC net.HardwareAddr `json:"mac,omitempty"`
	DNS []netip.Addr     `json:"dns,omitempty"`
	// live is false for a lease that was read from disk and not yet adopted, or that only its container's record knows.
	live bool
}

// leases hands out the addresses of one subnet. Not safe for concurrent use.
//
// Invariant: byAddr is the inverse of byID; the tests check it after every step.
type leases struct {
	subnet netip.Prefix
	byID   map[string]*lease
	byAddr map[netip.Addr]string
	// last is the address given out most recently: the search starts behind it, so that an address rests for as long as
	// possible before somebody else, known to no cache, answers at it.
	last netip.Addr
}

func newLeases() *leases {
	return &leases{byID: map[string]*lease{}, byAddr: map[netip.Addr]string{}}
}

// gateway is the first address of the subnet.
func gateway(subnet netip.Prefix) netip.Addr {
	if !subnet.IsValid() {
		return netip.Addr{}
	}
	return subnet.Masked().Addr().Next()
}

// lastAddr is the broadcast address of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}

// given says whether addr is one that subnet gives to containers; anything is while subnet is not known.
func given(subnet netip.Prefix, addr netip.Addr) bool {
	if !subnet.IsValid() {
		return addr.Is4()
	}
	return subnet.Contains(addr) && gateway(subnet).Less(addr) && addr.Less(lastAddr(subnet))
}

// claim gives id, which has no lease, a certain address; nil if it is another's, or none for containers.
func (l *leases) claim(id string, addr netip.Addr) *lease {
	if l.byID[id] != nil || l.byAddr[addr] != "" || !given(l.subnet, addr) {
		return nil
	}
	ls := &lease{Addr: addr}
	l.byID[id], l.byAddr[addr] = ls, id
	return ls
}

// reserve returns id's address, choosing one if it has none.
func (l *leases) reserve(id string) (ls *lease, fresh bool, err error) {
	if ls, ok := l.byID[id]; ok {
		return ls, false, nil
	}
	first, end := gateway(l.subnet).Next(), lastAddr(l.subnet)
	start := first
	if l.subnet.Contains(l.last) && l.last.Next().Less(end) && first.Less(l.last.Next()) {
		start = l.last.Next()
	}
	addr := start
	for {
		if _, used := l.byAddr[addr]; !used {
			break
		}
		if addr = addr.Next(); addr == end {
			addr = first
		}
		if addr == start {
			return nil, false, fmt.Errorf("address for container %s: all %d of subnet %s are in use: %w; remove containers or use a larger subnet",
				id, len(l.byID), l.subnet, ErrNoAddress)
		}
	}
	ls = &lease{Addr: addr, live: true}
	l.byID[id], l.byAddr[addr], l.last = ls, id, addr
	return ls, true, nil
}

// release forgets id; it says whether there was something to forget.
func (l *leases) release(id string) bool {
	ls, ok := l.byID[id]
	if ok {
		delete(l.byAddr, ls.Addr)
		delete(l.byID, id)
	}
	return ok
}

// published returns the container that already publishes what p asks for.
func (l *leases) published(p Port) (id string, ls *lease, ok bool) {
	for id, ls := range l.byID {
		for _, q := range ls.Ports {
			if q.HostPort == p.HostPort && q.Protocol == p.Protocol && (q.HostIP == p.HostIP || q.wildcard() || p.wildcard()) {
				return id, ls, true
			}
		}
	}
	return "", nil, false
}

// mac is the container's own, or the one of its address.
func (ls *lease) mac() net.HardwareAddr {
	if len(ls.MAC) > 0 {
		return ls.MAC
	}
	return macOf(ls.Addr)
}

// macOf derives a locally administered MAC from an IPv4 address.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

const (
	leaseFile    = "leases.json"
	leaseVersion = 1
)

// leaseDoc is the file's form.
type leaseDoc struct {
	Version int `json:"version"`
	// Boot is the kernel's boot id: no link or namespace lives through a boot. What outlives it is the address in a
	// container's record, which Adopt is told.
	Boot   string            `json:"boot"`
	Last   netip.Addr        `json:"last"`
	Leases map[string]*lease `json:"leases"`
}

// load reads what an earlier agent wrote during this boot. A file that cannot be understood is an error together with
// empty leases: Adopt makes order from what lives.
func load(dir, boot string) (*leases, error) {
	l := newLeases()
	data, err := os.ReadFile(filepath.Join(dir, leaseFile))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read leases: %w", err)
	}
	var doc leaseDoc
	if err := json.Unmarshal(data, &doc); err != nil {
		return l, fmt.Errorf("read leases in %s: %w", dir, err)
	}
	if doc.Version != leaseVersion {
		return l, fmt.Errorf("read leases in %s: version %d, this program knows %d", dir, doc.Version, leaseVersion)
	}
	if doc.Boot != boot {
		return l, nil
	}
	l.last = doc.Last
	for id, ls := range doc.Leases {
		if ls == nil || !ls.Addr.Is4() {
			continue
		}
		if _, used := l.byAddr[ls.Addr]; used {
			continue
		}
		l.byID[id], l.byAddr[ls.Addr] = ls, id
	}
	return l, nil
}

// encode returns the file's content.
func (l *leases) encode(boot string) ([]byte, error) {
	return json.Marshal(leaseDoc{Version: leaseVersion, Boot: boot, Last: l.last, Leases: l.byID})
}

// save replaces the file. There is no fsync: rename alone survives the death of the agent, and what a power cut may
// lose belongs to containers that it ended too. It keeps a container's start from waiting for the disk.
func save(dir string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write leases: %w", err)
	}
	tmp := filepath.Join(dir, leaseFile+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("write leases: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, leaseFile)); err != nil {
		return fmt.Errorf("write leases: %w", err)
	}
	return nil
}
