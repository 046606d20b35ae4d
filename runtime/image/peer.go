package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Peer is a Source that asks another store's Handler.
type Peer struct {
	client *http.Client
	base   string
}

var _ Source = (*Peer)(nil)

// NewPeer returns the store whose Handler answers at base, "https://host:port" without "/v2/". The client brings trust
// and timeouts for connecting; it must not limit whole requests, because a layer may take long.
func NewPeer(client *http.Client, base string) *Peer {
	return &Peer{client, strings.TrimSuffix(base, "/")}
}

// Manifest implements Source.
func (p *Peer) Manifest(ctx context.Context, ref string) (string, []byte, error) {
	path := "/v2/any/manifests/" + ref // by digest the repository does not matter
	if checkDigest(digest.Digest(ref)) != nil {
		n, err := ParseName(ref)
		if err != nil {
			return "", nil, err
		}
		path = "/v2/" + n.repository + "/manifests/" + n.tag
		if n.digest != "" {
			path = "/v2/" + n.repository + "/manifests/" + n.digest.String() // with both, the digest decides
		}
	}
	resp, err := p.get(ctx, path, 0)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifestSize+1))
	if err != nil {
		return "", nil, &kindError{ErrUnavailable, fmt.Errorf("peer %s: %w", p.base, err)}
	}
	return resp.Header.Get("Content-Type"), raw, nil
}

// Blob implements Source.
func (p *Peer) Blob(ctx context.Context, d string) (io.ReadCloser, error) {
	return p.BlobFrom(ctx, d, 0)
}

// BlobFrom implements resumer.
func (p *Peer) BlobFrom(ctx context.Context, d string, offset int64) (io.ReadCloser, error) {
	resp, err := p.get(ctx, "/v2/any/blobs/"+d, offset)
	if err != nil {
		return nil, err
	}
	return fromOffset(resp, offset)
}

func (p *Peer) get(ctx context.Context, path string, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a proxy must not repack what has a digest
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, &kindError{ErrUnavailable, fmt.Errorf("peer %s: %w", p.base, err)}
	}
	if resp.StatusCode == http.StatusOK || offset > 0 && resp.StatusCode == http.StatusPartialContent {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what is there explains; what is not does not matter
	err = fmt.Errorf("peer %s: %s: %s", p.base, resp.Status, strings.TrimSpace(string(text)))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, &kindError{ErrNotFound, err}
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return nil, &kindError{ErrDenied, err}
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests:
		return nil, &kindError{ErrUnavailable, err}
	}
	return nil, err
}
