package image

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Detail is all that is known of an image.
type Detail struct {
	Image
	History []ocispec.History // oldest first; entries without a layer are marked as such
	Holders []string          // sorted
	Used    time.Time         // when a container last began or ended to need it, or it came; since the store was opened
}

// Detail resolves ref as Get does. ErrCorrupt when the image's config is damaged.
func (s *Store) Detail(ref string) (Detail, error) {
	img, err := s.Get(ref)
	if err != nil {
		return Detail{}, err
	}
	raw, err := s.readBlob(img.ID, MaxConfigSize)
	if err != nil {
		return Detail{}, fmt.Errorf("inspect image %s: %w", ref, err)
	}
	var c configFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return Detail{}, invalidf("config %s: %w", img.ID, err)
	}
	return Detail{Image: img, History: c.History, Holders: s.heldBy(img.Manifest), Used: s.usedAt(img.Manifest)}, nil
}

// Usage is what the store takes of its disk, in bytes.
type Usage struct {
	Images, Held int   // how many there are, and how many a holder needs
	Blobs        int64 // as they came
	Trees        int64 // unpacked
	Reclaimable  int64 // of both, what no held image needs
	DiskSize     int64 // of the file system
	DiskFree     int64 // what root may still use
}

// Usage walks the store; it takes as long as that.
func (s *Store) Usage() (Usage, error) {
	c := s.snapshot()
	u := Usage{Images: len(c.images)}
	needed := map[digest.Digest]bool{}
	for m, e := range c.images {
		if len(s.heldBy(m)) == 0 {
			continue
		}
		u.Held++
		for _, d := range e.everything() {
			needed[d] = true
		}
	}
	for _, part := range []struct {
		dir   string
		total *int64
	}{{s.blobDir(), &u.Blobs}, {s.layerDir(), &u.Trees}} {
		files, err := os.ReadDir(part.dir)
		if err != nil {
			return u, err
		}
		for _, f := range files {
			n := treeSize(part.dir + "/" + f.Name())
			*part.total += n
			if d, ok := digestOfFile(f.Name()); !ok || !needed[d] {
				u.Reclaimable += n
			}
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err == nil {
		u.DiskSize, u.DiskFree = int64(st.Blocks)*int64(st.Bsize), int64(st.Bfree)*int64(st.Bsize)
	}
	return u, nil
}

// Use notes that somebody is about to hold an image: no Prune takes it within the next minutes.
func (s *Store) Use(img Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.useLocked(img.Manifest)
}

func (s *Store) useLocked(m digest.Digest) {
	if s.used == nil {
		s.used = map[digest.Digest]time.Time{}
	}
	s.used[m] = time.Now()
}

// usedAt is the latest of when m came, was used, and when the store was opened.
func (s *Store) usedAt(m digest.Digest) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.opened
	if t := s.used[m]; t.After(at) {
		at = t
	}
	if e := s.catalog.images[m]; e != nil && e.added.After(at) {
		at = e.added
	}
	return at
}

// useGrace spares what was used a moment ago: a container that needs it may be about to be made.
const useGrace = 10 * time.Minute

// unused lists manifests that no holder needs and that were not used for so long, the one that was longest unused first.
// keep is asked about each.
func (s *Store) unused(c *catalog, before time.Time, keep func(Image) bool) []digest.Digest {
	var out []digest.Digest
	at := map[digest.Digest]time.Time{}
	for m := range c.images {
		at[m] = s.usedAt(m)
		if len(s.heldBy(m)) > 0 || at[m].After(before) || keep != nil && keep(c.image(m)) {
			continue
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b digest.Digest) int { return at[a].Compare(at[b]) })
	return out
}
