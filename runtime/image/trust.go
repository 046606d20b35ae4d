package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// treeState is what a tree is worth that this process did not write.
type treeState int

const (
	treeAbsent   treeState = iota // or damaged: it has to be made
	treeWhole                     // it was synced, and looks as it did then
	treeDoubtful                  // an earlier process of this boot wrote it and nobody saw it synced, or an older version did
)

// seal is what a tree was when it was known to be on disk, so that what a failing disk makes of it is seen. It is no
// defence against anybody: who may write below the store may write the seal, too.
type seal struct {
	// Shape is over names, kinds, owners, modes, link targets, and files' sizes and times. A walk with one stat a file checks it.
	Shape string `json:"shape,omitempty"`
	// Content is over all that and the attributes and bytes of each file; the bytes as CRC-32C, which finds any flipped bit.
	Content string `json:"content,omitempty"`
}

// whole tells whether there is all of a seal.
func (s seal) whole() bool { return s.Shape != "" && s.Content != "" }

// judge looks at the tree at path for the first time since Open, and remembers one that is whole. Looking costs one stat a
// file: far less than a container that starts from half a layer.
func (s *Store) judge(path string) treeState {
	if s.isProven(path) {
		return treeWhole
	}
	meta, err := readLayerMeta(path)
	if err != nil || !isDir(path) {
		return treeAbsent
	}
	if meta.Boot == "" && !meta.whole() {
		s.log.Warn("an unpacked layer has no seal, as with an older version: it is compared with its blob", "layer", filepath.Base(path))
	}
	if meta.Boot != "" || !meta.whole() {
		return treeDoubtful
	}
	if got, err := sealTree(path, meta.Implicit, false); err != nil || got.Shape != meta.Shape {
		s.log.Error("an unpacked layer was damaged on this node's disk: it will be unpacked again", "layer", filepath.Base(path), "err", err)
		return treeAbsent
	}
	s.prove(path)
	return treeWhole
}

// keepIfSame compares the doubtful tree at path with the fresh one in tmp, byte by byte, and replaces it if they differ. One
// that is whole stays, because containers may run from it.
func (s *Store) keepIfSame(tmp, path string) error {
	fresh, err := sealTree(filepath.Join(tmp, "root"), nil, true)
	if err != nil {
		return err
	}
	if had, err := sealTree(path, nil, true); err != nil || had != fresh {
		s.log.Warn("an unpacked layer had not reached the disk whole: it is unpacked again", "layer", filepath.Base(path), "err", err)
		return s.nameTree(tmp, path)
	}
	meta, err := readLayerMeta(path)
	if err != nil || !meta.Lost {
		// The fresh one's description, too: the old one's may be damaged. And the boot that a sync is still to come in.
		if err := os.Rename(filepath.Join(tmp, "root.json"), path+".json"); err != nil {
			return err
		}
		s.settleLater(path)
	}
	s.prove(path)
	return nil
}

// isProven tells whether the tree at path is there and was written or looked at by this process.
func (s *Store) isProven(path string) bool {
	s.mu.Lock()
	known := s.proven[path]
	s.mu.Unlock()
	return known && isUnpacked(path)
}

func (s *Store) prove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proven[path] = true
}

// disproveLocked forgets a tree that is removed.
func (s *Store) disproveLocked(path string) { delete(s.proven, path) }

// isUnpacked tells whether a tree is at path that has its description, which is written before the tree is renamed there.
func isUnpacked(path string) bool {
	if !isDir(path) {
		return false
	}
	_, err := os.Lstat(path + ".json")
	return err == nil
}

// setAside moves a damaged tree out of the way: into tmp, which its maker deletes, or where it stays until the machine
// restarts or nothing is held any more, because a container that runs from it would lose its files. tmp is "" while it is
// not known yet what is held.
func (s *Store) setAside(path, tmp string) error {
	s.mu.Lock()
	s.disproveLocked(path)
	held := len(s.holds) > 0
	s.mu.Unlock()
	if !held && tmp != "" {
		return os.Rename(path, filepath.Join(tmp, "old"))
	}
	if err := os.MkdirAll(s.asideDir(), 0o700); err != nil {
		return err
	}
	into, err := os.MkdirTemp(s.asideDir(), bootID()+".")
	if err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(into, filepath.Base(path)))
}

// asideDir holds damaged trees from which containers may run: directories named by a boot.
func (s *Store) asideDir() string { return filepath.Join(s.dir, "aside") }

// sweepAside deletes what no container can run from any more.
func (s *Store) sweepAside() error {
	entries, err := os.ReadDir(s.asideDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	held := len(s.holds) > 0 || time.Since(s.opened) < asideGrace
	s.mu.Unlock()
	boot := bootID()
	for _, e := range entries {
		if of, _, _ := strings.Cut(e.Name(), "."); of == boot && boot != "" && held {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.asideDir(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// asideGrace is for the agent to say which containers live.
const asideGrace = 10 * time.Minute

// Whole tells, at a stat a blob, whether all that img was made of is here in its right size: nil, or ErrCorrupt. What an image
// is made of goes when it is found damaged; Fetch and Pull bring what is missing.
func (s *Store) Whole(img Image) error {
	left := img.Size // of the config
	for _, l := range img.Layers {
		left -= l.Size
		if !s.hasBlob(l.Digest, l.Size) {
			return &kindError{ErrCorrupt, fmt.Errorf("layer %s of image %s is damaged or gone on this node: fetch the image again", l.Digest, img.Manifest)}
		}
	}
	if !s.hasBlob(img.ID, left) {
		return &kindError{ErrCorrupt, fmt.Errorf("config %s of image %s is damaged or gone on this node: fetch the image again", img.ID, img.Manifest)}
	}
	if _, err := os.Stat(s.blobPath(img.Manifest)); err != nil {
		return &kindError{ErrCorrupt, fmt.Errorf("manifest %s is gone on this node: fetch the image again", img.Manifest)}
	}
	return nil
}

// LayersHealed is Layers that has a damaged image fetched again: whoever tried again without that would find the same gap for
// ever. fetch brings the image of a reference here. Damage shows layer by layer, so it may be needed several times.
func (s *Store) LayersHealed(ctx context.Context, img Image, fetch func(ctx context.Context, ref string) error) ([]string, error) {
	dirs, err := s.Layers(ctx, img)
	for range len(img.Layers) + 1 {
		if !errors.Is(err, ErrCorrupt) {
			break
		}
		if failed := s.heal(ctx, img, err, fetch); failed != nil {
			return nil, failed
		}
		dirs, err = s.Layers(ctx, img)
	}
	return dirs, err
}

// Heal fetches what is missing of an image; nil when nothing is. ErrCorrupt: it cannot be had.
func (s *Store) Heal(ctx context.Context, img Image, fetch func(ctx context.Context, ref string) error) error {
	damage := s.Whole(img)
	if damage == nil {
		return nil
	}
	return s.heal(ctx, img, damage, fetch)
}

func (s *Store) heal(ctx context.Context, img Image, damage error, fetch func(ctx context.Context, ref string) error) error {
	if fetch == nil {
		return damage
	}
	if err := s.fetchAgain(ctx, img, fetch); err != nil {
		return fmt.Errorf("%w; and it cannot be had elsewhere: %v", damage, err)
	}
	s.log.Info("a damaged image was fetched again", "image", img.Manifest, "was", damage)
	return nil
}

// fetchAgain has fetch bring an image, and takes the name away again that it came by, if it is called something else.
func (s *Store) fetchAgain(ctx context.Context, img Image, fetch func(ctx context.Context, ref string) error) error {
	pinned := img.Pinned()
	had := s.snapshot().nameOf(pinned) != ""
	if err := fetch(ctx, pinned); err != nil || had {
		return err
	}
	err := s.change(func(c *catalog) error {
		name := c.nameOf(pinned)
		if name == "" || len(c.namesOf(c.names[name])) < 2 {
			return errNoChange
		}
		delete(c.names, name)
		return nil
	})
	if errors.Is(err, errNoChange) {
		return nil
	}
	return err
}

// Pinned is a reference that means img wherever its repository or a peer is asked.
func (img Image) Pinned() string {
	for _, name := range img.Names {
		if n, err := ParseName(name); err == nil {
			return n.Repository() + "@" + img.Manifest.String()
		}
	}
	return img.Manifest.String()
}
