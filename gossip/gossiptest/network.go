// Package gossiptest is a network in memory for tests of things that gossip: packets that get lost, streams that stall.
// It knows hosts by their IP address and nothing of what they say. It works inside testing/synctest.
package gossiptest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Network joins any number of hosts. A host exists as soon as something listens on or dials from its address. Packets
// are dropped and streams stall where the network is cut, as on a real one; nothing ever blocks a sender of packets.
// All methods are safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	random    *rand.Rand
	loss      float64
	latency   time.Duration
	groups    map[netip.Addr]int // set by Partition; hosts in none are in group 0
	down      map[netip.Addr]bool
	cuts      map[[2]netip.Addr]bool // one way, from first to second
	noStreams map[[2]netip.Addr]bool // likewise, of streams only
	retries   float64                // how often a segment of a stream is lost
	packets   map[netip.AddrPort]*packetConn
	listeners map[netip.AddrPort]*listener
	flows     map[*flow]struct{}
	nextPort  uint16
	sent      int
	dropped   int
}

// NewNetwork makes a network that loses nothing. The seed decides which packets get lost once SetLoss was called.
func NewNetwork(seed uint64) *Network {
	return &Network{
		random:    rand.New(rand.NewPCG(seed, seed)),
		groups:    map[netip.Addr]int{},
		down:      map[netip.Addr]bool{},
		cuts:      map[[2]netip.Addr]bool{},
		noStreams: map[[2]netip.Addr]bool{},
		packets:   map[netip.AddrPort]*packetConn{},
		listeners: map[netip.AddrPort]*listener{},
		flows:     map[*flow]struct{}{},
		nextPort:  32768,
	}
}

// SetLoss makes every packet get lost with the given probability. Streams are not affected.
func (n *Network) SetLoss(probability float64) { n.change(func() { n.loss = probability }) }

// SetStreamLoss makes every segment of a stream, those of its handshake included, get lost with the given probability.
// What is lost is sent again, as TCP does: so streams lose time, and nothing else.
func (n *Network) SetStreamLoss(probability float64) { n.change(func() { n.retries = probability }) }

// Retransmission timeouts as Linux has them: of a SYN, and the least of data; each further one takes twice as long.
const (
	firstSYN  = time.Second
	firstData = 200 * time.Millisecond
	maxTries  = 6
)

// resendDelay is how long the lost tries of one segment take.
func (n *Network) resendDelay(first time.Duration) (d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 0; i < maxTries && n.retries > 0 && n.random.Float64() < n.retries; i++ {
		d += first << i
	}
	return d
}

// SetLatency makes packets, stream data and dials take so long one way. The default is none.
func (n *Network) SetLatency(d time.Duration) { n.change(func() { n.latency = d }) }

// Partition splits the network: hosts reach only those of their own group. Hosts that are named nowhere form one more
// group. It replaces an earlier partition.
func (n *Network) Partition(groups ...[]netip.Addr) {
	n.change(func() {
		n.groups = map[netip.Addr]int{}
		for i, g := range groups {
			for _, host := range g {
				n.groups[host] = i + 1
			}
		}
	})
}

// Cut stops what from sends to to, and only that direction.
func (n *Network) Cut(from, to netip.Addr) {
	n.change(func() { n.cuts[[2]netip.Addr{from, to}] = true })
}

// CutStreams stops the streams from from to to, and only that direction; packets pass.
func (n *Network) CutStreams(from, to netip.Addr) {
	n.change(func() { n.noStreams[[2]netip.Addr{from, to}] = true })
}

// Heal ends all partitions and cuts. Hosts that are down stay down.
func (n *Network) Heal() {
	n.change(func() {
		n.groups = map[netip.Addr]int{}
		n.cuts = map[[2]netip.Addr]bool{}
		n.noStreams = map[[2]netip.Addr]bool{}
	})
}

// SetDown takes a host off the network, as a power cut would: peers get no answer and no error. Its sockets stay open
// on its own side, for the test to close.
func (n *Network) SetDown(host netip.Addr, down bool) { n.change(func() { n.down[host] = down }) }

// Reset breaks every stream of a host, on both sides.
func (n *Network) Reset(host netip.Addr) {
	n.mu.Lock()
	var broken []*flow
	for f := range n.flows {
		if f.from == host || f.to == host {
			broken = append(broken, f)
		}
	}
	n.mu.Unlock()
	for _, f := range broken {
		f.abort(syscall.ECONNRESET)
	}
}

// Stats returns how many packets were sent and how many of them were lost, for a test to see that its fault happened.
func (n *Network) Stats() (sent, dropped int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent, n.dropped
}

// change applies f and lets all streams look again.
func (n *Network) change(f func()) {
	n.mu.Lock()
	f()
	flows := make([]*flow, 0, len(n.flows))
	for f := range n.flows {
		flows = append(flows, f)
	}
	n.mu.Unlock()
	for _, f := range flows {
		f.poke()
	}
}

// reaches tells whether what from streams arrives at to.
func (n *Network) reaches(from, to netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reachesLocked(from, to) && !n.noStreams[[2]netip.Addr{from, to}]
}

func (n *Network) reachesLocked(from, to netip.Addr) bool {
	return !n.down[from] && !n.down[to] &&
		(from == to || n.groups[from] == n.groups[to] && !n.cuts[[2]netip.Addr{from, to}])
}

// portLocked returns addr with a free port if it has none.
func (n *Network) portLocked(addr netip.AddrPort) netip.AddrPort {
	if addr.Port() != 0 {
		return addr
	}
	for {
		n.nextPort = max(n.nextPort+1, 32768)
		try := netip.AddrPortFrom(addr.Addr(), n.nextPort)
		if n.packets[try] == nil && n.listeners[try] == nil {
			return try
		}
	}
}

func inUse(network string, addr netip.AddrPort) error {
	return fmt.Errorf("listen on %s %v in the test network: %w", network, addr, syscall.EADDRINUSE)
}

// addrOf reads an address as net's types write it.
func addrOf(a net.Addr) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}, errors.New("the test network knows addresses as ip:port only, not " + a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
