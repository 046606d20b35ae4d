package node

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime/image"
)

// imageKeeper is what a store of images does beside what a node must have of it; see runtime/image.
type imageKeeper interface {
	Detail(ref string) (image.Detail, error)
	Save(ctx context.Context, w io.Writer, refs ...string) error
	Tag(ref, name string) error
	Pull(ctx context.Context, n image.Name, opts image.PullOptions) (image.Image, error)
	Prune(ctx context.Context, p image.PrunePolicy) (image.Freed, error)
	Usage() (image.Usage, error)
	Verify(ctx context.Context, fetch func(ctx context.Context, ref string) error, refs ...string) (image.Verified, error)
	Whole(img image.Image) error
}

func (n *Node) keeper() (imageKeeper, error) {
	if k, ok := n.machine.Images.(imageKeeper); ok {
		return k, nil
	}
	return nil, job.Errorf(job.Invalid, "the image store of node %s cannot do that", n.cfg.Name)
}

// NodeAddr finds a node by its name, its id or the beginning of that.
func (n *Node) NodeAddr(ctx context.Context, ref string) (addr string, self bool, err error) {
	if ref == n.cfg.Name || ref == string(n.id) {
		return n.cfg.Advertise.String(), true, nil
	}
	list, err := atLeader(ctx, n, func(c *api.Client) (api.NodeList, error) { return c.Nodes(ctx) }, func() (api.NodeList, error) { return n.Nodes(ctx) })
	if err != nil && n.HasState() {
		list, err = n.Nodes(ctx)
	}
	if err != nil {
		return "", false, err
	}
	var found []string
	for _, node := range list.Nodes {
		if node.Name == ref || string(node.ID) == ref {
			return node.Addr.String(), false, nil
		}
		if strings.HasPrefix(string(node.ID), ref) {
			found = append(found, node.Addr.String())
		}
	}
	switch len(found) {
	case 1:
		return found[0], found[0] == n.cfg.Advertise.String(), nil
	case 0:
		return "", false, job.Errorf(job.NotFound, "no node %q; `shoal node ls` lists them", ref)
	}
	return "", false, job.Errorf(job.Conflict, "%q is the beginning of %d nodes' ids: give more of it", ref, len(found))
}

// InspectImage tells all about an image of this node.
func (n *Node) InspectImage(_ context.Context, ref string) (api.ImageDetail, error) {
	k, err := n.keeper()
	if err != nil {
		return api.ImageDetail{}, err
	}
	d, err := k.Detail(ref)
	if err != nil {
		return api.ImageDetail{}, kindly(err)
	}
	c := d.Config
	out := api.ImageDetail{
		Image: viewImage(d.Image), Platform: d.Platform.OS + "/" + d.Platform.Architecture, Entrypoint: c.Entrypoint, Command: c.Cmd, Env: c.Env,
		WorkingDir: c.WorkingDir, User: c.User, Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
		StopSignal: c.StopSignal, Labels: c.Labels, UsedBy: d.Holders, Used: d.Used, LayerList: []api.ImageLayer{}, History: []api.ImageStep{},
	}
	if v := d.Platform.Variant; v != "" {
		out.Platform += "/" + v
	}
	for _, l := range d.Layers {
		out.LayerList = append(out.LayerList, api.ImageLayer{Digest: string(l.Digest), DiffID: string(l.DiffID), SizeBytes: l.Size, MediaType: l.MediaType})
	}
	layer := 0
	for _, h := range d.History {
		step := api.ImageStep{CreatedBy: h.CreatedBy, Comment: h.Comment, Empty: h.EmptyLayer}
		if h.Created != nil {
			step.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(d.Layers) {
			step.SizeBytes = d.Layers[layer].Size
			layer++
		}
		out.History = append(out.History, step)
	}
	return out, nil
}

// SaveImages writes images of this node as one archive.
func (n *Node) SaveImages(ctx context.Context, w io.Writer, refs []string) error {
	k, err := n.keeper()
	if err != nil {
		return err
	}
	if len(refs) == 0 {
		return job.Errorf(job.Invalid, "save images: name at least one")
	}
	return kindly(k.Save(ctx, w, refs...))
}

// TagImage gives an image of this node another name, which then means it everywhere.
func (n *Node) TagImage(ctx context.Context, ref, name string) error {
	k, err := n.keeper()
	if err != nil {
		return err
	}
	if err := k.Tag(ref, name); err != nil {
		return kindly(err)
	}
	img, err := n.machine.Images.Get(name)
	if err != nil {
		return kindly(err)
	}
	full, err := image.ParseName(name)
	if err != nil {
		return kindly(err)
	}
	img.Names = []string{full.String()}
	if err := n.tellImageNames(ctx, []image.Image{img}); err != nil {
		return err
	}
	n.spreadCopies(ctx, []image.Image{img})
	return nil
}

// PullImage makes an image present here. A name that was loaded or pushed means what it meant then, and comes from a node;
// any other is asked for anew at its registry, and what other nodes have of it comes from them.
func (n *Node) PullImage(ctx context.Context, ref, platform string, progress func(api.PullProgress)) (api.Image, error) {
	name, err := image.ParseName(ref)
	k, kerr := n.keeper()
	if err != nil || kerr != nil { // an id, or a machine without registries
		return n.pullPresent(ctx, ref, progress)
	}
	opts := image.PullOptions{Progress: func(p image.Progress) { progress(viewProgress(p)) }}
	if platform != "" {
		if opts.Platform, err = parsePlatform(platform); err != nil {
			return api.Image{}, err
		}
	}
	needed, err := n.askNeeded(ctx)
	if err != nil {
		return api.Image{}, err
	}
	for _, known := range needed.Names {
		if known.Name == name.String() && platform == "" {
			pinned := name.Repository() + "@" + known.Digest
			if _, err := n.pullPresent(ctx, pinned, progress); err != nil {
				return api.Image{}, err
			}
			if err := k.Tag(pinned, name.String()); err != nil {
				return api.Image{}, kindly(err)
			}
			return n.viewOf(name.String())
		}
	}
	img, err := k.Pull(ctx, name, opts)
	if err != nil && platform == "" {
		if n.pullFromPeers(ctx, ref) == nil { // the registry is away, or wants a password: a node has it
			return n.viewOf(ref)
		}
	}
	if err != nil {
		return api.Image{}, kindly(err)
	}
	return viewImage(img), nil
}

func (n *Node) pullPresent(ctx context.Context, ref string, progress func(api.PullProgress)) (api.Image, error) {
	_, err := n.machine.Runtime.Pull(ctx, ref, func(done, total int64) { progress(api.PullProgress{Done: done, Total: total}) })
	if err != nil {
		return api.Image{}, kindly(err)
	}
	return n.viewOf(ref)
}

func (n *Node) viewOf(ref string) (api.Image, error) {
	i, err := n.machine.Images.Get(ref)
	if err != nil {
		return api.Image{}, kindly(err)
	}
	return viewImage(i), nil
}

func viewProgress(p image.Progress) api.PullProgress {
	out := api.PullProgress{Done: p.BytesDone, Total: p.Bytes}
	for _, l := range p.Each {
		out.Layers = append(out.Layers, api.LayerProgress{Digest: string(l.Digest), Done: l.Done, Total: l.Size, Here: l.Here})
	}
	return out
}

// parsePlatform reads os/arch[/variant].
func parsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return ocispec.Platform{}, job.Errorf(job.Invalid, "platform %q: it takes os/architecture[/variant], such as linux/arm64", s)
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// ImagesNeeded is what the log says that no node may forget. Tasks are pinned by the versions of their jobs.
func (n *Node) ImagesNeeded(ctx context.Context) (api.ImagesNeeded, error) {
	if err := n.confirmed(ctx, "images that are needed"); err != nil {
		return api.ImagesNeeded{}, err
	}
	view := n.state.View()
	out := api.ImagesNeeded{Names: []job.ImageName{}, Digests: []string{}}
	for _, i := range view.Images() {
		out.Names = append(out.Names, *i)
	}
	digests := map[string]bool{}
	for _, j := range view.Jobs() {
		for _, version := range view.JobVersions(j.Spec.Name) {
			for i := range version.Spec.Services {
				if name, err := image.ParseName(version.Spec.Services[i].Image); err == nil && name.Digest() != "" {
					digests[string(name.Digest())] = true
				}
			}
		}
	}
	out.Digests = slices.Sorted(maps.Keys(digests))
	return out, nil
}

func (n *Node) askNeeded(ctx context.Context) (api.ImagesNeeded, error) {
	return atLeader(ctx, n, func(c *api.Client) (api.ImagesNeeded, error) { return c.ImagesNeeded(ctx) },
		func() (api.ImagesNeeded, error) { return n.ImagesNeeded(ctx) })
}

// keepRule spares what the log needs, by name and by digest.
func keepRule(needed api.ImagesNeeded) func(image.Image) bool {
	names, digests := map[string]bool{}, map[string]bool{}
	for _, i := range needed.Names {
		names[i.Name], digests[i.Digest] = true, true
	}
	for _, d := range needed.Digests {
		digests[d] = true
	}
	return func(i image.Image) bool {
		return digests[string(i.Manifest)] || digests[string(i.Index)] && i.Index != "" || slices.ContainsFunc(i.Names, func(name string) bool { return names[name] })
	}
}

// PruneImages deletes images of this node that nobody needs. Those with a name go only when the leader told what is needed.
func (n *Node) PruneImages(ctx context.Context, r api.PruneRequest) (api.PruneResult, error) {
	k, err := n.keeper()
	if err != nil {
		return api.PruneResult{}, err
	}
	p := image.PrunePolicy{Named: r.All, Unused: r.Unused, Unpacked: r.Unpacked, DryRun: r.DryRun}
	if r.All {
		needed, err := n.askNeeded(ctx)
		if err != nil {
			return api.PruneResult{}, job.Errorf(job.KindOf(err), "which images the cluster needs cannot be asked now, so none with a name is deleted: %w", err)
		}
		p.Keep = keepRule(needed)
	}
	names := map[string][]string{}
	if list, err := n.machine.Images.List(); err == nil {
		for _, i := range list {
			names[string(i.Manifest)] = i.Names
		}
	}
	freed, err := k.Prune(ctx, p)
	if err != nil {
		return api.PruneResult{}, kindly(err)
	}
	out := api.PruneResult{Images: []string{}, Blobs: freed.Blobs, Layers: freed.Layers, Bytes: freed.Bytes}
	for _, m := range freed.Images {
		if had := names[string(m)]; len(had) > 0 {
			out.Images = append(out.Images, had...)
		} else {
			out.Images = append(out.Images, string(m))
		}
	}
	slices.Sort(out.Images)
	return out, nil
}

// DiskUsage adds up what this node's store takes.
func (n *Node) DiskUsage(ctx context.Context) (api.DiskUsage, error) {
	k, err := n.keeper()
	if err != nil {
		return api.DiskUsage{}, err
	}
	u, err := k.Usage()
	if err != nil {
		return api.DiskUsage{}, kindly(err)
	}
	out := api.DiskUsage{Node: n.cfg.Name, Size: u.DiskSize, Free: u.DiskFree, Parts: []api.DiskPart{
		{Kind: "images", Total: u.Images, Active: u.Held, Size: u.Blobs + u.Trees, Reclaimable: u.Reclaimable},
	}}
	if n.machine.Usage != nil {
		more, err := n.machine.Usage(ctx)
		if err != nil {
			return out, kindly(err)
		}
		out.Parts = append(out.Parts, more...)
	}
	return out, nil
}

// ImageCare says how a node looks after its images by itself. The zero value keeps all for ever.
type ImageCare struct {
	// Unused is how long an image that came from a registry may lie unused before it is deleted; 0: for ever. An unused image
	// costs disk; a deleted one a pull. The agent's start counts as a use.
	Unused time.Duration
	// DiskPercent is how full the disk may be before unused images go, the longest unused first; 0: however full.
	DiskPercent int
	// MaxBytes is how much all images may take before unused ones go, in the same order; 0: no limit.
	MaxBytes int64
	// Copies is on how many nodes an image that was loaded or pushed is kept; 0: where it is.
	Copies int
}
