package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"shoal/runtime/step"
)

// identityFile holds key, certificate and authority together, so that a renewal replaces them in one rename.
const identityFile = "identity.pem"

// Identity is this node's key and certificate, and the authority that it trusts. It is safe for concurrent use; every
// *tls.Config made from it follows a renewal at once.
type Identity struct {
	clock   func() time.Time
	cluster string
	node    string
	ca      *x509.Certificate
	roots   *x509.CertPool
	current atomic.Pointer[credential]
	pinned  atomic.Pointer[func(nodeID string, key Pin) bool]
	revoked atomic.Pointer[func(Peer) bool]
}

// credential is a certificate and its key. It never changes.
type credential struct {
	key  Key
	leaf *x509.Certificate
	name string
	tls  tls.Certificate
}

// NewIdentity puts together a node's key, its certificate and the cluster's authority, and checks that they belong
// together. An expired certificate is accepted: the node must be able to start and renew it. A nil clock means time.Now.
func NewIdentity(key Key, certPEM, caPEM []byte, clock func() time.Time) (*Identity, error) {
	if clock == nil {
		clock = time.Now
	}
	ca, cluster, err := parseCA(caPEM)
	if err != nil {
		return nil, fmt.Errorf("node identity: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	id := &Identity{clock: clock, cluster: cluster, ca: ca, roots: roots}
	cred, peer, err := id.check(key, certPEM)
	if err != nil {
		return nil, err
	}
	id.node = peer.ID
	id.current.Store(cred)
	return id, nil
}

// check builds a credential and returns whose it is.
func (id *Identity) check(key Key, certPEM []byte) (*credential, Peer, error) {
	leaf, err := parseCert(certPEM)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("node identity: %w", err)
	}
	peer, err := peerIn(leaf)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("node identity: %w", err)
	}
	if key.private == nil || !key.owns(leaf) {
		return nil, Peer{}, fmt.Errorf("identity of node %s: the key does not belong to the certificate", peer.ID)
	}
	if peer.Kind != Node || peer.Cluster != id.cluster {
		return nil, Peer{}, fmt.Errorf("node identity: the certificate is for %s %s of cluster %s, want a node of %s", peer.Kind, peer.ID, peer.Cluster, id.cluster)
	}
	if err := id.chains(leaf, id.begins(leaf), x509.ExtKeyUsageServerAuth); err != nil {
		return nil, Peer{}, fmt.Errorf("identity of node %s: the certificate is not from the authority of cluster %s: %w", peer.ID, id.cluster, err)
	}
	return &credential{
		key: key, leaf: leaf, name: peer.Name,
		// The authority goes along so that a joiner, who knows only its fingerprint, can check the chain.
		tls: tls.Certificate{Certificate: [][]byte{leaf.Raw, id.ca.Raw}, PrivateKey: key.private, Leaf: leaf},
	}, peer, nil
}

// begins is the first moment at which leaf can be verified: whoever signed it may have had a clock from before the
// authority's time.
func (id *Identity) begins(leaf *x509.Certificate) time.Time {
	from := leaf.NotBefore
	if from.Before(id.ca.NotBefore) {
		from = id.ca.NotBefore
	}
	return from.Add(time.Second)
}

// chains verifies that leaf was issued by the cluster's authority and was valid at the given time.
func (id *Identity) chains(leaf *x509.Certificate, at time.Time, usage x509.ExtKeyUsage) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: id.roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// Renew replaces the certificate, and the key if a new one was used. The node's id stays. Save it afterwards.
func (id *Identity) Renew(key Key, certPEM []byte) error {
	cred, peer, err := id.check(key, certPEM)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if peer.ID != id.node {
		return fmt.Errorf("renew: the certificate is for node %s, this is node %s", peer.ID, id.node)
	}
	id.current.Store(cred)
	return nil
}

// TrustPinned lets node certificates that have expired, or not begun, through when pinned says that this node is known by
// this key. Without it, a cluster that was switched off for longer than its certificates last could not even elect a leader
// to renew them, and one signed by a clock that was ahead would shut its node out until then. Everything else about such a certificate is still verified. pinned must not block.
func (id *Identity) TrustPinned(pinned func(nodeID string, key Pin) bool) { id.pinned.Store(&pinned) }

// Distrust refuses, from the next handshake on, every peer of which revoked says so: nodes that were removed and people
// whose access ended, whose certificates are good for months yet. Connections that stand are the caller's to close.
// revoked must not block. A second call replaces the first.
func (id *Identity) Distrust(revoked func(Peer) bool) { id.revoked.Store(&revoked) }

// NodeID returns the id in the certificate.
func (id *Identity) NodeID() string { return id.node }

// Name returns the name in the certificate.
func (id *Identity) Name() string { return id.current.Load().name }

// ClusterID returns the id of the cluster.
func (id *Identity) ClusterID() string { return id.cluster }

// Fingerprint returns the fingerprint of the cluster's authority, as in join tokens.
func (id *Identity) Fingerprint() string { return pinOf(id.ca.RawSubjectPublicKeyInfo).String() }

// CAPEM returns the authority's certificate.
func (id *Identity) CAPEM() []byte { return encodeCert(id.ca.Raw) }

// CertPEM returns this node's certificate.
func (id *Identity) CertPEM() []byte { return encodeCert(id.current.Load().leaf.Raw) }

// Key returns this node's private key.
func (id *Identity) Key() Key { return id.current.Load().key }

// NotAfter returns when the certificate ends.
func (id *Identity) NotAfter() time.Time { return id.current.Load().leaf.NotAfter }

// NeedsRenewal tells whether the certificate is in the last third of its life, past it, or before it.
func (id *Identity) NeedsRenewal(now time.Time) bool {
	leaf := id.current.Load().leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return now.Before(leaf.NotBefore) || now.After(leaf.NotAfter.Add(-life/3))
}

// Save writes the identity to dir, readable by its owner only. A crash leaves the old file or the new one.
func (id *Identity) Save(dir string) error {
	cred := id.current.Load()
	var b bytes.Buffer
	b.Write(cred.key.PEM())
	b.Write(encodeCert(cred.leaf.Raw))
	b.Write(encodeCert(id.ca.Raw))
	if err := writeFile(dir, identityFile, b.Bytes()); err != nil {
		return fmt.Errorf("save identity of node %s: %w", id.node, err)
	}
	return nil
}

// LoadIdentity reads what Save wrote. errors.Is(err, fs.ErrNotExist) tells that there is none. A nil clock means
// time.Now.
func LoadIdentity(dir string, clock func() time.Time) (*Identity, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load node identity: %w", err)
	}
	keyDER, rest, err := decodePEM(b, blockKey)
	if err != nil {
		return nil, fmt.Errorf("load node identity from %s: %w", path, err)
	}
	key, err := parseKeyDER(keyDER)
	if err != nil {
		return nil, fmt.Errorf("load node identity from %s: %w", path, err)
	}
	leaf, ca := pem.Decode(rest)
	if leaf == nil {
		return nil, fmt.Errorf("load node identity from %s: %w", path, errors.New("the certificate is missing"))
	}
	id, err := NewIdentity(key, pem.EncodeToMemory(leaf), ca, clock)
	if err != nil {
		return nil, fmt.Errorf("load node identity from %s: %w", path, err)
	}
	return id, nil
}

// SweepHalfWritten removes what a crash left of an identity that was being written.
func SweepHalfWritten(dir string) error {
	half, err := filepath.Glob(filepath.Join(dir, "."+identityFile+"-*"))
	for _, path := range half {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// writeFile replaces dir/name: temporary file, fsync, rename, fsync of the directory.
func writeFile(dir, name string, data []byte) (err error) {
	tmp, err := os.CreateTemp(dir, "."+name+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	if err = step.Reach(StepWritten); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = step.Reach(StepSynced); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	if err = step.Reach(StepRenamed); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err = d.Sync(); err != nil {
		return err
	}
	return step.Reach(StepDurable)
}
