package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	blockKey  = "PRIVATE KEY"
	blockCert = "CERTIFICATE"
	blockCSR  = "CERTIFICATE REQUEST"
	// pemMaxBytes bounds what is parsed.
	pemMaxBytes = 64 << 10
)

// Key is a private key (ECDSA P-256: fast everywhere, and browsers accept it). The zero value is invalid.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a random key.
func NewKey() (Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make a private key: %w", err)
	}
	return Key{k}, nil
}

// ParseKey reads what PEM wrote.
func ParseKey(keyPEM []byte) (Key, error) {
	der, _, err := decodePEM(keyPEM, blockKey)
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	return parseKeyDER(der)
}

func parseKeyDER(der []byte) (Key, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return Key{}, fmt.Errorf("private key: want ECDSA P-256, got %T", k)
	}
	return Key{ec}, nil
}

// PEM returns the key unencrypted.
func (k Key) PEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		panic("pki: a P-256 key does not marshal: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})
}

// Pin returns the hash of the public half, by which a cluster remembers a node's key.
func (k Key) Pin() Pin { return pinOf(k.publicDER()) }

// CSR returns a signed request for a certificate of this key, as PEM. What it says about its owner is for people who
// debug: whoever signs decides the names.
func (k Key) CSR(nodeID string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: nodeID}}, k.private)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request for %s: %w", nodeID, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCSR, Bytes: der}), nil
}

func (k Key) publicDER() []byte {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		panic("pki: a P-256 public key does not marshal: " + err.Error())
	}
	return der
}

func (k Key) owns(cert *x509.Certificate) bool {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && k.private.PublicKey.Equal(pub)
}

// Pin is the SHA-256 of a public key in DER (SubjectPublicKeyInfo).
type Pin [sha256.Size]byte

// String returns the pin in lower-case hex.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// ParsePin reads what String wrote.
func ParsePin(s string) (Pin, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size {
		return Pin{}, fmt.Errorf("key fingerprint %q: want %d hex digits", clip(s), 2*sha256.Size)
	}
	return Pin(b), nil
}

// MarshalText writes the pin as String does.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the pin as ParsePin does.
func (p *Pin) UnmarshalText(b []byte) error {
	got, err := ParsePin(string(b))
	if err == nil {
		*p = got
	}
	return err
}

func pinOf(spki []byte) Pin { return sha256.Sum256(spki) }

// PinOf returns the pin of a certificate's key. certPEM's first certificate counts.
func PinOf(certPEM []byte) (Pin, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return Pin{}, err
	}
	return pinOf(cert.RawSubjectPublicKeyInfo), nil
}

// parseCSR reads a request and checks that its sender has the key.
func parseCSR(csrPEM []byte) (*x509.CertificateRequest, error) {
	der, _, err := decodePEM(csrPEM, blockCSR)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: its signature is wrong: %w", err)
	}
	if pub, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("certificate request: want an ECDSA P-256 key, got %T", csr.PublicKey)
	}
	return csr, nil
}

func parseCert(certPEM []byte) (*x509.Certificate, error) {
	der, _, err := decodePEM(certPEM, blockCert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cert, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: der})
}

// decodePEM returns the first block, which must be of the given kind, and what follows it.
func decodePEM(b []byte, kind string) (der, rest []byte, err error) {
	if len(b) > pemMaxBytes {
		return nil, nil, fmt.Errorf("%d bytes of PEM, the limit is %d", len(b), pemMaxBytes)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, nil, errors.New("no PEM block found")
	}
	if block.Type != kind {
		return nil, nil, fmt.Errorf("PEM block is %q, want %q", clip(block.Type), kind)
	}
	return block.Bytes, rest, nil
}

// clip keeps foreign text short in errors.
func clip(s string) string {
	const limit = 80
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
