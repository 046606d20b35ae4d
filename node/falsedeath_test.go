package node

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/gossip/gossiptest"
	"shoal/node/pki"
)

var (
	simLossy     = flag.Duration("sim.lossy", 5*time.Minute, "how long five nodes live on a lossy network, in fake time")
	simInquiries = flag.Int("sim.inquiries", 200, "how often a living node is inquired about on a lossy network")
	simFirst     = flag.Uint64("sim.first", 1, "seed")
)

// judged are five nodes of which only what decides about life and death is there: real gossip, the leader's judge over a
// real log, ports that answer, and the word of another log-holder. What is left out is what takes the time of a simulation:
// followers of the log, feeds, tasks, and TLS of gossip's streams.
type judged struct {
	leader *Node
	nodes  []*Node
	net    *gossiptest.Network
	ctx    context.Context
}

// plainPort is where a node's gossip streams come in, beside its port.
const plainPort = 7000

type noImagesHere struct{ Images }

func (noImagesHere) Handler() http.Handler { return http.NotFoundHandler() }

func newJudged(t *testing.T, seed uint64) *judged {
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	t.Cleanup(func() { stop(); parts.Wait(); time.Sleep(time.Minute) })
	c := &judged{net: gossiptest.NewNetwork(seed), ctx: ctx}
	ca := newAuthority(t)
	quiet := slog.New(slog.DiscardHandler)
	keys := [][]byte{make([]byte, gossip.KeySize)}
	var addrs []string
	for i := range 5 {
		addrs = append(addrs, fmt.Sprintf("192.0.2.%d:%d", i+1, DefaultPort))
	}
	for i := range 5 {
		id := fmt.Sprintf("n%d", i+1)
		addr := netip.MustParseAddrPort(addrs[i])
		u := memUnderlay{c.net, addr.Addr()}
		n, err := New(Config{DataDir: "none", Name: id, Bind: addr, Advertise: addr, Underlay: u, Logger: quiet,
			Machine: func(MachineConfig) (*Machine, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		n.id, n.ident = job.NodeID(id), ca.node(id)
		n.peers = newPeers(u, n.ident)
		n.member.Peers = addrs
		n.machine = &Machine{Images: noImagesHere{}}
		port, err := u.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		m := newMux(port, n.ident.ServerTLS(alpnRaft, alpnGossip, alpnAPI), func(pki.Peer, bool) bool { return false }, quiet)
		packets, _ := u.ListenPacket(addr)
		streams, _ := u.Listen(netip.AddrPortFrom(addr.Addr(), plainPort))
		n.pool, err = gossip.New(gossip.Config{
			ID: id, Name: id, Advertise: addr, Packets: packets, Streams: streams, Keys: keys, Label: "test",
			Dial: func(ctx context.Context, to string) (net.Conn, error) {
				return u.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddrPort(to).Addr(), plainPort).String())
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		parts.Go(func() { _ = m.run(ctx) })
		parts.Go(func() { _ = n.serveAPI(ctx, m.api, nil) })
		parts.Go(func() { _ = n.runGossip(ctx) })
		t.Cleanup(n.peers.transport.CloseIdleConnections)
		c.nodes = append(c.nodes, n)
	}
	c.leader = c.nodes[0]
	c.openLog(t, &parts)
	parts.Go(func() { _ = c.leader.judgeNodes(ctx) })
	return c
}

// openLog gives the leader a log with all nodes in it; the others' copies are not there, and it alone votes.
func (c *judged) openLog(t *testing.T, parts *sync.WaitGroup) {
	l := c.leader
	streams, _ := c.net.Listen(netip.AddrPortFrom(l.cfg.Advertise.Addr(), 7001))
	store := raft.NewInmemStore()
	var err error
	l.raft, err = consensus.Open(consensus.Config{
		ID: l.id, Advertise: l.cfg.Advertise.String(), Streams: streams, Logger: l.log,
		Dial:   func(context.Context, job.NodeID, string) (net.Conn, error) { return nil, net.ErrClosed },
		Stores: consensus.Stores{Log: store, Stable: store, Snapshots: raft.NewInmemSnapshotStore()},
	}, l.state)
	if err == nil {
		err = l.raft.Bootstrap()
	}
	if err != nil {
		t.Fatal(err)
	}
	parts.Go(func() { _ = l.raft.Run(c.ctx) })
	for !l.raft.IsLeader() {
		time.Sleep(50 * time.Millisecond)
	}
	for _, n := range c.nodes {
		if n != l {
			if err := l.raft.AddStandby(c.ctx, n.id, n.cfg.Advertise.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.tell(t, state.InitCluster{Cluster: job.Cluster{ID: "test", Pool: DefaultPool, SubnetBits: subnetBits, Rules: state.Rules}, At: time.Now()})
	for _, n := range c.nodes {
		c.tell(t, state.PutNode{Node: job.Node{ID: n.id, Name: n.cfg.Name, Addr: n.cfg.Advertise, KeyPin: "pin of " + n.cfg.Name, Rules: state.Rules}, At: time.Now()})
	}
}

func (c *judged) tell(t *testing.T, cmd state.Command) {
	t.Helper()
	if _, err := c.leader.propose(c.ctx, cmd); err != nil {
		t.Fatal(err)
	}
}

type memUnderlay struct {
	net  *gossiptest.Network
	host netip.Addr
}

func (u memUnderlay) Listen(a netip.AddrPort) (net.Listener, error) { return u.net.Listen(a) }
func (u memUnderlay) ListenPacket(a netip.AddrPort) (net.PacketConn, error) {
	return u.net.ListenPacket(a)
}
func (u memUnderlay) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return u.net.Dial(ctx, u.host, addr)
}

func (c *judged) lose(p float64) { c.net.SetLoss(p); c.net.SetStreamLoss(p) }

// downs counts the decisions that a node is down.
func (c *judged) downs() (n int) {
	for _, e := range c.leader.state.View().Events(state.EventFilter{}) {
		if e.Kind == job.EventNodeDown {
			n++
		}
	}
	return n
}

// At a loss of a tenth of all packets, retransmissions included, gossip is wrong about the living all the time, and nobody
// is declared down. -test.v tells for how many node-days.
func TestNobodyLivingIsDeclaredDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newJudged(t, *simFirst)
		time.Sleep(10 * time.Second)
		for _, n := range c.nodes {
			if alive := len(n.pool.Members()); alive != 5 {
				t.Fatalf("%s knows %d members", n.id, alive)
			}
		}
		var mu sync.Mutex
		suspected, dead := 0, 0
		for _, n := range c.nodes {
			_, events := n.pool.Watch(c.ctx)
			go func() {
				for e := range events {
					mu.Lock()
					switch e.Kind {
					case gossip.Suspected:
						suspected++
					case gossip.Died:
						dead++
					}
					mu.Unlock()
				}
			}()
		}
		c.lose(0.1)
		time.Sleep(*simLossy)
		c.lose(0)
		mu.Lock()
		defer mu.Unlock()
		days := 5 * simLossy.Hours() / 24
		t.Logf("%.2f node-days at 10 %% loss: %d times suspected and %d times called dead by gossip, each by one of five (%.1f and %.2f in a node-day); %d false decisions that a node is down",
			days, suspected, dead, float64(suspected)/days, float64(dead)/days, c.downs())
		if d := c.downs(); d > 0 {
			t.Errorf("%d times a node was declared down that was well", d)
		}
	})
}

// The confirmation alone, as often as is wanted: were gossip wrong each time, how often would the leader and one more
// log-holder both fail to reach a living node at the same loss?
func TestInquiriesReachTheLiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newJudged(t, *simFirst)
		time.Sleep(10 * time.Second)
		c.lose(0.1)
		wrong, alone := 0, 0
		view := c.leader.state.View()
		for i := range *simInquiries {
			node := view.Node(c.nodes[1+i%4].id)
			time.Sleep(triedFresh + time.Second) // else the last answer counts
			if c.leader.reach(c.ctx, node, c.leader.try) == reachNone {
				wrong++
			}
			if i%10 == 0 && c.leader.tryNow(c.ctx, node.Addr.String()) == reachNone {
				alone++
			}
		}
		t.Logf("%d inquiries about living nodes at 10 %% loss: %d found nobody; the leader alone would have found nobody in %d of %d", *simInquiries, wrong, alone, (*simInquiries+9)/10)
		if wrong > *simInquiries/100 {
			t.Errorf("%d of %d inquiries did not reach a living node", wrong, *simInquiries)
		}
		c.lose(0)
	})
}
