package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step"
)

// LoadOptions adjust Load. The zero value is useful.
type LoadOptions struct {
	// Name is given to the image beside the archive's own names; the archive must hold one image then.
	Name string
	// Unpack unpacks the layers while the archive comes, at little more than the cost of verifying them. Needs root.
	Unpack bool
}

// Load reads an archive as docker save (old and new), podman save, skopeo or buildx make it: docker's format or an OCI
// image layout, as a tar, plain or gzip or zstd. It may be a pipe. Every digest is verified, of stored and of inflated
// bytes. All images appear at once, or none. Of a multi-platform image this node's platform is taken. The result is
// sorted by manifest and never empty; their names are those under which they were loaded now, not all that they have.
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
	if opts.Unpack {
		a.ahead = newAhead(ctx, s)
	}
	if err := a.read(r); err != nil {
		return nil, err
	}
	if err := step.Reach("load read"); err != nil {
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
	names := 0
	for _, f := range found {
		if err := a.verify(f); err != nil {
			return nil, fmt.Errorf("image %s: %w", f.label(), err)
		}
		names += len(f.names)
	}
	if err := checkNames(names); err != nil {
		return nil, err
	}
	if err := errors.Join(step.Reach("load verified"), a.keep(found)); err != nil {
		return nil, err
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
			img := c.image(f.entry.image.Manifest)
			i := slices.IndexFunc(images, func(o Image) bool { return o.Manifest == img.Manifest })
			if i < 0 {
				i, img.Names = len(images), nil
				images = append(images, img)
			}
			images[i].Names = slices.Compact(slices.Sorted(slices.Values(append(images[i].Names, f.names...))))
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
	ahead *ahead // nil: layers are unpacked when they are needed
}

func (a *archiveReader) close() {
	a.ahead.close()
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
	if err := step.Reach("load entry"); err != nil {
		return err
	}
	t, err := a.s.newTemp()
	if err != nil {
		return err
	}
	if old := a.files[name]; old != nil { // the last one counts, as in any tar
		a.ahead.forget(old)
		old.discard()
	}
	a.files[name] = t
	if _, err := io.Copy(t, r); err != nil {
		return a.s.explainSpace(a.readError(err))
	}
	if err := t.finishSyncing(); err != nil {
		return a.s.explainSpace(err)
	}
	a.ahead.start(t)
	return nil
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

// verify checks all that the image promises; nothing of it is in the store yet.
func (a *archiveReader) verify(l *loaded) error {
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
		if err := a.verifyDiffID(t, layer); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	l.entry = e
	return nil
}

// keep moves blobs and trees into the store, where nothing refers to them yet. Blobs are on disk before they have a name.
func (a *archiveReader) keep(found []*loaded) error {
	var blobs []*tempBlob
	for _, l := range found {
		for _, layer := range l.entry.image.Layers {
			a.lease.pin(layer.Digest)
			a.lease.pin(layer.DiffID)
			blobs = append(blobs, l.blobs[layer.Digest])
		}
		for _, b := range [][]byte{l.config, l.index, l.manifest} {
			if b == nil {
				continue
			}
			t, err := a.s.newTemp()
			if err != nil {
				return err
			}
			defer t.discard()
			if _, err := t.Write(b); err != nil {
				return a.s.explainSpace(err)
			}
			if err := t.finishSyncing(); err != nil {
				return a.s.explainSpace(err)
			}
			a.lease.pin(t.digest())
			blobs = append(blobs, t)
		}
	}
	if err := a.ahead.describe(found); err != nil {
		return a.s.explainSpace(err)
	}
	if err := step.Reach("load described"); err != nil {
		return err
	}
	for _, t := range blobs {
		if err := t.onDisk(); err != nil {
			return a.s.explainSpace(fmt.Errorf("sync: %w", err))
		}
	}
	for _, t := range blobs {
		if err := a.s.name(t); err != nil {
			return err
		}
	}
	if err := errors.Join(step.Reach("load blobs named"), a.ahead.install(found)); err != nil {
		return a.s.explainSpace(err)
	}
	return a.s.explainSpace(errors.Join(step.Reach("load trees named"), syncDir(a.s.blobDir())))
}

// verifyDiffID inflates a layer to check its second digest. A plain tar has one digest only.
func (a *archiveReader) verifyDiffID(t *tempBlob, layer Layer) error {
	if err := a.ahead.await(t); err != nil {
		return err
	}
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
