package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// After a boot no lease and no link is left; what containers were told to have stays theirs, whatever the order in which
// they are started, and nobody new gets it. A node learns its subnet late: that changes nothing.
func TestRecordedAddressesOutliveABoot(t *testing.T) {
	for name, known := range map[string]bool{"subnet known": true, "subnet learnt": false} {
		t.Run(name, func(t *testing.T) {
			host := newSpace(t)
			cfg := nodeConfig(1)
			subnet := cfg.Subnet
			if !known {
				cfg.Subnet = netip.Prefix{}
			}
			n := host.network(cfg)
			recorded := map[string]netip.Addr{
				"a": netip.MustParseAddr("10.176.1.2"), "b": netip.MustParseAddr("10.176.1.3"), "alone": {},
				"elsewhere": netip.MustParseAddr("10.176.9.4"), "gateway": netip.MustParseAddr("10.176.1.1"),
			}
			host.must(n.Adopt(recorded))
			if !known {
				host.must(n.SetSubnet(subnet))
			}
			host.must(n.Setup(t.Context()))
			for _, id := range []string{"new", "b", "elsewhere", "gateway", "a"} {
				_, ep := attach(t, n, id)
				if want, was := recorded[id], ep.Address.Addr(); given(subnet, want) && was != want {
					t.Errorf("%s has address %s, and others were told %s", id, was, want)
				}
			}
			if _, ok := n.Endpoint("alone"); ok {
				t.Error("a container without an address has a lease")
			}
			if err := n.leases.check(); err != nil {
				t.Error(err)
			}
		})
	}
}

// An address that two records name is given once, to the one that has it.
func TestRecordedAddressOfAnotherIsNotTaken(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	cfg.Dir = t.TempDir()
	first := host.network(cfg)
	host.must(first.Setup(t.Context()))
	_, ep := attach(t, first, "runs")
	host.must(os.WriteFile(filepath.Join(cfg.Dir, leaseFile), []byte("{"), 0o600))

	cfg.Subnet = netip.Prefix{}
	second := host.network(cfg)
	addr := ep.Address.Addr()
	host.must(second.Adopt(map[string]netip.Addr{"also": addr, "runs": netip.MustParseAddr("10.176.1.9")}))
	host.must(second.SetSubnet(nodeConfig(1).Subnet))
	host.must(second.Setup(t.Context()))
	if got, ok := second.Endpoint("runs"); !ok || got.Address != ep.Address {
		t.Errorf("adopted %+v, %v; want what its link says, %s", got, ok, ep.Address)
	}
	if _, got := attach(t, second, "also"); got.Address == ep.Address {
		t.Errorf("%s was given twice", addr)
	}
}
