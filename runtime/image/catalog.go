package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of ours in index.json, beside the two that name an image by convention.
const (
	annotationName  = "io.containerd.image.name" // full name; ref.name holds it too, for skopeo and crane
	annotationIndex = "shoal.index"              // digest of the multi-platform index
	annotationAdded = "shoal.added"              // RFC 3339
)

// catalog is which images exist and what they are called. On disk it is index.json of an OCI image layout, so that other
// tools can read the store. A published catalog is never edited.
type catalog struct {
	images map[digest.Digest]*entry // by manifest digest; entries are shared between catalogs and never edited
	names  map[string]digest.Digest // full name -> manifest; every value is a key of images
}

type entry struct {
	image Image // without Names
	desc  ocispec.Descriptor
	added time.Time
}

func (c *catalog) clone() *catalog {
	return &catalog{images: maps.Clone(c.images), names: maps.Clone(c.names)}
}

func (c *catalog) namesOf(m digest.Digest) []string {
	var names []string
	for name, d := range c.names {
		if d == m {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *catalog) image(m digest.Digest) Image {
	img := c.images[m].image.clone()
	img.Names = c.namesOf(m)
	return img
}

// nameOf returns the full name in the catalog that ref spells, or "".
func (c *catalog) nameOf(ref string) string {
	n, err := ParseName(ref)
	if err != nil {
		return ""
	}
	if _, ok := c.names[n.String()]; ok {
		return n.String()
	}
	return ""
}

// resolve finds the manifest that ref means: a name, then a digest, then an id or its prefix.
func (c *catalog) resolve(ref string) (digest.Digest, error) {
	if name := c.nameOf(ref); name != "" {
		return c.names[name], nil
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	isHex := hex != "" && strings.Trim(hex, "0123456789abcdef") == ""
	name, nameErr := ParseName(ref)
	switch {
	case isHex && len(hex) == 64:
		if m := c.byDigest(digest.NewDigestFromEncoded(digest.SHA256, hex)); m != "" {
			return m, nil
		}
	case isHex && len(hex) >= minPrefixLength:
		if m, err := c.byPrefix(hex); m != "" || err != nil {
			return m, err
		}
	case nameErr == nil && name.Digest() != "":
		if m := c.byDigest(name.Digest()); m != "" {
			return m, nil
		}
	case nameErr != nil:
		return "", nameErr
	}
	return "", &kindError{ErrNotFound, fmt.Errorf("no image %q on this node", ref)}
}

func (c *catalog) byDigest(d digest.Digest) digest.Digest {
	if _, ok := c.images[d]; ok {
		return d
	}
	var found digest.Digest // the smallest, so that the answer does not depend on map order
	for m, e := range c.images {
		if (e.image.ID == d || e.image.Index == d) && (found == "" || m < found) {
			found = m
		}
	}
	return found
}

func (c *catalog) byPrefix(hex string) (digest.Digest, error) {
	var found digest.Digest
	for m, e := range c.images {
		if !strings.HasPrefix(m.Encoded(), hex) && !strings.HasPrefix(e.image.ID.Encoded(), hex) {
			continue
		}
		if found != "" && c.images[found].image.ID != e.image.ID {
			return "", invalidf("image id prefix %q is ambiguous: give more digits", hex)
		}
		if found == "" || m < found {
			found = m
		}
	}
	return found, nil
}

// add puts an image under names, which may be empty.
func (c *catalog) add(e *entry, names ...string) {
	if old := c.images[e.image.Manifest]; old != nil {
		merged := *e
		if merged.image.Index == "" {
			merged.image.Index = old.image.Index
		}
		e = &merged
	}
	c.images[e.image.Manifest] = e
	for _, name := range names {
		c.names[name] = e.image.Manifest
	}
}

// change edits a copy of the catalog, writes it, and only then shows it. When fn or the write fails nothing has changed.
func (s *Store) change(fn func(*catalog) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	c := s.snapshot().clone()
	if err := fn(c); err != nil {
		return err
	}
	raw, err := c.encode()
	if err != nil {
		return err
	}
	if err := s.writeFile(filepath.Join(s.dir, ocispec.ImageIndexFile), raw); err != nil {
		return fmt.Errorf("write image catalog: %w", s.explainSpace(err))
	}
	s.mu.Lock()
	s.catalog = c
	s.mu.Unlock()
	return nil
}

// encode renders the catalog as an OCI index: one descriptor a name, one without a name for an unnamed image; sorted.
func (c *catalog) encode() ([]byte, error) {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, m := range slices.Sorted(maps.Keys(c.images)) {
		e := c.images[m]
		names := c.namesOf(m)
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			d := e.desc
			d.Annotations = map[string]string{annotationAdded: e.added.UTC().Format(time.RFC3339)}
			if name != "" {
				d.Annotations[ocispec.AnnotationRefName] = name
				d.Annotations[annotationName] = name
			}
			if e.image.Index != "" {
				d.Annotations[annotationIndex] = string(e.image.Index)
			}
			idx.Manifests = append(idx.Manifests, d)
		}
	}
	return json.MarshalIndent(idx, "", " ")
}

// readCatalog reads index.json and the manifests and configs it names.
func (s *Store) readCatalog() (*catalog, error) {
	c := &catalog{images: map[digest.Digest]*entry{}, names: map[string]digest.Digest{}}
	raw, err := os.ReadFile(filepath.Join(s.dir, ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		layout := []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
		return c, s.writeFile(filepath.Join(s.dir, ocispec.ImageLayoutFile), layout)
	}
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, fmt.Errorf("%s: %w: move it away to start with an empty store", ocispec.ImageIndexFile, err)
	}
	for _, d := range idx.Manifests {
		e, err := s.readEntry(d)
		if err != nil {
			s.log.Warn("image dropped from the catalog", "image", d.Annotations[annotationName], "manifest", d.Digest, "err", err)
			continue
		}
		var names []string
		if name := d.Annotations[annotationName]; name != "" {
			names = []string{name}
		}
		c.add(e, names...)
	}
	return c, nil
}

func (s *Store) readEntry(d ocispec.Descriptor) (*entry, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	manifest, err := s.readBlob(d.Digest, MaxManifestSize)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(manifest, d.MediaType)
	if err != nil {
		return nil, err
	}
	config, err := s.readBlob(m.Config.Digest, MaxConfigSize)
	if err != nil {
		return nil, err
	}
	e, err := newEntry(manifest, d.MediaType, config, digest.Digest(d.Annotations[annotationIndex]))
	if err != nil {
		return nil, err
	}
	if t, err := time.Parse(time.RFC3339, d.Annotations[annotationAdded]); err == nil {
		e.added = t
	}
	return e, nil
}

func newEntry(manifest []byte, mediaType string, config []byte, index digest.Digest) (*entry, error) {
	img, err := parseImage(manifest, mediaType, config)
	if err != nil {
		return nil, err
	}
	img.Index = index
	p := img.Platform
	return &entry{
		image: img, added: time.Now(),
		desc: ocispec.Descriptor{MediaType: mediaType, Digest: img.Manifest, Size: int64(len(manifest)), Platform: &p},
	}, nil
}
