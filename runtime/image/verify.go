package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Damage is one file or tree of an image that is not what it was.
type Damage struct {
	Image  digest.Digest `json:"image"`          // its manifest
	Name   string        `json:"name,omitempty"` // one of the image's, if it has any
	Part   string        `json:"part"`           // manifest, config, layer, unpacked layer
	Digest digest.Digest `json:"digest"`         // of the part; the diffID of an unpacked layer
	Reason string        `json:"reason"`
	// Repaired: the part was fetched again and verified. An unpacked layer is made again at its next use; what runs from it sees
	// the damage until it is started anew.
	Repaired bool `json:"repaired"`
}

// Verified is what Verify found.
type Verified struct {
	Images  int      `json:"images"`
	Blobs   int      `json:"blobs"`
	Trees   int      `json:"trees"`
	Bytes   int64    `json:"bytes"`             // that were read
	Damaged []Damage `json:"damaged,omitempty"` // sorted by image
}

// Verify reads all images whole, or those that refs name: every blob against its digest, every unpacked layer that was synced
// against its seal. With fetch (which brings the image of a reference here) what is damaged is taken out of the way and had
// again; nil only reports.
func (s *Store) Verify(ctx context.Context, fetch func(ctx context.Context, ref string) error, refs ...string) (Verified, error) {
	if s.closed.Load() {
		return Verified{}, ErrClosed
	}
	v := &verifying{s: s, fetch: fetch, blobs: map[digest.Digest]error{}, trees: map[string]error{}}
	c := s.snapshot()
	images := slices.Sorted(maps.Keys(c.images))
	lost := slices.Sorted(maps.Keys(c.lost))
	if len(refs) > 0 {
		images, lost = nil, nil
		for _, ref := range refs {
			if m := c.lostBy(ref); m != "" && c.nameOf(ref) == "" {
				lost = append(lost, m)
				continue
			}
			m, err := c.resolve(ref)
			if err != nil {
				return Verified{}, fmt.Errorf("verify image %s: %w", ref, err)
			}
			images = append(images, m)
		}
	}
	for _, m := range lost {
		v.out.Images++
		v.lost(ctx, m, c.lost[m][0].Annotations[annotationName])
	}
	for _, m := range images {
		v.out.Images++
		if err := v.image(ctx, c.image(m)); err != nil {
			return v.out, fmt.Errorf("verify image %s: %w", m, err)
		}
	}
	return v.out, nil
}

type verifying struct {
	s     *Store
	fetch func(ctx context.Context, ref string) error
	out   Verified
	blobs map[digest.Digest]error // what was looked at already; nil: whole
	trees map[string]error
}

// lost reports an image whose manifest or config Open found damaged.
func (v *verifying) lost(ctx context.Context, m digest.Digest, name string) {
	d := Damage{Image: m, Name: name, Part: "manifest", Digest: m, Reason: "its manifest or config was damaged and is removed"}
	img := Image{Manifest: m}
	if name != "" {
		img.Names = []string{name}
	}
	if v.fetch != nil {
		if err := v.s.fetchAgain(ctx, img, v.fetch); err != nil {
			d.Reason += "; not fetched again: " + err.Error()
		} else if _, err := v.s.Get(string(m)); err == nil {
			d.Repaired = true
		}
	}
	v.out.Damaged = append(v.out.Damaged, d)
}

func (v *verifying) image(ctx context.Context, img Image) error {
	l := v.s.newLease() // what is looked at is not swept meanwhile
	defer l.release()
	damage := Damage{Image: img.Manifest}
	if len(img.Names) > 0 {
		damage.Name = img.Names[0]
	}
	first := len(v.out.Damaged)
	found := func(part string, d digest.Digest, err error) {
		damage.Part, damage.Digest, damage.Reason = part, d, err.Error()
		v.out.Damaged = append(v.out.Damaged, damage)
	}
	blob := func(part string, d digest.Digest) error {
		l.pin(d)
		err := v.blob(ctx, d)
		if errors.Is(err, ErrCorrupt) {
			found(part, d, err)
			return nil
		}
		return err
	}
	if err := errors.Join(blob("manifest", img.Manifest), blob("config", img.ID)); err != nil {
		return err
	}
	for _, layer := range img.Layers {
		if err := blob("layer", layer.Digest); err != nil {
			return err
		}
	}
	for _, layer := range img.Layers {
		l.pin(layer.DiffID)
		trees, err := filepath.Glob(v.s.layerPath(layer.DiffID) + "*")
		if err != nil {
			return err
		}
		for _, tree := range trees {
			if err := v.tree(ctx, tree); errors.Is(err, ErrCorrupt) {
				found("unpacked layer", layer.DiffID, err)
			} else if err != nil {
				return err
			}
		}
	}
	if v.fetch == nil || len(v.out.Damaged) == first {
		return nil
	}
	return v.repair(ctx, img, v.out.Damaged[first:])
}

// blob reads a blob. ErrCorrupt, without its removal, if it is not its digest or not there.
func (v *verifying) blob(ctx context.Context, d digest.Digest) error {
	if err, ok := v.blobs[d]; ok {
		return err
	}
	got, n, err := v.s.hashBlob(ctx, d)
	switch {
	case errors.Is(err, ErrNotFound):
		err = &kindError{ErrCorrupt, errors.New("it is gone")}
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // the disk does not give it back
		err = &kindError{ErrCorrupt, err}
	case got != d:
		err = &kindError{ErrCorrupt, fmt.Errorf("its content is %s", got)}
	}
	v.blobs[d] = err
	v.out.Blobs++
	v.out.Bytes += n
	return err
}

// tree reads an unpacked layer that is sealed.
func (v *verifying) tree(ctx context.Context, path string) error {
	if err, ok := v.trees[path]; ok {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	meta, err := readLayerMeta(path)
	if err != nil || meta.Boot != "" || !meta.whole() || !isDir(path) {
		return nil // not a tree, or not known to be on disk yet: its next use by another process looks at it
	}
	got, err := sealTree(path, meta.Implicit, true)
	if err == nil && got != meta.seal {
		err = errors.New("its files are not what they were")
	}
	if err != nil {
		err = &kindError{ErrCorrupt, err}
	}
	v.trees[path] = err
	v.out.Trees++
	v.out.Bytes += treeSize(path)
	return err
}

// repair takes what is damaged away and has it again.
func (v *verifying) repair(ctx context.Context, img Image, damaged []Damage) error {
	fetch := false
	for _, d := range damaged {
		if d.Part == "unpacked layer" {
			continue
		}
		fetch = true
		if bad := v.s.verifyBlob(ctx, d.Digest); bad != nil && !errors.Is(bad, ErrCorrupt) && !errors.Is(bad, ErrNotFound) {
			return bad
		}
	}
	var failed error
	if fetch {
		failed = v.s.fetchAgain(ctx, img, v.fetch)
	}
	for i := range damaged {
		d := &damaged[i]
		if d.Part == "unpacked layer" {
			d.Repaired = v.dropTrees(d.Digest) == nil
			continue
		}
		got, _, err := v.s.hashBlob(ctx, d.Digest)
		if d.Repaired = err == nil && got == d.Digest; d.Repaired {
			v.blobs[d.Digest] = nil
		} else if failed != nil {
			d.Reason += "; not fetched again: " + failed.Error()
		}
	}
	return nil
}

// dropTrees moves the damaged trees of a layer away; the next use makes them again.
func (v *verifying) dropTrees(diffID digest.Digest) error {
	for path, bad := range v.trees {
		if d, ok := digestOfFile(filepath.Base(path)); !ok || d != diffID || bad == nil {
			continue
		}
		tmp, err := os.MkdirTemp(v.s.tmpDir(), "damaged-*")
		if err != nil {
			return v.s.explainSpace(err)
		}
		err = errors.Join(os.Remove(path+".json"), v.s.setAside(path, tmp), os.RemoveAll(tmp))
		if err != nil {
			return err
		}
		v.trees[path] = nil
	}
	return nil
}

// hashBlob reads a blob; n is its size.
func (s *Store) hashBlob(ctx context.Context, d digest.Digest) (got digest.Digest, n int64, err error) {
	f, err := s.openBlob(d)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if n, err = io.Copy(h, ctxReader{ctx, f}); err != nil {
		return "", n, fmt.Errorf("read blob %s: %w", d, err)
	}
	return digest.NewDigest(digest.SHA256, h), n, nil
}
