package container

import (
	"context"
	"errors"
	"fmt"

	"shoal/runtime/image"
)

// layers gives the directories of an image's layers. One that the disk has damaged is fetched again, once: whoever tried
// again without that would find the same gap for ever.
func (r *Runtime) layers(ctx context.Context, img image.Image) ([]string, error) {
	dirs, err := r.cfg.Images.Layers(ctx, img)
	if !errors.Is(err, image.ErrCorrupt) {
		return dirs, err
	}
	if err := r.heal(ctx, img, err); err != nil {
		return nil, err
	}
	return r.cfg.Images.Layers(ctx, img)
}

// heal fetches what is missing of an image that is here, from peers or its registry. damage is what is wrong with it.
func (r *Runtime) heal(ctx context.Context, img image.Image, damage error) error {
	if r.cfg.PullFrom == nil {
		return damage
	}
	if err := r.cfg.PullFrom(ctx, img.Pinned(), nil); err != nil {
		return fmt.Errorf("%w; and it cannot be had elsewhere: %v", damage, err)
	}
	r.log.Info("a damaged image was fetched again", "image", img.Manifest, "was", damage)
	return nil
}
