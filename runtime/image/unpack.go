package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"shoal/runtime/step"
)

// layerMeta stands beside an unpacked layer, as <diffid>.json.
type layerMeta struct {
	// Implicit lists directories that the layer's tar uses but does not describe. They take their attributes from the layers
	// below, so a tree that has some may need another variant on another base.
	Implicit []string `json:"implicit,omitempty"`
	// Boot is the boot in which the tree was written, as long as it may not be on disk; see settle.go.
	Boot string `json:"boot,omitempty"`
	// Lost: a sync failed after the tree was written. The kernel may have it whole, the disk has not, and no later sync says so.
	Lost bool `json:"lost,omitempty"`
	// seal is the tree's when it was known to be on disk; empty before that, and in trees of older versions.
	seal
}

// Layers unpacks what is not unpacked yet and returns the directories of img's layers, absolute, lowest first, ready to
// be overlayfs lower directories: whiteouts are 0/0 devices, opaque directories carry trusted.overlay.opaque. Images share
// the tree of a common layer, so nobody may write into it. Needs root. Hold the image before, or Prune may take the trees.
//
// ErrCorrupt: a stored layer is damaged; fetch the image again and retry. ErrInvalid: the image cannot be unpacked.
func (s *Store) Layers(ctx context.Context, img Image) ([]string, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	l := s.newLease()
	defer l.release()
	for _, layer := range img.Layers {
		if err := errors.Join(checkDigest(layer.DiffID), checkDigest(layer.Digest)); err != nil {
			return nil, err
		}
		l.pin(layer.DiffID)
		l.pin(layer.Digest)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(unpackJobs)
	for i, layer := range img.Layers {
		g.Go(func() error {
			if err := s.ensureUnpacked(gctx, layer, s.layerPath(layer.DiffID), nil); err != nil {
				return fmt.Errorf("unpack layer %d (%s) of image %s: %w", i, layer.Digest, img.Manifest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(img.Layers))
	for i, layer := range img.Layers {
		dir, err := s.variantFor(ctx, layer, dirs)
		if err != nil {
			return nil, fmt.Errorf("unpack layer %d (%s) of image %s: %w", i, layer.Digest, img.Manifest, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// variantFor returns the tree of an unpacked layer that is right above the given lower trees: nearly always the one that
// all images share.
func (s *Store) variantFor(ctx context.Context, layer Layer, lowers []string) (string, error) {
	base := s.layerPath(layer.DiffID)
	meta, err := readLayerMeta(base)
	if err != nil || len(meta.Implicit) == 0 || len(lowers) == 0 {
		return base, err
	}
	attrs, err := inheritedAttrs(meta.Implicit, lowers)
	if err != nil || len(attrs) == 0 {
		return base, err
	}
	// The same tar on another base: its own tree, keyed by what is inherited, so that images of one base still share it.
	raw, err := json.Marshal(attrs)
	if err != nil {
		return "", err
	}
	variant := base + "-" + digest.FromBytes(raw).Encoded()[:16]
	return variant, s.ensureUnpacked(ctx, layer, variant, attrs)
}

// ensureUnpacked makes the tree at path unless it is there and can be trusted; at most one at a time a path.
func (s *Store) ensureUnpacked(ctx context.Context, layer Layer, path string, attrs []dirAttr) error {
	if s.isProven(path) {
		return nil
	}
	_, err := s.unpacks.do(ctx, path, func(ctx context.Context) (struct{}, error) {
		l := s.newLease() // of its own: the caller may give up before
		defer l.release()
		l.pin(layer.DiffID)
		l.pin(layer.Digest)
		switch s.judge(path) {
		case treeWhole:
			return struct{}{}, nil
		case treeDoubtful:
			return struct{}{}, s.unpack(ctx, layer, path, attrs, s.keepIfSame)
		}
		return struct{}{}, s.unpack(ctx, layer, path, attrs, s.nameTree)
	})
	return err
}

// unpack extracts layer into a temporary directory and has name give it its place at path.
func (s *Store) unpack(ctx context.Context, layer Layer, path string, attrs []dirAttr, name func(tmp, path string) error) error {
	tmp, err := os.MkdirTemp(s.tmpDir(), "layer-*.tmp")
	if err != nil {
		return s.explainSpace(err)
	}
	defer os.RemoveAll(tmp) // nothing left after the rename
	if err := step.Reach("tree begun"); err != nil {
		return err
	}
	root := filepath.Join(tmp, "root")
	if err := makeRoot(root); err != nil {
		return s.explainSpace(err)
	}
	meta, err := s.extract(ctx, layer, root)
	if err != nil {
		return err
	}
	if err := errors.Join(step.Reach("tree extracted"), applyAttrs(root, attrs)); err != nil {
		return s.explainSpace(err)
	}
	raw, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	if err := os.WriteFile(root+".json", raw, 0o600); err != nil {
		return s.explainSpace(err)
	}
	if err := errors.Join(step.Reach("tree described"), name(tmp, path)); err != nil {
		return s.explainSpace(err)
	}
	s.log.Info("layer unpacked", "layer", layer.Digest, "diffid", layer.DiffID)
	return nil
}

// makeRoot makes the directory that a layer is unpacked into.
func makeRoot(root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	return os.Chmod(root, 0o755) // whatever the umask
}

// nameTree moves root and root.json of tmp to path and path.json. The metadata comes first: a tree without it is not there.
func (s *Store) nameTree(tmp, path string) error {
	root := filepath.Join(tmp, "root")
	if isDir(path) { // a tree that is damaged, or whose metadata is gone: nobody can tell what it is worth
		if err := s.setAside(path, tmp); err != nil {
			return err
		}
	}
	if err := errors.Join(step.Reach("tree out of the way"), os.Rename(root+".json", path+".json")); err != nil {
		return err
	}
	if err := errors.Join(step.Reach("tree description named"), os.Rename(root, path)); err != nil {
		return err
	}
	s.prove(path)
	s.settleLater(path)
	return step.Reach("tree named")
}

// extractFrom applies a layer to root, in a child if the store has one for that.
func (s *Store) extractFrom(ctx context.Context, blob *os.File, root string) (extracted, error) {
	if len(s.unpackBy) > 0 {
		return s.extractInChild(ctx, blob, root)
	}
	return extractLayer(ctx, blob, root, false)
}

// extract applies the layer's blob to root and verifies both digests on the way.
func (s *Store) extract(ctx context.Context, layer Layer, root string) (layerMeta, error) {
	blob, err := s.openBlob(layer.Digest)
	if errors.Is(err, ErrNotFound) {
		return layerMeta{}, &kindError{ErrCorrupt, fmt.Errorf("blob %s is missing on this node: fetch the image again", layer.Digest)}
	}
	if err != nil {
		return layerMeta{}, err
	}
	defer blob.Close()
	got, err := s.extractFrom(ctx, blob, root)
	if err != nil && ctx.Err() != nil { // the error may be of a killed child, or of a pipe
		return layerMeta{}, ctx.Err()
	}
	if err != nil && isMachineError(err) {
		return layerMeta{}, s.explainSpace(err)
	}
	// A flipped bit shows as any error of any format, or as none: ask the blob's digest first.
	if err != nil || got.Digest != layer.Digest {
		if bad := s.verifyBlob(ctx, layer.Digest); bad != nil {
			return layerMeta{}, bad
		}
	}
	if err != nil {
		return layerMeta{}, &kindError{ErrInvalid, err}
	}
	if got.Digest != layer.Digest {
		return layerMeta{}, fmt.Errorf("layer read as %s first and as %s then: is the disk failing?", got.Digest, layer.Digest)
	}
	if got.DiffID != layer.DiffID {
		return layerMeta{}, invalidf("inflates to %s, the image's config says %s", got.DiffID, layer.DiffID)
	}
	return layerMeta{Implicit: got.Implicit, Boot: bootID()}, nil
}

// extracted is what extracting a layer found out.
type extracted struct {
	Digest   digest.Digest // of the blob as read
	DiffID   digest.Digest // of its inflated bytes
	Implicit []string      // see layerMeta; sorted
}

// dirAttr is what an implicit directory inherits.
type dirAttr struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"` // permissions with setuid, setgid, sticky, as in stat(2)
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Xattrs are the attributes that unpacking keeps, by name; nil: none.
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// isMachineError tells errors of this machine from errors of the archive.
func isMachineError(err error) bool {
	var link *os.LinkError
	if errors.As(err, &link) && errors.Is(link.Err, syscall.EPERM) { // a hard link to a directory, which the tar asked for
		return false
	}
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
		syscall.EPERM, syscall.EACCES, context.Canceled, context.DeadlineExceeded, errChild} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

func readLayerMeta(path string) (layerMeta, error) {
	var m layerMeta
	raw, err := os.ReadFile(path + ".json")
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s.json: %w", path, err)
	}
	return m, nil
}

// errChild: the helper process could not do its work for a reason that is not the archive's.
var errChild = errors.New("unpack helper")
