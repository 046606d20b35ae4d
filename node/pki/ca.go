// Package pki knows who may be trusted: the cluster's certificate authority, the certificates of nodes and people, and
// the tokens with which a new node comes in. It refuses to know what the trusted may do, and stores nothing but this
// node's own identity: it hands out *tls.Config, bytes to keep, and yes or no.
package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	// NodeValidity is how long a node's certificate is good for unless the caller says otherwise.
	NodeValidity = 90 * 24 * time.Hour
	// ClientValidity is the same for people.
	ClientValidity = 365 * 24 * time.Hour
	// caValidity outlives clusters; the authority's key is what is trusted, and its certificate can be made again.
	caValidity = 30 * 365 * 24 * time.Hour
	// backdate lets peers whose clocks are behind that of the leader accept a fresh certificate, or its own when it is ahead:
	// a clock that is off by days must not keep a new node out.
	backdate = 72 * time.Hour
	// caBackdate is the same for the authority, whose first clock nobody can correct afterwards.
	caBackdate = 10 * 365 * 24 * time.Hour
)

// CA is the cluster's certificate authority: whoever holds one decides who is in the cluster.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     Key
}

// NewCA makes the authority of a new cluster. clusterID has letters, digits and dashes, at most 63.
func NewCA(clusterID string, now time.Time) (*CA, error) {
	if !clusterPattern.MatchString(clusterID) {
		return nil, fmt.Errorf("cluster id %q: want 1 to 63 letters, digits and dashes", clip(clusterID))
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "shoal cluster " + clusterID},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  uris(clusterURI(clusterID)),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.private.PublicKey, key.private)
	if err != nil {
		return nil, fmt.Errorf("make the authority of cluster %s: %w", clusterID, err)
	}
	return LoadCA(encodeCert(der), key.PEM())
}

// LoadCA reads what CertPEM and KeyPEM returned.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, cluster, err := parseCA(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("authority of cluster %s: %w", cluster, err)
	}
	if !key.owns(cert) {
		return nil, fmt.Errorf("authority of cluster %s: the key does not belong to the certificate", cluster)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// parseCA reads an authority's certificate and the cluster that it is for.
func parseCA(certPEM []byte) (*x509.Certificate, string, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, "", fmt.Errorf("cluster authority: %w", err)
	}
	cluster, err := clusterOf(cert)
	if err != nil {
		return nil, "", err
	}
	return cert, cluster, nil
}

func clusterOf(cert *x509.Certificate) (string, error) {
	if !cert.IsCA || len(cert.URIs) != 1 {
		return "", errors.New("cluster authority: the certificate is not one of a shoal cluster")
	}
	cluster, rest, err := parseURI(cert.URIs[0])
	if err != nil || len(rest) != 0 {
		return "", fmt.Errorf("cluster authority: %s names no cluster", cert.URIs[0])
	}
	return cluster, nil
}

// ClusterID returns the id of the cluster.
func (ca *CA) ClusterID() string { return ca.cluster }

// CertPEM returns the public half.
func (ca *CA) CertPEM() []byte { return encodeCert(ca.cert.Raw) }

// KeyPEM returns the secret half, unencrypted: Seal it before it goes anywhere.
func (ca *CA) KeyPEM() []byte { return ca.key.PEM() }

// Fingerprint returns what join tokens carry: the pin of the authority's key, in hex.
func (ca *CA) Fingerprint() string { return pinOf(ca.cert.RawSubjectPublicKeyInfo).String() }

// SignNode returns a certificate, as PEM, for the key in csrPEM. Only the key is taken from there: the id, the name and
// the addresses are the caller's, who has checked them. validity 0 means NodeValidity. The addresses let browsers and
// curl in; nodes go by the id.
func (ca *CA) SignNode(csrPEM []byte, nodeID, name string, addrs []net.IP, now time.Time, validity time.Duration) ([]byte, error) {
	if !idPattern.MatchString(nodeID) {
		return nil, fmt.Errorf("sign node certificate: id %q: want 1 to 63 letters, digits, dots, dashes and underscores", clip(nodeID))
	}
	if !idPattern.MatchString(name) {
		return nil, fmt.Errorf("sign certificate of node %s: name %q: want 1 to 63 letters, digits, dots, dashes and underscores", nodeID, clip(name))
	}
	if validity <= 0 {
		validity = NodeValidity
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        uris(nodeURI(ca.cluster, nodeID)),
		DNSNames:    []string{name, "localhost"},
		IPAddresses: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, addrs...),
	}
	cert, err := ca.sign(csrPEM, template, now, validity)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %s: %w", nodeID, err)
	}
	return cert, nil
}

// SignClient returns a certificate, as PEM, with which a person reaches the API in the given role. validity 0 means
// ClientValidity.
func (ca *CA) SignClient(csrPEM []byte, user string, role Role, now time.Time, validity time.Duration) ([]byte, error) {
	if !userPattern.MatchString(user) {
		return nil, fmt.Errorf("sign client certificate: user %q: want 1 to 63 letters, digits and . _ @ + -", clip(user))
	}
	if !role.valid() {
		return nil, fmt.Errorf("sign certificate of user %s: role %q: want admin, operator or reader", user, clip(string(role)))
	}
	if validity <= 0 {
		validity = ClientValidity
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, OrganizationalUnit: []string{string(role)}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        uris(userURI(ca.cluster, role, user)),
	}
	cert, err := ca.sign(csrPEM, template, now, validity)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of user %s: %w", user, err)
	}
	return cert, nil
}

// sign completes the template and signs it for the key in csrPEM.
func (ca *CA) sign(csrPEM []byte, template *x509.Certificate, now time.Time, validity time.Duration) ([]byte, error) {
	csr, err := parseCSR(csrPEM)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(validity)
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, csr.PublicKey, ca.key.private)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n, nil
}
