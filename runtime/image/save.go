package image

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step"
)

// Save writes images as one archive that Load, docker and podman take. Every blob is verified as it is written; after an
// error (ErrCorrupt, say) what was written so far is of no use.
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error {
	l := s.newLease()
	defer l.release()
	c := s.snapshot()
	var images []archived
	var blobs []blobSource
	add := func(d digest.Digest, size int64) {
		l.pin(d)
		if !slices.ContainsFunc(blobs, func(b blobSource) bool { return b.digest == d }) {
			blobs = append(blobs, blobSource{d, size, func(w io.Writer) error { return s.copyBlob(ctx, w, d) }})
		}
	}
	for _, ref := range refs {
		m, err := c.resolve(ref)
		if err != nil {
			return fmt.Errorf("save image %s: %w", ref, err)
		}
		e, names := c.images[m], c.namesOf(m)
		if name := c.nameOf(ref); name != "" {
			names = []string{name}
		}
		img := archived{names: names, manifest: e.desc, config: e.image.ID}
		size := e.image.Size
		for _, layer := range e.image.Layers {
			img.layers = append(img.layers, layer.Digest)
			add(layer.Digest, layer.Size)
			size -= layer.Size
		}
		add(e.image.ID, size)
		add(m, e.desc.Size)
		images = append(images, img)
	}
	if err := writeLayout(w, images, blobs); err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	return nil
}

// copyBlob copies a blob to w and verifies it. The last piece is held back until all of it was right, so that a damaged
// blob never arrives whole.
func (s *Store) copyBlob(ctx context.Context, w io.Writer, d digest.Digest) error {
	f, err := s.openBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := step.Reach("save blob"); err != nil {
		return err
	}
	h := digest.Canonical.Digester()
	buf, held := make([]byte, 128<<10), make([]byte, 0, 128<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			h.Hash().Write(buf[:n])
			if _, err := w.Write(held); err != nil {
				return err
			}
			held = append(held[:0], buf[:n]...)
		}
		switch err {
		case nil:
			continue
		case io.EOF, io.ErrUnexpectedEOF:
		default:
			return fmt.Errorf("read blob %s: %w", d, err)
		}
		if got := h.Digest(); got != d {
			return s.quarantine(d, got)
		}
		_, err = w.Write(held)
		return err
	}
}
