package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Role is what a person may do; the API decides what each allows.
type Role string

// The roles of people.
const (
	Admin    Role = "admin"
	Operator Role = "operator"
	Reader   Role = "reader"
)

func (r Role) valid() bool { return r == Admin || r == Operator || r == Reader }

// Kind tells nodes from people.
type Kind string

// The kinds of peers.
const (
	Node Kind = "node"
	User Kind = "user"
)

// Peer is who a certificate speaks for.
type Peer struct {
	Kind    Kind   `json:"kind"`
	Cluster string `json:"cluster"`
	// ID is the node's id, or the user's name.
	ID string `json:"id"`
	// Name is what people call it; of a user it equals ID.
	Name string `json:"name"`
	// Role is empty for a node.
	Role Role `json:"role,omitempty"`
	// Pin identifies the key.
	Pin Pin `json:"pin"`
}

// PeerOf returns who is at the other end of a connection made with a *tls.Config of this package, which has verified
// the certificate. ok is false when the peer showed none.
func PeerOf(state tls.ConnectionState) (p Peer, ok bool) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return Peer{}, false
	}
	p, err := peerIn(state.PeerCertificates[0])
	return p, err == nil
}

var (
	clusterPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	idPattern      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	userPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}$`)
)

// The identity is a URI in the certificate's subject alternative names:
//
//	shoal://CLUSTER                   the authority
//	shoal://CLUSTER/node/ID           a node
//	shoal://CLUSTER/user/ROLE/NAME    a person
const uriScheme = "shoal"

func clusterURI(cluster string) *url.URL { return &url.URL{Scheme: uriScheme, Host: cluster} }

func nodeURI(cluster, id string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: "/node/" + id}
}

func userURI(cluster string, role Role, name string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: "/user/" + string(role) + "/" + name}
}

func uris(u ...*url.URL) []*url.URL { return u }

// parseURI splits an identity into the cluster and the words that follow.
func parseURI(u *url.URL) (cluster string, rest []string, err error) {
	if u.Scheme != uriScheme || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !clusterPattern.MatchString(u.Host) {
		return "", nil, fmt.Errorf("%q is not a shoal identity", clip(u.String()))
	}
	if path := strings.TrimPrefix(u.Path, "/"); path != "" {
		rest = strings.Split(path, "/")
	}
	return u.Host, rest, nil
}

// peerIn reads the identity in a certificate. It must carry exactly one.
func peerIn(cert *x509.Certificate) (Peer, error) {
	if cert.IsCA || len(cert.URIs) != 1 {
		return Peer{}, errors.New("certificate carries no shoal identity")
	}
	cluster, words, err := parseURI(cert.URIs[0])
	if err != nil {
		return Peer{}, fmt.Errorf("certificate: %w", err)
	}
	p := Peer{Cluster: cluster, Name: cert.Subject.CommonName, Pin: pinOf(cert.RawSubjectPublicKeyInfo)}
	switch {
	case len(words) == 2 && words[0] == string(Node) && idPattern.MatchString(words[1]):
		p.Kind, p.ID = Node, words[1]
	case len(words) == 3 && words[0] == string(User) && Role(words[1]).valid() && userPattern.MatchString(words[2]):
		p.Kind, p.Role, p.ID, p.Name = User, Role(words[1]), words[2], words[2]
	default:
		return Peer{}, fmt.Errorf("certificate: %q is neither a node nor a user", clip(cert.URIs[0].String()))
	}
	return p, nil
}
