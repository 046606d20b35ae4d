package image

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
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
	// lost are images whose manifest or config is damaged on this disk, by manifest: one descriptor a name, as in the file.
	// None is in images.
	lost map[digest.Digest][]ocispec.Descriptor
}

func newCatalog() *catalog {
	return &catalog{images: map[digest.Digest]*entry{}, names: map[string]digest.Digest{}, lost: map[digest.Digest][]ocispec.Descriptor{}}
}

type entry struct {
	image Image // without Names
	desc  ocispec.Descriptor
	added time.Time
}

func (c *catalog) clone() *catalog {
	return &catalog{images: maps.Clone(c.images), names: maps.Clone(c.names), lost: maps.Clone(c.lost)}
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
	if m := c.lostBy(ref); m != "" {
		return "", &kindError{ErrNotFound, fmt.Errorf("image %q was damaged on this node's disk: fetch it again", ref)}
	}
	return "", &kindError{ErrNotFound, fmt.Errorf("no image %q on this node", ref)}
}

// lostBy finds the damaged image that ref names, by full name or manifest digest; "": none.
func (c *catalog) lostBy(ref string) digest.Digest {
	d := digest.Digest(ref)
	n, err := ParseName(ref)
	if err == nil && n.Digest() != "" {
		d = n.Digest()
	}
	if c.lost[d] != nil {
		return d
	}
	for m, descs := range c.lost {
		for _, one := range descs {
			if err == nil && one.Annotations[annotationName] == n.String() {
				return m
			}
		}
	}
	return ""
}

// forgetLost takes a name, or the whole image if it has no other, off the damaged ones.
func (c *catalog) forgetLost(m digest.Digest, name string) {
	left := slices.DeleteFunc(slices.Clone(c.lost[m]), func(d ocispec.Descriptor) bool { return name == "" || d.Annotations[annotationName] == name })
	if c.lost[m] = left; len(left) == 0 {
		delete(c.lost, m)
	}
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
	for _, d := range c.lost[e.image.Manifest] { // it is whole again, under all its names
		if name := d.Annotations[annotationName]; name != "" {
			names = append(slices.Clone(names), name)
		}
	}
	delete(c.lost, e.image.Manifest)
	for _, name := range names {
		c.name(name, e.image.Manifest)
	}
}

// name gives an image that is here a name, which may have been another's.
func (c *catalog) name(name string, m digest.Digest) {
	if old := c.lostBy(name); old != "" && old != m {
		c.forgetLost(old, name)
	}
	c.names[name] = m
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
	if err := s.writeCatalog(c); err != nil {
		return err
	}
	s.mu.Lock()
	s.catalog = c
	s.mu.Unlock()
	return nil
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
