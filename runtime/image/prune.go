package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step"
)

// PrunePolicy says what Prune may delete beyond what nobody can reach.
type PrunePolicy struct {
	// Grace spares what is younger: images without a name whose holder may be about to come, blobs of a pull that broke and
	// may be resumed. Default (0): one hour. Negative: none.
	Grace time.Duration
	// Unpacked deletes the unpacked trees of images that are named but not held, too. They are made again when needed, at
	// the cost of unpacking.
	Unpacked bool
	// Named deletes images with a name, too, if no holder needs them and they were not used for Unused, which is at least ten
	// minutes. Keep is asked about each and spares it by true; nil spares none.
	Named  bool
	Unused time.Duration
	Keep   func(Image) bool
	// Most ends the deletion of named images after so many, the longest unused first. 0: no end.
	Most int
	// DryRun only reports.
	DryRun bool
}

// Freed is what Prune deleted, or would.
type Freed struct {
	Images []digest.Digest // manifests
	Blobs  int
	Layers int   // unpacked trees
	Bytes  int64 // of blobs and trees
}

// Prune deletes images that have neither a name nor a holder, and blobs and trees that no image needs. It never touches
// what is named, held, or needed by work in progress. Safe at any time.
func (s *Store) Prune(ctx context.Context, p PrunePolicy) (Freed, error) {
	grace := p.Grace
	if grace == 0 {
		grace = defaultPruneGrace
	}
	before := time.Now().Add(-max(grace, 0))
	var dropped []digest.Digest
	var entries map[digest.Digest]*entry
	decide := func(c *catalog) error {
		dropped, entries = nil, maps.Clone(c.images)
		for m, e := range c.images {
			if len(c.namesOf(m)) == 0 && len(s.heldBy(m)) == 0 && !e.added.After(before) {
				dropped = append(dropped, m)
			}
		}
		if p.Named {
			named := s.unused(c, time.Now().Add(-max(p.Unused, useGrace)), p.Keep)
			named = slices.DeleteFunc(named, func(m digest.Digest) bool { return slices.Contains(dropped, m) || len(c.namesOf(m)) == 0 })
			if p.Most > 0 {
				named = named[:min(p.Most, len(named))]
			}
			dropped = append(dropped, named...)
		}
		for _, m := range dropped {
			for _, name := range c.namesOf(m) {
				delete(c.names, name)
			}
			delete(c.images, m)
		}
		if len(dropped) == 0 || p.DryRun {
			return errNoChange
		}
		return nil
	}
	if err := s.change(decide); err != nil && !errors.Is(err, errNoChange) {
		return Freed{}, fmt.Errorf("prune images: %w", err)
	}
	if err := step.Reach("prune decided"); err != nil {
		return Freed{}, err
	}
	sw := &sweep{s: s, before: before, dryRun: p.DryRun, held: p.Unpacked, ignore: dropped, at: map[digest.Digest]bool{}}
	for m := range dropped {
		for _, d := range entries[dropped[m]].everything() { // these need no grace: they belonged to somebody
			sw.at[d] = true
		}
	}
	freed, err := sw.run(ctx)
	if !p.DryRun {
		err = errors.Join(err, s.sweepAside())
	}
	freed.Images = dropped
	if err != nil {
		return freed, fmt.Errorf("prune images: %w", err)
	}
	if len(dropped) > 0 || freed.Blobs > 0 || freed.Layers > 0 {
		s.log.Info("images pruned", "images", len(freed.Images), "blobs", freed.Blobs, "layers", freed.Layers, "bytes", freed.Bytes, "dryRun", p.DryRun)
	}
	return freed, nil
}

// errNoChange ends a change that has nothing to write.
var errNoChange = errors.New("no change")

// sweep deletes files that no image needs.
type sweep struct {
	s      *Store
	before time.Time              // spare what is younger
	only   map[digest.Digest]bool // look at these only; nil: at all
	ignore []digest.Digest        // manifests that count as gone already (a dry run)
	at     map[digest.Digest]bool // spare these by no age
	held   bool                   // trees are needed by held images only
	dryRun bool
}

func (w *sweep) run(ctx context.Context) (Freed, error) {
	var freed Freed
	blobs, err := os.ReadDir(w.s.blobDir())
	if err != nil {
		return freed, err
	}
	for _, f := range blobs {
		n, ok, err := w.retire(ctx, filepath.Join(w.s.blobDir(), f.Name()), f.Name(), false)
		if err != nil {
			return freed, err
		}
		if ok {
			freed.Blobs++
			freed.Bytes += n
		}
	}
	trees, err := os.ReadDir(w.s.layerDir())
	if err != nil {
		return freed, err
	}
	for _, f := range trees {
		n, ok, err := w.retire(ctx, filepath.Join(w.s.layerDir(), f.Name()), f.Name(), true)
		if err != nil {
			return freed, err
		}
		if ok && f.IsDir() {
			freed.Layers++
			freed.Bytes += n
		}
	}
	return freed, nil
}

// digestOfFile reads the digest in the name of a blob, a tree or what stands beside it.
func digestOfFile(name string) (digest.Digest, bool) {
	hex, _, _ := strings.Cut(strings.TrimSuffix(name, ".json"), "-")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return d, checkDigest(d) == nil
}

// retire deletes one blob or tree if nothing needs it, and returns its size.
func (w *sweep) retire(ctx context.Context, path, name string, tree bool) (int64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	d, ok := digestOfFile(name)
	if !ok || w.only != nil && !w.only[d] {
		return 0, false, nil
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if !w.at[d] && changed(fi).After(w.before) || w.s.needs(d, tree, w) {
		return 0, false, nil
	}
	size := treeSize(path)
	if w.dryRun {
		return size, true, nil
	}
	trash, err := os.MkdirTemp(w.s.tmpDir(), "trash-*")
	if err != nil {
		return 0, false, err
	}
	defer os.RemoveAll(trash)
	if err := step.Reach("retire begun"); err != nil {
		return 0, false, err
	}
	ok, err = w.s.retireUnneeded(path, filepath.Join(trash, name), d, tree, w)
	return size, ok, errors.Join(err, step.Reach("retire moved"))
}

// retireUnneeded moves path away if it is still not needed. Under both locks, with one rename on disk inside: nobody may
// pin it, or commit an image that needs it, between the last look and the deed. The slow deletion comes after.
func (s *Store) retireUnneeded(path, trash string, d digest.Digest, tree bool, w *sweep) (bool, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.needs(d, tree, w) {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[d] > 0 {
		return false, nil
	}
	s.disproveLocked(path)
	err := os.Rename(path, trash)
	if errors.Is(err, fs.ErrNotExist) { // another sweep was here
		return false, nil
	}
	return err == nil, err
}

// needs tells whether work in progress or an image needs blob or tree d.
func (s *Store) needs(d digest.Digest, tree bool, w *sweep) bool {
	s.mu.Lock()
	c, pinned := s.catalog, s.pins[d] > 0
	s.mu.Unlock()
	if pinned || len(c.lost) > 0 { // what a damaged image needs is not known until it is fetched again
		return true
	}
	ignore := map[digest.Digest]bool{}
	for _, m := range w.ignore {
		ignore[m] = true
	}
	for m, e := range c.images {
		if ignore[m] || tree && w.held && len(s.heldBy(m)) == 0 {
			continue
		}
		if e.needs(d, tree) {
			return true
		}
	}
	return false
}

func (e *entry) needs(d digest.Digest, tree bool) bool {
	if !tree && (d == e.image.Manifest || d == e.image.ID || d == e.image.Index) {
		return true
	}
	for _, l := range e.image.Layers {
		if !tree && l.Digest == d || tree && l.DiffID == d {
			return true
		}
	}
	return false
}

// everything lists the digests of blobs and trees that e uses.
func (e *entry) everything() []digest.Digest {
	all := []digest.Digest{e.image.Manifest, e.image.ID, e.image.Index}
	for _, l := range e.image.Layers {
		all = append(all, l.Digest, l.DiffID)
	}
	return all
}

// treeSize adds up regular files; what vanishes meanwhile does not count.
func treeSize(path string) int64 {
	var size int64
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		return nil
	})
	return size
}
