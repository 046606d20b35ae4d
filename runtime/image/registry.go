package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registry is where n comes from: its mirrors in their order, then the registry itself.
func (s *Store) registry(n Name, opts PullOptions) (*mirrored, error) {
	if n.IsZero() {
		return nil, invalidf("no image name given")
	}
	if opts.Keychain == nil {
		opts.Keychain = authn.DefaultKeychain
	}
	host, path, _ := strings.Cut(n.Repository(), "/")
	m := &mirrored{}
	for _, mirror := range s.registries.mirrors(host) {
		src, err := newRegistrySource(s.registries, mirror+"/"+path, opts)
		if err != nil {
			return nil, err
		}
		m.sources = append(m.sources, src)
	}
	src, err := newRegistrySource(s.registries, n.Repository(), opts)
	if err != nil {
		return nil, err
	}
	m.sources = append(m.sources, src)
	return m, nil
}

// mirrored is several registries that have the same repository; the first that has what is asked for gives it.
type mirrored struct {
	mu      sync.Mutex
	sources []*registrySource // those that are still trusted; never empty
}

func (m *mirrored) all() []*registrySource {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sources
}

// distrust takes the first source out, which sent wrong bytes, and tells whether another is left to ask.
func (m *mirrored) distrust() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sources) < 2 {
		return false
	}
	m.sources = m.sources[1:]
	return true
}

// ask tries the sources in order. The error of the last, the registry itself, is what counts; a mirror's is told beside it.
func ask[T any](ctx context.Context, m *mirrored, do func(*registrySource) (T, error)) (T, error) {
	var failed []string
	sources := m.all()
	for i, src := range sources {
		v, err := do(src)
		if err == nil || ctx.Err() != nil {
			return v, err
		}
		if i == len(sources)-1 {
			if len(failed) > 0 {
				err = fmt.Errorf("%w (before: %s)", err, strings.Join(failed, "; "))
			}
			return v, err
		}
		failed = append(failed, err.Error())
	}
	panic("image: a mirrored source without sources")
}

type typedManifest struct {
	mediaType string
	raw       []byte
}

// Manifest implements Source.
func (m *mirrored) Manifest(ctx context.Context, ref string) (string, []byte, error) {
	got, err := ask(ctx, m, func(r *registrySource) (typedManifest, error) { return r.manifest(ctx, ref) })
	return got.mediaType, got.raw, err
}

// Blob implements Source.
func (m *mirrored) Blob(ctx context.Context, d string) (io.ReadCloser, error) {
	return m.BlobFrom(ctx, d, 0)
}

// BlobFrom implements resumer.
func (m *mirrored) BlobFrom(ctx context.Context, d string, offset int64) (io.ReadCloser, error) {
	return ask(ctx, m, func(r *registrySource) (io.ReadCloser, error) { return r.blob(ctx, d, offset) })
}

// registrySource is one repository of one registry.
type registrySource struct {
	repo     name.Repository
	keychain authn.Keychain
	base     http.RoundTripper
	limits   *patient
	insecure bool

	mu     sync.Mutex
	client *http.Client // authenticated; nil before the first request, and after a failure
	user   string       // whose credentials it has; "": none
}

func newRegistrySource(regs *Registries, repository string, opts PullOptions) (*registrySource, error) {
	host, path, _ := strings.Cut(repository, "/")
	insecure := regs.insecure(host)
	var nameOpts []name.Option
	if insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	repo, err := repositoryAt(host, path, nameOpts...)
	if err != nil {
		return nil, invalidf("%w", err)
	}
	inner := opts.Transport
	if inner == nil {
		if inner, err = regs.transport(host); err != nil {
			return nil, err
		}
	}
	limits := &patient{inner: &plainGuard{inner: inner, host: repo.RegistryStr(), allowed: insecure}}
	base := transport.NewRetry(transport.NewUserAgent(limits, "shoal"), transport.WithRetryBackoff(pullBackoff))
	return &registrySource{repo: repo, keychain: opts.Keychain, base: base, limits: limits, insecure: insecure}, nil
}

// repositoryAt names a repository of a host. The two are never read as one name: whose first word has neither dot nor
// port is one of Docker Hub's, and would be spoken to under the terms of that host.
func repositoryAt(host, path string, opts ...name.Option) (name.Repository, error) {
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return name.Repository{}, err
	}
	checked, err := name.NewRepository("host.invalid/"+path, opts...)
	if err != nil {
		return name.Repository{}, err
	}
	return reg.Repo(checked.RepositoryStr()), nil
}

// session is a client that has shown its credentials, made at the first request.
func (r *registrySource) session(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	auth, err := authn.Resolve(ctx, r.keychain, r.repo)
	if err != nil {
		return nil, &kindError{ErrDenied, fmt.Errorf("credentials for %s: %w; see credsStore and credHelpers in docker's config.json", r.repo.RegistryStr(), err)}
	}
	if c, err := authn.Authorization(ctx, auth); err == nil {
		switch {
		case c.Username != "":
			r.user = c.Username
		case c.IdentityToken != "" || c.RegistryToken != "" || c.Auth != "":
			r.user = "the token's owner"
		}
	}
	rt, err := transport.NewWithContext(ctx, r.repo.Registry, auth, r.base, []string{r.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{Transport: rt}
	return r.client, nil
}

func (r *registrySource) get(ctx context.Context, path string, header http.Header, want ...int) (*http.Response, error) {
	client, err := r.session(ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	u := url.URL{Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(), Path: "/v2/" + r.repo.RepositoryStr() + path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, r.explain(err)
	}
	if err := transport.CheckError(resp, want...); err != nil {
		resp.Body.Close()
		return nil, r.explain(err)
	}
	return resp, nil
}

// manifestLimit is for one manifest from one registry: its patience with rate limits, credentials and tries included. A
// registry that takes the connection and says no more would keep whoever wants the image for ever.
const manifestLimit = 2 * time.Minute

func (r *registrySource) manifest(ctx context.Context, ref string) (typedManifest, error) {
	limited, cancel := context.WithTimeout(ctx, manifestLimit)
	defer cancel()
	m, err := r.readManifest(limited, ref)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = &kindError{ErrUnavailable, fmt.Errorf("registry %s gave no manifest within %v: %w", r.repo.RegistryStr(), manifestLimit, err)}
	}
	return m, err
}

func (r *registrySource) readManifest(ctx context.Context, ref string) (typedManifest, error) {
	if !strings.HasPrefix(ref, "sha256:") {
		n, err := ParseName(ref)
		if err != nil {
			return typedManifest{}, err
		}
		ref = n.Tag()
	}
	accept := strings.Join(append(append([]string{}, indexTypes...), imageTypes...), ", ")
	resp, err := r.get(ctx, "/manifests/"+ref, http.Header{"Accept": {accept}}, http.StatusOK)
	if err != nil {
		return typedManifest{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifestSize+1))
	if err != nil {
		return typedManifest{}, r.explain(err)
	}
	return typedManifest{resp.Header.Get("Content-Type"), raw}, nil
}

// blob streams from offset on. A registry that ignores Range sends all: what is known already is passed over.
func (r *registrySource) blob(ctx context.Context, d string, offset int64) (io.ReadCloser, error) {
	// A proxy must not repack what has a digest.
	h := http.Header{"Accept-Encoding": {"identity"}}
	if offset > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.get(ctx, "/blobs/"+d, h, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, err
	}
	return fromOffset(resp, offset)
}

// fromOffset makes the body of an answer to a request for bytes=offset- begin there.
func fromOffset(resp *http.Response, offset int64) (io.ReadCloser, error) {
	begins := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &begins); err != nil || begins > offset {
			resp.Body.Close()
			return nil, invalidf("asked for bytes from %d on, got %q", offset, resp.Header.Get("Content-Range"))
		}
	}
	if _, err := io.CopyN(io.Discard, resp.Body, offset-begins); err != nil {
		resp.Body.Close()
		return nil, &kindError{ErrUnavailable, err}
	}
	return resp.Body, nil
}

// explain gives a registry's refusal its kind and the next step.
func (r *registrySource) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDenied) {
		return err
	}
	host := r.repo.RegistryStr()
	var te *transport.Error
	if !errors.As(err, &te) {
		return r.explainNetwork(host, err)
	}
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return r.explainDenied(host, te.StatusCode, err)
	case http.StatusNotFound:
		return &kindError{ErrNotFound, fmt.Errorf("registry %s has no such image: %w", host, err)}
	case http.StatusTooManyRequests:
		step := "log in (docker login " + host + ") for a higher limit, or configure a mirror (shoal agent --registry-mirror)"
		if r.user != "" {
			step = "configure a mirror (shoal agent --registry-mirror)"
		}
		return &kindError{ErrUnavailable, fmt.Errorf("registry %s limits how often %s may pull%s: %s, or load the image from an archive: %w",
			host, whoPulls(r.user), r.limits.says(), step, err)}
	}
	if te.StatusCode >= 500 || te.Temporary() {
		return &kindError{ErrUnavailable, fmt.Errorf("registry %s: %w", host, err)}
	}
	return fmt.Errorf("registry %s: %w", host, err)
}

func whoPulls(user string) string {
	if user == "" {
		return "this address"
	}
	return user
}

// explainDenied: registries answer so for repositories that do not exist, too.
func (r *registrySource) explainDenied(host string, status int, err error) error {
	step := fmt.Sprintf("the repository is private or does not exist, and this node has no credentials for it: correct the name, "+
		"or run `docker login %s` on this node (or put its config.json where the agent's DOCKER_CONFIG points)", host)
	switch {
	case r.user != "" && status == http.StatusUnauthorized:
		step = fmt.Sprintf("it does not accept the credentials of %s in docker's config.json: run `docker login %s` again", r.user, host)
	case r.user != "":
		step = fmt.Sprintf("%s may not pull this repository, or it does not exist: ask its owner, or correct the name", r.user)
	}
	return &kindError{ErrDenied, fmt.Errorf("registry %s refuses: %s: %w", host, step, err)}
}
