package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// NonceSize is the length in bytes of a renewal's nonce.
	NonceSize      = 32
	renewalContext = "shoal node certificate renewal v1"
)

// NewNonce makes a random nonce. Whoever hands it out must accept it once only, and not for long.
func NewNonce() ([]byte, error) {
	n := make([]byte, NonceSize)
	if _, err := rand.Read(n); err != nil {
		return nil, fmt.Errorf("make a nonce: %w", err)
	}
	return n, nil
}

// Renewal asks for a new certificate by proof of the old key, for a node whose certificate may have expired.
type Renewal struct {
	NodeID string `json:"node_id"`
	// CSR asks for the new certificate, as PEM; its key may be new.
	CSR []byte `json:"csr"`
	// PublicKey is the old key's public half in DER.
	PublicKey []byte `json:"public_key"`
	// Signature by the old key binds cluster, node, nonce and CSR.
	Signature []byte `json:"signature"`
}

// SignRenewal answers a nonce that the cluster gave with a request for a certificate of key, which may be this node's
// old one.
func (id *Identity) SignRenewal(nonce []byte, key Key) (Renewal, error) {
	csr, err := key.CSR(id.node)
	if err != nil {
		return Renewal{}, err
	}
	old := id.Key()
	sig, err := ecdsa.SignASN1(rand.Reader, old.private, renewalDigest(id.cluster, id.node, nonce, csr))
	if err != nil {
		return Renewal{}, fmt.Errorf("sign renewal of node %s: %w", id.node, err)
	}
	return Renewal{NodeID: id.node, CSR: csr, PublicKey: old.publicDER(), Signature: sig}, nil
}

// VerifyRenewal tells whether r proves possession of the key that the cluster has pinned for r.NodeID, for this nonce.
func VerifyRenewal(r Renewal, clusterID string, nonce []byte, pinned Pin) error {
	if len(nonce) != NonceSize {
		return fmt.Errorf("renewal of node %s: nonce has %d bytes, want %d", clip(r.NodeID), len(nonce), NonceSize)
	}
	if got := pinOf(r.PublicKey); !bytes.Equal(got[:], pinned[:]) {
		return fmt.Errorf("renewal of node %s: its key is %s, the cluster knows it by %s: a node that lost its key must join anew", clip(r.NodeID), got, pinned)
	}
	pub, err := x509.ParsePKIXPublicKey(r.PublicKey)
	if err != nil {
		return fmt.Errorf("renewal of node %s: public key: %w", clip(r.NodeID), err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(ec, renewalDigest(clusterID, r.NodeID, nonce, r.CSR), r.Signature) {
		return fmt.Errorf("renewal of node %s: %w", clip(r.NodeID), errors.New("the signature is wrong"))
	}
	return nil
}

// renewalDigest hashes the parts, each with its length, so that none can borrow from the next.
func renewalDigest(cluster, node string, nonce, csr []byte) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(renewalContext), []byte(cluster), []byte(node), nonce, csr} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write(part)
	}
	return h.Sum(nil)
}
