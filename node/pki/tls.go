package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The protocols that share the port, as named in ALPN.
const (
	// ALPNRaft and ALPNGossip are between nodes: the server wants a node's certificate.
	ALPNRaft   = "shoal-raft/1"
	ALPNGossip = "shoal-gossip/1"
	// ALPNHTTP2 and ALPNHTTP1 are the API: a certificate is verified if one is shown, and other ways to authenticate are
	// the API's affair.
	ALPNHTTP2 = "h2"
	ALPNHTTP1 = "http/1.1"
)

// forNodes tells whether a protocol is between nodes only. What is not known to be open is for nodes.
func forNodes(alpn string) bool { return alpn != ALPNHTTP2 && alpn != ALPNHTTP1 }

// ServerTLS returns the configuration of a listener that speaks the given protocols, TLS 1.3 only. The protocol is
// chosen in the order given here; it decides what certificate the client must show. A client without ALPN speaks
// HTTP/1.1 if that is among them. Clients of another cluster are refused whatever the protocol.
func (id *Identity) ServerTLS(alpn ...string) *tls.Config {
	alpn = slices.Clone(alpn)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: alpn,
		Time:       id.clock,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := chooseProtocol(alpn, hello.SupportedProtos)
			if err != nil {
				return nil, err
			}
			return id.serverFor(chosen, len(hello.SupportedProtos) > 0), nil
		},
		// Never used, but http.Server and tls.NewListener want to see a certificate.
		GetCertificate: id.certificate,
	}
}

// chooseProtocol returns the first of ours that the client offers.
func chooseProtocol(ours, offered []string) (string, error) {
	if len(offered) == 0 {
		offered = []string{ALPNHTTP1}
	}
	for _, p := range ours {
		if slices.Contains(offered, p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("tls: client offers %.3q, this port speaks %q", offered, ours)
}

func (id *Identity) serverFor(alpn string, clientHasALPN bool) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		Time:           id.clock,
		GetCertificate: id.certificate,
		ClientCAs:      id.roots, // a hint for browsers; verifyPeer verifies
		ClientAuth:     tls.RequestClientCert,
		// A resumed session would skip the look at the certificate's age.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			_, err := id.verifyPeer(cs.PeerCertificates[0], x509.ExtKeyUsageClientAuth)
			return err
		},
	}
	if clientHasALPN {
		c.NextProtos = []string{alpn}
	}
	if forNodes(alpn) {
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return fmt.Errorf("tls: %s is for nodes: the client shows no certificate", alpn)
			}
			p, err := id.verifyPeer(cs.PeerCertificates[0], x509.ExtKeyUsageClientAuth)
			if err == nil && p.Kind != Node {
				err = fmt.Errorf("tls: %s is for nodes, the client is user %s", alpn, p.ID)
			}
			return err
		}
	}
	return c
}

func (id *Identity) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &id.current.Load().tls, nil
}

// ClientTLS returns the configuration for dialing a node of this cluster, TLS 1.3 only. The server must show a node's
// certificate of this cluster and, if expectNodeID is not empty, be that node; its host name and address do not matter.
// This node's own certificate is shown.
func (id *Identity) ClientTLS(alpn, expectNodeID string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		Time:       id.clock,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &id.current.Load().tls, nil
		},
		// The standard check is by host name; VerifyConnection checks the chain and the id instead.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := negotiated(cs, alpn); err != nil {
				return err
			}
			p, err := id.verifyPeer(cs.PeerCertificates[0], x509.ExtKeyUsageServerAuth)
			switch {
			case err != nil:
				return err
			case p.Kind != Node:
				return fmt.Errorf("tls: the server is user %s, not a node", p.ID)
			case expectNodeID != "" && p.ID != expectNodeID:
				return fmt.Errorf("tls: the server is node %s, expected %s", p.ID, expectNodeID)
			}
			return nil
		},
	}
}

// GuestTLS is ClientTLS for one that does not show its own certificate: a node that the others may have removed.
func (id *Identity) GuestTLS(alpn string) *tls.Config {
	c := id.ClientTLS(alpn, "")
	c.GetClientCertificate = nil
	return c
}

// negotiated refuses a server that ignores ALPN, except for HTTP, where that is common.
func negotiated(cs tls.ConnectionState, alpn string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("tls: the server shows no certificate")
	}
	if forNodes(alpn) && cs.NegotiatedProtocol != alpn {
		return fmt.Errorf("tls: the server speaks %q, want %q", cs.NegotiatedProtocol, alpn)
	}
	return nil
}

// verifyPeer checks that leaf is from this cluster's authority, of this cluster, for this usage, and in its time or, if
// its owner is a node, pinned.
func (id *Identity) verifyPeer(leaf *x509.Certificate, usage x509.ExtKeyUsage) (Peer, error) {
	now := id.clock()
	err := id.chains(leaf, now, usage)
	untimely := false // is time all that is wrong with it?
	switch from := id.begins(leaf); {
	case err != nil && now.After(leaf.NotAfter):
		untimely = id.chains(leaf, leaf.NotAfter, usage) == nil
	case err != nil && now.Before(from):
		untimely = id.chains(leaf, from, usage) == nil
	}
	if err != nil && !untimely {
		return Peer{}, fmt.Errorf("tls: peer is not of cluster %s: %w", id.cluster, explainTime(err, leaf, now))
	}
	p, perr := peerIn(leaf)
	if perr != nil {
		return Peer{}, fmt.Errorf("tls: %w", perr)
	}
	if p.Cluster != id.cluster {
		return Peer{}, fmt.Errorf("tls: peer is of cluster %s, this is %s", p.Cluster, id.cluster)
	}
	if revoked := id.revoked.Load(); revoked != nil && (*revoked)(p) {
		return Peer{}, fmt.Errorf("tls: %s %s was removed from cluster %s", p.Kind, p.ID, id.cluster)
	}
	if untimely {
		if pinned := id.pinned.Load(); p.Kind == Node && pinned != nil && (*pinned)(p.ID, p.Pin) {
			return p, nil
		}
		return Peer{}, fmt.Errorf("tls: certificate of %s %s: %w", p.Kind, p.ID, explainTime(err, leaf, now))
	}
	return p, nil
}

// explainTime adds both times to an error about validity, because one of the two clocks is often the cause.
func explainTime(err error, leaf *x509.Certificate, now time.Time) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("valid from %s to %s, this node's clock says %s: %w",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), err)
	}
	return err
}

// BootstrapTLS returns the configuration with which a joiner, who has no certificate yet, dials the cluster: it accepts
// exactly a node whose chain, as the server sends it, ends in the authority with this fingerprint. No client certificate
// is shown, so it also serves a node whose own has expired. A nil clock means time.Now.
func BootstrapTLS(fingerprint, alpn string, clock func() time.Time) *tls.Config {
	if clock == nil {
		clock = time.Now
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		Time:               clock,
		InsecureSkipVerify: true, // VerifyConnection verifies against the fingerprint
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := negotiated(cs, alpn); err != nil {
				return err
			}
			return verifyBootstrap(cs.PeerCertificates, fingerprint, clock())
		},
	}
}

// verifyBootstrap checks a chain against an authority of which only the fingerprint is known.
func verifyBootstrap(chain []*x509.Certificate, fingerprint string, now time.Time) error {
	want, err := ParsePin(fingerprint)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c.IsCA && pinOf(c.RawSubjectPublicKeyInfo) == want })
	if i < 1 {
		return fmt.Errorf("tls: the server is not of the cluster that the token is for: its authority is not %s: check the address and the token", clip(fingerprint))
	}
	cluster, err := clusterOf(chain[i])
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	id := &Identity{clock: func() time.Time { return now }, cluster: cluster, ca: chain[i], roots: x509.NewCertPool()}
	id.roots.AddCert(chain[i])
	p, err := id.verifyPeer(chain[0], x509.ExtKeyUsageServerAuth)
	if err == nil && p.Kind != Node {
		err = fmt.Errorf("tls: the server is user %s, not a node", p.ID)
	}
	return err
}

// CheckFingerprint tells whether caPEM is the authority that a token's fingerprint names.
func CheckFingerprint(caPEM []byte, fingerprint string) error {
	ca, cluster, err := parseCA(caPEM)
	if err != nil {
		return err
	}
	if got := pinOf(ca.RawSubjectPublicKeyInfo).String(); got != fingerprint {
		return fmt.Errorf("authority of cluster %s has the fingerprint %s, the token says %s", cluster, got, clip(fingerprint))
	}
	return nil
}
