package image

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PullOptions adjust Pull. The zero value is useful.
type PullOptions struct {
	// Progress is called about ten times a second and at the end, one call at a time; it must not block. Of several calls
	// that share one pull the first caller's is used.
	Progress func(Progress)
	// Platform is what to choose from a multi-platform image. Default: the store's.
	Platform ocispec.Platform
	// Keychain gives credentials. Default: docker's config.json with its credsStore and credHelpers programs.
	Keychain authn.Keychain
	// Transport reaches the registry. Default: a pooled one with a dial timeout and the proxy of the environment
	// (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
	Transport http.RoundTripper
	// Jobs is how many layers come at the same time. Default 4.
	Jobs int
}

// Pull copies an image from its registry, or from the first of the registry's mirrors that answers, and gives it its name.
// A tag is asked for anew each time; blobs that are here are not copied again, and a blob whose stream breaks goes on where
// it broke. A registry on a loopback address, or one configured as insecure, is spoken to over http when it does not answer
// https. ErrNotFound, ErrDenied, ErrUnavailable (rate limits too), ErrInvalid.
func (s *Store) Pull(ctx context.Context, n Name, opts PullOptions) (Image, error) {
	src, err := s.registry(n, opts)
	if err == nil {
		var img Image
		jobs := opts.Jobs
		if jobs <= 0 {
			jobs = defaultPullJobs
		}
		if img, err = s.copyShared(ctx, &s.pulls, src, n, opts, jobs); err == nil {
			return img, nil
		}
	}
	return Image{}, fmt.Errorf("pull image %s: %w", n.Short(), err)
}

// Resolve asks the registry, or its mirrors, what n means now: the digest of its index or manifest. It moves a few
// kilobytes. Errors as Pull's.
func (s *Store) Resolve(ctx context.Context, n Name, opts PullOptions) (digest.Digest, error) {
	if n.Digest() != "" {
		return n.Digest(), nil
	}
	src, err := s.registry(n, opts)
	if err == nil {
		var raw []byte
		if _, raw, err = src.Manifest(ctx, n.String()); err == nil {
			return digest.FromBytes(raw), nil
		}
	}
	return "", fmt.Errorf("look image %s up: %w", n.Short(), err)
}

// pullBackoff is for one request that fails in a way that may pass: about a second in all. Whoever wants the image tries
// the whole pull again, with a longer backoff and perhaps from a peer.
var pullBackoff = remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}
