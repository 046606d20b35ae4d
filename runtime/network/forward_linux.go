package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	resolvConf = "/etc/resolv.conf"
	// resolvCheck is how long a look at resolv.conf is good for.
	resolvCheck = 5 * time.Second
	// forwardTimeout is for one try with one upstream.
	forwardTimeout = 2 * time.Second
	// forwardBuffer takes the longest answer over UDP: we ask for no more than maxMessage.
	forwardBuffer = 4096
	// maxForwards bounds the queries that wait for an upstream; more are refused at once, so that a container that asks
	// without end costs the others nothing but the wait for a free place.
	maxForwards = 256
)

// forwarder asks the world.
type forwarder struct {
	home   home
	fixed  []netip.AddrPort
	places chan struct{}

	mu      sync.Mutex
	own     netip.Addr // our own address: asking it would go round for ever
	found   []netip.AddrPort
	checked time.Time
	changed time.Time // mtime of resolv.conf when it was read
}

func newForwarder(h home, upstream []netip.AddrPort) *forwarder {
	return &forwarder{home: h, fixed: upstream, places: make(chan struct{}, maxForwards)}
}

func (f *forwarder) exclude(own netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own = own
}

// upstreams returns the resolvers to ask, in order.
func (f *forwarder) upstreams() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.fixed
	if len(list) == 0 {
		if time.Since(f.checked) > resolvCheck {
			f.checked = time.Now()
			f.readLocked()
		}
		list = f.found
	}
	return slices.DeleteFunc(slices.Clone(list), func(a netip.AddrPort) bool { return a.Addr() == f.own })
}

func (f *forwarder) readLocked() {
	info, err := os.Stat(resolvConf)
	if err != nil || info.ModTime().Equal(f.changed) {
		return
	}
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return
	}
	f.changed, f.found = info.ModTime(), nil
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			f.found = append(f.found, netip.AddrPortFrom(a, dnsPort))
		}
	}
}

// ask passes q on to the given servers, or without any to the machine's, and returns the answer under q's id, or "server
// failure".
func (f *forwarder) ask(ctx context.Context, q *dns.Msg, overTCP bool, servers []netip.AddrPort) *dns.Msg {
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	default:
		return reply(q, dns.RcodeRefused)
	}
	out := q.Copy()
	out.Id = dns.Id()
	if opt := out.IsEdns0(); opt != nil {
		opt.SetUDPSize(maxMessage)
	}
	if len(servers) == 0 {
		servers = f.upstreams()
	}
	for _, up := range servers {
		m, err := f.exchange(ctx, out, up, overTCP)
		if err != nil || m == nil || m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			continue
		}
		m.Id = q.Id
		return m
	}
	return reply(q, dns.RcodeServerFailure)
}

// exchange asks one upstream: over UDP first unless the client came by TCP, and over TCP what was cut off.
func (f *forwarder) exchange(ctx context.Context, q *dns.Msg, up netip.AddrPort, overTCP bool) (*dns.Msg, error) {
	if !overTCP {
		m, err := f.exchangeOver(ctx, "udp", q, up)
		if err != nil || !m.Truncated {
			return m, err
		}
	}
	return f.exchangeOver(ctx, "tcp", q, up)
}

func (f *forwarder) exchangeOver(ctx context.Context, network string, q *dns.Msg, up netip.AddrPort) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	var conn net.Conn
	err := f.home.do(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, up.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &dns.Client{Net: network, Timeout: forwardTimeout, UDPSize: forwardBuffer}
	m, _, err := c.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn, UDPSize: forwardBuffer})
	return m, err
}
