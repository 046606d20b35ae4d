package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// query asks n's gateway from inside s.
func (s *space) query(n *Network, network, name string, typ uint16) *dns.Msg {
	s.t.Helper()
	var c net.Conn
	s.do(func() (err error) {
		c, err = net.DialTimeout(network, netip.AddrPortFrom(n.Gateway(), 53).String(), patience)
		return err
	})
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	m, _, err := (&dns.Client{Net: network, Timeout: patience}).ExchangeWithConn(q, &dns.Conn{Conn: c})
	s.must(err)
	return m
}

// addrs are the addresses in an answer, sorted.
func addrs(m *dns.Msg) []string {
	var got []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			got = append(got, a.A.String())
		}
	}
	slices.Sort(got)
	return got
}

// upstream is a name server that knows 192.0.2.80 for every A, and cuts UDP answers for "long." names.
func (s *space) upstream(addr string) netip.AddrPort {
	s.t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		_, udp := w.RemoteAddr().(*net.UDPAddr)
		if m.Truncated = udp && q.Question[0].Name == "long.example.org."; !m.Truncated {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q, dns.TypeA), A: net.IPv4(192, 0, 2, 80)})
		}
		_ = w.WriteMsg(m)
	})
	var pc net.PacketConn
	var l net.Listener
	s.do(func() (err error) {
		if pc, err = net.ListenPacket("udp4", addr); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", addr)
		return err
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }()
		<-started
		s.t.Cleanup(func() { _ = srv.Shutdown() })
	}
	return netip.MustParseAddrPort(addr)
}

func TestContainersAskForNames(t *testing.T) {
	host := newSpace(t)
	cfg := nodeConfig(1)
	// The first upstream does not answer at all.
	cfg.Upstream = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:53"), host.upstream("127.0.0.8:53")}
	n := host.network(cfg)
	host.must(n.Setup(t.Context()))
	run(t, n)
	web, epWeb := attach(t, n, "web")
	other, epOther := attach(t, n, "other")
	db := netip.MustParseAddr("10.176.2.7")
	n.SetRecords(Records{
		Scopes: map[netip.Addr]string{epWeb.Address.Addr(): "shop", epOther.Address.Addr(): "blog"},
		Services: []Record{
			{Job: "shop", Name: "db", Addrs: []netip.Addr{db, epWeb.Address.Addr()}},
			{Job: "shop", Name: "db.2", Addrs: []netip.Addr{db}},
			{Job: "shop", Name: "down"},
		},
	})
	both := []string{"10.176.1.2", "10.176.2.7"}
	for _, tc := range []struct {
		from  *space
		name  string
		typ   uint16
		rcode int
		want  []string
	}{
		{web, "db", dns.TypeA, dns.RcodeSuccess, both},
		{web, "DB", dns.TypeA, dns.RcodeSuccess, both},
		{web, "db.shop", dns.TypeA, dns.RcodeSuccess, both},
		{web, "tasks.db", dns.TypeA, dns.RcodeSuccess, both},
		{web, "db.2", dns.TypeA, dns.RcodeSuccess, []string{"10.176.2.7"}},
		{web, "db", dns.TypeAAAA, dns.RcodeSuccess, nil},
		{web, "down", dns.TypeA, dns.RcodeSuccess, nil},
		{web, "nobody", dns.TypeA, dns.RcodeNameError, nil},
		{web, "example.org", dns.TypeA, dns.RcodeSuccess, []string{"192.0.2.80"}},
		{web, "long.example.org", dns.TypeA, dns.RcodeSuccess, []string{"192.0.2.80"}},
		{other, "db", dns.TypeA, dns.RcodeNameError, nil},
		{other, "db.shop", dns.TypeA, dns.RcodeSuccess, both},
		{host, "db.shop", dns.TypeA, dns.RcodeSuccess, both},
		{host, "db", dns.TypeA, dns.RcodeNameError, nil},
		{web, "9.9.176.10.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := tc.from.query(n, network, tc.name, tc.typ)
			if got := addrs(m); m.Rcode != tc.rcode || !slices.Equal(got, tc.want) {
				t.Errorf("%s %s %s: got %s %v, want %s %v", network, tc.name, dns.TypeToString[tc.typ],
					dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tc.rcode], tc.want)
			}
		}
	}
	if m := web.query(n, "udp", "7.2.176.10.in-addr.arpa", dns.TypePTR); len(m.Answer) != 1 || m.Answer[0].(*dns.PTR).Ptr != "db.2.shop." {
		t.Errorf("reverse: %v", m)
	}
}

func TestNoOpenResolver(t *testing.T) {
	host, n := node(t, 1)
	outside := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", outside, "wan", "192.0.2.9/24")
	outside.must(outside.nl.RouteAdd(&netlink.Route{Dst: ipNet(n.Subnet()), Gw: net.ParseIP("192.0.2.1")}))
	run(t, n)
	n.SetRecords(Records{Services: []Record{{Job: "shop", Name: "db", Addrs: []netip.Addr{netip.MustParseAddr("10.176.1.2")}}}})
	host.query(n, "udp", "db.shop", dns.TypeA) // it runs
	if m := outside.query(n, "udp", "db.shop", dns.TypeA); m.Rcode != dns.RcodeRefused || len(m.Answer) > 0 {
		t.Errorf("got %v", m)
	}
}

// A container that asks before its job is told must not hear "no".
func TestEarlyQuestionWaits(t *testing.T) {
	_, n := node(t, 1)
	run(t, n)
	web, ep := attach(t, n, "web")
	if m := web.query(n, "udp", "db", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("without records: got %s, want SERVFAIL", dns.RcodeToString[m.Rcode])
	}
	records := Records{
		Scopes:   map[netip.Addr]string{ep.Address.Addr(): "shop"},
		Services: []Record{{Job: "shop", Name: "db", Addrs: []netip.Addr{ep.Address.Addr()}}},
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		time.Sleep(scopeWait / 10)
		n.SetRecords(records)
	}()
	m := web.query(n, "udp", "db", dns.TypeA)
	<-told
	if got := addrs(m); !slices.Equal(got, []string{"10.176.1.2"}) {
		t.Errorf("got %s %v", dns.RcodeToString[m.Rcode], got)
	}
}

func TestLargeServiceIsCutOverUDPAndWholeOverTCP(t *testing.T) {
	_, n := node(t, 1)
	run(t, n)
	web, ep := attach(t, n, "web")
	many := Record{Job: "shop", Name: "many"}
	for i := range 200 {
		many.Addrs = append(many.Addrs, netip.AddrFrom4([4]byte{10, 176, 9, byte(i + 2)}))
	}
	n.SetRecords(Records{Scopes: map[netip.Addr]string{ep.Address.Addr(): "shop"}, Services: []Record{many}})
	if m := web.query(n, "udp", "many", dns.TypeA); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("over UDP: truncated %v with %d answers", m.Truncated, len(m.Answer))
	}
	if m := web.query(n, "tcp", "many", dns.TypeA); len(m.Answer) != 200 {
		t.Errorf("over TCP: %d answers", len(m.Answer))
	}
}

func TestGarbageDoesNotStopTheServer(t *testing.T) {
	_, n := node(t, 1)
	run(t, n)
	web, ep := attach(t, n, "web")
	n.SetRecords(Records{
		Scopes:   map[netip.Addr]string{ep.Address.Addr(): "shop"},
		Services: []Record{{Job: "shop", Name: "web", Addrs: []netip.Addr{ep.Address.Addr()}}},
	})
	valid, _ := new(dns.Msg).SetQuestion("web.", dns.TypeA).Pack()
	packets := [][]byte{{}, {0}, bytes.Repeat([]byte{0xff}, 512), valid[:11], valid[:13], append(slices.Clone(valid), 1, 2, 3)}
	for i := range valid { // every byte of a good query spoilt
		bad := slices.Clone(valid)
		bad[i] ^= 0xff
		packets = append(packets, bad)
	}
	at := netip.AddrPortFrom(n.Gateway(), 53).String()
	web.do(func() error {
		u, err := net.Dial("udp4", at)
		if err != nil {
			return err
		}
		defer u.Close()
		for _, p := range packets {
			if _, err := u.Write(p); err != nil {
				return fmt.Errorf("send %x: %w", p, err)
			}
		}
		c, err := net.DialTimeout("tcp4", at, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(bytes.Repeat([]byte{0xff}, 1000))
		return err
	})
	if m := web.query(n, "udp", "web", dns.TypeA); len(addrs(m)) != 1 {
		t.Errorf("after garbage: %v", m)
	}
}

// A container may publish 53 without taking the others' name server away.
func TestPublishedPort53LeavesOurs(t *testing.T) {
	host, n := node(t, 1)
	client := newSpace(t)
	cable(host, "wan", "192.0.2.1/24", client, "wan", "192.0.2.9/24")
	run(t, n)
	web, ep := attach(t, n, "web")
	n.SetRecords(Records{
		Scopes:   map[netip.Addr]string{ep.Address.Addr(): "shop"},
		Services: []Record{{Job: "shop", Name: "web", Addrs: []netip.Addr{ep.Address.Addr()}}},
	})
	if m := web.query(n, "udp", "web", dns.TypeA); len(addrs(m)) != 1 {
		t.Fatalf("before: %v", m)
	}
	ns, _ := attach(t, n, "ns", Port{HostPort: 53, ContainerPort: 5353, Protocol: UDP}, Port{HostPort: 53, ContainerPort: 5353})
	ns.serveUDP("ns", ":5353")
	client.want("udp", "192.0.2.1:53", "ns sees 192.0.2.9")
	if m := web.query(n, "udp", "web", dns.TypeA); len(addrs(m)) != 1 {
		t.Errorf("after: %v", m)
	}
}
