// Package gossip knows who is here: which nodes are members of the cluster, at which address, and whether their peers
// can still reach them. It refuses to know about jobs, leaders or the log: what a dead member means is decided elsewhere.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// KeySize is the length in bytes of a gossip key (AES-256).
const KeySize = 32

// retransmitMult times log10 of the member count, rounded up, is how often each member passes a piece of news on. With
// memberlist's 4, one of five members missed a join in 3 of 1,500 formations without any loss, until the next full
// exchange; with 8, in none (measured in fake time). The price is twice the news packets, of which there are few.
const retransmitMult = 8

// Timing sets how fast the pool notices things. The zero value of a field means its default.
//
// Measured with five members (median/p99 until a dead one is noticed): the defaults take 1.15/1.56 s, memberlist's own
// LAN settings (1 s, 500 ms, 200 ms) 5.7/7.9 s. The price of the defaults is 14 times the false deaths under packet
// loss, so a death must be confirmed by other means before work moves.
type Timing struct {
	// ProbeInterval is the time between two probes, each of one member. Default 200 ms. Smaller finds deaths sooner and
	// costs packets and false suspicions.
	ProbeInterval time.Duration
	// ProbeTimeout is how long a direct probe may take before others are asked to probe and a stream is tried. Default
	// 100 ms; must be less than ProbeInterval. It should exceed nearly all round trips of the network.
	ProbeTimeout time.Duration
	// GossipInterval is the time between two rounds of spreading news. Default 50 ms. It is also how often the pool
	// looks for suspects (see DESIGN.md).
	GossipInterval time.Duration
	// SuspicionMult times ProbeInterval (times log10 of the member count, when above ten) is how long a suspect has to
	// refute. Default 4. Higher means fewer false deaths and slower true ones.
	SuspicionMult int
	// PushPullInterval is the time between full state exchanges with a random member, over a stream. It is how long news
	// may be late that gossip did not bring (see retransmitMult). Default 10 s; memberlist stretches it above 32 members.
	PushPullInterval time.Duration
	// StreamTimeout bounds dialing and each exchange over a stream. Default 5 s.
	StreamTimeout time.Duration
	// RejoinInterval is the mean time between two attempts to reach the peers that are not alive members. Default 5 s;
	// each wait is between half and one and a half of it.
	RejoinInterval time.Duration
	// ReclaimAfter is how long a member must be dead before its ID may come back from another address. Default 5 s.
	ReclaimAfter time.Duration
	// DeadGossip is how long a dead member is still told that it is thought dead, so that it can refute. Default 30 s.
	DeadGossip time.Duration
}

// DefaultTiming returns the defaults of every field of Timing.
func DefaultTiming() Timing {
	return Timing{
		ProbeInterval:    200 * time.Millisecond,
		ProbeTimeout:     100 * time.Millisecond,
		GossipInterval:   50 * time.Millisecond,
		SuspicionMult:    4,
		PushPullInterval: 10 * time.Second,
		StreamTimeout:    5 * time.Second,
		RejoinInterval:   5 * time.Second,
		ReclaimAfter:     5 * time.Second,
		DeadGossip:       30 * time.Second,
	}
}

// orDefault replaces each zero field by its default.
func (t Timing) orDefault() Timing {
	d := DefaultTiming()
	for _, f := range []struct{ have, want *time.Duration }{
		{&t.ProbeInterval, &d.ProbeInterval},
		{&t.ProbeTimeout, &d.ProbeTimeout},
		{&t.GossipInterval, &d.GossipInterval},
		{&t.PushPullInterval, &d.PushPullInterval},
		{&t.StreamTimeout, &d.StreamTimeout},
		{&t.RejoinInterval, &d.RejoinInterval},
		{&t.ReclaimAfter, &d.ReclaimAfter},
		{&t.DeadGossip, &d.DeadGossip},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	if t.SuspicionMult == 0 {
		t.SuspicionMult = d.SuspicionMult
	}
	return t
}

// Config is what a Pool needs. All fields but Name, Timing and Logger are required.
type Config struct {
	// ID is this node's unique and lasting name in the pool.
	ID string
	// Name is the name that people use. It travels in Meta and need not be unique.
	Name string
	// Advertise is the address that other members use to reach this node, for packets and streams alike.
	Advertise netip.AddrPort
	// Packets is the socket for packets. The pool reads it and closes it when Run ends.
	Packets net.PacketConn
	// Streams yields incoming streams whose peers are authenticated already. The pool closes it when Run ends.
	Streams net.Listener
	// Dial opens an authenticated stream to a member's advertised address, handshake included, before ctx ends. It must
	// be safe for concurrent use.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Keys encrypt and authenticate the packets. The first one encrypts, all of them decrypt. Each has KeySize bytes.
	Keys [][]byte
	// Label is the cluster's id. Packets and streams with another label are dropped. At most 255 bytes.
	Label string
	// Meta is told to every member. Its Name is taken from Name if it is empty.
	Meta Meta
	// Timing defaults field by field to DefaultTiming.
	Timing Timing
	// Logger receives changes and trouble. Default: nothing is logged.
	Logger *slog.Logger
}

// check reports the first thing that is wrong with c.
func (c *Config) check() error {
	switch {
	case c.ID == "":
		return errors.New("gossip: no node id given")
	case !c.Advertise.IsValid() || c.Advertise.Addr().IsUnspecified() || c.Advertise.Port() == 0:
		return fmt.Errorf("gossip: advertise address %v is not one that others can dial: give an address and a port", c.Advertise)
	case c.Packets == nil || c.Streams == nil || c.Dial == nil:
		return errors.New("gossip: packet socket, stream listener and dial function are all required")
	case len(c.Keys) == 0:
		return errors.New("gossip: no key given: packets are never sent in the clear")
	case c.Label == "" || len(c.Label) > memberlist.LabelMaxSize:
		return fmt.Errorf("gossip: label must have 1 to %d bytes, got %d", memberlist.LabelMaxSize, len(c.Label))
	case c.Timing.ProbeTimeout >= c.Timing.ProbeInterval:
		return fmt.Errorf("gossip: probe timeout %v must be less than the probe interval %v", c.Timing.ProbeTimeout, c.Timing.ProbeInterval)
	}
	for i, k := range c.Keys {
		if err := checkKey(k); err != nil {
			return fmt.Errorf("gossip: key %d: %w", i, err)
		}
	}
	return nil
}

// memberlist translates c for the library.
func (c *Config) memberlist(ring *memberlist.Keyring) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.Name = c.ID
	m.Label = c.Label
	m.Keyring = ring
	m.BindPort = int(c.Advertise.Port())
	m.AdvertiseAddr = c.Advertise.Addr().String()
	m.AdvertisePort = int(c.Advertise.Port())
	m.ProbeInterval = c.Timing.ProbeInterval
	m.ProbeTimeout = c.Timing.ProbeTimeout
	m.GossipInterval = c.Timing.GossipInterval
	m.SuspicionMult = c.Timing.SuspicionMult
	m.RetransmitMult = retransmitMult
	m.PushPullInterval = c.Timing.PushPullInterval
	m.TCPTimeout = c.Timing.StreamTimeout
	m.DeadNodeReclaimTime = c.Timing.ReclaimAfter
	m.GossipToTheDeadTime = c.Timing.DeadGossip
	// Without the stream probe a lossy network makes five times as many suspicions.
	m.DisableTcpPings = false
	// Packets are small and encrypted; LZW costs more than it saves, and it is one parser less on what we send.
	m.EnableCompression = false
	m.Logger = memberlistLogger(c.Logger)
	return m
}
