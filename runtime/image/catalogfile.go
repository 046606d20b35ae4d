package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
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

	"shoal/runtime/step"
)

// annotationSum is of the whole index.json: the SHA-256 of its bytes with zeros in this place. A name in which one bit has
// flipped is a good name, too, and no digest covers it.
const annotationSum = "shoal.sum"

// catalogCopy stands beside index.json with the same bytes. No fsync is spent on it: it is for a disk that flips bits later.
const catalogCopy = "index.copy.json"

var noSum = []byte(strings.Repeat("0", 2*sha256.Size))

// errDamaged: a file is not what was written.
var errDamaged = errors.New("its checksum does not match: it was damaged on disk")

// encode renders the catalog as an OCI index: one descriptor a name, one without a name for an unnamed image; sorted.
func (c *catalog) encode() ([]byte, error) {
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
		Annotations: map[string]string{annotationSum: string(noSum)},
	}
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
	for _, m := range slices.Sorted(maps.Keys(c.lost)) {
		idx.Manifests = append(idx.Manifests, c.lost[m]...)
	}
	raw, err := json.MarshalIndent(idx, "", " ")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	at := bytes.LastIndex(raw, noSum) // the index's own annotations come last
	hex.Encode(raw[at:], sum[:])
	return raw, nil
}

// decodeCatalog checks and reads index.json. One from before there were sums has no annotations and nothing that is unknown;
// anything else without a sum had one, in whose name a bit has flipped.
func decodeCatalog(raw []byte) (ocispec.Index, error) {
	var idx ocispec.Index
	r := json.NewDecoder(bytes.NewReader(raw))
	r.DisallowUnknownFields()
	if err := r.Decode(&idx); err != nil || r.More() {
		return idx, errors.Join(errDamaged, err)
	}
	want, ok := idx.Annotations[annotationSum]
	if !ok && len(idx.Annotations) == 0 {
		return idx, nil
	}
	at := bytes.LastIndex(raw, []byte(want))
	if len(want) != len(noSum) || at < 0 {
		return idx, errDamaged
	}
	plain := bytes.Clone(raw)
	copy(plain[at:], noSum)
	if sum := sha256.Sum256(plain); hex.EncodeToString(sum[:]) != want {
		return idx, errDamaged
	}
	return idx, nil
}

// writeCatalog makes c what the next Open reads.
func (s *Store) writeCatalog(c *catalog) error {
	raw, err := c.encode()
	if err != nil {
		return err
	}
	if err := s.writeFile(filepath.Join(s.dir, ocispec.ImageIndexFile), raw); err != nil {
		return fmt.Errorf("write image catalog: %w", s.explainSpace(err))
	}
	second := filepath.Join(s.dir, catalogCopy)
	if err := errors.Join(step.Reach("catalog written"), s.replaceFile(second, raw, notSynced)); err != nil {
		s.log.Warn("the second copy of the image catalog cannot be written", "err", err)
		_ = os.Remove(second) // none is better than an old one
	}
	return nil
}

// readCatalog reads index.json and the manifests and configs it names. If it is damaged its copy is taken, and if there is
// none the images are found by their blobs, without names: containers hold them by digest.
func (s *Store) readCatalog() (*catalog, error) {
	if err := s.ensureLayoutFile(); err != nil {
		return nil, err
	}
	second, copyErr := s.readIndex(catalogCopy)
	if copyErr == nil && len(second.Annotations) == 0 { // no older version wrote one
		copyErr = errDamaged
	}
	first, err := s.readIndex(ocispec.ImageIndexFile)
	switch {
	case err == nil:
		c := s.catalogOf(first)
		if errors.Is(copyErr, errDamaged) {
			s.log.Warn("the second copy of the image catalog is damaged: it is written again", "err", copyErr)
			return c, s.writeCatalog(c)
		}
		if len(first.Annotations) == 0 { // of an older version, and the copy may be from before it
			return c, s.writeCatalog(c)
		}
		return c, nil
	case !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case copyErr == nil:
		s.log.Error("the image catalog is damaged or gone: its copy is taken", "file", filepath.Join(s.dir, ocispec.ImageIndexFile), "err", err)
		c := s.catalogOf(second)
		return c, s.writeCatalog(c)
	}
	c, found := s.catalogOfBlobs(), errors.Is(err, errDamaged)
	if len(c.images) > 0 || found {
		s.log.Error("the image catalog is damaged or gone, and its copy, too: images were found by their blobs and have no names until they are pulled again",
			"file", filepath.Join(s.dir, ocispec.ImageIndexFile), "err", err, "images", len(c.images))
		return c, s.writeCatalog(c)
	}
	return c, nil
}

func (s *Store) readIndex(name string) (ocispec.Index, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return ocispec.Index{}, err
	}
	return decodeCatalog(raw)
}

// ensureLayoutFile writes what says that this is an OCI image layout, unless it is there as it should be.
func (s *Store) ensureLayoutFile() error {
	layout := []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
	path := filepath.Join(s.dir, ocispec.ImageLayoutFile)
	raw, err := os.ReadFile(path)
	if err == nil && bytes.Equal(raw, layout) {
		return nil
	}
	if err == nil {
		s.log.Warn("what says that this is an image layout is damaged: it is written again", "file", path)
	}
	return s.writeFile(path, layout)
}

// catalogOf reads the entries of an index. One whose manifest or config is damaged stays known by digest and names, so that
// it can be fetched again and nothing of it is swept meanwhile.
func (s *Store) catalogOf(idx ocispec.Index) *catalog {
	c := newCatalog()
	for _, d := range idx.Manifests {
		e, err := s.readEntry(d)
		if err != nil {
			s.log.Warn("an image is damaged on this node's disk and has to be fetched again", "image", d.Annotations[annotationName], "manifest", d.Digest, "err", err)
			if checkDigest(d.Digest) == nil {
				c.lost[d.Digest] = append(c.lost[d.Digest], d)
			}
			continue
		}
		var names []string
		if name := d.Annotations[annotationName]; name != "" {
			names = []string{name}
		}
		c.add(e, names...)
	}
	return c
}

// catalogOfBlobs finds images by looking into every small blob.
func (s *Store) catalogOfBlobs() *catalog {
	c := newCatalog()
	blobs, err := os.ReadDir(s.blobDir())
	if err != nil {
		return c
	}
	for _, f := range blobs {
		d, ok := digestOfFile(f.Name())
		fi, err := f.Info()
		if !ok || err != nil || fi.Size() > MaxManifestSize || !startsObject(filepath.Join(s.blobDir(), f.Name())) {
			continue
		}
		raw, err := s.readBlob(d, MaxManifestSize)
		if err != nil {
			continue
		}
		kind, mediaType, err := classify(raw, "")
		if err != nil || kind != kindImage {
			continue
		}
		if e, err := s.readEntry(ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}); err == nil {
			c.add(e)
		}
	}
	return c
}

// startsObject tells whether a file may be JSON: most blobs are layers, and these are not read.
func startsObject(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var first [1]byte
	n, _ := f.Read(first[:])
	return n == 1 && first[0] == '{'
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
