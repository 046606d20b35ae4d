package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shoal/gossip"
	"shoal/gossip/gossiptest"
)

// cluster is a few pools in one network, in fake time.
type cluster struct {
	t     *testing.T
	net   *gossiptest.Network
	nodes map[string]*node
}

type node struct {
	*gossip.Pool
	id   string
	addr netip.AddrPort
	stop func() // ends Run and waits for it
}

var (
	clusterKey = bytes.Repeat([]byte{7}, gossip.KeySize)
	otherKey   = bytes.Repeat([]byte{8}, gossip.KeySize)
)

func newCluster(t *testing.T) *cluster {
	// Runs last. memberlist does not wait for its probes and exchanges when it stops, and in a bubble time stands still
	// once the test is over.
	t.Cleanup(func() { time.Sleep(time.Minute) })
	return &cluster{t: t, net: gossiptest.NewNetwork(1), nodes: map[string]*node{}}
}

func hostOf(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func (c *cluster) config(n int) gossip.Config {
	c.t.Helper()
	addr := netip.AddrPortFrom(hostOf(n), 6174)
	packets, err := c.net.ListenPacket(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	streams, err := c.net.Listen(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return gossip.Config{
		ID: fmt.Sprintf("id%d", n), Name: fmt.Sprintf("node%d", n), Advertise: addr,
		Packets: packets, Streams: streams, Dial: c.net.Dialer(addr.Addr()),
		Keys: [][]byte{clusterKey}, Label: "cluster1",
	}
}

// start runs a pool with the given configuration. It ends with the test.
func (c *cluster) start(cfg gossip.Config) *node {
	c.t.Helper()
	p, err := gossip.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	n := &node{Pool: p, id: cfg.ID, addr: cfg.Advertise}
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("run of %s: %v", cfg.ID, err)
		}
	}
	c.t.Cleanup(n.stop)
	c.nodes[cfg.ID] = n
	return n
}

// form starts size pools that all joined the first.
func (c *cluster) form(size int) []*node {
	c.t.Helper()
	var all []*node
	for i := 1; i <= size; i++ {
		n := c.start(c.config(i))
		if i > 1 {
			if got, err := n.Join(c.t.Context(), []string{all[0].addr.String()}); got != 1 || err != nil {
				c.t.Fatalf("join of %s: %d, %v", n.id, got, err)
			}
		}
		all = append(all, n)
	}
	c.within(5*time.Second, "everybody sees everybody alive", func() bool { return allAlive(all, size) })
	return all
}

// powerOff takes a node off the network without a word.
func (c *cluster) powerOff(n *node) { c.net.SetDown(n.addr.Addr(), true) }

// within waits in fake time until cond holds and returns how long that took.
func (c *cluster) within(limit time.Duration, what string, cond func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > limit {
			for id, n := range c.nodes {
				c.t.Logf("%s sees %v", id, states(n))
			}
			c.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(start)
}

func states(n *node) []string {
	var out []string
	for _, m := range n.Members() {
		out = append(out, m.ID+"="+m.State.String())
	}
	return out
}

func stateOf(n *node, id string) gossip.State {
	m, _ := n.Member(id)
	return m.State
}

func allAlive(nodes []*node, size int) bool {
	for _, n := range nodes {
		members := n.Members()
		if len(members) != size || slices.ContainsFunc(members, func(m gossip.Member) bool { return m.State != gossip.Alive }) {
			return false
		}
	}
	return true
}

func hosts(nodes []*node) []netip.Addr {
	var out []netip.Addr
	for _, n := range nodes {
		out = append(out, n.addr.Addr())
	}
	return out
}
