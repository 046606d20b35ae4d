package node

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"shoal/gossip"
	"shoal/node/pki"
)

// Relays: a node that cannot reach the leader, though others can, goes through one of them. Without that one cut between
// two machines costs the fenced tasks of a node their leases: it is not lost, because others reach it, so nobody else may run
// them. The relay passes bytes on and understands none: the two ends do their handshake through it, so nobody speaks
// for another.
const (
	alpnRelay = "shoal-relay/1"
	// relayAfter is how long the direct way is tried alone.
	relayAfter = 500 * time.Millisecond
	// relayDial bounds the way of a relay to the other end, and relayAsk the whole way to it.
	relayDial = time.Second
	relayAsk  = 2 * time.Second
	// relayFirst is how long a way that worked is tried first.
	relayFirst = 10 * time.Second
	maxRelays  = 64 // streams that a node passes on at a time
	relayTries = 2  // nodes that are asked to, at once
	relayIdle  = 2 * time.Minute
)

// detours remembers to which addresses the direct way was shut.
type detours struct {
	mu   sync.Mutex
	shut map[string]time.Time // bounded by the addresses of leaders
}

func (d *detours) known(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.shut[addr]
	return ok && time.Since(at) < relayFirst
}

func (d *detours) note(addr string, shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !shut {
		delete(d.shut, addr)
		return
	}
	if d.shut == nil {
		d.shut = map[string]time.Time{}
	}
	d.shut[addr] = time.Now()
}

// dialLeader opens an API stream to the leader, directly or through another node.
func (n *Node) dialLeader(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	wait := relayAfter
	if n.detours.known(addr) {
		wait = 0
	}
	type answer struct {
		conn    net.Conn
		err     error
		relayed bool
	}
	answers := make(chan answer, 1+relayTries)
	open, asked := 1, false
	go func() {
		c, err := n.peers.dial(ctx, addr, pki.ALPNHTTP1)
		answers <- answer{c, err, false}
	}()
	ask := func() {
		if asked {
			return
		}
		asked = true
		for _, via := range n.relaysTo(addr) {
			open++
			go func() {
				c, err := n.dialThrough(ctx, via, addr)
				answers <- answer{c, err, true}
			}()
		}
	}
	alarm := time.NewTimer(wait)
	defer alarm.Stop()
	var errs []error
	for open > 0 {
		select {
		case a := <-answers:
			open--
			if a.err == nil {
				n.detours.note(addr, a.relayed)
				go closeRest(answers, open, func(a answer) net.Conn { return a.conn })
				return a.conn, nil
			}
			errs = append(errs, a.err)
			ask()
		case <-alarm.C:
			ask()
		}
	}
	return nil, errors.Join(errs...)
}

// closeRest takes in the answers that come too late.
func closeRest[T any](answers <-chan T, n int, conn func(T) net.Conn) {
	for range n {
		if c := conn(<-answers); c != nil {
			_ = c.Close()
		}
	}
}

// relaysTo picks nodes that may reach what this one does not.
func (n *Node) relaysTo(addr string) (via []string) {
	for _, m := range n.pool.Members() {
		if a := m.Addr.String(); m.State == gossip.Alive && m.ID != string(n.id) && a != addr {
			via = append(via, a)
		}
	}
	rand.Shuffle(len(via), func(i, j int) { via[i], via[j] = via[j], via[i] })
	return via[:min(relayTries, len(via))]
}

// dialThrough opens a stream to addr by way of another node.
func (n *Node) dialThrough(ctx context.Context, via, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, relayAsk)
	defer cancel()
	hop, err := n.peers.dial(ctx, via, alpnRelay)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = hop.Close() })
	conn := tls.Client(hop, n.ident.ClientTLS(pki.ALPNHTTP1, ""))
	_, err = hop.Write(append([]byte{byte(len(addr))}, addr...))
	if err == nil {
		err = conn.HandshakeContext(ctx)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = hop.Close()
		return nil, err
	}
	return conn, nil
}

// serveRelays passes streams on until ctx ends.
func (n *Node) serveRelays(ctx context.Context, from net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = from.Close() })
	defer stop()
	slots := make(chan struct{}, maxRelays)
	for {
		conn, err := from.Accept()
		if err != nil {
			return nil // the port is closed, which its own part tells about
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			n.relay(ctx, conn)
		})
	}
}

// relay reads where a stream is to go, and passes on what comes either way until one side ends.
func (n *Node) relay(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(relayAsk))
	name := make([]byte, 256)
	if _, err := io.ReadFull(conn, name[:1]); err != nil {
		return
	}
	name = name[1 : 1+int(name[0])]
	if _, err := io.ReadFull(conn, name); err != nil || !n.knowsAddr(string(name)) {
		return
	}
	addr := string(name)
	dial, cancel := context.WithTimeout(ctx, relayDial)
	to, err := n.cfg.Underlay.Dial(dial, addr)
	cancel()
	if err != nil {
		return
	}
	defer to.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(); _ = to.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	pass := func(dst, src net.Conn) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 16<<10)
		for {
			_ = src.SetReadDeadline(time.Now().Add(relayIdle))
			k, err := src.Read(buf)
			if k > 0 {
				_ = dst.SetWriteDeadline(time.Now().Add(relayIdle))
				if _, err := dst.Write(buf[:k]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go pass(to, conn)
	go pass(conn, to)
	<-done
	_, _ = conn.Close(), to.Close()
	<-done
}
