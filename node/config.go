// Package node is one machine's life in the cluster: it joins or founds it, keeps gossip, log and containers running,
// does the leader's duties while it leads, and answers the API. It is the only place where gossip, consensus and
// runtime meet; each of them knows nothing of the others. It does not know how containers are made: cmd hands a
// Machine in.
package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/node/api"
	"shoal/runtime"
	"shoal/runtime/image"
	"shoal/runtime/network"
)

// DefaultPort is the one port, TCP and UDP, for everything between nodes.
const DefaultPort = 6174

// DefaultPool is where containers get their addresses from, a /24 for each node: room for 4,096 nodes.
var DefaultPool = netip.MustParsePrefix("10.176.0.0/12")

// subnetBits is the size of one node's part of the pool.
const subnetBits = 24

// Config is what an agent is told at its start. DataDir, Name, Bind, Advertise and Machine are required.
type Config struct {
	// DataDir keeps all that lasts; made if missing, with mode 0700.
	DataDir string
	// Name is the node's name, unique in the cluster; the host's name by custom.
	Name string
	// Bind is where the node listens, TCP and UDP; Advertise is what the others dial.
	Bind, Advertise netip.AddrPort
	// Labels are laid over the labels that the cluster keeps for the node.
	Labels map[string]string
	// Generic are devices and the like that this node gives to tasks, sorted by kind.
	Generic []job.Generic
	// Overcommit, if not nil, replaces what the cluster keeps for the node.
	Overcommit *job.Overcommit
	// Voter never: the node never holds the log.
	Voter job.VoterPolicy
	// Join are addresses of nodes to ask for membership with Token; both empty: found a cluster, unless DataDir has one.
	Join  []string
	Token string
	// Socket is the unix socket for people on this machine; mode 0600. "": none.
	Socket string
	// Pool is only asked by the node that founds the cluster; zero: DefaultPool.
	Pool netip.Prefix
	// Version of this binary, for people.
	Version string
	// Machine makes the part that runs containers. It is called once, after the node knows who it is.
	Machine func(MachineConfig) (*Machine, error)
	// Underlay is the network below; nil: the real one. Tests hand in one of their own.
	Underlay Underlay
	// DrainOnStop is for how long the node, when it is asked to end, moves its tasks away first; 0: not at all.
	DrainOnStop time.Duration
	// BeforeLogWrite is called before every write of the log, for tests of slow and failing disks; nil: nothing.
	BeforeLogWrite func(op string) error
	// State is an empty store; nil: state.New(). Tests hand in that of an older build.
	State *state.Store
	// OnBug is told what the planner panicked with, for tests to fail with; nil: it is logged, and planning starts over.
	OnBug func(any)
	// Wall is the machine's wall clock; nil: time.Now. Tests hand in one that is set forward and back. Waits do not go by it.
	Wall func() time.Time
	// Raft and Gossip timings; zero fields are the defaults.
	Raft   consensus.Timing
	Gossip gossip.Timing
	// Patience times every time-out between nodes; 0 and 1: as they are. For machines or networks so slow that the
	// healthy are called dead. All nodes should have the same. The price: deaths are noticed as many times later.
	Patience float64
	Logger   *slog.Logger
	// ImageCare is how the node looks after its images; the zero value leaves them alone.
	ImageCare ImageCare
	// Chaos is what may be broken here on purpose.
	Chaos ChaosConfig
}

// Underlay is how nodes reach each other. The real one is sockets.
type Underlay interface {
	Listen(addr netip.AddrPort) (net.Listener, error)
	ListenPacket(addr netip.AddrPort) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// MachineConfig is what a Machine needs to know of its node.
type MachineConfig struct {
	Dir string
	// Pool is the cluster's range of container addresses.
	Pool netip.Prefix
	// PullFromPeers asks the other nodes for an image; it is called before any registry is asked. job.NotFound when no
	// peer has it.
	PullFromPeers func(ctx context.Context, ref string) error
	Logger        *slog.Logger
}

// Machine is the part of a node that runs containers. All of it is safe for concurrent use.
type Machine struct {
	Runtime runtime.Runtime
	Network Network
	Images  Images
	// Usage tells what containers and volumes take of the disk; nil: nothing is told.
	Usage func(ctx context.Context) ([]api.DiskPart, error)
	// Run keeps its parts going until ctx ends and touches no container when it returns; nil: nothing to run.
	Run func(ctx context.Context) error
	// Info carries Capacity, OS, Arch and Kernel.
	Info job.Node
}

// Network is told what it should be; see runtime/network. The node calls Configure before all else, and again with
// every word from the cluster.
type Network interface {
	Configure(ctx context.Context, subnet netip.Prefix) error
	SetPeers(peers []network.Peer) error
	SetRecords(r network.Records)
}

// Images is the node's image store; see runtime/image.
type Images interface {
	Get(ref string) (image.Image, error)
	List() ([]image.Image, error)
	Load(ctx context.Context, r io.Reader, opts image.LoadOptions) ([]image.Image, error)
	Fetch(ctx context.Context, from image.Source, ref string) (image.Image, error)
	Remove(ref string) error
	Handler() http.Handler
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)

func (c *Config) check() error {
	switch {
	case c.DataDir == "":
		return job.Errorf(job.Invalid, "no data directory: give --data-dir")
	case !validName.MatchString(c.Name):
		return job.Errorf(job.Invalid, "node name %q: letters, digits, dots, dashes and underscores, at most 63; give --name", c.Name)
	case !c.Bind.IsValid() || c.Bind.Port() == 0:
		return job.Errorf(job.Invalid, "bind address %v: it takes an address and a port, such as 0.0.0.0:%d", c.Bind, DefaultPort)
	case !c.Advertise.IsValid() || c.Advertise.Port() == 0 || c.Advertise.Addr().IsUnspecified():
		return job.Errorf(job.Invalid, "advertise address %v: it takes the address and port at which the other nodes reach this one; give --advertise", c.Advertise)
	case len(c.Join) > 0 && c.Token == "":
		return job.Errorf(job.Invalid, "--join without --token: run `shoal token create` on a node of the cluster, it prints the command for this one")
	case len(c.Join) == 0 && c.Token != "":
		return job.Errorf(job.Invalid, "--token without --join: name a node of the cluster, such as --join 192.0.2.1:%d", DefaultPort)
	case c.Machine == nil:
		return job.Errorf(job.Internal, "node: no machine given")
	}
	if err := c.checkPatience(); err != nil {
		return err
	}
	if c.Pool.IsValid() && (!c.Pool.Addr().Is4() || c.Pool.Bits() > subnetBits) {
		return job.Errorf(job.Invalid, "address pool %v: it takes an IPv4 prefix of at least a /%d", c.Pool, subnetBits)
	}
	for k, v := range c.Labels {
		if k == "" || len(k) > 128 || len(v) > 256 {
			return job.Errorf(job.Invalid, "label %q=%q: a key takes 1 to 128 bytes, a value up to 256", k, v)
		}
	}
	return nil
}

func (c *Config) withDefaults() {
	if c.Voter == "" {
		c.Voter = job.VoterAuto
	}
	if !c.Pool.IsValid() {
		c.Pool = DefaultPool
	}
	if c.Underlay == nil {
		c.Underlay = sockets{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// sockets is the real underlay.
type sockets struct{}

func (sockets) Listen(addr netip.AddrPort) (net.Listener, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listen on TCP %v: %w", addr, err)
	}
	return l, nil
}

func (sockets) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listen on UDP %v: %w", addr, err)
	}
	return c, nil
}

func (sockets) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	return d.DialContext(ctx, "tcp", addr)
}
