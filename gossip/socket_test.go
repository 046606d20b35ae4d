package gossip_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"shoal/gossip"
)

// The rest runs in memory; this shows that the pool works on the kernel's sockets, too.
func TestPoolsMeetOverLoopback(t *testing.T) {
	var pools []*gossip.Pool
	var addrs []string
	for _, id := range []string{"a", "b", "c"} {
		streams, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := streams.Addr().(*net.TCPAddr).AddrPort()
		packets, err := net.ListenPacket("udp", addr.String())
		if err != nil {
			t.Skipf("the UDP port beside TCP %v is taken: %v", addr, err)
		}
		p, err := gossip.New(gossip.Config{
			ID: id, Name: id, Advertise: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), Packets: packets, Streams: streams,
			Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
			Keys: [][]byte{clusterKey}, Label: "loopback",
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			// Run closes what it was given, so that the port is free for the next.
			if l, err := net.Listen("tcp", addr.String()); err != nil {
				t.Errorf("after the stop: %v", err)
			} else {
				_ = l.Close()
			}
		})
		pools, addrs = append(pools, p), append(addrs, addr.String())
	}
	for _, p := range pools[1:] {
		if _, err := p.Join(t.Context(), addrs[:1]); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, p := range pools {
		for len(p.Members()) != len(pools) {
			if time.Now().After(deadline) {
				t.Fatalf("only %d members", len(p.Members()))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
