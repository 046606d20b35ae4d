package network

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience is for what must come; it is generous because machines are busy.
const patience = 10 * time.Second

// The main thread's namespace is what /proc/self shows, so no test may run, unshare or end on it.
func init() { goruntime.LockOSThread() }

// space is a network namespace that stands for a machine or a container.
type space struct {
	t  testing.TB
	ns netns.NsHandle
	nl *netlink.Handle
}

// newSpace makes an empty namespace with lo up; it ends with the test.
func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	s := &space{t: t}
	var err error
	if s.ns, err = newNetNS(); err == nil {
		err = inNetNS(s.ns, func() (err error) {
			s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
	}
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		s.nl.Close()
		s.ns.Close()
	})
	s.must(s.nl.LinkSetUp(s.link("lo")))
	return s
}

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.nl.LinkByName(name)
	s.must(err)
	return l
}

func (s *space) do(f func() error) {
	s.t.Helper()
	s.must(inNetNS(s.ns, f))
}

// path names the namespace for Attachment.NetNS.
func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", int(s.ns)) }

// cable joins two machines; each gets its address on an interface of the given name.
func cable(a *space, aName, aAddr string, b *space, bName, bAddr string) {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	a.must(a.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.ns)}))
	for _, end := range []struct {
		s          *space
		name, addr string
	}{{a, aName, aAddr}, {b, bName, bAddr}} {
		l := end.s.link(end.name)
		end.s.must(end.s.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(end.addr))}))
		end.s.must(end.s.nl.LinkSetUp(l))
	}
}

// network makes a Network of the machine s.
func (s *space) network(cfg Config) *Network {
	s.t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = s.t.TempDir()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(s.t.Output(), nil))
	}
	var n *Network
	s.do(func() (err error) {
		n, err = New(cfg)
		return err
	})
	s.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return n
}

// node makes a machine that is set up, with subnet 10.176.<k>.0/24 of 10.176.0.0/12.
func node(t testing.TB, k int) (*space, *Network) {
	t.Helper()
	s := newSpace(t)
	n := s.network(nodeConfig(k))
	s.must(n.Setup(t.Context()))
	return s, n
}

func nodeConfig(k int) Config {
	return Config{
		Subnet: netip.MustParsePrefix(fmt.Sprintf("10.176.%d.0/24", k)),
		Pool:   netip.MustParsePrefix("10.176.0.0/12"),
	}
}

// attach makes a container and joins it to n.
func attach(t testing.TB, n *Network, id string, ports ...Port) (*space, Endpoint) {
	t.Helper()
	c := newSpace(t)
	ep, err := n.Attach(t.Context(), Attachment{ID: id, NetNS: c.path(), Hostname: id, Ports: ports})
	c.must(err)
	return c, ep
}

// run runs n until the test ends. When it returns, DNS answers.
func run(t testing.TB, n *Network) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	at := netip.AddrPortFrom(n.Gateway(), dnsPort).String()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := n.home.do(func() error {
			c, err := net.DialTimeout("tcp4", at, patience)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("DNS does not answer: %v", err)
		}
	}
}

// serveTCP answers every connection to port with "<name> sees <client address>".
func (s *space) serveTCP(name, addr string) {
	s.t.Helper()
	var l net.Listener
	s.do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
			fmt.Fprintf(c, "%s sees %s\n", name, from)
			c.Close()
		}
	}()
}

// serveUDP does the same for datagrams.
func (s *space) serveUDP(name, addr string) {
	s.t.Helper()
	var pc net.PacketConn
	s.do(func() (err error) {
		pc, err = net.ListenPacket("udp4", addr)
		return err
	})
	s.t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(writerTo{pc, from}, "%s sees %s\n", name, from.(*net.UDPAddr).AddrPort().Addr())
		}
	}()
}

type writerTo struct {
	pc net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.pc.WriteTo(b, w.to) }

// ask connects from s and returns the answer, or the error's text.
func (s *space) ask(network, addr string, timeout time.Duration) string {
	var c net.Conn
	err := inNetNS(s.ns, func() (err error) {
		c, err = net.DialTimeout(network, addr, timeout)
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if strings.HasPrefix(network, "udp") {
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err.Error()
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(line, "\n")
}

// want checks that an address answers as it must.
func (s *space) want(network, addr, want string) {
	s.t.Helper()
	if got := s.ask(network, addr, patience); got != want {
		s.t.Errorf("%s %s: got %q, want %q", network, addr, got, want)
	}
}

// refused checks that an address does not answer.
func (s *space) refused(network, addr string) {
	s.t.Helper()
	if got := s.ask(network, addr, 300*time.Millisecond); strings.Contains(got, " sees ") {
		s.t.Errorf("%s %s: must not be reachable, but got %q", network, addr, got)
	}
}

// routes lists s's routes with our protocol.
func (s *space) routes() map[string]string {
	s.t.Helper()
	list, err := s.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	s.must(err)
	got := map[string]string{}
	for _, r := range list {
		got[r.Dst.String()] = r.Gw.String()
	}
	return got
}

// removeTable deletes the nftables table behind the back of the machine's Network.
func (s *space) removeTable() {
	s.t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(s.ns)))
	s.must(err)
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	s.must(conn.Flush())
}
