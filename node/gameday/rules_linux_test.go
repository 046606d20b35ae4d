package gameday

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRules writes the tables in a network of its own and reads them with nft: what is dropped is said there.
func TestRules(t *testing.T) {
	if os.Getenv("IN_NETWORK") == "" {
		if os.Geteuid() != 0 {
			t.Skip("a network namespace takes root")
		}
		cmd := exec.Command("unshare", "--net", os.Args[0], "-test.run", "^TestRules$", "-test.v")
		cmd.Env = append(os.Environ(), "IN_NETWORK=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	sh := func(script string) string {
		out, err := exec.Command("sh", "-ec", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	sh("ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 192.0.2.1/24 dev eth0; ip addr add 2001:db8::1/64 dev eth0 nodad; ip link set eth0 up; ip link set eth1 up; sleep 0.1")
	target := Target{Self: netip.MustParseAddrPort("192.0.2.1:6174"), Peers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:6174"), netip.MustParseAddrPort("[2001:db8::2]:7000")}}
	if err := replaceTable(func(b *table) { b.loss = 20; cutNodes(b, target, false) }); err != nil {
		t.Fatal(err)
	}
	rules := sh("nft list ruleset")
	for _, want := range []string{
		"table inet shoal_chaos", "hook input", "ip saddr @peers4 tcp sport 6174", "ip saddr @peers4 udp dport 7000", "ip6 saddr @peers6", "192.0.2.2", "2001:db8::2",
		"table netdev shoal_chaos", `hook egress device "eth0"`, "ip daddr @peers4 udp dport 6174", "numgen random mod 100 < 20",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("the rules lack %q", want)
		}
	}
	if t.Failed() {
		t.Log(rules)
	}
	sh(`echo x > /dev/udp/192.0.2.2/6174 2>/dev/null || true`)
	if err := replaceTable(func(b *table) { cutNodes(b, target, false) }); err != nil {
		t.Fatal(err)
	}
	sh(`ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0; bash -c 'for i in 1 2 3; do echo x > /dev/udp/192.0.2.2/6174; echo x > /dev/udp/192.0.2.2/22; done'`)
	time.Sleep(50 * time.Millisecond)
	if n, err := dropped(); err != nil || n != 3 {
		t.Errorf("%d packets dropped, %v, want the three to shoal's port", n, err)
	}
	if err := replaceTable(func(b *table) {
		cutContainers(b, Target{Subnet: netip.MustParsePrefix("10.176.1.0/24"), Pool: netip.MustParsePrefix("10.176.0.0/12")})
	}); err != nil {
		t.Fatal(err)
	}
	if rules = sh("nft list ruleset"); !strings.Contains(rules, "ip saddr 10.176.1.0/24 ip daddr 10.176.0.0/12 ip daddr != 10.176.1.0/24") || strings.Contains(rules, "peers4") {
		t.Errorf("containers are not cut, or nodes still are:\n%s", rules)
	}
	for range 2 {
		if err := removeTable(); err != nil {
			t.Fatal(err)
		}
	}
	if rules = sh("nft list ruleset"); strings.TrimSpace(rules) != "" {
		t.Errorf("left:\n%s", rules)
	}
}
