//go:build linux

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/runtime/step"
	"shoal/runtime/step/disk"
)

// What the crash tests share: a pool of images, a script of operations that a seed gives, a process that carries it out and
// notes what was acknowledged, and a judge of what the next process finds.

// pooled is one image of the pool, as an archive and as a source has it.
type pooled struct {
	manifest digest.Digest
	archive  []byte
	blobs    map[digest.Digest][]byte
}

const poolSize = 5

// makePool builds images that share a base layer, some with a directory that takes its attributes from below.
func makePool(t testing.TB) (pool []pooled) {
	noise := make([]byte, 300<<10) // more than syncAhead
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	base := plain(tarOf(t, dir("etc/", 0o755), file("etc/base", "base"), dir("srv/", 0o750), file("srv/noise", string(noise))))
	for i := range poolSize {
		top := []tarEntry{file("id", fmt.Sprint(i)), file(".wh.gone", ""), symlink("link", "etc/base")}
		if i%2 == 1 {
			top = append(top, file("srv/of", "srv is described by the base alone"))
		}
		layers := []layerBlob{base, gzipped(tarOf(t, top...))}
		c := configFile{Platform: ocispec.Platform{OS: "linux", Architecture: goruntime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
		p := pooled{blobs: map[digest.Digest][]byte{}}
		var descs []ocispec.Descriptor
		var blobs []blobSource
		for _, l := range layers {
			d := digest.FromBytes(l.stored)
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l.tar))
			descs = append(descs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(l.stored))})
			blobs = append(blobs, bytesBlob(l.stored))
			p.blobs[d] = l.stored
		}
		p.archive = layoutOf(t, "", c, descs, blobs)
		config, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := manifestOf(config, descs)
		if err != nil {
			t.Fatal(err)
		}
		p.manifest = digest.FromBytes(manifest)
		p.blobs[digest.FromBytes(config)], p.blobs[p.manifest] = config, manifest
		pool = append(pool, p)
	}
	return pool
}

// source serves the pool. Each layer's first stream breaks in the middle.
type source struct {
	pool   []pooled
	name   int // the image that any name means
	breaks map[string]bool
}

func (s *source) Manifest(_ context.Context, ref string) (string, []byte, error) {
	p := s.pool[s.name]
	if d := digest.Digest(ref[strings.LastIndexByte(ref, '@')+1:]); checkDigest(d) == nil {
		for _, q := range s.pool {
			if q.manifest == d {
				p = q
			}
		}
	}
	return ocispec.MediaTypeImageManifest, p.blobs[p.manifest], nil
}

func (s *source) Blob(ctx context.Context, d string) (io.ReadCloser, error) {
	return s.BlobFrom(ctx, d, 0)
}

func (s *source) BlobFrom(_ context.Context, d string, offset int64) (io.ReadCloser, error) {
	for _, p := range s.pool {
		b, ok := p.blobs[digest.Digest(d)]
		if !ok {
			continue
		}
		b = b[offset:]
		if s.breaks != nil && !s.breaks[d] && len(b) > 64 {
			s.breaks[d] = true
			return io.NopCloser(io.MultiReader(bytes.NewReader(b[:len(b)/2]), readerFunc(func([]byte) (int, error) {
				return 0, io.ErrUnexpectedEOF
			}))), nil
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return nil, ErrNotFound
}

// act is one operation of a script.
type act struct {
	Do    string
	Image int
	Name  string // all names are of one repository
	To    string
	Flag  bool
}

func (a act) String() string {
	return fmt.Sprintf("%s(image %d, %s, %s, %v)", a.Do, a.Image, a.Name, a.To, a.Flag)
}

var actKinds = []string{"load", "load", "fetch", "fetch", "layers", "layers", "tag", "remove", "prune", "save", "settle", "reopen", "verify"}

// scriptOf is what a seed means: count operations, each kind about as often.
func scriptOf(seed uint64, count int) []act {
	r := rand.New(rand.NewPCG(seed, 5))
	name := func() string { return fmt.Sprintf("docker.io/library/n%d:latest", r.IntN(6)) }
	var out []act
	for len(out) < count {
		kinds := slices.Clone(actKinds)
		r.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for _, kind := range kinds {
			out = append(out, act{kind, r.IntN(poolSize), name(), name(), r.IntN(2) == 0})
		}
	}
	return out[:count]
}

// names is what a script's operations make of the catalog: which image each name means.
type names map[string]int

func (n names) after(a act) names {
	out := maps.Clone(n)
	if out == nil {
		out = names{}
	}
	switch i, ok := n[a.Name]; a.Do {
	case "load", "fetch":
		out[a.Name] = a.Image
	case "tag":
		if ok {
			out[a.To] = i
		}
	case "remove":
		delete(out, a.Name)
	}
	return out
}

// bed is one store under test.
type bed struct {
	testing.TB
	pool   []pooled
	dir    string // of the store
	helper []string
	log    *slog.Logger
	harmed bool // the test damaged something
	doubts int  // how often an operation was done again
	alone  bool // no children: each begins to count its calls anew, and the same one would fail for ever
}

func newBed(t testing.TB, dir string) *bed {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &bed{TB: t, pool: makePool(t), dir: dir, helper: []string{exe, "unpack-helper"}}
}

func (b *bed) open(child bool) (*Store, error) {
	cfg := Config{Dir: b.dir, Logger: b.log}
	if child && !b.alone {
		cfg.UnpackCommand = b.helper
	}
	return Open(cfg)
}

// do carries one operation out. The store may be another one afterwards. What can fail because of what the script did before
// (no such name, a layer that the test damaged) is no error.
func (b *bed) do(s **Store, a act) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	switch a.Do {
	case "load":
		_, err = (*s).Load(ctx, bytes.NewReader(b.pool[a.Image].archive), LoadOptions{Name: a.Name, Unpack: a.Flag})
	case "fetch":
		src := &source{pool: b.pool, name: a.Image}
		if a.Flag {
			src.breaks = map[string]bool{}
		}
		_, err = (*s).Fetch(ctx, src, a.Name)
	case "layers":
		err = b.useImage(ctx, *s, a.Name)
	case "tag":
		err = (*s).Tag(a.Name, a.To)
	case "remove":
		err = (*s).Remove(a.Name)
	case "prune":
		_, err = (*s).Prune(ctx, PrunePolicy{Grace: -1, Unpacked: a.Flag})
	case "save":
		err = (*s).Save(ctx, io.Discard, a.Name)
	case "settle":
		trees, _ := filepath.Glob(filepath.Join((*s).layerDir(), "*.json"))
		for i := range trees {
			trees[i] = strings.TrimSuffix(trees[i], ".json")
		}
		(*s).settle(trees)
	case "reopen":
		if err = (*s).Close(); err != nil {
			return err
		}
		*s, err = b.open(a.Flag)
		for try := 0; err != nil && try < 20; try++ { // what fails it is injected, and the agent would be started again
			*s, err = b.open(a.Flag)
		}
		return err
	case "verify":
		_, err = (*s).Verify(ctx, b.healer(*s))
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		err = nil
	}
	return err
}

// healer fetches from the pool.
func (b *bed) healer(s *Store) func(context.Context, string) error {
	return func(ctx context.Context, ref string) error {
		_, err := s.Fetch(ctx, &source{pool: b.pool}, ref)
		return err
	}
}

// useImage unpacks an image and reads what is in it, as a container would; a damaged one is fetched again, as the runtime
// does.
func (b *bed) useImage(ctx context.Context, s *Store, ref string) error {
	img, err := s.Get(ref)
	if err != nil {
		return err
	}
	trees, err := s.LayersHealed(ctx, img, b.healer(s))
	if err != nil {
		return err
	}
	return b.inspect(img, trees)
}

// inspect reads every file that matters in an image's trees.
func (b *bed) inspect(img Image, trees []string) error {
	i := slices.IndexFunc(b.pool, func(p pooled) bool { return p.manifest == img.Manifest })
	if i < 0 || len(trees) != 2 {
		return fmt.Errorf("served as %s with %d layers", img.Manifest, len(trees))
	}
	for _, f := range []struct{ path, want string }{{filepath.Join(trees[0], "etc/base"), "base"}, {filepath.Join(trees[1], "id"), strconv.Itoa(i)}} {
		if got, err := os.ReadFile(f.path); err != nil || string(got) != f.want {
			return fmt.Errorf("%s is %q, want %q (%v)", f.path, got, f.want, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(trees[0], "srv/noise")); err != nil || fi.Size() != 300<<10 {
		return fmt.Errorf("noise: %v %v", fi, err)
	}
	if i%2 == 1 {
		if fi, err := os.Stat(filepath.Join(trees[1], "srv")); err != nil || fi.Mode().Perm() != 0o750 {
			return fmt.Errorf("srv does not take after the layer below: %v %v", fi, err)
		}
	}
	if fi, err := os.Lstat(filepath.Join(trees[1], "gone")); err != nil || fi.Mode()&fs.ModeCharDevice == 0 {
		return fmt.Errorf("a whiteout: %v %v", fi, err)
	}
	return nil
}

// now reads which image each name means.
func (b *bed) now(s *Store) names {
	out := names{}
	list, err := s.List()
	if err != nil {
		b.Fatal(err)
	}
	for _, img := range list {
		i := slices.IndexFunc(b.pool, func(p pooled) bool { return p.manifest == img.Manifest })
		for _, name := range img.Names {
			if !strings.Contains(name, "@") {
				out[name] = i
			}
		}
	}
	return out
}

// judge opens the store after a crash. may are the states of the names that are allowed; the one found is returned, or what
// comes of it when again is done, the operation that was in progress.
func (b *bed) judge(what string, again *act, may ...names) names {
	b.Helper()
	s, err := b.open(false)
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	defer func() { s.Close() }()
	b.clean(what+", just opened", s)
	got := b.now(s)
	if !slices.ContainsFunc(may, func(n names) bool { return maps.Equal(n, got) }) {
		b.Fatalf("%s: names mean %v, want one of %v", what, got, may)
	}
	b.whole(what, s)
	if again == nil {
		return got
	}
	if err := b.do(&s, *again); err != nil {
		b.Fatalf("%s: %v cannot be done again: %v", what, again, err)
	}
	want := got.after(*again)
	if got = b.now(s); !maps.Equal(got, want) {
		b.Fatalf("%s, %v done again: names mean %v, want %v", what, again, got, want)
	}
	s.settling.stop()
	b.clean(what+", done again", s)
	if b.doubts++; b.doubts%4 == 0 { // what it changed is whole, too
		b.whole(what+", done again", s)
	}
	return got
}

// whole uses every image and then has everything verified. Only what the test itself damaged may be wrong.
func (b *bed) whole(what string, s *Store) {
	b.Helper()
	list, err := s.List()
	if err != nil {
		b.Fatal(err)
	}
	for _, img := range list {
		if err := b.useImage(context.Background(), s, string(img.Manifest)); err != nil {
			b.Fatalf("%s: %s cannot be used: %v", what, img.Pinned(), err)
		}
	}
	found, err := s.Verify(context.Background(), b.healer(s))
	if err != nil || len(found.Damaged) > 0 && !b.harmed {
		b.Fatalf("%s: %v, %+v", what, err, found.Damaged)
	}
	for _, d := range found.Damaged {
		if !d.Repaired {
			b.Fatalf("%s: not repaired: %+v", what, d)
		}
	}
}

// clean fails if anything is left of what was in progress.
func (b *bed) clean(what string, s *Store) {
	b.Helper()
	files, err := os.ReadDir(s.tmpDir())
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "file-") { // a note of the settler may be on its way
			b.Fatalf("%s: left in tmp: %s", what, f.Name())
		}
	}
}

// swept fails if a prune leaves anything that no image needs, or takes anything that one does.
func (b *bed) swept(what string) {
	b.Helper()
	s, err := b.open(false)
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	s.opened = time.Time{} // the grace of what is set aside is over
	if _, err := s.Prune(context.Background(), PrunePolicy{Grace: -1}); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	need := map[string]bool{}
	for m, e := range s.snapshot().images {
		need[m.Encoded()], need[e.image.ID.Encoded()] = true, true
		for _, l := range e.image.Layers {
			need[l.Digest.Encoded()], need[l.DiffID.Encoded()] = true, true
		}
	}
	for _, in := range []string{s.blobDir(), s.layerDir()} {
		files, err := os.ReadDir(in)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range files {
			if d, ok := digestOfFile(f.Name()); !ok || !need[d.Encoded()] {
				b.Fatalf("%s: nobody needs %s", what, f.Name())
			}
		}
	}
	top, err := os.ReadDir(b.dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range top {
		if !slices.Contains([]string{"lock", "oci-layout", "index.json", catalogCopy, "blobs", "layers", "tmp", "aside"}, f.Name()) {
			b.Fatalf("%s: %s is left", what, f.Name())
		}
	}
	if aside, _ := os.ReadDir(s.asideDir()); len(aside) > 0 {
		b.Fatalf("%s: %d trees are left aside", what, len(aside))
	}
	b.clean(what+", pruned", s)
}

const envVictim = "SHOAL_TEST_IMAGE_VICTIM"

// order is what a victim is told.
type order struct {
	Dir   string
	Acks  string // the file in which operations are acknowledged, not on the disk under test
	Seed  uint64
	Count int
	Child bool   // unpack in a child
	Cut   string // step@pass: the file system goes down there, and the victim with it
	Flag  uint32 // of the shutdown
	Try   int    // how often an operation that fails is tried again; 0: it must not fail
}

// TestCrashVictim is the other process of the crash tests.
func TestCrashVictim(t *testing.T) {
	raw := os.Getenv(envVictim)
	if raw == "" {
		return
	}
	var o order
	must(t, json.Unmarshal([]byte(raw), &o))
	var cut atomic.Bool // the file system is going down: what fails now fails of that, and we are about to be killed
	acks, err := os.OpenFile(o.Acks, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	b := newBed(t, o.Dir)
	b.alone = o.Try > 0
	must(t, step.FromEnv())
	if at, nth, ok := strings.Cut(o.Cut, "@"); ok {
		n, err := strconv.Atoi(nth)
		must(t, err)
		step.Arm(&step.Plan{At: step.Name(at), Nth: n, Act: step.Call, Do: func() error {
			cut.Store(true)
			if o.Seed%2 == 0 { // the kernel may write anything first
				writeOut(filepath.Join(o.Dir, "layers/sha256/*.json"))
			}
			must(t, disk.Cut(o.Dir, o.Flag))
			fmt.Fprintln(acks, "cut")
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}})
	}
	s, err := b.open(o.Child)
	for try := 0; err != nil && try < o.Try; try++ {
		s, err = b.open(o.Child)
	}
	if err != nil && cut.Load() {
		select {}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "open:", err)
		os.Exit(3)
	}
	for i, a := range scriptOf(o.Seed, o.Count) {
		before := b.now(s)
		err := b.do(&s, a)
		for try := 0; err != nil && try < o.Try; try++ {
			b.failed(acks, s, a, err, before)
			err = b.do(&s, a)
		}
		if err != nil && cut.Load() {
			select {}
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "operation %d, %v: %v\n", i, a, err)
			os.Exit(3)
		}
		fmt.Fprintln(acks, "ack", i)
	}
	os.Exit(0)
}

// failed checks an operation that failed by an injected error: it says so clearly, and nothing is half done.
func (b *bed) failed(acks io.Writer, s *Store, a act, err error, before names) {
	fmt.Fprintln(acks, "failed", a.Do, err)
	if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
		fmt.Fprintf(os.Stderr, "%v failed with an error of no kind: %v\n", a, err)
		os.Exit(4)
	}
	if got := b.now(s); a.Do != "reopen" && !maps.Equal(got, before) && !maps.Equal(got, before.after(a)) {
		fmt.Fprintf(os.Stderr, "%v failed half done: names mean %v, before %v\n", a, got, before)
		os.Exit(4)
	}
}

// run starts a victim and returns which operation was in progress when it died, and whether it was killed. prefix is what it
// runs under.
func (b *bed) run(o order, env []string, prefix ...string) (acked int, killed bool, said string) {
	b.Helper()
	_ = os.Remove(o.Acks)
	raw, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	argv := append(slices.Clone(prefix), b.helper[0], "-test.run=^TestCrashVictim$")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), envVictim+"="+string(raw)), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second    // its child may hold the pipe for a moment longer
	out, _ := cmd.CombinedOutput() // how it ended is asked below
	if ctx.Err() != nil {
		b.Fatalf("the victim of %+v hangs: %s", o, out)
	}
	acks, _ := os.ReadFile(o.Acks)
	acked = strings.Count("\n"+string(acks), "\nack ")
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return acked, ws.Signal() == syscall.SIGKILL, string(acks)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		b.Fatalf("the victim of %+v failed: %s", o, out)
	}
	return acked, false, string(acks)
}

// writeOut has the kernel write some files before all others.
func writeOut(pattern string) {
	files, _ := filepath.Glob(pattern)
	for _, name := range files {
		if f, err := os.Open(name); err == nil {
			_ = f.Sync()
			f.Close()
		}
	}
}
