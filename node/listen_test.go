package node

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/pki"
)

// authority makes certificates of one cluster.
type authority struct {
	t  *testing.T
	ca *pki.CA
}

func newAuthority(t *testing.T) authority {
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, ca}
}

func (a authority) node(id string) *pki.Identity {
	a.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	csr, _ := key.CSR(id)
	cert, err := a.ca.SignNode(csr, id, id, nil, time.Now(), 0)
	if err != nil {
		a.t.Fatal(err)
	}
	ident, err := pki.NewIdentity(key, cert, a.ca.CertPEM(), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return ident
}

// person gives a client's TLS configuration.
func (a authority) person(role pki.Role) *tls.Config {
	a.t.Helper()
	key, _ := pki.NewKey()
	csr, _ := key.CSR("x")
	certPEM, err := a.ca.SignClient(csr, "ada", role, time.Now(), 0)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, key.PEM())
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{pki.ALPNHTTP1}}
}

func guest() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{pki.ALPNHTTP1}}
}

// port is a mux on a real socket.
type port struct {
	t *testing.T
	*mux
	addr string
}

func openPort(t *testing.T, a authority, stranger func(pki.Peer) bool) *port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if stranger == nil {
		stranger = func(pki.Peer) bool { return false }
	}
	judge := func(p pki.Peer, forRaft bool) bool { return !forRaft && stranger(p) }
	m := newMux(l, a.node("server").ServerTLS(alpnRaft, alpnGossip, alpnAPI), judge, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the port ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the port does not end")
		}
	})
	return &port{t, m, l.Addr().String()}
}

func (p *port) count(c *crowd) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.all
}

func (p *port) dial(conf *tls.Config) (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", p.addr, conf)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

// refuses tells whether a connection is not taken. In TLS 1.3 a client learns that only when it reads.
func (p *port) refuses(conf *tls.Config) bool {
	c, err := p.dial(conf)
	if err != nil {
		return true
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return !os.IsTimeout(err)
}

func accepted(t *testing.T, q *connQueue) net.Conn {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		if c, err := q.Accept(); err == nil {
			got <- c
		}
	}()
	select {
	case c := <-got:
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was accepted")
		return nil
	}
}

func TestThePortTellsProtocolsAndPeersApart(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	p := openPort(t, a, func(p pki.Peer) bool { return p.ID == "unknown" })
	member := a.node("n1")
	for _, c := range []struct {
		name string
		conf *tls.Config
		want *connQueue // nil: refused
	}{
		{"raft of a node", member.ClientTLS(alpnRaft, ""), p.raft},
		{"gossip of a node", member.ClientTLS(alpnGossip, ""), p.gossip},
		{"API of a node", member.ClientTLS(alpnAPI, ""), p.api},
		{"API of a person", a.person(pki.Reader), p.api},
		{"API of a guest", guest(), p.api},
		{"no ALPN at all", &tls.Config{InsecureSkipVerify: true}, p.api},
		{"raft of a person", withALPN(a.person(pki.Admin), alpnRaft), nil},
		{"gossip of a guest", withALPN(guest(), alpnGossip), nil},
		{"raft of a guest", withALPN(guest(), alpnRaft), nil},
		{"a protocol that is not spoken", withALPN(guest(), "h2"), nil},
		{"a person of another cluster", foreign.person(pki.Admin), nil},
		{"a node of another cluster", insecure(foreign.node("n1").ClientTLS(alpnRaft, "")), nil},
		{"TLS 1.2", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, nil},
		{"API of a node that is no member", a.node("unknown").ClientTLS(alpnAPI, ""), nil},
		{"raft of a node that is not known yet", a.node("unknown").ClientTLS(alpnRaft, ""), p.raft},
	} {
		if c.want == nil {
			if !p.refuses(c.conf) {
				t.Errorf("%s: taken", c.name)
			}
			continue
		}
		if _, err := p.dial(c.conf); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_ = accepted(t, c.want).Close()
	}
}

func withALPN(c *tls.Config, alpn string) *tls.Config {
	c.NextProtos = []string{alpn}
	return c
}

func insecure(c *tls.Config) *tls.Config {
	c.VerifyConnection = nil
	return c
}

func TestStrangersWhoSayNothingDoNotKeepOthersOut(t *testing.T) {
	a := newAuthority(t)
	p := openPort(t, a, nil)
	var silent []net.Conn
	for range 2 * maxHandshakesPerHost {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		silent = append(silent, c)
	}
	// The ones above the bound of a host are closed at once, long before their handshake's time is up.
	closed := 0
	for _, c := range silent[maxHandshakesPerHost:] {
		_ = c.SetReadDeadline(time.Now().Add(handshakeTimeout / 2)) // a bound, not a pace
		if _, err := c.Read(make([]byte, 1)); err != nil && !os.IsTimeout(err) {
			closed++
		}
	}
	if closed != maxHandshakesPerHost {
		t.Errorf("%d connections above the bound were closed, want %d", closed, maxHandshakesPerHost)
	}
	c, err := tls.DialWithDialer(from(2), "tcp", p.addr, a.node("n1").ClientTLS(alpnRaft, ""))
	if err != nil {
		t.Fatalf("another host is kept out: %v", err)
	}
	_ = c.Close()
}

// from dials as the host 127.0.0.host.
func from(host byte) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, host)}, Timeout: 5 * time.Second}
}

// However many strangers there are: a member's address has places of its own.
func TestManyStrangersDoNotKeepMembersOut(t *testing.T) {
	a := newAuthority(t)
	p := openPort(t, a, nil)
	p.members.Store(&map[netip.Addr]bool{netip.MustParseAddr("127.0.0.2"): true})
	for host := range byte(maxHandshakes/maxHandshakesPerHost + 1) {
		for range maxHandshakesPerHost {
			c, err := from(11+host).Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	waitUntil(t, "strangers to have all of their places", func() bool { return p.count(&p.handshakes) == maxHandshakes })
	if c, err := tls.DialWithDialer(from(3), "tcp", p.addr, a.node("n2").ClientTLS(alpnRaft, "")); err == nil {
		t.Error("one stranger more was let in")
		_ = c.Close()
	}
	c, err := tls.DialWithDialer(from(2), "tcp", p.addr, a.node("n1").ClientTLS(alpnRaft, ""))
	if err != nil {
		t.Fatalf("a member is kept out: %v", err)
	}
	_ = c.Close()
}

// All members may come at once, as to a new leader: those for whom there is no place yet wait and are not closed.
func TestMembersWaitForTheirTurn(t *testing.T) {
	a := newAuthority(t)
	p := openPort(t, a, nil)
	known := map[netip.Addr]bool{netip.MustParseAddr("127.0.0.2"): true}
	var before []net.Conn
	for host := range byte(maxHandshakes / maxHandshakesPerHost) {
		known[netip.AddrFrom4([4]byte{127, 0, 0, 11 + host})] = true
	}
	p.members.Store(&known)
	for host := range byte(maxHandshakes / maxHandshakesPerHost) {
		for range maxHandshakesPerHost {
			c, err := from(11+host).Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			before = append(before, c)
		}
	}
	waitUntil(t, "all places to be taken", func() bool { return p.count(&p.expected) == maxHandshakes })
	c, err := from(2).Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	waitUntil(t, "it to wait", func() bool { return p.count(&p.expected) == maxHandshakes+1 })
	for _, b := range before {
		_ = b.Close()
	}
	if err := tls.Client(c, a.node("n1").ClientTLS(alpnRaft, "")).Handshake(); err != nil {
		t.Errorf("a member that came when all places were taken: %v", err)
	}
}

func TestGuestsAreBoundedAndMakeRoom(t *testing.T) {
	p := openPort(t, newAuthority(t), nil)
	go func() {
		for {
			if _, err := p.api.Accept(); err != nil { // and do nothing with it
				return
			}
		}
	}()
	come := func(host byte, n int) {
		t.Helper()
		for i := range n {
			c, err := tls.DialWithDialer(from(host), "tcp", p.addr, guest())
			if err != nil {
				t.Fatalf("guest %d of 127.0.0.%d: %v", i, host, err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	come(1, maxGuestsPerHost)
	waitUntil(t, "the guests of a host to be in", func() bool { return p.count(&p.guests) == maxGuestsPerHost })
	if !p.refuses(guest()) {
		t.Error("one guest too many of a host was let in")
	}
	for host := range byte(maxGuests/maxGuestsPerHost - 1) {
		come(2+host, maxGuestsPerHost)
	}
	waitUntil(t, "all guests to be in", func() bool { return p.count(&p.guests) == maxGuests })
	come(99, 1) // the handshake is done before it is counted
	time.Sleep(50 * time.Millisecond)
	if n := p.count(&p.guests); n != maxGuests {
		t.Errorf("%d guests are in, want %d", n, maxGuests)
	}
}

func TestAGuestThatLeavesMakesRoomForAnother(t *testing.T) {
	p := openPort(t, newAuthority(t), nil)
	if _, err := p.dial(guest()); err != nil {
		t.Fatal(err)
	}
	c := accepted(t, p.api)
	if n := p.count(&p.guests); n != 1 {
		t.Fatalf("%d guests are counted, want 1", n)
	}
	_ = c.Close()
	_ = c.Close() // servers do that
	if n := p.count(&p.guests); n != 0 {
		t.Errorf("%d guests are counted after the last left", n)
	}
}

func TestConnectionsOfRemovedNodesAreClosed(t *testing.T) {
	a := newAuthority(t)
	p := openPort(t, a, nil)
	kept, err := p.dial(a.node("n1").ClientTLS(alpnAPI, ""))
	if err != nil {
		t.Fatal(err)
	}
	gone, err := p.dial(a.node("n2").ClientTLS(alpnRaft, ""))
	if err != nil {
		t.Fatal(err)
	}
	var m members
	at := time.Now()
	m.note(5, map[job.NodeID]bool{"n1": true, "n2": true}, at)
	if m.note(4, map[job.NodeID]bool{"n2": true}, at) || m.note(5, map[job.NodeID]bool{"n1": true, "n2": true}, at) { // from a log-holder that lags; the same
		t.Error("nothing new counts as news")
	}
	file := filepath.Join(t.TempDir(), membersFile)
	if err := m.save(file, "c"); err != nil {
		t.Fatal(err)
	}
	m = members{} // as after a restart, during which it was removed
	if err := m.load(file, "c"); err != nil {
		t.Fatal(err)
	}
	if !m.note(6, map[job.NodeID]bool{"n1": true}, at) {
		t.Error("a removal is no news")
	}
	waitUntil(t, "both to be in", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.conns) == 2 })
	p.evict(func(p pki.Peer, _ bool) bool { return m.removed(p) })
	_ = gone.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := gone.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the removed node's connection stands: %v", err)
	}
	_ = kept.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := kept.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("a member's connection was closed: %v", err)
	}
	n2 := pki.Peer{Kind: pki.Node, ID: "n2"}
	if err := m.save(file, "c"); err != nil {
		t.Fatal(err)
	}
	for cluster, want := range map[string]bool{"c": true, "another": false} {
		var back members
		if err := back.load(file, cluster); err != nil || back.removed(n2) != want {
			t.Errorf("after a restart in cluster %s: removed %v, %v", cluster, back.removed(n2), err)
		}
	}
	m.note(7, map[job.NodeID]bool{"n1": true}, at.Add(removedFor+1))
	if m.removed(n2) {
		t.Error("it is remembered for longer than any certificate is good")
	}
	m.note(8, map[job.NodeID]bool{"n1": true, "n2": true}, at)
	m.note(9, map[job.NodeID]bool{"n1": true}, at)
	m.note(10, map[job.NodeID]bool{"n1": true, "n2": true}, at)
	if m.removed(n2) {
		t.Error("a node that came in again still counts as removed")
	}
}

func TestClosedQueuesLeaveNoConnectionBehind(t *testing.T) {
	q := newConnQueue(&net.TCPAddr{})
	ours, theirs := net.Pipe()
	if !q.offer(ours) {
		t.Fatal("an empty queue refuses")
	}
	_ = q.Close()
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection in the queue was not closed: %v", err)
	}
	if other, _ := net.Pipe(); q.offer(other) {
		t.Error("a closed queue takes connections")
	}
}

// waitUntil polls; tests on a busy machine must not be in a hurry.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for start := time.Now(); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
