package container

import (
	"context"

	"shoal/runtime/image"
)

// layers gives the directories of an image's layers. One that the disk has damaged is fetched again.
func (r *Runtime) layers(ctx context.Context, img image.Image) ([]string, error) {
	return r.cfg.Images.LayersHealed(ctx, img, r.fetchAgain())
}

// fetchAgain brings an image here from peers or its registry; nil if there is no way.
func (r *Runtime) fetchAgain() func(context.Context, string) error {
	if r.cfg.PullFrom == nil {
		return nil
	}
	return func(ctx context.Context, ref string) error { return r.cfg.PullFrom(ctx, ref, nil) }
}
