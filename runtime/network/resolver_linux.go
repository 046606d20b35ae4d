package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// answerTTL in seconds: health changes within seconds, and so must what clients believe.
	answerTTL = 1
	// scopeWait is for a container that asks before anybody told us its job: it started a moment ago, or we did.
	scopeWait = 500 * time.Millisecond
	// maxWaiting bounds the queries that wait for scopeWait.
	maxWaiting = 256
	// maxStreams bounds open TCP connections.
	maxStreams = 128
	// tcpIdle ends a TCP connection without queries.
	tcpIdle = 5 * time.Second
	// stopTimeout is for queries in flight when the resolver stops.
	stopTimeout = time.Second
	// minMessage is what every client takes over UDP (RFC 1035, 2.3.4); maxMessage is what we send at most, because
	// larger packets are fragmented (DNS flag day 2020).
	minMessage, maxMessage = 512, 1232
)

// resolver answers containers' DNS queries. serve and stop are called by Network.Run alone; the rest may be called from
// anywhere.
type resolver struct {
	home    home
	log     *slog.Logger
	forward *forwarder
	waiting chan struct{}
	// serversOf are those that the container at an address wants to be asked; nil: the machine's. Set once, before serve.
	serversOf func(netip.Addr) []netip.AddrPort

	zone atomic.Pointer[zone] // nil until the first SetRecords
	mu   sync.Mutex
	// changed is closed and replaced when zone is.
	changed chan struct{}

	// Run's own; at, pool and ctx do not change while servers run.
	at      netip.Addr
	pool    netip.Prefix
	servers []*dns.Server
	done    sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
	failed  string // the last failure to bind, to log it once
}

func newResolver(h home, cfg Config) *resolver {
	return &resolver{
		home: h, log: cfg.Logger, forward: newForwarder(h, cfg.Upstream),
		waiting: make(chan struct{}, maxWaiting), changed: make(chan struct{}),
	}
}

// SetRecords replaces all that DNS knows. Until the first call, names of ours are answered with "try again".
func (n *Network) SetRecords(r Records) {
	d := n.dns
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zone.Store(newZone(r))
	close(d.changed)
	d.changed = make(chan struct{})
}

// serve makes the resolver listen on gw for clients in pool, if it does not do so yet.
func (d *resolver) serve(gw netip.Addr, pool netip.Prefix) {
	if len(d.servers) > 0 && d.at == gw {
		return
	}
	d.stop()
	var packets net.PacketConn
	var streams net.Listener
	at := netip.AddrPortFrom(gw, dnsPort).String()
	err := d.home.do(func() (err error) {
		var lc net.ListenConfig
		if packets, err = lc.ListenPacket(context.Background(), "udp4", at); err != nil {
			return err
		}
		if streams, err = lc.Listen(context.Background(), "tcp4", at); err != nil {
			packets.Close()
		}
		return err
	})
	if err != nil {
		if d.failed != err.Error() {
			d.failed = err.Error()
			d.log.Error("containers have no DNS, trying on; is another name server listening on all addresses?", "address", at, "err", err)
		}
		return
	}
	d.failed, d.at, d.pool = "", gw, pool
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.forward.exclude(gw)
	d.start(&dns.Server{PacketConn: packets, Handler: d})
	d.start(&dns.Server{Listener: newLimited(streams, maxStreams), Handler: d, ReadTimeout: tcpIdle, WriteTimeout: tcpIdle,
		IdleTimeout: func() time.Duration { return tcpIdle }})
}

// start returns when the server can be shut down.
func (d *resolver) start(s *dns.Server) {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	d.servers = append(d.servers, s)
	d.done.Go(func() {
		if err := s.ActivateAndServe(); err != nil {
			d.log.Error("DNS server ended", "err", err)
		}
	})
	<-started
}

func (d *resolver) stop() {
	if len(d.servers) == 0 {
		return
	}
	d.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, s := range d.servers {
		if err := s.ShutdownContext(ctx); err != nil {
			d.log.Debug("stop DNS server", "err", err)
		}
	}
	d.servers = nil
	d.done.Wait()
}

// ServeDNS answers one query. What a client sends must never end the agent, so a panic costs its answer alone.
func (d *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	defer func() {
		if r := recover(); r != nil {
			d.log.Error("DNS query broke an invariant", "from", w.RemoteAddr(), "panic", fmt.Sprint(r))
		}
	}()
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	m := d.answer(d.ctx, q, from.Addr().Unmap(), overTCP)
	if m == nil {
		return
	}
	if !overTCP {
		m.Truncate(udpSize(q))
	}
	if err := w.WriteMsg(m); err != nil && !errors.Is(err, net.ErrClosed) {
		d.log.Debug("send DNS answer", "to", from, "err", err)
	}
}

// udpSize is the longest answer over UDP that the client of q takes and we send.
func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), minMessage), maxMessage)
	}
	return minMessage
}

// answer decides what a query gets; nil means silence.
func (d *resolver) answer(ctx context.Context, q *dns.Msg, from netip.Addr, overTCP bool) *dns.Msg {
	if q.Response || len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		return reply(q, dns.RcodeFormatError)
	}
	question := q.Question[0]
	// Who routes to the gateway from outside finds no open resolver.
	if question.Qclass != dns.ClassINET || !d.pool.Contains(from) && !from.IsLoopback() {
		return reply(q, dns.RcodeRefused)
	}
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	if name == "localhost" {
		return answerAddrs(q, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	}
	z, scope, scoped := d.scopeOf(ctx, from)
	if z != nil {
		if addrs, known := z.lookup(scope, name); known {
			return answerAddrs(q, addrs)
		}
		if addr, ok := reverseAddr(name); ok && d.pool.Contains(addr) {
			return answerPointer(q, z.reverse[addr])
		}
	}
	if name == "" || strings.Contains(name, ".") {
		var own []netip.AddrPort
		if d.serversOf != nil {
			own = d.serversOf(from)
		}
		return d.forward.ask(ctx, q, overTCP, own)
	}
	if !scoped {
		// "Not yet" instead of "no": a client that hears no gives up.
		return reply(q, dns.RcodeServerFailure)
	}
	return reply(q, dns.RcodeNameError)
}

// scopeOf returns the job of the container at from, waiting a little for it to be told.
func (d *resolver) scopeOf(ctx context.Context, from netip.Addr) (*zone, string, bool) {
	look := func() (*zone, string, bool, chan struct{}) {
		d.mu.Lock()
		defer d.mu.Unlock()
		z := d.zone.Load()
		if z == nil {
			return nil, "", false, d.changed
		}
		if from == d.at || from.IsLoopback() {
			return z, "", true, nil // the host itself has no job
		}
		scope, ok := z.scopes[from]
		return z, scope, ok, d.changed
	}
	z, scope, ok, changed := look()
	if ok {
		return z, scope, true
	}
	select {
	case d.waiting <- struct{}{}:
	default:
		return z, "", false
	}
	defer func() { <-d.waiting }()
	timer := time.NewTimer(scopeWait)
	defer timer.Stop()
	for !ok {
		select {
		case <-changed:
			z, scope, ok, changed = look()
		case <-timer.C:
			return z, "", false
		case <-ctx.Done():
			return z, "", false
		}
	}
	return z, scope, true
}

func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(maxMessage, false)
	}
	return m
}

// answerAddrs answers A with addrs in random order, and any other type with nothing: the name exists, there is no more
// to say about it. Without addresses an A is answered with nothing too, so that clients know that the service exists.
func answerAddrs(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	m := reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	if t := q.Question[0].Qtype; t != dns.TypeA && t != dns.TypeANY {
		return m
	}
	for _, i := range rand.Perm(len(addrs)) {
		m.Answer = append(m.Answer, &dns.A{Hdr: header(q, dns.TypeA), A: addrs[i].AsSlice()})
	}
	return m
}

func answerPointer(q *dns.Msg, target string) *dns.Msg {
	if target == "" {
		return reply(q, dns.RcodeNameError)
	}
	m := reply(q, dns.RcodeSuccess)
	if q.Question[0].Qtype == dns.TypePTR {
		m.Answer = append(m.Answer, &dns.PTR{Hdr: header(q, dns.TypePTR), Ptr: dns.Fqdn(target)})
	}
	return m
}

// header keeps the spelling of the question, for clients that vary it against forged answers.
func header(q *dns.Msg, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: q.Question[0].Name, Rrtype: typ, Class: dns.ClassINET, Ttl: answerTTL}
}
