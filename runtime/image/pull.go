package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// PullOptions adjust Pull. The zero value is useful.
type PullOptions struct {
	// Progress is called about ten times a second and at the end, one call at a time; it must not block. Of several calls
	// that share one pull the first caller's is used.
	Progress func(Progress)
	// Keychain gives credentials. Default: ~/.docker/config.json and its helpers.
	Keychain authn.Keychain
	// Transport reaches the registry. Default: a pooled one with a dial timeout and the proxy of the environment.
	Transport http.RoundTripper
	// Jobs is how many layers come at the same time. Default 4.
	Jobs int
}

// Pull copies an image from its registry and gives it its name. A tag is asked for anew each time; blobs that are here
// are not copied again. A registry on a loopback address is spoken to over http when it does not answer https.
// ErrNotFound, ErrDenied, ErrUnavailable (rate limits too), ErrInvalid.
func (s *Store) Pull(ctx context.Context, n Name, opts PullOptions) (Image, error) {
	src, err := newRegistrySource(n, opts)
	if err == nil {
		var img Image
		jobs := opts.Jobs
		if jobs <= 0 {
			jobs = defaultPullJobs
		}
		if img, err = s.copyShared(ctx, &s.pulls, src, n, opts.Progress, jobs); err == nil {
			return img, nil
		}
	}
	return Image{}, fmt.Errorf("pull image %s: %w", n.Short(), err)
}

// pullBackoff is for one request that fails in a way that may pass: about a second in all. Whoever wants the image tries
// the whole pull again, with a longer backoff and perhaps from a peer.
var pullBackoff = remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}

// registrySource is a repository of a registry as a Source.
type registrySource struct {
	repo   name.Repository
	puller *remote.Puller
}

func newRegistrySource(n Name, opts PullOptions) (*registrySource, error) {
	if n.IsZero() {
		return nil, invalidf("no image name given")
	}
	var nameOpts []name.Option
	if host, _, _ := strings.Cut(n.Repository(), "/"); isLoopback(host) {
		nameOpts = append(nameOpts, name.Insecure)
	}
	repo, err := name.NewRepository(n.Repository(), nameOpts...)
	if err != nil {
		return nil, invalidf("%w", err)
	}
	if opts.Keychain == nil {
		opts.Keychain = authn.DefaultKeychain
	}
	ropts := []remote.Option{
		remote.WithAuthFromKeychain(opts.Keychain), remote.WithUserAgent("shoal"), remote.WithJobs(max(opts.Jobs, defaultPullJobs) + 1),
		remote.WithRetryBackoff(pullBackoff),
	}
	if opts.Transport != nil {
		ropts = append(ropts, remote.WithTransport(opts.Transport))
	}
	puller, err := remote.NewPuller(ropts...)
	if err != nil {
		return nil, err
	}
	return &registrySource{repo, puller}, nil
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

// Manifest implements Source.
func (r *registrySource) Manifest(ctx context.Context, ref string) (string, []byte, error) {
	var target name.Reference = r.repo.Digest(ref)
	if !strings.HasPrefix(ref, "sha256:") {
		n, err := ParseName(ref)
		if err != nil {
			return "", nil, err
		}
		target = r.repo.Tag(n.Tag())
	}
	d, err := r.puller.Get(ctx, target)
	if err != nil {
		return "", nil, r.explain(err)
	}
	return string(d.MediaType), d.Manifest, nil
}

// Blob implements Source.
func (r *registrySource) Blob(ctx context.Context, d string) (io.ReadCloser, error) {
	layer, err := r.puller.Layer(ctx, r.repo.Digest(d))
	if err != nil {
		return nil, r.explain(err)
	}
	rc, err := layer.Compressed()
	if err != nil {
		return nil, r.explain(err)
	}
	return rc, nil
}

// explain gives a registry's refusal its kind and the next step.
func (r *registrySource) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	host := r.repo.RegistryStr()
	var te *transport.Error
	if !errors.As(err, &te) {
		var ne net.Error
		if errors.As(err, &ne) {
			return &kindError{ErrUnavailable, fmt.Errorf("registry %s cannot be reached: %w", host, err)}
		}
		return err
	}
	switch te.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		// Registries answer so for repositories that do not exist, too.
		return &kindError{ErrDenied, fmt.Errorf("registry %s refuses: the repository is private or does not exist; "+
			"put credentials into ~/.docker/config.json (docker login %s) or correct the name: %w", host, host, err)}
	case http.StatusNotFound:
		return &kindError{ErrNotFound, fmt.Errorf("registry %s has no such image: %w", host, err)}
	case http.StatusTooManyRequests:
		return &kindError{ErrUnavailable, fmt.Errorf("registry %s limits how often this address may pull: log in (docker login %s), "+
			"wait, or load the image from an archive: %w", host, host, err)}
	}
	if te.StatusCode >= 500 || te.Temporary() {
		return &kindError{ErrUnavailable, fmt.Errorf("registry %s: %w", host, err)}
	}
	return fmt.Errorf("registry %s: %w", host, err)
}
