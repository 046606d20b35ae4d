package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"shoal/runtime/step"
)

// Source is where images can be copied from: a peer's store, or a registry. Safe for concurrent use. Its bytes are not
// trusted. An error that is ErrNotFound (errors.Is) says that the source does not have it.
type Source interface {
	// Manifest returns a manifest or index, at most MaxManifestSize bytes of it. ref is a full name or a digest.
	Manifest(ctx context.Context, ref string) (mediaType string, raw []byte, err error)
	// Blob streams a config or layer of the image asked for last; the caller closes it.
	Blob(ctx context.Context, digest string) (io.ReadCloser, error)
}

// resumer is a Source that can begin a blob in its middle.
type resumer interface {
	// BlobFrom is Blob without the first offset bytes.
	BlobFrom(ctx context.Context, digest string, offset int64) (io.ReadCloser, error)
}

// Progress says how far a Pull or Fetch is. Bytes count config and layers; what was here already counts as done.
type Progress struct {
	Layers, LayersDone int
	Bytes, BytesDone   int64
	// Each is the layers, lowest first; the receiver's own.
	Each []LayerProgress
}

// LayerProgress is one layer on its way.
type LayerProgress struct {
	Digest     digest.Digest
	Size, Done int64 // bytes
	Here       bool  // it was here before
}

// Fetch copies an image from a peer. ref is a name, which the image will have here too, or a digest of a manifest or
// index; an image fetched by a bare digest has no name and lives by its holders (and PrunePolicy.Grace). What is here
// already is not copied again. Calls for the same ref share one copy, and who joined a failed one tries his own source.
func (s *Store) Fetch(ctx context.Context, from Source, ref string) (Image, error) {
	var img Image
	name, err := ParseName(ref)
	if d := digest.Digest(ref); checkDigest(d) == nil {
		name, err = Name{digest: d}, nil
	}
	if err == nil {
		img, err = s.copyShared(ctx, &s.fetches, from, name, PullOptions{}, defaultPullJobs)
	}
	if err != nil {
		return Image{}, fmt.Errorf("fetch image %s: %w", ref, err)
	}
	return img, nil
}

func (s *Store) copyShared(ctx context.Context, flights *flights[Image], from Source, name Name, opts PullOptions, jobs int) (Image, error) {
	if s.closed.Load() {
		return Image{}, ErrClosed
	}
	platform := opts.Platform
	if platform.Architecture == "" {
		platform = s.platform
	}
	img, err := flights.do(ctx, name.String()+" "+platformString(platform), func(ctx context.Context) (Image, error) {
		c := &copying{s: s, from: from, lease: s.newLease(), meter: &meter{report: opts.Progress}, jobs: jobs, platform: platform}
		defer c.lease.release()
		return c.image(ctx, name)
	})
	return img.clone(), err
}

// copying is one image on its way here.
type copying struct {
	s     *Store
	from  Source
	lease *lease
	meter *meter
	jobs  int

	platform ocispec.Platform
}

func (c *copying) image(ctx context.Context, name Name) (Image, error) {
	ref := name.String()
	if d := name.Digest(); d != "" {
		ref = string(d)
	}
	mediaType, raw, err := c.manifest(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	return c.take(ctx, raw, mediaType, name)
}

// take stores the image of a manifest or index, with all that it names.
func (c *copying) take(ctx context.Context, raw []byte, mediaType string, name Name) (Image, error) {
	kind, mediaType, err := classify(raw, mediaType)
	if err != nil {
		return Image{}, err
	}
	var index digest.Digest
	for depth := 0; kind == kindIndex; depth++ {
		if depth == maxIndexDepth {
			return Image{}, invalidf("indexes nested more than %d deep", maxIndexDepth)
		}
		child, err := choosePlatform(raw, mediaType, c.platform)
		if err != nil {
			return Image{}, err
		}
		if index == "" {
			if index, err = c.put(ctx, raw); err != nil {
				return Image{}, err
			}
		}
		if mediaType, raw, err = c.manifest(ctx, string(child.Digest)); err != nil {
			return Image{}, err
		}
		if kind, mediaType, err = classify(raw, mediaType); err != nil {
			return Image{}, err
		}
	}
	e, err := c.blobs(ctx, raw, mediaType, index)
	if err != nil {
		return Image{}, err
	}
	return c.commit(e, name)
}

func (c *copying) commit(e *entry, name Name) (Image, error) {
	var names []string
	if !name.IsZero() { // a bare digest names nothing
		names = []string{name.String()}
	}
	var img Image
	if err := step.Reach("copy kept"); err != nil {
		return img, err
	}
	err := c.s.change(func(cat *catalog) error {
		cat.add(e, names...)
		img = cat.image(e.image.Manifest)
		return nil
	})
	if err == nil {
		c.s.log.Info("image stored", "image", name, "manifest", e.image.Manifest, "bytes", e.image.Size)
	}
	return img, err
}

// manifest asks the source, and checks the digest if it was asked by one. What is here already is not asked for.
func (c *copying) manifest(ctx context.Context, ref string) (string, []byte, error) {
	want := digest.Digest(ref)
	if checkDigest(want) != nil {
		want = ""
	} else {
		c.lease.pin(want)
		if raw, err := c.s.readBlob(want, MaxManifestSize); err == nil {
			return "", raw, nil
		}
	}
	mediaType, raw, err := c.from.Manifest(ctx, ref)
	if err != nil {
		return "", nil, err
	}
	if len(raw) > MaxManifestSize {
		return "", nil, invalidf("manifest of %d bytes, at most %d", len(raw), MaxManifestSize)
	}
	if got := digest.FromBytes(raw); want != "" && got != want {
		return "", nil, invalidf("manifest has digest %s, want %s", got, want)
	}
	return mediaType, raw, nil
}

func (c *copying) put(ctx context.Context, raw []byte) (digest.Digest, error) {
	c.lease.pin(digest.FromBytes(raw))
	return c.s.putBlob(ctx, raw)
}

// blobs brings config, layers and manifest here, in this order, and joins them.
func (c *copying) blobs(ctx context.Context, raw []byte, mediaType string, index digest.Digest) (*entry, error) {
	m, err := parseManifest(raw, mediaType)
	if err := errors.Join(err, step.Reach("copy begun")); err != nil {
		return nil, err
	}
	c.meter.start(m)
	config, err := c.config(ctx, m.Config)
	if errors.Is(err, ErrCorrupt) { // ours was damaged and is gone now
		config, err = c.config(ctx, m.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := step.Reach("copy config here"); err != nil {
		return nil, err
	}
	e, err := newEntry(raw, mediaType, config, index) // before the layers: a bad image costs no download
	if err != nil {
		return nil, err
	}
	if p := e.image.Platform; !runsOn(p, c.platform) {
		return nil, wrongPlatform(c.platform, []string{platformString(p)})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(c.jobs, 1))
	for i, l := range m.Layers {
		g.Go(func() error {
			if err := c.blob(gctx, l, i); err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			c.meter.layerDone()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := step.Reach("copy layers here"); err != nil {
		return nil, err
	}
	if _, err := c.put(ctx, raw); err != nil { // it syncs the directory: also for blobs that were here and whose copier died
		return nil, err
	}
	c.meter.flush()
	return e, nil
}

func (c *copying) config(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := c.blob(ctx, d, configBlob); err != nil {
		return nil, err
	}
	return c.s.readBlob(d.Digest, MaxConfigSize)
}
