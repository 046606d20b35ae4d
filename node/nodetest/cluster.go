// Package nodetest runs whole clusters in one process and, inside testing/synctest, in fake time: real gossip, raft,
// state, scheduler and reconciler over a network in memory and scripted runtimes. It knows how to break machines and
// networks; what must hold afterwards is its users' business.
package nodetest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip/gossiptest"
	"shoal/node"
	"shoal/node/api"
	"shoal/runtime/fake"
	"shoal/runtime/image"
	"shoal/runtime/network"
)

// Cluster is machines on one network. Not safe for concurrent use.
type Cluster struct {
	t        testing.TB
	Net      *gossiptest.Network
	Machines []*Machine
	images   map[string]fake.Image
	dir      string
	Logger   *slog.Logger // set before Start; default: discarded
}

// Machine is one of them. Its disk and its containers outlive its agent.
type Machine struct {
	c       *Cluster
	Name    string
	Addr    netip.AddrPort
	Runtime *fake.Runtime
	Labels  map[string]string
	// DrainOnStop and Voter are for the next start of the agent.
	DrainOnStop time.Duration
	Voter       job.VoterPolicy

	// BuildsBehind is how many levels of rules the build lacks that the agent is started with next.
	BuildsBehind int

	// OnStart is called with each agent that was started, before it runs; nil: nothing.
	OnStart func(*node.Node)

	clock   clock
	audited *state.View // last
	names   dns
	life    int // counts wiped disks
	disk    disk
	node    *node.Node
	cancel  context.CancelFunc
	done    chan error
}

// New makes n machines with nothing running. images are what their runtimes can pull.
func New(t testing.TB, n int, seed uint64, images map[string]fake.Image) *Cluster {
	c := &Cluster{t: t, Net: gossiptest.NewNetwork(seed), images: images, dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		c.Machines = append(c.Machines, &Machine{
			c: c, Name: fmt.Sprintf("m%d", i+1), Addr: netip.AddrPortFrom(addr, node.DefaultPort), Runtime: c.newRuntime(i),
		})
	}
	// Inside a bubble the last timers of closed connections and of memberlist must run out before the test function ends.
	t.Cleanup(func() { time.Sleep(time.Minute) })
	t.Cleanup(func() {
		for _, m := range c.Machines {
			_ = m.StopAgent() // the test is over
			m.Runtime.Crash()
		}
	})
	return c
}

func (c *Cluster) newRuntime(i int) *fake.Runtime {
	return fake.New(fake.Config{Images: c.images, Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 176, byte(i), 0}), 24), Latency: 20 * time.Millisecond})
}

// Form starts all agents: the first founds the cluster, the others join it. It returns when all are ready.
func (c *Cluster) Form() {
	c.t.Helper()
	first := c.Machines[0]
	first.StartAgent()
	c.Await(30*time.Second, "the first node to lead", func() bool {
		if err, gone := first.Exited(); gone {
			c.t.Fatalf("the first agent ended: %v", err)
		}
		return first.ready()
	})
	for _, m := range c.Machines[1:] {
		token, err := first.node.CreateToken(context.Background(), api.TokenRequest{MaxUses: 1})
		if err != nil {
			c.t.Fatalf("create a join token: %v", err)
		}
		m.start([]string{first.Addr.String()}, token.Secret)
	}
	c.Await(time.Minute, "all nodes to be ready", func() bool {
		for _, m := range c.Machines {
			if !m.ready() {
				return false
			}
		}
		return true
	})
}

// Await polls until cond holds; the test fails when it does not within limit.
func (c *Cluster) Await(limit time.Duration, what string, cond func() bool) {
	c.t.Helper()
	for start := time.Now(); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > limit {
			c.t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

// StartAgent starts (again) the agent of a machine that is a member, or founds a cluster.
func (m *Machine) StartAgent() { m.start(nil, "") }

func (m *Machine) start(join []string, token string) {
	m.c.t.Helper()
	if m.cancel != nil {
		m.c.t.Fatalf("the agent of %s runs already", m.Name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.disk.started()
	handle := m.Runtime.Reopen()
	n, err := node.New(node.Config{
		DataDir: m.dir(), Name: m.Name, Bind: m.Addr, Advertise: m.Addr, Labels: m.Labels, Join: join, Token: token,
		DrainOnStop: m.DrainOnStop, Voter: m.Voter,
		Version: "test", Underlay: underlay{m.c.Net, m.Addr.Addr()}, Logger: m.c.Logger.With("machine", m.Name),
		State:          state.NewKnowing(state.Rules - m.BuildsBehind),
		OnBug:          func(p any) { panic(p) },
		BeforeLogWrite: func(string) error { return m.disk.wait(ctx) },
		Wall:           m.clock.now,
		Machine: func(node.MachineConfig) (*node.Machine, error) {
			return &node.Machine{Runtime: handle, Network: &m.names, Images: noImages{}, Info: job.Node{
				Capacity: job.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30, PIDs: 10_000}, OS: "test", Arch: "amd64",
			}}, nil
		},
	})
	if err != nil {
		m.c.t.Fatalf("configure %s: %v", m.Name, err)
	}
	if m.OnStart != nil {
		m.OnStart(n)
	}
	m.node, m.cancel, m.done = n, cancel, make(chan error, 1)
	go func() { m.done <- n.Run(ctx) }()
}

// StopAgent stops the agent; containers run on. It returns what Run did. Stopping what does not run is nil.
func (m *Machine) StopAgent() error {
	if m.cancel == nil {
		return nil
	}
	m.cancel()
	m.cancel, m.node = nil, nil
	return <-m.done
}

// PowerOff takes the machine off the network at once; agent and containers are gone, its disk stays.
func (m *Machine) PowerOff() {
	m.c.Net.SetDown(m.Addr.Addr(), true)
	_ = m.StopAgent() // nobody hears it say anything any more
	m.Runtime.Crash()
}

// PowerOn brings the machine back as it was, with its agent.
func (m *Machine) PowerOn() {
	m.c.Net.SetDown(m.Addr.Addr(), false)
	m.StartAgent()
}

// dir is the machine's data directory in its present life.
func (m *Machine) dir() string { return filepath.Join(m.c.dir, fmt.Sprintf("%s-%d", m.Name, m.life)) }

// Node is the machine's node; nil while its agent does not run.
func (m *Machine) Node() *node.Node { return m.node }

func (m *Machine) ready() bool {
	if m.node == nil {
		return false
	}
	s, err := m.status()
	return err == nil && s.Ready
}

// status is Unavailable until the node has started its parts.
func (m *Machine) status() (api.Status, error) {
	if !m.node.Started() {
		return api.Status{}, job.Unavailable
	}
	return m.node.Status(context.Background())
}

// Leader is the machine that most running nodes take for the leader and that agrees; nil if there is none.
func (c *Cluster) Leader() *Machine {
	for _, m := range c.Machines {
		if m.node == nil {
			continue
		}
		s, err := m.status()
		if err == nil && s.Leader == s.Node && s.Ready && m.node.Confirm(context.Background()) == nil {
			return m
		}
	}
	return nil
}

// holds tells whether the leader counts a machine among the log-holders.
func (c *Cluster) holds(m *Machine) bool {
	list, err := c.Leader().node.Nodes(context.Background())
	if err != nil {
		c.t.Fatalf("list nodes: %v", err)
	}
	for _, n := range list.Nodes {
		if n.Name == m.Name {
			return n.Role != "worker"
		}
	}
	return false
}

// Running counts the containers that run on all machines, by task name such as "web.2".
func (c *Cluster) Running() map[string]int {
	out := map[string]int{}
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatalf("list containers of %s: %v", m.Name, err)
		}
		for _, i := range list {
			if i.State == "running" {
				out[i.Name]++
			}
		}
	}
	return out
}

// starts counts all starts of containers that are there.
func (c *Cluster) starts() int {
	n := 0
	for _, m := range c.Machines {
		list, err := m.Runtime.List(context.Background())
		if err != nil {
			c.t.Fatalf("list containers of %s: %v", m.Name, err)
		}
		for _, i := range list {
			n += i.Starts
		}
	}
	return n
}

// underlay is one machine's view of the network.
type underlay struct {
	net  *gossiptest.Network
	host netip.Addr
}

func (u underlay) Listen(a netip.AddrPort) (net.Listener, error) { return u.net.Listen(a) }
func (u underlay) ListenPacket(a netip.AddrPort) (net.PacketConn, error) {
	return u.net.ListenPacket(a)
}
func (u underlay) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return u.net.Dial(ctx, u.host, addr)
}

// dns is a network that only remembers what DNS would answer: scripted containers have no packets.
type dns struct {
	mu      sync.Mutex
	records network.Records
}

func (*dns) Configure(context.Context, netip.Prefix) error { return nil }
func (*dns) SetPeers([]network.Peer) error                 { return nil }
func (n *dns) SetRecords(r network.Records) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = r
}

// Resolve is what a container of a job on the machine gets for the name of a service, sorted; nil for nothing.
func (m *Machine) Resolve(jobName, service string) (addrs []netip.Addr) {
	m.names.mu.Lock()
	defer m.names.mu.Unlock()
	for _, r := range m.names.records.Services {
		if r.Job == jobName && r.Name == service {
			addrs = append(addrs, r.Addrs...)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// noImages has none: the scripted runtime pulls by itself.
type noImages struct{}

func (noImages) Get(string) (image.Image, error) { return image.Image{}, image.ErrNotFound }
func (noImages) List() ([]image.Image, error)    { return nil, nil }
func (noImages) Load(context.Context, io.Reader, image.LoadOptions) ([]image.Image, error) {
	return nil, image.ErrInvalid
}
func (noImages) Fetch(context.Context, image.Source, string) (image.Image, error) {
	return image.Image{}, image.ErrNotFound
}
func (noImages) Remove(string) error   { return image.ErrNotFound }
func (noImages) Handler() http.Handler { return http.NotFoundHandler() }
