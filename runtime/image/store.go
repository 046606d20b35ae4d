package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"shoal/runtime/step"
)

// Config says where and how a store works.
type Config struct {
	// Dir is the store's directory, made if absent, mode 0700: layers hold setuid programs and device nodes that no other
	// user of the machine may reach. One process at a time.
	Dir string
	// Logger gets changes and repairs. Default: discarded.
	Logger *slog.Logger
	// Platform is what to choose from multi-platform images. Default: linux and this program's architecture.
	Platform ocispec.Platform
	// UnpackCommand is the argv of a helper process that calls [UnpackMain], for unpacking hostile archives in a child that
	// its caller has confined. A child costs some 20 ms a layer. Empty: unpack in this process.
	UnpackCommand []string
	// Registries says how to reach registries: mirrors, insecure ones. Default: each by its own name.
	Registries *Registries
}

// Store is one machine's images. Safe for concurrent use. Lock order: writing, then mu.
type Store struct {
	dir      string
	log      *slog.Logger
	platform ocispec.Platform
	unpackBy []string
	closed   atomic.Bool
	lock     *os.File // flock: one process at a time
	layers   *os.File // the directory of trees, for syncTrees

	registries *Registries

	// writing serialises changes of the catalog, its disk write included: the file and the memory must change in one order.
	writing sync.Mutex

	mu      sync.Mutex
	catalog *catalog                         // replaced whole, never edited
	pins    map[digest.Digest]int            // blobs and layers that work in progress needs
	holds   map[string]map[digest.Digest]int // owner -> manifests

	pulls   flights[Image]    // by name: one registry each
	fetches flights[Image]    // by name or digest: from peers
	blobs   flights[struct{}] // by digest
	unpacks flights[struct{}] // by path
	uploads uploads

	settling settler
	opened   time.Time
	used     map[digest.Digest]time.Time // manifests; guarded by mu
	proven   map[string]bool             // trees that this process wrote or looked through; guarded by mu
}

// Open opens the store in cfg.Dir and makes what is missing. Leftovers of a crash are removed; an image whose manifest or
// config does not verify any more is dropped from the catalog with a warning, and can be fetched again.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open image store: no directory given")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{
		dir: dir, log: cfg.Logger, platform: cfg.Platform, unpackBy: slices.Clone(cfg.UnpackCommand),
		pins: map[digest.Digest]int{}, holds: map[string]map[digest.Digest]int{}, registries: cfg.Registries, proven: map[string]bool{},
	}
	if s.registries == nil {
		s.registries = &Registries{}
	}
	s.settling.stopCh, s.opened = make(chan struct{}), time.Now()
	s.fetches.ownErrors, s.blobs.ownErrors = true, true
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.platform.OS == "" {
		s.platform.OS = "linux"
	}
	if s.platform.Architecture == "" {
		s.platform.Architecture = goruntime.GOARCH
	}
	if err := s.lockDir(); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", dir, s.explainSpace(err))
	}
	if err := s.openLocked(); err != nil {
		s.settling.stop()
		s.lock.Close()
		return nil, fmt.Errorf("open image store %s: %w", dir, s.explainSpace(err))
	}
	return s, nil
}

// openLocked brings in order what a crash left, and reads what there is. The order matters: temporary files may be all of
// a full disk's lack.
func (s *Store) openLocked() (err error) {
	if err := errors.Join(step.Reach("open"), s.makeDirs()); err != nil {
		return err
	}
	if s.layers, err = os.Open(s.layerDir()); err != nil {
		return err
	}
	if err := errors.Join(step.Reach("open directories made"), s.sweepUnsettled()); err != nil {
		return err
	}
	if err := s.sweepAside(); err != nil {
		return err
	}
	s.catalog, err = s.readCatalog()
	return errors.Join(err, step.Reach("open catalog read"))
}

// Close ends new work and gives the directory back; what still runs ends by its own context, and the caller should have
// ended it before. Everything is on disk already. Safe to call twice.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.uploads.closeAll()
	s.settling.stop()
	s.layers.Close()
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close image store %s: %w", s.dir, err)
	}
	return nil
}

// lockPatience is how long Open waits for another process to let go of the store.
const lockPatience = 3 * time.Second

// lockDir makes the directory and takes its lock, which the kernel gives back when the process ends, however it ends.
func (s *Store) lockDir() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	// A process that was killed while it forked lives on in its child until that executes something: a moment.
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("another process uses it: %w", err)
	}
	s.lock = f
	return nil
}

func (s *Store) makeDirs() error {
	if err := os.RemoveAll(s.tmpDir()); err != nil {
		return fmt.Errorf("remove half-done files: %w", err)
	}
	for _, d := range []string{s.tmpDir(), s.blobDir(), s.layerDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return os.Chmod(s.dir, 0o700)
}

// Get resolves a name, a manifest or index digest, an image id, or a unique prefix of an id (at least 6 hex digits).
// ErrNotFound if nothing matches; ErrInvalid if ref is malformed or a prefix of several.
func (s *Store) Get(ref string) (Image, error) {
	c := s.snapshot()
	m, err := c.resolve(ref)
	if err != nil {
		return Image{}, err
	}
	return c.image(m), nil
}

// List returns all images, sorted by first name, unnamed ones last by id.
func (s *Store) List() ([]Image, error) {
	c := s.snapshot()
	images := make([]Image, 0, len(c.images))
	for m := range c.images {
		images = append(images, c.image(m))
	}
	slices.SortFunc(images, func(a, b Image) int {
		switch {
		case len(a.Names) > 0 && len(b.Names) > 0:
			return strings.Compare(a.Names[0], b.Names[0])
		case len(a.Names) != len(b.Names):
			return len(b.Names) - len(a.Names)
		}
		return strings.Compare(string(a.Manifest), string(b.Manifest))
	})
	return images, nil
}

// Tag gives the image that ref resolves to another name; a name that belonged to another image moves.
func (s *Store) Tag(ref, name string) error {
	n, err := ParseName(name)
	if err != nil {
		return err
	}
	err = s.change(func(c *catalog) error {
		m, err := c.resolve(ref)
		if err != nil {
			return err
		}
		if d := n.Digest(); d != "" && d != m && d != c.images[m].image.Index {
			return invalidf("%s is not the digest of %s", d, ref)
		}
		c.name(n.String(), m)
		return nil
	})
	if err != nil {
		return fmt.Errorf("tag %s as %s: %w", ref, name, err)
	}
	return nil
}

// Remove takes a name away; an image that has no name left is deleted unless it is held (then Prune deletes it after its
// last holder let go). A ref that is an id or a digest deletes the image with all its names, or fails with ErrInUse.
func (s *Store) Remove(ref string) error {
	var dropped *entry
	err := s.change(func(c *catalog) error {
		if m := c.lostBy(ref); m != "" && c.nameOf(ref) == "" {
			return s.removeLost(c, m, ref)
		}
		m, err := c.resolve(ref)
		if err != nil {
			return err
		}
		names, held := c.namesOf(m), s.heldBy(m)
		if name := c.nameOf(ref); name != "" {
			names = []string{name}
		} else if len(held) > 0 {
			return &kindError{ErrInUse, fmt.Errorf("held by %s: remove these first", strings.Join(held, ", "))}
		}
		for _, name := range names {
			delete(c.names, name)
		}
		if len(held) == 0 && len(c.namesOf(m)) == 0 {
			dropped = c.images[m]
			delete(c.images, m)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	if dropped == nil {
		return nil
	}
	if err := step.Reach("remove decided"); err != nil {
		return err
	}
	// Only what was this image's: other orphans may be a push half way.
	sw := &sweep{s: s, before: time.Now().Add(time.Hour), only: map[digest.Digest]bool{}}
	for _, d := range dropped.everything() {
		sw.only[d] = true
	}
	if _, err := sw.run(context.Background()); err != nil {
		return fmt.Errorf("remove image %s: it is gone, but not all of its files: %w", ref, err)
	}
	return nil
}

// removeLost takes a damaged image's name away, or all of it if ref is its digest. Its files go with the next Prune.
func (s *Store) removeLost(c *catalog, m digest.Digest, ref string) error {
	name := ""
	if n, err := ParseName(ref); err == nil && n.Digest() == "" {
		name = n.String()
	}
	if held := s.heldBy(m); name == "" && len(held) > 0 {
		return &kindError{ErrInUse, fmt.Errorf("held by %s: remove these first", strings.Join(held, ", "))}
	}
	c.forgetLost(m, name)
	return nil
}

// Hold marks the image that ref resolves to as in use by owner (a container id), so that neither Remove nor Prune deletes
// it. An owner may hold several images, one image often. Marks live in memory: they follow from which containers exist,
// and a second record of that on disk could only disagree with the first. The caller makes them again after Open, for
// every container it adopts, before it calls Prune or Remove. An image that is damaged is held all the same, with ErrCorrupt.
func (s *Store) Hold(ref, owner string) (Image, error) {
	// Under writing, so that no Prune is between its decision and its deed.
	s.writing.Lock()
	defer s.writing.Unlock()
	c := s.snapshot()
	m, err := c.resolve(ref)
	lost := c.lostBy(ref)
	if err != nil && lost == "" {
		return Image{}, fmt.Errorf("hold image %s: %w", ref, err)
	}
	if err != nil {
		m = lost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds[owner] == nil {
		s.holds[owner] = map[digest.Digest]int{}
	}
	s.holds[owner][m]++
	if err != nil {
		return Image{}, &kindError{ErrCorrupt, fmt.Errorf("hold image %s: it is held, and damaged on this node's disk: fetch it again", ref)}
	}
	s.useLocked(m)
	return c.image(m), nil
}

// Release ends all holds of owner; none is fine.
func (s *Store) Release(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.holds[owner] {
		s.useLocked(m)
	}
	delete(s.holds, owner)
}

// heldBy lists the owners that hold manifest m, sorted.
func (s *Store) heldBy(m digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var owners []string
	for owner, held := range s.holds {
		if held[m] > 0 {
			owners = append(owners, owner)
		}
	}
	slices.Sort(owners)
	return owners
}

func (s *Store) snapshot() *catalog {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catalog
}
