package node

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime/image"
)

const (
	keepEvery    = 15 * time.Second // between two looks at what should be here
	sweepEvery   = 10 * time.Minute // between two looks at what should not
	maxSweepStep = 1_000            // images in one sweep
	copyWait     = 30 * time.Second // for other nodes to copy what was just loaded
)

// careForImages keeps copies of what was loaded or pushed, and deletes what is not needed any more. It blocks until ctx ends.
func (n *Node) careForImages(ctx context.Context) error {
	k, err := n.keeper()
	if err != nil || n.cfg.ImageCare == (ImageCare{}) {
		return waitFor(ctx)
	}
	next := time.Now().Add(sweepEvery)
	for sleep(ctx, keepEvery) {
		needed, err := n.askNeeded(ctx)
		if err != nil { // without the cluster's word nothing is known to be superfluous
			continue
		}
		n.keepCopies(ctx, k, needed)
		if time.Now().After(next) {
			n.sweepImages(ctx, k, needed)
			next = time.Now().Add(sweepEvery)
		}
	}
	return nil
}

// keepCopies fetches images that this node is to keep. Which nodes keep which image follows from its digest and from who
// is alive (rendezvous hashing), so that nobody has to decide it and few copies move when a node comes or goes.
func (n *Node) keepCopies(ctx context.Context, k imageKeeper, needed api.ImagesNeeded) {
	if n.cfg.ImageCare.Copies <= 0 {
		return
	}
	self := n.cfg.Advertise.String()
	alive := append(n.livePeers(), self)
	for _, name := range needed.Names {
		if ctx.Err() != nil {
			return
		}
		if !slices.Contains(keepers(name.Digest, alive, n.cfg.ImageCare.Copies), self) {
			continue
		}
		if i, err := n.machine.Images.Get(name.Name); err == nil && string(i.Manifest) == name.Digest && k.Whole(i) == nil {
			continue
		}
		parsed, err := image.ParseName(name.Name)
		if err != nil {
			continue
		}
		pinned := parsed.Repository() + "@" + name.Digest
		if i, err := n.machine.Images.Get(pinned); err != nil || k.Whole(i) != nil {
			if err := n.pullFromPeers(ctx, pinned); err != nil {
				n.log.Warn("an image that this node should keep cannot be had", "image", name.Name, "digest", name.Digest, "error", err)
				continue
			}
			n.log.Info("keeps a copy of an image", "image", name.Name, "digest", name.Digest)
		}
		if err := k.Tag(pinned, name.Name); err != nil {
			n.log.Warn("an image that this node keeps has not its name", "image", name.Name, "error", err)
		}
	}
}

// spreadCopies has the nodes that keep an image copy it now rather than at their next look, so that it outlives this machine
// when whoever loaded it hears that it is there. It gives the number of nodes that have all of the images, this one
// among them. What cannot be copied in time is left to the other nodes' care.
func (n *Node) spreadCopies(ctx context.Context, images []image.Image) int {
	if _, err := n.keeper(); err != nil || n.cfg.ImageCare.Copies <= 1 {
		return 1
	}
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	self := n.cfg.Advertise.String()
	alive := append(n.livePeers(), self)
	at := map[string][]string{} // names that a node is to have, by its address
	for _, i := range images {
		if len(i.Names) == 0 { // nobody is to keep it
			return 1
		}
		for _, addr := range keepers(string(i.Manifest), alive, n.cfg.ImageCare.Copies) {
			if addr != self {
				at[addr] = append(at[addr], i.Names...)
			}
		}
	}
	var have atomic.Int64
	var wg sync.WaitGroup
	for addr, names := range at {
		wg.Go(func() {
			c := api.NewClient(addr, n.peers.transport)
			for _, name := range names {
				if _, err := c.PullImage(ctx, name, nil); err != nil {
					n.log.Warn("a node that should keep a copy of an image has none yet", "image", name, "node", addr, "error", err)
					return
				}
			}
			have.Add(1)
		})
	}
	wg.Wait()
	return 1 + int(have.Load())
}

// releaseCopies has the nodes that keep an image under a name that means nothing any more take that name away. Each of them
// does the same in turn, until none of them has it. Who cannot be asked keeps it until it is swept; it does no harm there.
func (n *Node) releaseCopies(ctx context.Context, name, digest string) {
	if _, err := n.keeper(); err != nil || n.cfg.ImageCare.Copies <= 1 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	self := n.cfg.Advertise.String()
	for _, addr := range keepers(digest, append(n.livePeers(), self), n.cfg.ImageCare.Copies) {
		if addr == self {
			continue
		}
		err := api.NewClient(addr, n.peers.transport).RemoveImage(ctx, name)
		if err != nil && job.KindOf(err) != job.NotFound {
			n.log.Warn("a node that kept a copy of an image still has its name", "image", name, "node", addr, "error", err)
		}
	}
}

// keepers picks count of the nodes, the same ones wherever it is asked.
func keepers(digest string, nodes []string, count int) []string {
	weight := func(node string) string {
		sum := sha256.Sum256([]byte(digest + " " + node))
		return string(sum[:])
	}
	sorted := slices.Clone(nodes)
	slices.SortFunc(sorted, func(a, b string) int {
		x, y := weight(a), weight(b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return sorted[:min(count, len(sorted))]
}

// sweepImages deletes what the settings say, and never what a container, the log or a job's version needs.
func (n *Node) sweepImages(ctx context.Context, k imageKeeper, needed api.ImagesNeeded) {
	care, keep := n.cfg.ImageCare, keepRule(needed)
	p := image.PrunePolicy{Keep: keep, Named: care.Unused > 0, Unused: care.Unused}
	if _, err := k.Prune(ctx, p); err != nil {
		n.log.Warn("unused images could not be deleted", "error", err)
		return
	}
	for range maxSweepStep {
		u, err := k.Usage()
		if err != nil || !tooFull(u, care) || ctx.Err() != nil {
			return
		}
		freed, err := k.Prune(ctx, image.PrunePolicy{Keep: keep, Named: true, Most: 1})
		if err != nil || len(freed.Images) == 0 {
			if err == nil {
				n.log.Warn("the disk of the images is fuller than it should be, and all that is left is needed", "free", u.DiskFree, "images", u.Blobs+u.Trees)
			}
			return
		}
	}
}

// tooFull tells whether a sweep has to go on.
func tooFull(u image.Usage, care ImageCare) bool {
	if care.MaxBytes > 0 && u.Blobs+u.Trees > care.MaxBytes {
		return true
	}
	return care.DiskPercent > 0 && u.DiskSize > 0 && (u.DiskSize-u.DiskFree)*100 > u.DiskSize*int64(care.DiskPercent)
}
