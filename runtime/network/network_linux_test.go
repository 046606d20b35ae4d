package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestContainersOfOneNodeReachEachOther(t *testing.T) {
	_, n := node(t, 1)
	a, epA := attach(t, n, "a")
	b, epB := attach(t, n, "b")
	a.serveTCP("a", ":80")
	b.want("tcp", epA.Address.Addr().String()+":80", "a sees "+epB.Address.Addr().String())

	eth := a.link("eth0")
	if got := eth.Attrs().HardwareAddr.String(); got != epA.MAC.String() {
		t.Errorf("eth0 has MAC %s, want %s", got, epA.MAC)
	}
	if epA.Gateway.String() != "10.176.1.1" || epA.Address.String() != "10.176.1.2/24" {
		t.Errorf("got address %s via %s", epA.Address, epA.Gateway)
	}
	a.serveTCP("lo", "127.0.0.1:81")
	a.want("tcp", "127.0.0.1:81", "lo sees 127.0.0.1")
}

func TestPublishedPorts(t *testing.T) {
	host, n := node(t, 1)
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	web, ep := attach(t, n, "web",
		Port{HostPort: 8080, ContainerPort: 80},
		Port{HostPort: 8080, ContainerPort: 80, Protocol: UDP},
		Port{HostPort: 9090, ContainerPort: 80, HostIP: netip.MustParseAddr("192.0.2.1")},
		Port{ContainerPort: 80})
	sibling, epS := attach(t, n, "sibling")
	web.serveTCP("web", ":80")
	web.serveUDP("web", ":80")
	free := fmt.Sprint(ep.Ports[3].HostPort)

	for _, network := range []string{"tcp", "udp"} {
		t.Run("outside keeps its address over "+network, func(t *testing.T) {
			client.want(network, "192.0.2.1:8080", "web sees 192.0.2.9")
		})
		t.Run("host by its own address over "+network, func(t *testing.T) {
			host.want(network, "192.0.2.1:8080", "web sees 192.0.2.1")
		})
		t.Run("host by 127.0.0.1 over "+network, func(t *testing.T) {
			host.want(network, "127.0.0.1:8080", "web sees 10.176.1.1")
		})
		t.Run("sibling over "+network, func(t *testing.T) {
			sibling.want(network, "192.0.2.1:8080", "web sees 10.176.1.1")
		})
		t.Run("itself over "+network, func(t *testing.T) {
			web.want(network, "192.0.2.1:8080", "web sees 10.176.1.1")
		})
		t.Run("by the gateway over "+network, func(t *testing.T) {
			sibling.want(network, "10.176.1.1:8080", "web sees 10.176.1.1")
		})
	}
	t.Run("one address only", func(t *testing.T) {
		client.want("tcp", "192.0.2.1:9090", "web sees 192.0.2.9")
		host.refused("tcp", "127.0.0.1:9090")
	})
	t.Run("a free port", func(t *testing.T) {
		client.want("tcp", "192.0.2.1:"+free, "web sees 192.0.2.9")
	})
	t.Run("sibling directly", func(t *testing.T) {
		sibling.want("tcp", ep.Address.Addr().String()+":80", "web sees "+epS.Address.Addr().String())
	})
	t.Run("nothing after detach", func(t *testing.T) {
		host.must(n.Detach(t.Context(), "web"))
		client.refused("tcp", "192.0.2.1:8080")
		client.refused("udp", "192.0.2.1:8080")
		host.serveTCP("host", ":8080") // the port is free again
		client.want("tcp", "192.0.2.1:8080", "host sees 192.0.2.9")
	})
}

// The other tests keep several machines in one process; an agent lives in its process's own namespace.
func TestOwnNamespace(t *testing.T) {
	const inside = "SHOAL_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		newSpace(t) // skips without root
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestOwnNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestOwnNamespace") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	cfg := nodeConfig(1)
	cfg.Dir = t.TempDir()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if n.home.foreign {
		t.Fatal("a process in its own namespace must not change threads")
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := &space{t: t, ns: n.home.ns, nl: n.nl}
	host.must(host.nl.LinkSetUp(host.link("lo"))) // the way to one's own addresses
	run(t, n)
	web, _ := attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serveTCP("web", ":80")
	host.want("tcp", "127.0.0.1:8080", "web sees 10.176.1.1")
	host.must(n.Teardown(t.Context()))
	if n.missing() != "bridge shoal0" {
		t.Errorf("after teardown: missing %q", n.missing())
	}
}

func TestTakenPortNamesItsOwner(t *testing.T) {
	host, n := node(t, 1)
	host.serveTCP("other", "127.0.0.1:8080")
	c := newSpace(t)
	try := func(id string, p Port) error {
		_, err := n.Attach(t.Context(), Attachment{ID: id, NetNS: c.path(), Ports: []Port{{HostPort: 7000, ContainerPort: 1}, p}})
		return err
	}
	err := try("x", Port{HostPort: 8080, ContainerPort: 80})
	self := fmt.Sprintf("process %d (", os.Getpid())
	if !errors.Is(err, ErrPortTaken) || !strings.Contains(err.Error(), "0.0.0.0:8080/tcp") || !strings.Contains(err.Error(), self) {
		t.Errorf("port of a process: %v", err)
	}
	attach(t, n, "owner", Port{HostPort: 8081, ContainerPort: 80})
	err = try("x", Port{HostPort: 8081, ContainerPort: 80, HostIP: netip.MustParseAddr("127.0.0.1")})
	if !errors.Is(err, ErrPortTaken) || !strings.Contains(err.Error(), "container owner") {
		t.Errorf("port of a container: %v", err)
	}
	// All or none: the port before the taken one is free again, and so are address and link.
	attach(t, n, "next", Port{HostPort: 7000, ContainerPort: 80})
	if _, ok := n.Endpoint("x"); ok {
		t.Error("a failed attach left a lease")
	}
	if _, err := host.nl.LinkByName(vethName("x")); !notFound(err) {
		t.Errorf("a failed attach left its link: %v", err)
	}
	// A held port cannot be taken by somebody else.
	host.do(func() error {
		if l, err := net.Listen("tcp4", ":7000"); err == nil {
			l.Close()
			return errors.New("port 7000 is published, but could be bound")
		}
		return nil
	})
}

func TestInvalidPortsAreRefused(t *testing.T) {
	for _, p := range []Port{
		{HostPort: 1},
		{HostPort: 1, ContainerPort: 1, Protocol: "sctp"},
		{HostPort: 1, ContainerPort: 1, HostIP: netip.MustParseAddr("::1")},
	} {
		if _, err := p.normal(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: got %v, want %v", p, err, ErrInvalid)
		}
	}
}

func TestOwnNamespaceIsNoContainer(t *testing.T) {
	host, n := node(t, 1)
	_, err := n.Attach(t.Context(), Attachment{ID: "x", NetNS: host.path()})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want %v", err, ErrInvalid)
	}
	if l, _ := host.nl.LinkByName("eth0"); l != nil {
		t.Error("the machine got an eth0")
	}
}

// A machine with two nodes and a stranger on its wire.
func TestContainersOfTwoNodesReachEachOther(t *testing.T) {
	hostA, a := node(t, 1)
	hostB, b := node(t, 2)
	cable(hostA, "wan", "192.0.2.1/24", hostB, "wan", "192.0.2.2/24")
	stranger := newSpace(t)
	cable(hostB, "lan", "198.51.100.1/24", stranger, "lan", "198.51.100.9/24")
	_, dst, _ := net.ParseCIDR("203.0.113.0/24")
	hostA.must(hostA.nl.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP("192.0.2.2")})) // not ours
	peerA := Peer{Node: "a", Address: netip.MustParseAddr("192.0.2.1"), Subnet: a.Subnet()}
	peerB := Peer{Node: "b", Address: netip.MustParseAddr("192.0.2.2"), Subnet: b.Subnet()}
	for range 2 { // once more changes nothing
		hostA.must(a.SetPeers([]Peer{peerA, peerB}))
		hostB.must(b.SetPeers([]Peer{peerA, peerB}))
	}

	ca, epA := attach(t, a, "ca")
	cb, epB := attach(t, b, "cb", Port{HostPort: 8080, ContainerPort: 80})
	cb.serveTCP("cb", ":80")
	ca.want("tcp", epB.Address.Addr().String()+":80", "cb sees "+epA.Address.Addr().String())
	hostA.want("tcp", epB.Address.Addr().String()+":80", "cb sees 192.0.2.1")

	t.Run("published port of another node", func(t *testing.T) {
		ca.want("tcp", "192.0.2.2:8080", "cb sees 192.0.2.1")
	})
	t.Run("a stranger reaches published ports only", func(t *testing.T) {
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		stranger.must(stranger.nl.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP("198.51.100.1")}))
		stranger.want("tcp", "198.51.100.1:8080", "cb sees 198.51.100.9")
		stranger.refused("tcp", epB.Address.Addr().String()+":80")
	})
	t.Run("the world sees the machine's address", func(t *testing.T) {
		stranger.serveTCP("stranger", ":80")
		cb.want("tcp", "198.51.100.9:80", "stranger sees 198.51.100.1")
	})
	t.Run("a former peer's route goes, a foreign route stays", func(t *testing.T) {
		if got := hostA.routes(); len(got) != 2 || got["10.176.2.0/24"] != "192.0.2.2" {
			t.Errorf("routes before: %v", got)
		}
		hostA.must(a.SetPeers(nil))
		if got := hostA.routes(); len(got) != 1 || got["10.176.0.0/12"] == "" {
			t.Errorf("routes after: %v", got)
		}
		r, err := hostA.nl.RouteGet(net.ParseIP("203.0.113.1"))
		if err != nil || len(r) != 1 || r[0].Gw.String() != "192.0.2.2" {
			t.Errorf("foreign route: %v, %v", r, err)
		}
	})
	t.Run("a peer out of reach is named, and comes back", func(t *testing.T) {
		far := Peer{Node: "far", Address: netip.MustParseAddr("233.252.0.1"), Subnet: netip.MustParsePrefix("10.176.3.0/24")}
		err := a.SetPeers([]Peer{far, peerB})
		if err == nil || !strings.Contains(err.Error(), "node far") {
			t.Errorf("got %v", err)
		}
		ca.want("tcp", epB.Address.Addr().String()+":80", "cb sees "+epA.Address.Addr().String())
		// A link that was down has lost its routes.
		wan := hostA.link("wan")
		hostA.must(hostA.nl.LinkSetDown(wan))
		hostA.must(hostA.nl.LinkSetUp(wan))
		if hostA.routes()["10.176.2.0/24"] != "" {
			t.Fatal("the route should be gone with the link")
		}
		a.repair(t.Context())
		ca.want("tcp", epB.Address.Addr().String()+":80", "cb sees "+epA.Address.Addr().String())
	})
}

// route_localnet must not open the host's own services on 127.0.0.1 to containers (compare CVE-2020-8558).
func TestContainerCannotReachHostLoopback(t *testing.T) {
	host, n := node(t, 1)
	c, ep := attach(t, n, "c")
	host.serveTCP("secret", "127.0.0.1:80")
	_, loopback, _ := net.ParseCIDR("127.0.0.0/8")
	lo := &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: loopback.Mask}
	c.must(c.nl.AddrDel(c.link("lo"), &netlink.Addr{IPNet: lo}))
	c.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0o644) })
	c.must(c.nl.RouteAdd(&netlink.Route{Dst: loopback, Gw: ep.Gateway.AsSlice(), Src: ep.Address.Addr().AsSlice()}))
	c.refused("tcp", "127.0.0.1:80")

	// The same attempt without our table succeeds, else this test proves nothing.
	host.removeTable()
	c.want("tcp", "127.0.0.1:80", "secret sees "+ep.Address.Addr().String())
}

func TestNewAgentAdoptsWhatLives(t *testing.T) {
	host := newSpace(t)
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	cfg := nodeConfig(1)
	cfg.Dir = t.TempDir()
	first := host.network(cfg)
	host.must(first.Setup(t.Context()))
	web, ep := attach(t, first, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serveTCP("web", ":80")
	attach(t, first, "dead", Port{HostPort: 8081, ContainerPort: 80})
	if _, err := first.Reserve("never"); err != nil {
		t.Fatal(err)
	}
	// The agent dies: its sockets are closed, all else stays.
	for _, hs := range first.holds {
		closeHolds(hs)
	}
	client.want("tcp", "192.0.2.1:8080", "web sees 192.0.2.9")

	second := host.network(cfg)
	host.must(second.Setup(t.Context()))
	client.want("tcp", "192.0.2.1:8080", "web sees 192.0.2.9")
	host.must(second.Adopt(map[string]netip.Addr{"web": {}, "unknown": {}}))

	client.want("tcp", "192.0.2.1:8080", "web sees 192.0.2.9")
	got, ok := second.Endpoint("web")
	if !ok || got.Address != ep.Address || fmt.Sprint(got.Ports) != fmt.Sprint(ep.Ports) {
		t.Errorf("adopted endpoint %+v, want %+v", got, ep)
	}
	for _, id := range []string{"dead", "never"} {
		if _, ok := second.Endpoint(id); ok {
			t.Errorf("%s kept its lease", id)
		}
	}
	if _, err := host.nl.LinkByName(vethName("dead")); !notFound(err) {
		t.Errorf("link of a dead container: %v", err)
	}
	host.serveTCP("host", ":8081") // its port is free
	if len(second.holds["web"]) != 1 {
		t.Error("the adopted port is not held")
	}
	if err := second.leases.check(); err != nil {
		t.Error(err)
	}
	if addr, err := second.Reserve("new"); err != nil || addr == ep.Address.Addr() {
		t.Errorf("new container got %v, %v", addr, err)
	}
}

func TestLostLeaseFileLosesNoAddress(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	cfg.Dir = t.TempDir()
	first := host.network(cfg)
	host.must(first.Setup(t.Context()))
	_, ep := attach(t, first, "web")
	host.must(os.WriteFile(filepath.Join(cfg.Dir, leaseFile), []byte("{"), 0o600))

	second := host.network(cfg)
	host.must(second.Setup(t.Context()))
	host.must(second.Adopt(map[string]netip.Addr{"web": {}}))
	if got, ok := second.Endpoint("web"); !ok || got.Address != ep.Address {
		t.Errorf("adopted %+v, %v; want address %s", got, ok, ep.Address)
	}
	if _, next := attach(t, second, "next"); next.Address == ep.Address {
		t.Errorf("%s was given twice", ep.Address)
	}
}

func TestContainerStartedAgainIsAttachedAgain(t *testing.T) {
	host, n := node(t, 1)
	_, old := attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 80}, Port{HostPort: 8081, ContainerPort: 80})
	web, ep := attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serveTCP("web", ":80")
	if ep.Address != old.Address {
		t.Errorf("address changed from %s to %s", old.Address, ep.Address)
	}
	host.want("tcp", "127.0.0.1:8080", "web sees 10.176.1.1")
	host.refused("tcp", "127.0.0.1:8081")

	// The same host port, another port inside: one entry changes its value.
	attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 81})
	host.refused("tcp", "127.0.0.1:8080")
	web, _ = attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 82})
	web.serveTCP("new", ":82")
	host.want("tcp", "127.0.0.1:8080", "new sees 10.176.1.1")
}

func TestContainersTakeTheMTUOfTheWayOut(t *testing.T) {
	host := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", newSpace(t), "wan", "192.0.2.2/24")
	host.must(host.nl.LinkSetMTU(host.link("wan"), 1400))
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	host.must(host.nl.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP("192.0.2.2")}))
	n := host.network(nodeConfig(1))
	host.must(n.Setup(t.Context()))
	c, _ := attach(t, n, "c")
	if got := c.link("eth0").Attrs().MTU; got != 1400 {
		t.Errorf("eth0 has MTU %d, want 1400", got)
	}
}

func TestTeardownLeavesNothing(t *testing.T) {
	host := newSpace(t)
	peer := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", peer, "wan", "192.0.2.2/24")
	n := host.network(nodeConfig(1))
	for range 2 {
		host.must(n.Setup(t.Context()))
		host.must(n.SetPeers([]Peer{{Node: "b", Address: netip.MustParseAddr("192.0.2.2"), Subnet: netip.MustParsePrefix("10.176.2.0/24")}}))
		attach(t, n, "a", Port{HostPort: 8080, ContainerPort: 80})
		attach(t, n, "b")
		if got := len(host.routes()); got != 2 {
			t.Fatalf("%d routes before teardown, want 2", got)
		}

		host.must(n.Teardown(t.Context()))
		links, err := host.nl.LinkList()
		host.must(err)
		if len(links) != 2 { // lo and wan
			t.Errorf("links left: %v", links)
		}
		if got := host.routes(); len(got) != 0 {
			t.Errorf("routes left: %v", got)
		}
		if ok, err := n.hasRules(); ok || err != nil {
			t.Errorf("table left: %v, %v", ok, err)
		}
		if _, err := os.Stat(filepath.Join(n.cfg.Dir, leaseFile)); !os.IsNotExist(err) {
			t.Errorf("leases left: %v", err)
		}
		host.must(n.Teardown(t.Context())) // once more is no error
	}
}

func TestWhatOthersRemoveComesBack(t *testing.T) {
	host, n := node(t, 1)
	web, _ := attach(t, n, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serveTCP("web", ":80")

	host.removeTable() // as a reload of the machine's firewall does
	n.repair(t.Context())
	host.want("tcp", "127.0.0.1:8080", "web sees 10.176.1.1")

	host.removeTable()
	next, _ := attach(t, n, "next", Port{HostPort: 8081, ContainerPort: 80}) // does not wait for a repair
	next.serveTCP("next", ":80")
	host.want("tcp", "127.0.0.1:8080", "web sees 10.176.1.1")
	host.want("tcp", "127.0.0.1:8081", "next sees 10.176.1.1")

	host.must(host.nl.LinkDel(host.link(DefaultBridge)))
	n.repair(t.Context())
	host.want("tcp", "127.0.0.1:8080", "web sees 10.176.1.1")
}

func TestSetupRefusesWhatIsNotOurs(t *testing.T) {
	t.Run("a link of the bridge's name", func(t *testing.T) {
		host := newSpace(t)
		cable(host, DefaultBridge, "192.0.2.1/24", newSpace(t), "x", "192.0.2.2/24")
		if err := host.network(nodeConfig(1)).Setup(t.Context()); err == nil || !strings.Contains(err.Error(), "is a veth") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a subnet in use", func(t *testing.T) {
		host := newSpace(t)
		cable(host, "wan", "10.176.1.77/16", newSpace(t), "x", "10.176.1.78/16")
		if err := host.network(nodeConfig(1)).Setup(t.Context()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "10.176.1.77/16") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSubnetLearntLater(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	subnet := cfg.Subnet
	cfg.Subnet = netip.Prefix{}
	n := host.network(cfg)
	if err := n.Setup(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("setup: got %v, want %v", err, ErrNotReady)
	}
	if _, err := n.Reserve("a"); !errors.Is(err, ErrNotReady) {
		t.Errorf("reserve: got %v, want %v", err, ErrNotReady)
	}
	if err := n.SetSubnet(netip.MustParsePrefix("192.0.2.0/24")); !errors.Is(err, ErrInvalid) {
		t.Errorf("subnet outside the pool: got %v", err)
	}
	host.must(n.SetSubnet(subnet))
	host.must(n.Setup(t.Context()))
	attach(t, n, "a")
	if err := n.SetSubnet(netip.MustParsePrefix("10.176.9.0/24")); err == nil {
		t.Error("the subnet changed under a running container")
	}
}
