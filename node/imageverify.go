package node

import (
	"context"
	"errors"

	"shoal/node/api"
	"shoal/runtime/image"
)

// VerifyImages reads images of this node whole. With Repair what is damaged is had again, from peers or the registry.
func (n *Node) VerifyImages(ctx context.Context, r api.VerifyRequest) (api.VerifyResult, error) {
	k, err := n.keeper()
	if err != nil {
		return api.VerifyResult{}, err
	}
	var fetch func(context.Context, string) error
	if r.Repair {
		fetch = func(ctx context.Context, ref string) error { return n.fetchAgain(ctx, k, ref) }
	}
	v, err := k.Verify(ctx, fetch, r.Images...)
	if err != nil {
		return api.VerifyResult{}, kindly(err)
	}
	out := api.VerifyResult{Images: v.Images, Blobs: v.Blobs, Layers: v.Trees, Bytes: v.Bytes, Damaged: []api.ImageDamage{}}
	for _, d := range v.Damaged {
		out.Damaged = append(out.Damaged, api.ImageDamage{
			Image: d.Name, Manifest: string(d.Image), Part: d.Part, Digest: string(d.Digest), Reason: d.Reason, Repaired: d.Repaired,
		})
	}
	return out, nil
}

// fetchAgain brings an image here that is damaged: from another node, or else from its registry.
func (n *Node) fetchAgain(ctx context.Context, k imageKeeper, ref string) error {
	err := n.pullFromPeers(ctx, ref)
	if err == nil {
		return nil
	}
	name, nameErr := image.ParseName(ref)
	if nameErr != nil { // an image without a name: no registry knows it
		return err
	}
	if _, pullErr := k.Pull(ctx, name, image.PullOptions{}); pullErr != nil {
		return errors.Join(err, pullErr)
	}
	return nil
}
