package network

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// TestWhatOneContainerAsksFor: an interface address and DNS servers of its own, also for who adopts the leases.
func TestWhatOneContainerAsksFor(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	cfg.Dir = filepath.Join(t.TempDir(), "network")
	cfg.Upstream = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:53")} // does not answer
	own := host.upstream("127.0.0.7:53")
	n := host.network(cfg)
	host.must(n.Setup(t.Context()))
	run(t, n)
	c := newSpace(t)
	mac, _ := net.ParseMAC("02:42:ac:11:65:43")
	ep, err := n.Attach(t.Context(), Attachment{ID: "c", NetNS: c.path(), MAC: mac, DNS: []netip.Addr{own.Addr()}})
	host.must(err)
	eth, err := c.nl.LinkByName(containerLink)
	host.must(err)
	if ep.MAC.String() != mac.String() || eth.Attrs().HardwareAddr.String() != mac.String() {
		t.Errorf("told %s, has %s, want %s", ep.MAC, eth.Attrs().HardwareAddr, mac)
	}
	n.SetRecords(Records{
		Scopes:   map[netip.Addr]string{ep.Address.Addr(): "shop"},
		Services: []Record{{Job: "shop", Name: "db", Addrs: []netip.Addr{netip.MustParseAddr("10.176.2.7")}}},
	})
	for name, want := range map[string]string{"db": "10.176.2.7", "example.org": "192.0.2.80"} {
		if got := addrs(c.query(n, "udp", name, dns.TypeA)); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	plain, _ := attach(t, n, "plain")
	if m := plain.query(n, "udp", "example.org", dns.TypeA); len(m.Answer) > 0 {
		t.Errorf("the others are answered by servers that they did not ask for: %v", m)
	}
	if got, ok := n.Endpoint("c"); !ok || got.MAC.String() != mac.String() {
		t.Errorf("endpoint %+v", got)
	}
	again, err := load(cfg.Dir, n.boot)
	host.must(err)
	if ls := again.byID["c"]; ls == nil || ls.mac().String() != mac.String() || len(ls.DNS) != 1 {
		t.Errorf("kept as %+v", ls)
	}
}
