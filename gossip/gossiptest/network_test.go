package gossiptest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"shoal/gossip/gossiptest"
)

var (
	hostA, hostB = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	addrA, addrB = netip.AddrPortFrom(hostA, 1), netip.AddrPortFrom(hostB, 1)
)

// pipe returns both ends of a stream from A to B.
func pipe(t *testing.T, n *gossiptest.Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Listen(addrB)
	if err != nil {
		t.Fatal(err)
	}
	a, err = n.Dial(t.Context(), hostA, addrB.String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = a.Close(), b.Close(), l.Close() })
	return a, b
}

func TestPacketsAreDroppedNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		a, _ := n.ListenPacket(addrA)
		b, _ := n.ListenPacket(addrB)
		send := func(text string) {
			t.Helper()
			if _, err := a.WriteTo([]byte(text), net.UDPAddrFromAddrPort(addrB)); err != nil {
				t.Fatal(err)
			}
		}
		n.Partition([]netip.Addr{hostA}, []netip.Addr{hostB})
		send("lost")
		n.Heal()
		n.Cut(hostA, hostB)
		send("lost too")
		n.Heal()
		n.SetDown(hostB, true)
		send("lost as well")
		n.SetDown(hostB, false)
		for range 5000 { // nobody reads: the sender is not held up
			send("flood")
		}
		buf := make([]byte, 100)
		got, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:got]) != "flood" || from.String() != addrA.String() {
			t.Errorf("read %q from %v: %v", buf[:got], from, err)
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		for err == nil {
			_, _, err = b.ReadFrom(buf)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the last packet: %v", err)
		}
	})
}

func TestStreamsStallAcrossACutAndGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		a, b := pipe(t, n)
		n.Partition([]netip.Addr{hostA}, []netip.Addr{hostB})
		if _, err := a.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := b.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read across the cut: %v", err)
		}
		_ = b.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, n.Heal)
		start := time.Now()
		got, err := b.Read(buf)
		if err != nil || string(buf[:got]) != "hello" || time.Since(start) != time.Hour {
			t.Errorf("after %v: %q, %v", time.Since(start), buf[:got], err)
		}
	})
}

func TestDialFailsAsOnARealNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		if _, err := n.Dial(t.Context(), hostA, addrB.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		n.SetDown(hostB, true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := n.Dial(ctx, hostA, addrB.String()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("host is down: %v after %v", err, time.Since(start))
		}
	})
}

func TestStreamsCarryEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		n.SetLatency(10 * time.Millisecond)
		a, b := pipe(t, n)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a stream buffers
		start := time.Now()
		go func() {
			_, _ = a.Write(want)
			_ = a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d of %d bytes: %v", len(got), len(want), err)
		}
		if time.Since(start) < 10*time.Millisecond {
			t.Error("it arrived without the latency")
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed peer: %v", err)
		}
	})
}

func TestResetBreaksBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := gossiptest.NewNetwork(1)
		a, b := pipe(t, n)
		time.AfterFunc(time.Second, func() { n.Reset(hostB) })
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v", err)
			}
		}
	})
}
