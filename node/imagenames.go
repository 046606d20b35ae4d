package node

import (
	"context"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/runtime/image"
)

// What a name of an image means is agreed on by the cluster when somebody loads an image under it, and a job is pinned to
// that digest when it is submitted. So all nodes run the same bytes, and loading a new build under an old name changes
// what runs exactly when the job is submitted again. Names that nobody loaded are their registry's affair.

// resolveImages pins the images of a spec whose names the cluster knows.
func resolveImages(view *state.View, spec *job.Spec) {
	for i := range spec.Services {
		s := &spec.Services[i]
		name, err := image.ParseName(s.Image)
		if err != nil || name.Digest() != "" {
			continue
		}
		if known := view.Image(name.String()); known != nil {
			s.Image = name.Familiar() + "@" + known.Digest
		}
	}
}

// tellImageNames makes the names of images that were loaded here mean these images everywhere.
func (n *Node) tellImageNames(ctx context.Context, images []image.Image) error {
	r := api.ImageNamesRequest{}
	for _, i := range images {
		for _, name := range i.Names {
			r.Images = append(r.Images, job.ImageName{Name: name, Digest: string(i.Manifest), Node: n.id, At: n.wall()})
		}
	}
	if len(r.Images) == 0 {
		return nil
	}
	return n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.NameImages(ctx, r) },
		func(ctx context.Context) error { return n.NameImages(ctx, r) })
}

func (n *Node) forgetImageName(ctx context.Context, ref string) error {
	name, err := image.ParseName(ref)
	if err != nil {
		return nil // a digest or an id: it was no name
	}
	return n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.UnnameImage(ctx, name.String()) },
		func(ctx context.Context) error { return n.UnnameImage(ctx, name.String()) })
}

// NameImages writes what names mean into the log, no more at a time than one archive may hold.
func (n *Node) NameImages(ctx context.Context, r api.ImageNamesRequest) error {
	if len(r.Images) > image.MaxArchiveNames {
		return job.Errorf(job.Invalid, "name images: %d names, at most %d at a time", len(r.Images), image.MaxArchiveNames)
	}
	_, err := n.propose(ctx, state.PutImage{Images: r.Images, At: n.wall()})
	return err
}

// UnnameImage takes a name out of the log.
func (n *Node) UnnameImage(ctx context.Context, name string) error {
	_, err := n.propose(ctx, state.RemoveImage{Name: name, At: n.wall()})
	return err
}
