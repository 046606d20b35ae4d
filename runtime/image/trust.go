package image

import (
	"fmt"
	"os"
	"path/filepath"
)

// treeState is what a tree is worth that this process did not write.
type treeState int

const (
	treeAbsent   treeState = iota // or damaged: it has to be made
	treeWhole                     // it was synced, and looks as it did then
	treeDoubtful                  // an earlier process of this boot wrote it, and nobody saw it synced
)

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
	if meta.Boot != "" {
		return treeDoubtful
	}
	if meta.Shape != "" {
		got, err := sealTree(path, false)
		if err != nil || got.Shape != meta.Shape {
			s.log.Error("an unpacked layer was damaged on this node's disk: it will be unpacked again", "layer", filepath.Base(path), "err", err)
			return treeAbsent
		}
	}
	s.prove(path)
	return treeWhole
}

// keepIfSame compares the doubtful tree at path with the fresh one in tmp, byte by byte, and replaces it if they differ. One
// that is whole stays, because containers may run from it.
func (s *Store) keepIfSame(tmp, path string) error {
	fresh, err := sealTree(filepath.Join(tmp, "root"), true)
	if err != nil {
		return err
	}
	if had, err := sealTree(path, true); err != nil || had != fresh {
		s.log.Warn("an unpacked layer had not reached the disk whole: it is unpacked again", "layer", filepath.Base(path), "err", err)
		return s.nameTree(tmp, path)
	}
	s.prove(path)
	if meta, err := readLayerMeta(path); err == nil && !meta.Lost {
		s.settleLater(path)
	}
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

// Pinned is a reference that means img wherever its repository or a peer is asked.
func (img Image) Pinned() string {
	for _, name := range img.Names {
		if n, err := ParseName(name); err == nil {
			return n.Repository() + "@" + img.Manifest.String()
		}
	}
	return img.Manifest.String()
}
