package image

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step"
)

// ahead unpacks the layers of an archive while the rest of it comes. What an archive's file is may be known only at the
// archive's end, so whatever looks like a layer is unpacked into a temporary directory; that tells its diffID, too, which
// Load has to know anyway. A nil ahead does nothing.
type ahead struct {
	ctx    context.Context
	cancel context.CancelFunc
	s      *Store
	slots  chan struct{}
	wait   sync.WaitGroup
	trees  map[*tempBlob]*aheadTree // the reader's own
}

// aheadTree is one file's tree. Its fields but cancel are readable after done.
type aheadTree struct {
	cancel context.CancelFunc
	done   chan struct{}
	tmp    string // holds root and, at last, root.json
	got    extracted
	err    error
}

func newAhead(ctx context.Context, s *Store) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	return &ahead{ctx: ctx, cancel: cancel, s: s, slots: make(chan struct{}, unpackJobs), trees: map[*tempBlob]*aheadTree{}}
}

// start begins to unpack t, which is finished, if it looks like a layer.
func (h *ahead) start(t *tempBlob) {
	if h == nil || !looksLikeLayer(t.path) {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	tree := &aheadTree{cancel: cancel, done: make(chan struct{})}
	h.trees[t] = tree
	path := t.path // opened before anything else happens to t
	blob, err := os.Open(path)
	if err != nil {
		tree.err = err
		close(tree.done)
		return
	}
	h.wait.Go(func() {
		defer close(tree.done)
		defer blob.Close()
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-ctx.Done():
			tree.err = ctx.Err()
			return
		}
		if tree.tmp, tree.err = os.MkdirTemp(h.s.tmpDir(), "layer-*.tmp"); tree.err != nil {
			return
		}
		root := filepath.Join(tree.tmp, "root")
		if tree.err = makeRoot(root); tree.err == nil {
			tree.got, tree.err = h.s.extractFrom(ctx, blob, root)
		}
		tree.err = errors.Join(tree.err, step.Reach("load tree extracted"))
	})
}

// looksLikeLayer looks at the first bytes: compressed, or a tar.
func looksLikeLayer(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := f.Read(head)
	if err != nil {
		return false
	}
	return isGzip(head[:n]) || isZstd(head[:n]) || n == len(head) && string(head[257:262]) == "ustar"
}

// await waits for t's tree and notes its diffID. An archive that cannot be unpacked is refused now; a machine that cannot
// unpack is left to say so when it has to.
func (h *ahead) await(t *tempBlob) error {
	tree := h.treeOf(t)
	if tree == nil {
		return nil
	}
	<-tree.done
	switch {
	case tree.err == nil:
		t.diffID = tree.got.DiffID
		return nil
	case h.ctx.Err() != nil:
		return h.ctx.Err()
	case !isMachineError(tree.err):
		return &kindError{ErrInvalid, tree.err}
	}
	return h.s.explainSpace(onlySpace(tree.err))
}

func (h *ahead) treeOf(t *tempBlob) *aheadTree {
	if h == nil {
		return nil
	}
	return h.trees[t]
}

// forget gives up the tree of a file that another one of the same name replaced.
func (h *ahead) forget(t *tempBlob) {
	tree := h.treeOf(t)
	if tree == nil {
		return
	}
	delete(h.trees, t)
	tree.cancel()
	<-tree.done
	os.RemoveAll(tree.tmp)
}

// describe writes what stands beside each tree.
func (h *ahead) describe(found []*loaded) error {
	return h.each(found, func(_ digest.Digest, tree *aheadTree) error {
		raw, err := json.Marshal(layerMeta{Implicit: tree.got.Implicit, Boot: bootID()})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tree.tmp, "root.json"), raw, 0o600)
	})
}

// install gives the trees their names, the description first. A tree that is there already stays.
func (h *ahead) install(found []*loaded) error {
	return h.each(found, func(diffID digest.Digest, tree *aheadTree) error {
		path := h.s.layerPath(diffID)
		_, err := h.s.unpacks.do(h.ctx, path, func(context.Context) (struct{}, error) {
			switch h.s.judge(path) {
			case treeWhole:
				return struct{}{}, nil
			case treeDoubtful:
				return struct{}{}, h.s.keepIfSame(tree.tmp, path)
			}
			return struct{}{}, h.s.nameTree(tree.tmp, path)
		})
		return err
	})
}

// each calls f for the trees of layers that an image of the archive has.
func (h *ahead) each(found []*loaded, f func(digest.Digest, *aheadTree) error) error {
	if h == nil {
		return nil
	}
	for _, l := range found {
		for _, layer := range l.entry.image.Layers {
			tree := h.trees[l.blobs[layer.Digest]]
			if tree == nil || tree.err != nil {
				continue
			}
			if err := f(layer.DiffID, tree); err != nil {
				return err
			}
		}
	}
	return nil
}

// close ends what still runs and removes what was not installed.
func (h *ahead) close() {
	if h == nil {
		return
	}
	h.cancel()
	h.wait.Wait()
	for _, tree := range h.trees {
		if tree.tmp != "" {
			os.RemoveAll(tree.tmp)
		}
	}
}

// onlySpace keeps errors that will not go away by trying another way.
func onlySpace(err error) error {
	for _, e := range spaceErrors {
		if errors.Is(err, e) {
			return err
		}
	}
	return nil
}
