package image

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registries says how to reach registries. The zero value is useful: each by its own name, over https, with the
// certificates that the machine trusts. Not to be changed once a store uses it.
type Registries struct {
	// Hosts is keyed by a registry's host, with its port if it has one, as names spell it: "docker.io", "localhost:5000".
	Hosts map[string]RegistryHost `json:"registries"`

	mu         sync.Mutex
	transports map[string]http.RoundTripper
}

// RegistryHost is one registry.
type RegistryHost struct {
	// Mirrors are asked before it, in this order: "https://mirror.example", or with a path that stands before the
	// repository, "https://cache.example/hub". http:// makes the mirror insecure.
	Mirrors []string `json:"mirrors,omitempty"`
	// Insecure allows http, and https with any certificate. A password sent to it can be read on the way.
	Insecure bool `json:"insecure,omitempty"`
	// CA is a file of PEM certificates that are trusted for it beside the machine's. Default: all *.crt of
	// /etc/docker/certs.d/<host>/, where docker looks.
	CA string `json:"ca,omitempty"`
}

const (
	dockerHub         = "docker.io"
	certsDir          = "/etc/docker/certs.d"
	maxRegistriesFile = 1 << 20
	maxMirrors        = 16 // of one registry
)

// ReadRegistries reads a JSON file: {"registries": {"docker.io": {"mirrors": ["https://mirror.example"]}}}.
func ReadRegistries(path string) (*Registries, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read registries: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, maxRegistriesFile))
	d.DisallowUnknownFields()
	r := &Registries{}
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("read registries %s: %w", path, err)
	}
	for host, h := range r.Hosts {
		for _, m := range h.Mirrors {
			if _, _, err := parseMirror(m); err != nil {
				return nil, fmt.Errorf("read registries %s: %s: %w", path, host, err)
			}
		}
	}
	return r, nil
}

// AddMirror adds "HOST=URL", or "URL" alone for Docker Hub, as docker's --registry-mirror takes it.
func (r *Registries) AddMirror(s string) error {
	host, mirror, ok := strings.Cut(s, "=")
	if !ok {
		host, mirror = dockerHub, s
	}
	if _, _, err := parseMirror(mirror); err != nil || host == "" {
		return fmt.Errorf("registry mirror %q: it takes HOST=URL, such as docker.io=https://mirror.example: %w", s, err)
	}
	h := r.Hosts[host]
	if len(h.Mirrors) == maxMirrors {
		return fmt.Errorf("registry mirror %q: %s has %d mirrors already", s, host, maxMirrors)
	}
	h.Mirrors = append(slices.Clone(h.Mirrors), mirror)
	r.set(host, h)
	return nil
}

// AddInsecure allows http and unknown certificates for a host, with its port if it has one.
func (r *Registries) AddInsecure(host string) error {
	if host == "" || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("insecure registry %q: it takes a host and port, such as registry.example:5000", host)
	}
	h := r.Hosts[host]
	h.Insecure = true
	r.set(host, h)
	return nil
}

func (r *Registries) set(host string, h RegistryHost) {
	if r.Hosts == nil {
		r.Hosts = map[string]RegistryHost{}
	}
	r.Hosts[host] = h
}

// parseMirror returns a mirror as the beginning of a repository's name, and whether it is spoken to over http.
func parseMirror(s string) (string, bool, error) {
	rest, plain := strings.CutPrefix(s, "http://")
	if !plain {
		rest = strings.TrimPrefix(s, "https://")
	}
	rest = strings.TrimSuffix(rest, "/")
	host, path, _ := strings.Cut(rest, "/")
	if host == "" || strings.Contains(rest, "://") || strings.ContainsAny(rest, "@?# ") {
		return "", false, fmt.Errorf("mirror %q is not https://host[:port][/path]", s)
	}
	if _, err := repositoryAt(host, strings.TrimPrefix(path+"/x", "/")); err != nil { // of any image
		return "", false, fmt.Errorf("mirror %q: %w", s, err)
	}
	return rest, plain, nil
}

func (r *Registries) mirrors(host string) []string {
	var out []string
	if r == nil {
		return nil
	}
	for _, m := range r.Hosts[host].Mirrors {
		if prefix, _, err := parseMirror(m); err == nil {
			out = append(out, prefix)
		}
	}
	return out
}

// insecure tells whether host may be spoken to without trust: it is on this machine, or somebody said so.
func (r *Registries) insecure(host string) bool {
	if isLoopback(host) {
		return true
	}
	if r == nil {
		return false
	}
	if r.Hosts[host].Insecure {
		return true
	}
	for _, h := range r.Hosts {
		for _, m := range h.Mirrors {
			prefix, plain, _ := parseMirror(m)
			if of, _, _ := strings.Cut(prefix, "/"); plain && of == host {
				return true
			}
		}
	}
	return false
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// shared reaches the registries of which nothing is special.
var shared = newTransport(nil)

// newTransport is remote's default but for conf, and for answers that never begin. It does not limit whole requests: a layer
// may take long.
func newTransport(conf *tls.Config) *http.Transport {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = conf
	t.ResponseHeaderTimeout = blobStall
	return t
}

// transport is the pooled connection to a host; those without wishes of their own share one.
func (r *Registries) transport(host string) (http.RoundTripper, error) {
	if r == nil {
		r = &Registries{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.transports[host]; t != nil {
		return t, nil
	}
	conf, err := r.tlsConfig(host)
	if err != nil || conf == nil {
		return shared, err
	}
	t := newTransport(conf)
	if r.transports == nil {
		r.transports = map[string]http.RoundTripper{}
	}
	r.transports[host] = t
	return t, nil
}

// tlsConfig is nil where nothing is special about the host.
func (r *Registries) tlsConfig(host string) (*tls.Config, error) {
	if r.insecure(host) && !isLoopback(host) {
		return &tls.Config{InsecureSkipVerify: true}, nil // asked for by name
	}
	files := []string{r.Hosts[host].CA}
	if files[0] == "" {
		files, _ = filepath.Glob(filepath.Join(certsDir, host, "*.crt")) // the pattern is ours
	}
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("certificates of registry %s: %w", host, err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates of registry %s: %s holds no PEM certificate", host, f)
		}
	}
	return &tls.Config{RootCAs: pool}, nil
}

// errPlain: a registry that answers http only, and nobody allowed that.
var errPlain = errors.New("it would be spoken to over http, which anybody on the way can read and change")

// plainGuard keeps requests for a registry, which carry credentials, off http unless that is allowed.
type plainGuard struct {
	inner   http.RoundTripper
	host    string
	allowed bool
}

// RoundTrip implements http.RoundTripper.
func (g *plainGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if !g.allowed && r.URL.Scheme == "http" && (r.URL.Host == g.host || r.Header.Get("Authorization") != "") {
		return nil, errPlain
	}
	return g.inner.RoundTrip(r)
}

// patience with a registry that says when to come back.
const (
	maxRateWait  = 20 * time.Second // a longer wait is told to the caller instead
	maxRateTries = 4
)

// patient waits as long as a registry asks for, if that is not long, and remembers what it said about its limits.
type patient struct {
	inner http.RoundTripper

	mu    sync.Mutex
	limit string        // "100 in 6h0m0s"; "": it did not say
	wait  time.Duration // 0: it did not say
}

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := p.inner.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests {
			return resp, err
		}
		wait := retryAfter(resp.Header, time.Now())
		p.mu.Lock()
		p.limit, p.wait = rateLimit(resp.Header.Get("RateLimit-Limit")), wait
		p.mu.Unlock()
		if wait <= 0 || wait > maxRateWait || try == maxRateTries || r.Body != nil && r.Body != http.NoBody {
			return resp, nil
		}
		resp.Body.Close()
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(wait):
		}
	}
}

// says is what the last refusal said, as a part of a sentence.
func (p *patient) says() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ""
	if p.limit != "" {
		s = " (" + p.limit + ")"
	}
	if p.wait > 0 {
		s += fmt.Sprintf("; it asks to wait %v, until %s", p.wait.Round(time.Second), time.Now().Add(p.wait).UTC().Format("15:04 UTC"))
	}
	return s
}

// retryAfter reads Retry-After (seconds or a date) and Docker Hub's X-Retry-After (seconds since 1970); 0: neither.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if v := h.Get("Retry-After"); v != "" {
		if n, err := strconv.ParseInt(v, 10, 32); err == nil && n >= 0 {
			return time.Duration(n) * time.Second
		}
		if at, err := http.ParseTime(v); err == nil {
			return max(at.Sub(now), 0)
		}
	}
	if n, err := strconv.ParseInt(h.Get("X-Retry-After"), 10, 64); err == nil && n > 0 {
		return min(max(time.Unix(n, 0).Sub(now), 0), 30*24*time.Hour)
	}
	return 0
}

// rateLimit makes Docker Hub's "100;w=21600" readable.
func rateLimit(v string) string {
	count, window, ok := strings.Cut(v, ";w=")
	n, err1 := strconv.Atoi(count)
	w, err2 := strconv.ParseUint(window, 10, 31)
	if !ok || err1 != nil || err2 != nil {
		return ""
	}
	return fmt.Sprintf("%d pulls in %v", n, time.Duration(w)*time.Second)
}

// explainNetwork tells what to do about a registry that does not answer as it should.
func (r *registrySource) explainNetwork(host string, err error) error {
	var (
		unknown x509.UnknownAuthorityError
		wrong   x509.HostnameError
		ne      net.Error
	)
	switch {
	case errors.Is(err, errPlain), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return &kindError{ErrDenied, fmt.Errorf("registry %s does not speak https: if you trust the network to it, start the agent with "+
			"--insecure-registry %s: %w", host, host, err)}
	case errors.As(err, &unknown), errors.As(err, &wrong):
		return &kindError{ErrDenied, fmt.Errorf("registry %s shows a certificate that this node does not trust: put its CA into "+
			"%s/%s/ca.crt: %w", host, certsDir, host, err)}
	case errors.As(err, &ne), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &kindError{ErrUnavailable, fmt.Errorf("registry %s cannot be reached: %w", host, err)}
	}
	return err
}
