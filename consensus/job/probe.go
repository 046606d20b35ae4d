package job

import (
	"strings"
)

// Kinds of probes.
const (
	ProbeHTTP = "http"
	ProbeTCP  = "tcp"
	ProbeGRPC = "grpc"
)

// Probe is a health check that the node makes from outside, against the container's address.
type Probe struct {
	Kind string `json:"kind"` // ProbeHTTP, ProbeTCP or ProbeGRPC
	Port uint16 `json:"port"` // in the container

	// Of http. Path begins with a slash and may have a query; "": "/". Status are what is healthy; none: 200 to 399.
	TLS     bool     `json:"tls,omitempty"` // certificates are not verified: the check is by address. Also of grpc
	Path    string   `json:"path,omitempty"`
	Host    string   `json:"host,omitempty"`    // the Host header; "": the address
	Method  string   `json:"method,omitempty"`  // GET (default) or HEAD
	Headers []string `json:"headers,omitempty"` // NAME: VALUE
	Status  []Range  `json:"status,omitempty"`
	Body    string   `json:"body,omitempty"` // must be in the answer's first 64 KiB

	// Service of grpc.health.v1.Health/Check; "": the server as a whole.
	Service string `json:"service,omitempty"`
}

// Range is a range of HTTP statuses, both ends included.
type Range struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// MaxProbeHeaders bounds the headers of an http probe.
const MaxProbeHeaders = 32

func (h *Health) validateProbe(p *problems, at string) {
	b := h.Probe
	if len(h.Test) > 0 {
		p.add(at, "there is a test to execute and a probe from outside; remove one")
	}
	if b.Port == 0 {
		p.add(at+".port", "is missing; use 1 to 65535")
	}
	switch b.Kind {
	case ProbeHTTP:
		b.validateHTTP(p, at)
	case ProbeTCP, ProbeGRPC:
		if b.Path+b.Host+b.Method+b.Body != "" || len(b.Headers)+len(b.Status) > 0 {
			p.add(at, "a %s probe has no path, host, method, headers, status or body; remove them", b.Kind)
		}
	default:
		p.add(at, "probe %q is not known; use %s, %s or %s", shorten(b.Kind), ProbeHTTP, ProbeTCP, ProbeGRPC)
	}
	if b.Kind == ProbeTCP && b.TLS {
		p.add(at, "a tcp probe only connects; remove tls")
	}
	if b.Kind != ProbeGRPC && b.Service != "" {
		p.add(at+".service", "is for grpc only; remove it")
	}
	p.text(at+".service", b.Service, MaxTextBytes)
}

// validateReach refuses a probe that could never come through.
func (s *Service) validateReach(p *problems, at string) {
	if s.Health.Probe != nil && s.NetworkMode == NetworkNone {
		p.add(at+".x-health", "with network_mode none nobody reaches it from outside; use `healthcheck`")
	}
}

func (b *Probe) validateHTTP(p *problems, at string) {
	p.text(at+".path", b.Path, MaxPathBytes)
	if b.Path != "" && !strings.HasPrefix(b.Path, "/") {
		p.add(at+".path", "%q does not begin with a slash", shorten(b.Path))
	}
	p.text(at+".host", b.Host, MaxTextBytes)
	p.text(at+".body", b.Body, MaxTextBytes)
	switch b.Method {
	case "", "GET", "HEAD":
	default:
		p.add(at+".method", "%q is not known; use GET or HEAD", shorten(b.Method))
	}
	if b.Method == "HEAD" && b.Body != "" {
		p.add(at+".body", "the answer to HEAD has none; use GET")
	}
	p.atMost(at+".headers", len(b.Headers), MaxProbeHeaders, "headers")
	for _, line := range b.Headers {
		p.text(at+".headers", line, MaxTextBytes)
		if name, _, ok := strings.Cut(line, ":"); !ok || !headerName(name) {
			p.add(at+".headers", "%q is not NAME: VALUE", shorten(line))
		}
	}
	p.atMost(at+".status", len(b.Status), MaxProbeHeaders, "ranges")
	for _, r := range b.Status {
		if r.From < 100 || r.To > 599 || r.From > r.To {
			p.add(at+".status", "%d-%d is not a range of statuses from 100 to 599", r.From, r.To)
		}
	}
}

// headerName is a token of RFC 9110, section 5.6.2, but for its rarer characters.
func headerName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}
