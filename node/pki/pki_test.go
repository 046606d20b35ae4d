package pki

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testClock is a clock that a test moves.
type testClock struct{ offset atomic.Int64 }

func (c *testClock) now() time.Time          { return epoch.Add(time.Duration(c.offset.Load())) }
func (c *testClock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newTestCA(t *testing.T, cluster string) *CA {
	t.Helper()
	return must[*CA](t)(NewCA(cluster, epoch))
}

func newTestNode(t *testing.T, ca *CA, id string, clock *testClock) *Identity {
	t.Helper()
	key := must[Key](t)(NewKey())
	csr := must[[]byte](t)(key.CSR(id))
	cert := must[[]byte](t)(ca.SignNode(csr, id, "name-"+id, []net.IP{net.IPv4(10, 0, 0, 1)}, clock.now(), 0))
	return must[*Identity](t)(NewIdentity(key, cert, ca.CertPEM(), clock.now))
}

// newTestUser returns a client configuration with a person's certificate.
func newTestUser(t *testing.T, ca *CA, name string, role Role, alpn string, server *Identity) *tls.Config {
	t.Helper()
	key := must[Key](t)(NewKey())
	csr := must[[]byte](t)(key.CSR("root"))
	cert := must[[]byte](t)(ca.SignClient(csr, name, role, epoch, 0))
	pair := must[tls.Certificate](t)(tls.X509KeyPair(cert, key.PEM()))
	c := BootstrapTLS(server.Fingerprint(), alpn, server.clock)
	// Certificates would be left at home when the server names other authorities.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c
}

// shake connects a client to a server and returns what each side ended with. In TLS 1.3 the client is done before the
// server has judged its certificate, so the client reads one byte to learn of that.
func shake(t *testing.T, server, client *tls.Config) (srv, cli tls.ConnectionState, srvErr, cliErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(20 * time.Second)
	_ = a.SetDeadline(deadline)
	_ = b.SetDeadline(deadline)
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = a.Close() }()
		if srvErr = s.Handshake(); srvErr == nil {
			_, srvErr = s.Write([]byte{1})
		}
	}()
	if cliErr = c.Handshake(); cliErr == nil {
		_, cliErr = c.Read(make([]byte, 1))
	}
	_ = b.Close()
	<-done
	return s.ConnectionState(), c.ConnectionState(), srvErr, cliErr
}

var allALPN = []string{ALPNRaft, ALPNGossip, ALPNHTTP2, ALPNHTTP1}

func TestNodesOfOneClusterTrustEachOther(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	for _, alpn := range allALPN {
		srv, cli, err1, err2 := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(alpn, "a"))
		if err1 != nil || err2 != nil {
			t.Fatalf("%s: server %v, client %v", alpn, err1, err2)
		}
		if cli.Version != tls.VersionTLS13 || srv.NegotiatedProtocol != alpn {
			t.Errorf("%s: TLS %x, protocol %q", alpn, cli.Version, srv.NegotiatedProtocol)
		}
		want := Peer{Kind: Node, Cluster: "c1", ID: "b", Name: "name-b", Pin: b.Key().Pin()}
		if p, ok := PeerOf(srv); !ok || p != want {
			t.Errorf("%s: the server sees %+v, want %+v", alpn, p, want)
		}
		if p, ok := PeerOf(cli); !ok || p.ID != "a" || p.Kind != Node {
			t.Errorf("%s: the client sees %+v", alpn, p)
		}
	}
}

func TestWhoIsRefused(t *testing.T) {
	clock := &testClock{}
	ca, foreign, twin := newTestCA(t, "c1"), newTestCA(t, "c2"), newTestCA(t, "c1")
	a := newTestNode(t, ca, "a", clock)
	server := a.ServerTLS(allALPN...)
	noCert := func(alpn string) *tls.Config { return BootstrapTLS(ca.Fingerprint(), alpn, clock.now) }
	old := func(alpn string) *tls.Config {
		c := newTestNode(t, ca, "b", clock).ClientTLS(alpn, "")
		c.MaxVersion, c.MinVersion = tls.VersionTLS12, tls.VersionTLS12
		return c
	}
	// insecure is a client that accepts any server, to see that the server refuses it by itself.
	insecure := func(id *Identity, alpn string) *tls.Config {
		c := id.ClientTLS(alpn, "")
		c.VerifyConnection = nil
		return c
	}
	for _, test := range []struct {
		name   string
		server *tls.Config
		client *tls.Config
		want   string // in the error of the side that refuses; empty: accepted
	}{
		{"raft without a certificate", server, noCert(ALPNRaft), "certificate"},
		{"gossip without a certificate", server, noCert(ALPNGossip), "certificate"},
		{"api without a certificate", server, noCert(ALPNHTTP2), ""},
		{"raft as a person", server, newTestUser(t, ca, "ann", Admin, ALPNRaft, a), "is for nodes, the client is user ann"},
		{"api as a person", server, newTestUser(t, ca, "ann", Admin, ALPNHTTP2, a), ""},
		{"api as a person of another cluster", server, newTestUser(t, foreign, "ann", Admin, ALPNHTTP2, a), "not of cluster c1"},
		{"raft from another cluster", server, insecure(newTestNode(t, foreign, "b", clock), ALPNRaft), "not of cluster c1"},
		{"api from another cluster", server, insecure(newTestNode(t, foreign, "b", clock), ALPNHTTP2), "not of cluster c1"},
		{"raft from another authority with our name", server, insecure(newTestNode(t, twin, "b", clock), ALPNRaft), "not of cluster c1"},
		{"server of another cluster", newTestNode(t, foreign, "a", clock).ServerTLS(ALPNHTTP2), newTestNode(t, ca, "b", clock).ClientTLS(ALPNHTTP2, ""), "not of cluster c1"},
		{"server with another id", server, newTestNode(t, ca, "b", clock).ClientTLS(ALPNRaft, "z"), "the server is node a, expected z"},
		{"unknown protocol", server, newTestNode(t, ca, "b", clock).ClientTLS("shoal-raft/9", ""), "this port speaks"},
		{"protocol that this port does not offer", a.ServerTLS(ALPNRaft), newTestNode(t, ca, "b", clock).ClientTLS(ALPNHTTP2, ""), "this port speaks"},
		{"TLS 1.2", server, old(ALPNRaft), "version"},
		{"bootstrap with another fingerprint", server, BootstrapTLS(foreign.Fingerprint(), ALPNHTTP2, clock.now), "check the address and the token"},
		{"bootstrap with a broken fingerprint", server, BootstrapTLS("abc", ALPNHTTP2, clock.now), "fingerprint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err1, err2 := shake(t, test.server, test.client)
			err := errors.Join(err1, err2)
			if test.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err1 == nil || err2 == nil {
				t.Fatalf("server %v, client %v: want both sides to fail", err1, err2)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("server %v, client %v: want %q", err1, err2, test.want)
			}
		})
	}
}

// An offer of two protocols must be judged by the one that is chosen.
func TestOfferingHTTPTooDoesNotOpenRaft(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a := newTestNode(t, ca, "a", clock)
	client := BootstrapTLS(ca.Fingerprint(), ALPNHTTP2, clock.now)
	client.NextProtos = []string{ALPNHTTP2, ALPNRaft}
	client.VerifyConnection = nil
	for _, ours := range [][]string{{ALPNRaft, ALPNHTTP2}, {ALPNHTTP2, ALPNRaft}} {
		srv, _, err, _ := shake(t, a.ServerTLS(ours...), client)
		if err == nil && srv.NegotiatedProtocol != ALPNHTTP2 {
			t.Errorf("%v: a client without a certificate speaks %q", ours, srv.NegotiatedProtocol)
		}
		if ours[0] == ALPNRaft && err == nil {
			t.Errorf("%v: want a refusal", ours)
		}
	}
}

func TestClientsWithoutALPNSpeakHTTP(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a := newTestNode(t, ca, "a", clock)
	client := BootstrapTLS(ca.Fingerprint(), ALPNHTTP1, clock.now)
	client.NextProtos = nil
	srv, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), client)
	if err1 != nil || err2 != nil {
		t.Fatalf("server %v, client %v", err1, err2)
	}
	if _, ok := PeerOf(srv); ok {
		t.Error("a client without a certificate has an identity")
	}
	if _, _, err, _ := shake(t, a.ServerTLS(ALPNRaft), client); err == nil {
		t.Error("a client without ALPN reached raft")
	}
}

func TestPeopleCarryTheirRole(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a := newTestNode(t, ca, "a", clock)
	srv, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), newTestUser(t, ca, "ann@example.com", Reader, ALPNHTTP2, a))
	if err1 != nil || err2 != nil {
		t.Fatalf("server %v, client %v", err1, err2)
	}
	if p, ok := PeerOf(srv); !ok || p.Kind != User || p.ID != "ann@example.com" || p.Role != Reader {
		t.Errorf("the server sees %+v", p)
	}
}

func TestExpiredCertificatesAreRefusedUnlessPinned(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	user := newTestUser(t, ca, "ann", Admin, ALPNHTTP2, a)
	clock.advance(NodeValidity + ClientValidity)

	_, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a"))
	if err1 == nil || err2 == nil || !strings.Contains(err2.Error(), "this node's clock says") {
		t.Fatalf("server %v, client %v: want a refusal that shows the clock", err1, err2)
	}

	pins := map[string]Pin{"a": a.Key().Pin(), "b": b.Key().Pin()}
	pinned := func(id string, key Pin) bool { return pins[id] == key }
	a.TrustPinned(pinned)
	b.TrustPinned(pinned)
	if _, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")); err1 != nil || err2 != nil {
		t.Errorf("both pinned: server %v, client %v", err1, err2)
	}
	user.VerifyConnection = nil
	if _, _, err, _ := shake(t, a.ServerTLS(allALPN...), user); err == nil {
		t.Error("a person's expired certificate was accepted")
	}
	pins["b"] = Pin{1}
	if _, _, err, _ := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")); err == nil {
		t.Error("an expired certificate was accepted whose key is not the pinned one")
	}
}

func TestTheRemovedAreRefused(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	server, client := a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")
	removed := "z"
	a.Distrust(func(p Peer) bool { return p.Kind == Node && p.ID == removed })
	b.Distrust(func(p Peer) bool { return p.Kind == Node && p.ID == removed })
	for _, step := range []struct {
		removed string
		refused bool
	}{{"z", false}, {"b", true}, {"a", true}} {
		removed = step.removed
		_, _, err1, err2 := shake(t, server, client)
		if (err1 != nil && err2 != nil) != step.refused {
			t.Errorf("%s removed: server %v, client %v", removed, err1, err2)
		}
	}
}

func TestACertificateFromTheFutureIsRefused(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	clock.advance(-2 * backdate)
	if _, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")); err1 == nil || err2 == nil {
		t.Errorf("server %v, client %v", err1, err2)
	}
}

// A leader whose clock was ahead signs what begins later than now, and may be the one whose own begins so. Its clock is put
// right, and nobody must be shut out until then.
func TestACertificateSignedAheadLetsThePinnedNodeIn(t *testing.T) {
	for _, ahead := range []time.Duration{2 * backdate, 200 * 24 * time.Hour} {
		clock := &testClock{}
		ca := newTestCA(t, "c1")
		a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
		user := newTestUser(t, ca, "ann", Admin, ALPNHTTP2, a)
		if b.NeedsRenewal(clock.now()) {
			t.Error("a new certificate is to be renewed")
		}
		cert := must[[]byte](t)(ca.SignNode(must[[]byte](t)(b.Key().CSR("b")), "b", "name-b", nil, clock.now().Add(ahead), 0))
		if err := b.Renew(b.Key(), cert); err != nil {
			t.Fatal(err)
		}
		if !b.NeedsRenewal(clock.now()) {
			t.Errorf("%v ahead: it is not to be renewed", ahead)
		}
		pins := map[string]Pin{"a": a.Key().Pin(), "b": b.Key().Pin()}
		pinned := func(id string, key Pin) bool { return pins[id] == key }
		a.TrustPinned(pinned)
		b.TrustPinned(pinned)
		both := func() (errs []error) {
			for _, way := range [][2]*Identity{{a, b}, {b, a}} {
				_, _, err1, err2 := shake(t, way[0].ServerTLS(allALPN...), way[1].ClientTLS(ALPNRaft, way[0].NodeID()))
				errs = append(errs, err1, err2)
			}
			return errs
		}
		if err := errors.Join(both()...); err != nil {
			t.Errorf("%v ahead: %v", ahead, err)
		}
		clock.advance(-caBackdate - time.Hour) // now the authority is younger than the clock, too
		if err := errors.Join(both()...); err != nil {
			t.Errorf("with an authority from the future: %v", err)
		}
		if _, _, err, _ := shake(t, a.ServerTLS(allALPN...), user); err == nil {
			t.Error("a person's certificate from the future was accepted")
		}
		pins["b"] = Pin{1}
		if errs := both(); errs[0] == nil || errs[3] == nil {
			t.Errorf("accepted with another key than the pinned one: %v", errs)
		}
	}
}

func TestAFoundersClockMayBeYearsAhead(t *testing.T) {
	clock := &testClock{}
	ca := must[*CA](t)(NewCA("c1", epoch.Add(5*365*24*time.Hour)))
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	if _, _, err1, err2 := shake(t, a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")); err1 != nil || err2 != nil {
		t.Errorf("server %v, client %v", err1, err2)
	}
}

func TestRenewalNeedsNoRestart(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	server, client := a.ServerTLS(allALPN...), b.ClientTLS(ALPNRaft, "a")
	if a.NeedsRenewal(clock.now().Add(NodeValidity*6/10)) || !a.NeedsRenewal(clock.now().Add(NodeValidity*7/10)) {
		t.Error("the renewal window is not the last third")
	}
	clock.advance(NodeValidity + time.Hour)
	if _, _, err, _ := shake(t, server, client); err == nil {
		t.Fatal("expired and still accepted")
	}
	for _, id := range []*Identity{a, b} {
		key := must[Key](t)(NewKey())
		csr := must[[]byte](t)(key.CSR(id.NodeID()))
		if err := id.Renew(key, must[[]byte](t)(ca.SignNode(csr, id.NodeID(), id.Name(), nil, clock.now(), 0))); err != nil {
			t.Fatal(err)
		}
	}
	srv, _, err1, err2 := shake(t, server, client)
	if err1 != nil || err2 != nil {
		t.Fatalf("after the renewal: server %v, client %v", err1, err2)
	}
	if p, _ := PeerOf(srv); p.Pin != b.Key().Pin() {
		t.Error("the old key is still shown")
	}
	other := newTestNode(t, ca, "z", clock)
	if err := a.Renew(other.Key(), other.CertPEM()); err == nil {
		t.Error("a renewal changed the node's id")
	}
}

func TestIdentitySurvivesTheDisk(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a := newTestNode(t, ca, "a", clock)
	dir := t.TempDir()
	if _, err := LoadIdentity(dir, clock.now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: %v", err)
	}
	for range 2 { // the second replaces the first
		if err := a.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	entries := must[[]os.DirEntry](t)(os.ReadDir(dir))
	if len(entries) != 1 {
		t.Errorf("left in the directory: %v", entries)
	}
	if info := must[fs.FileInfo](t)(entries[0].Info()); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	clock.advance(2 * NodeValidity) // it must load after a long time off
	got := must[*Identity](t)(LoadIdentity(dir, clock.now))
	if got.NodeID() != "a" || got.ClusterID() != "c1" || got.Name() != "name-a" || got.Key().Pin() != a.Key().Pin() ||
		got.Fingerprint() != ca.Fingerprint() || !got.NotAfter().Equal(a.NotAfter()) {
		t.Errorf("loaded %+v", got)
	}
	path := filepath.Join(dir, entries[0].Name())
	whole := must[[]byte](t)(os.ReadFile(path))
	for _, cut := range []int{0, 10, len(whole) / 3, len(whole) - 100} {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir, clock.now); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("cut to %d bytes: error %v does not name the file", cut, err)
		}
	}
}

func TestIdentityRefusesWhatDoesNotBelongTogether(t *testing.T) {
	clock := &testClock{}
	ca, foreign := newTestCA(t, "c1"), newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	userKey := must[Key](t)(NewKey())
	userCert := must[[]byte](t)(ca.SignClient(must[[]byte](t)(userKey.CSR("x")), "ann", Admin, epoch, 0))
	for name, try := range map[string]func() error{
		"key of another":         func() error { _, err := NewIdentity(b.Key(), a.CertPEM(), ca.CertPEM(), nil); return err },
		"another authority":      func() error { _, err := NewIdentity(a.Key(), a.CertPEM(), foreign.CertPEM(), nil); return err },
		"a person's certificate": func() error { _, err := NewIdentity(userKey, userCert, ca.CertPEM(), nil); return err },
		"node as authority":      func() error { _, err := NewIdentity(a.Key(), a.CertPEM(), a.CertPEM(), nil); return err },
		"no key":                 func() error { _, err := NewIdentity(Key{}, a.CertPEM(), ca.CertPEM(), nil); return err },
		"authority's other key":  func() error { _, err := LoadCA(ca.CertPEM(), a.Key().PEM()); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSigningChecksWhatItSigns(t *testing.T) {
	ca := newTestCA(t, "c1")
	csr := must[[]byte](t)(must[Key](t)(NewKey()).CSR("whatever/it says"))
	for _, id := range []string{"", "a/b", "a b", "../x", strings.Repeat("x", 64), "a\n"} {
		if _, err := ca.SignNode(csr, id, "name", nil, epoch, 0); err == nil {
			t.Errorf("node id %q was signed", id)
		}
	}
	if _, err := ca.SignClient(csr, "ann", "root", epoch, 0); err == nil {
		t.Error("an unknown role was signed")
	}
	if _, err := ca.SignClient(csr, "ann/admin", Reader, epoch, 0); err == nil {
		t.Error("a user's name with a slash was signed")
	}
	damaged := strings.Replace(string(csr), "M", "N", 1)
	for name, csr := range map[string]string{"damaged": damaged, "empty": "", "certificate": string(ca.CertPEM()), "huge": strings.Repeat("x", 1<<20)} {
		if _, err := ca.SignNode([]byte(csr), "a", "a", nil, epoch, 0); err == nil {
			t.Errorf("%s request was signed", name)
		}
	}
	for _, cluster := range []string{"", "a.b", "a_b", "-a", "a b", strings.Repeat("x", 64)} {
		if _, err := NewCA(cluster, epoch); err == nil {
			t.Errorf("cluster id %q was accepted", cluster)
		}
	}
}

func TestAuthorityRoundTrip(t *testing.T) {
	ca := newTestCA(t, "c1")
	again := must[*CA](t)(LoadCA(ca.CertPEM(), ca.KeyPEM()))
	if again.Fingerprint() != ca.Fingerprint() || again.ClusterID() != "c1" {
		t.Errorf("loaded %s of %s", again.Fingerprint(), again.ClusterID())
	}
	if err := CheckFingerprint(ca.CertPEM(), ca.Fingerprint()); err != nil {
		t.Error(err)
	}
	if err := CheckFingerprint(newTestCA(t, "c1").CertPEM(), ca.Fingerprint()); err == nil {
		t.Error("another authority has the same fingerprint")
	}
}

func TestRenewalProvesTheOldKey(t *testing.T) {
	clock := &testClock{}
	ca := newTestCA(t, "c1")
	a, b := newTestNode(t, ca, "a", clock), newTestNode(t, ca, "b", clock)
	clock.advance(2 * NodeValidity)
	nonce, other := must[[]byte](t)(NewNonce()), must[[]byte](t)(NewNonce())
	key := must[Key](t)(NewKey())
	good := must[Renewal](t)(a.SignRenewal(nonce, key))
	if err := VerifyRenewal(good, "c1", nonce, a.Key().Pin()); err != nil {
		t.Fatal(err)
	}
	if err := a.Renew(key, must[[]byte](t)(ca.SignNode(good.CSR, "a", "name-a", nil, clock.now(), 0))); err != nil {
		t.Fatal(err)
	}
	pinA := pinOf(good.PublicKey)
	for name, try := range map[string]func(r Renewal) error{
		"replayed":      func(r Renewal) error { return VerifyRenewal(r, "c1", other, pinA) },
		"other cluster": func(r Renewal) error { return VerifyRenewal(r, "c2", nonce, pinA) },
		"other key":     func(r Renewal) error { return VerifyRenewal(r, "c1", nonce, b.Key().Pin()) },
		"empty nonce":   func(r Renewal) error { return VerifyRenewal(r, "c1", nil, pinA) },
		"other node":    func(r Renewal) error { r.NodeID = "b"; return VerifyRenewal(r, "c1", nonce, pinA) },
		"other request": func(r Renewal) error {
			r.CSR = append([]byte("\n"), r.CSR...)
			return VerifyRenewal(r, "c1", nonce, pinA)
		},
		"other signature": func(r Renewal) error { r.Signature = nil; return VerifyRenewal(r, "c1", nonce, pinA) },
		"not a key": func(r Renewal) error {
			r.PublicKey = []byte("x")
			return VerifyRenewal(r, "c1", nonce, pinOf([]byte("x")))
		},
	} {
		if err := try(good); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSealedThingsOpenOnlyAsWhatTheyAre(t *testing.T) {
	key, other := must[[]byte](t)(NewSealKey()), must[[]byte](t)(NewSealKey())
	for _, plain := range []string{"", "the key of the authority"} {
		box := must[[]byte](t)(Seal(key, []byte(plain), []byte("ca")))
		if got, err := Open(key, box, []byte("ca")); err != nil || string(got) != plain {
			t.Errorf("open: %q, %v", got, err)
		}
		if plain != "" && strings.Contains(string(box), plain) {
			t.Error("it is readable")
		}
		for name, try := range map[string]func() error{
			"wrong key":     func() error { _, err := Open(other, box, []byte("ca")); return err },
			"wrong context": func() error { _, err := Open(key, box, []byte("cb")); return err },
			"cut":           func() error { _, err := Open(key, box[:len(box)-1], []byte("ca")); return err },
			"empty":         func() error { _, err := Open(key, nil, []byte("ca")); return err },
			"other format":  func() error { _, err := Open(key, append([]byte{9}, box[1:]...), []byte("ca")); return err },
		} {
			if err := try(); !errors.Is(err, ErrSealed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := Seal([]byte("short"), nil, nil); err == nil {
		t.Error("a short key was accepted")
	}
}
