package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LoadOptions adjust Load. The zero value is useful.
type LoadOptions struct {
	// Name is given to the image beside the archive's own names; the archive must hold one image then.
	Name string
}

// Load reads an archive as docker save (old and new), podman save, skopeo or buildx make it: docker's format or an OCI
// image layout, as a tar, plain or gzip or zstd. It may be a pipe. Every digest is verified, of stored and of inflated
// bytes. All images appear at once, or none. Of a multi-platform image this node's platform is taken. The result is
// sorted by manifest and never empty.
func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]Image, error) {
	images, err := s.load(ctx, r, opts)
	if err != nil {
		return nil, fmt.Errorf("load image archive: %w", err)
	}
	return images, nil
}

func (s *Store) load(ctx context.Context, r io.Reader, opts LoadOptions) ([]Image, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	var extra string
	if opts.Name != "" {
		n, err := ParseName(opts.Name)
		if err != nil {
			return nil, err
		}
		extra = n.String()
	}
	a := &archiveReader{s: s, ctx: ctx, files: map[string]*tempBlob{}, links: map[string]string{}, lease: s.newLease()}
	defer a.close()
	if err := a.read(r); err != nil {
		return nil, err
	}
	found, err := a.images()
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, invalidf("no image in it for %s", platformString(s.platform))
	}
	if extra != "" {
		if len(found) != 1 {
			return nil, invalidf("it holds %d images: one name cannot be given to all", len(found))
		}
		found[0].names = append(found[0].names, extra)
	}
	for _, f := range found {
		if err := a.store(f); err != nil {
			return nil, fmt.Errorf("image %s: %w", f.label(), err)
		}
	}
	return s.commitLoaded(found)
}

func (s *Store) commitLoaded(found []*loaded) ([]Image, error) {
	var images []Image
	err := s.change(func(c *catalog) error {
		for _, f := range found {
			c.add(f.entry, f.names...)
		}
		images = nil
		for _, f := range found {
			if img := c.image(f.entry.image.Manifest); !slices.ContainsFunc(images, func(o Image) bool { return o.Manifest == img.Manifest }) {
				images = append(images, img)
			}
		}
		return nil
	})
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(string(a.Manifest), string(b.Manifest)) })
	for _, img := range images {
		if !runsOn(img.Platform, s.platform) { // taken all the same: another node may ask for it
			s.log.Warn("image is for another platform", "names", img.Names, "platform", platformString(img.Platform))
		}
		s.log.Info("image loaded", "names", img.Names, "manifest", img.Manifest, "bytes", img.Size)
	}
	return images, err
}

// archiveReader holds an archive's files as temporary blobs, because what they are is often said only at its end. Names
// inside the archive are keys of a map and never touch the file system.
type archiveReader struct {
	s     *Store
	ctx   context.Context
	files map[string]*tempBlob
	links map[string]string
	lease *lease
}

func (a *archiveReader) close() {
	for _, t := range a.files {
		t.discard()
	}
	a.lease.release()
}

func (a *archiveReader) read(r io.Reader) error {
	in, err := inflate(ctxReader{a.ctx, r}, MaxArchiveSize)
	if err != nil {
		return err
	}
	defer in.Close()
	tr := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF && n == 0 {
			return invalidf("it is empty or not a tar archive")
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return a.readError(err)
		}
		if n == MaxArchiveEntries {
			return invalidf("more than %d files", MaxArchiveEntries)
		}
		if err := a.entry(h, tr); err != nil {
			return err
		}
	}
	// To the end, so that a pipe's writer is not cut off and a bad checksum at the end is seen.
	_, err = io.Copy(io.Discard, in)
	return a.readError(err)
}

func (a *archiveReader) readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalidf("tar: %w", err)
	}
	return err
}

func (a *archiveReader) entry(h *tar.Header, r io.Reader) error {
	if len(h.Name) > MaxEntryNameLength || len(h.Linkname) > MaxEntryNameLength {
		return invalidf("an entry has a name of more than %d bytes", MaxEntryNameLength)
	}
	name := cleanKey(h.Name)
	switch h.Typeflag {
	case tar.TypeReg, '\x00':
	case tar.TypeSymlink: // old docker save: a layer that occurs twice
		a.links[name] = cleanKey(path.Join(path.Dir(name), h.Linkname))
		return nil
	case tar.TypeLink:
		a.links[name] = cleanKey(h.Linkname)
		return nil
	default:
		return nil
	}
	if h.Size > MaxLayerSize {
		return invalidf("%s has %d bytes, at most %d", name, h.Size, int64(MaxLayerSize))
	}
	t, err := a.s.newTemp()
	if err != nil {
		return err
	}
	if old := a.files[name]; old != nil { // the last one counts, as in any tar
		old.discard()
	}
	a.files[name] = t
	if _, err := io.Copy(t, r); err != nil {
		return a.s.explainSpace(a.readError(err))
	}
	return a.s.explainSpace(t.finish())
}

func cleanKey(name string) string { return strings.TrimPrefix(path.Join("/", name), "/") }

// find follows links inside the archive.
func (a *archiveReader) find(name string) *tempBlob {
	name = cleanKey(name)
	for range maxLinkHops {
		if t := a.files[name]; t != nil {
			return t
		}
		next, ok := a.links[name]
		if !ok {
			return nil
		}
		name = next
	}
	return nil
}

// blob finds the file of a digest, and checks that it is that.
func (a *archiveReader) blob(d digest.Digest) (*tempBlob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	t := a.find(archivePath(d))
	if t == nil {
		return nil, nil
	}
	if got := t.digest(); got != d {
		return nil, invalidf("%s has digest %s", archivePath(d), got)
	}
	return t, nil
}

// bytes reads a small file whole; the bytes that were hashed when they came, hashed again.
func (a *archiveReader) bytes(t *tempBlob, name string, limit int64) ([]byte, error) {
	if t.size > limit {
		return nil, invalidf("%s has %d bytes, at most %d", name, t.size, limit)
	}
	f, err := t.open(a.s)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, t.size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	if digest.FromBytes(b) != t.digest() {
		return nil, fmt.Errorf("%s changed on disk while loading", name)
	}
	return b, nil
}

// loaded is one image found in an archive.
type loaded struct {
	names     []string
	manifest  []byte
	mediaType string
	config    []byte
	index     []byte                      // nil: none
	blobs     map[digest.Digest]*tempBlob // layers
	entry     *entry                      // after store
}

func (l *loaded) label() string {
	if len(l.names) > 0 {
		return l.names[0]
	}
	return digest.FromBytes(l.manifest).String()
}

// store verifies the image and puts its blobs into the store, where nothing refers to them yet.
func (a *archiveReader) store(l *loaded) error {
	var indexDigest digest.Digest
	if l.index != nil {
		indexDigest = digest.FromBytes(l.index)
	}
	e, err := newEntry(l.manifest, l.mediaType, l.config, indexDigest)
	if err != nil {
		return err
	}
	for i, layer := range e.image.Layers {
		t := l.blobs[layer.Digest]
		if t == nil {
			return invalidf("layer %d (%s) is missing in the archive", i, layer.Digest)
		}
		if t.size != layer.Size {
			return invalidf("layer %d has %d bytes, its manifest says %d", i, t.size, layer.Size)
		}
		a.lease.pin(layer.Digest)
		if err := a.verifyDiffID(t, layer); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if err := a.s.adopt(t); err != nil {
			return err
		}
	}
	for _, b := range [][]byte{l.config, l.index, l.manifest} {
		if b == nil {
			continue
		}
		a.lease.pin(digest.FromBytes(b))
		if _, err := a.s.putBlob(a.ctx, b); err != nil {
			return err
		}
	}
	l.entry = e
	return nil
}

// verifyDiffID inflates a layer to check its second digest. A plain tar has one digest only.
func (a *archiveReader) verifyDiffID(t *tempBlob, layer Layer) error {
	if t.diffID == "" {
		f, err := t.open(a.s)
		if err != nil {
			return err
		}
		defer f.Close()
		in, err := inflate(ctxReader{a.ctx, f}, MaxUnpackedLayerSize)
		if err != nil {
			return err
		}
		defer in.Close()
		h := sha256.New()
		if _, err := io.Copy(h, in); err != nil {
			return err
		}
		t.diffID = digest.NewDigest(digest.SHA256, h)
	}
	if t.diffID != layer.DiffID {
		return invalidf("inflates to %s, the config says %s", t.diffID, layer.DiffID)
	}
	return nil
}

// images reads what the archive says it holds. An OCI layout is preferred, because it keeps the digests that the image
// has elsewhere; docker's own manifest.json then only adds names.
func (a *archiveReader) images() ([]*loaded, error) {
	docker, err := a.dockerManifests()
	if err != nil {
		return nil, err
	}
	if t := a.find(ocispec.ImageIndexFile); t != nil {
		found, err := a.layoutImages(t)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return found, addDockerNames(found, docker)
		}
	}
	if docker == nil && a.find(ocispec.ImageIndexFile) == nil {
		return nil, invalidf("neither manifest.json (docker save) nor index.json (OCI layout) is in it")
	}
	return a.dockerImages(docker)
}

func (a *archiveReader) dockerManifests() ([]dockerManifest, error) {
	t := a.find("manifest.json")
	if t == nil {
		return nil, nil
	}
	raw, err := a.bytes(t, "manifest.json", MaxManifestSize)
	if err != nil {
		return nil, err
	}
	list := []dockerManifest{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalidf("manifest.json: %w", err)
	}
	if len(list) > MaxArchiveImages {
		return nil, invalidf("%d images, at most %d", len(list), MaxArchiveImages)
	}
	return list, nil
}

func addDockerNames(found []*loaded, docker []dockerManifest) error {
	for _, dm := range docker {
		names, err := dockerNames(dm)
		if err != nil {
			return err
		}
		for _, l := range found {
			if strings.TrimSuffix(path.Base(dm.Config), ".json") == digest.FromBytes(l.config).Encoded() {
				l.addNames(names)
				break
			}
		}
	}
	return nil
}

func (l *loaded) addNames(names []string) {
	for _, n := range names {
		if !slices.Contains(l.names, n) {
			l.names = append(l.names, n)
		}
	}
}

func dockerNames(dm dockerManifest) ([]string, error) {
	var names []string
	for _, tag := range dm.RepoTags {
		n, err := ParseName(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, n.String())
	}
	return names, nil
}

// dockerImages makes images from manifest.json: there is no manifest in such an archive, so one is computed, with the
// layers as they are.
func (a *archiveReader) dockerImages(list []dockerManifest) ([]*loaded, error) {
	var found []*loaded
	for _, dm := range list {
		l, err := a.dockerImage(dm)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", strings.Join(dm.RepoTags, ", "), err)
		}
		found = append(found, l)
	}
	return found, nil
}

func (a *archiveReader) dockerImage(dm dockerManifest) (*loaded, error) {
	names, err := dockerNames(dm)
	if err != nil {
		return nil, err
	}
	if len(dm.Layers) > MaxLayers {
		return nil, invalidf("%d layers, at most %d", len(dm.Layers), MaxLayers)
	}
	t := a.find(dm.Config)
	if t == nil {
		return nil, invalidf("config %q is missing in the archive", dm.Config)
	}
	config, err := a.bytes(t, dm.Config, MaxConfigSize)
	if err != nil {
		return nil, err
	}
	// The file is named by its digest; where the name is one, it must be right.
	named := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(path.Base(dm.Config), ".json"))
	if checkDigest(named) == nil && named != t.digest() {
		return nil, invalidf("config %s has digest %s", dm.Config, t.digest())
	}
	l := &loaded{names: names, config: config, mediaType: ocispec.MediaTypeImageManifest, blobs: map[digest.Digest]*tempBlob{}}
	var layers []ocispec.Descriptor
	for i, file := range dm.Layers {
		t := a.find(file)
		if t == nil {
			return nil, invalidf("layer %d (%q) is missing in the archive", i, file)
		}
		mediaType, err := a.layerMediaType(t)
		if err != nil {
			return nil, err
		}
		layers = append(layers, ocispec.Descriptor{MediaType: mediaType, Digest: t.digest(), Size: t.size})
		l.blobs[t.digest()] = t
	}
	l.manifest, err = manifestOf(config, layers)
	return l, err
}

// layerMediaType looks at the first bytes.
func (a *archiveReader) layerMediaType(t *tempBlob) (string, error) {
	f, err := t.open(a.s)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	switch {
	case n >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		return ocispec.MediaTypeImageLayerGzip, nil
	case n == 4 && string(magic) == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// layoutImages reads index.json. Entries whose blobs are not in the archive (other platforms of a saved multi-platform
// image, attestations) are passed over.
func (a *archiveReader) layoutImages(t *tempBlob) ([]*loaded, error) {
	raw, err := a.bytes(t, ocispec.ImageIndexFile, MaxManifestSize)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, invalidf("index.json: %w", err)
	}
	if len(idx.Manifests) > MaxArchiveImages {
		return nil, invalidf("%d images, at most %d", len(idx.Manifests), MaxArchiveImages)
	}
	var found []*loaded
	for _, d := range idx.Manifests {
		l, err := a.layoutImage(d)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if l == nil {
			continue
		}
		if l.names, err = layoutNames(d.Annotations); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(found, func(o *loaded) bool { return string(o.manifest) == string(l.manifest) }); i >= 0 {
			found[i].addNames(l.names)
			continue
		}
		found = append(found, l)
	}
	return found, nil
}

// layoutNames reads an image's name from its annotations: containerd's full one, or a reference name that is one.
func layoutNames(annotations map[string]string) ([]string, error) {
	name := annotations[annotationName]
	if ref := annotations[ocispec.AnnotationRefName]; name == "" && strings.ContainsAny(ref, "/:") {
		name = ref
	}
	if name == "" {
		return nil, nil // a bare tag names nothing: `--name`, or docker's manifest.json, tells the rest
	}
	n, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	return []string{n.String()}, nil
}

func (a *archiveReader) layoutImage(d ocispec.Descriptor) (*loaded, error) {
	var index []byte
	for range maxIndexDepth {
		t, err := a.blob(d.Digest)
		if t == nil || err != nil {
			return nil, err
		}
		raw, err := a.bytes(t, archivePath(d.Digest), MaxManifestSize)
		if err != nil {
			return nil, err
		}
		kind, mediaType, err := classify(raw, d.MediaType)
		if err != nil {
			return nil, err
		}
		if kind == kindImage {
			return a.manifestImage(raw, mediaType, index)
		}
		if index == nil {
			index = raw
		}
		d, err = choosePlatform(raw, mediaType, a.s.platform)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, invalidf("indexes nested more than %d deep", maxIndexDepth)
}

func (a *archiveReader) manifestImage(raw []byte, mediaType string, index []byte) (*loaded, error) {
	m, err := parseManifest(raw, mediaType)
	if err != nil {
		return nil, err
	}
	t, err := a.blob(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, invalidf("config %s is missing in the archive", m.Config.Digest)
	}
	l := &loaded{manifest: raw, mediaType: mediaType, index: index, blobs: map[digest.Digest]*tempBlob{}}
	if l.config, err = a.bytes(t, "config", MaxConfigSize); err != nil {
		return nil, err
	}
	for _, layer := range m.Layers {
		if l.blobs[layer.Digest], err = a.blob(layer.Digest); err != nil {
			return nil, err
		}
	}
	return l, nil
}
