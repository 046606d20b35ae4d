//go:build linux

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/runtime/step/disk"
)

// Whatever bit of the store's files flips, and wherever one of them ends early: it is seen and said, no peer gets a wrong
// byte, no name means another image, and what a container runs from is whole again after a fetch. One thing takes Verify to be
// seen: bytes of an unpacked file that keeps its size.
func TestFlippedBitsAndCutFilesOfAStore(t *testing.T) {
	needRoot(t)
	seed := seedOf(t)
	flips, cuts := countOf(t, "SHOAL_TEST_FLIPS", 250), countOf(t, "SHOAL_TEST_TRUNCATIONS", 100)
	pristine := newBed(t, filepath.Join(disk.InMemory(t), "store"))
	want := pristine.furnish()
	work := disk.InMemory(t)
	quiet := 0
	for n := range flips + cuts {
		r := rand.New(rand.NewPCG(seed+uint64(n), 8))
		b := newBedOf(pristine, filepath.Join(work, fmt.Sprint(n)))
		must(t, exec.Command("cp", "-a", pristine.dir, b.dir).Run())
		how, hidden := b.damage(r, n >= flips)
		if b.survives(fmt.Sprintf("seed %d: %s", seed+uint64(n), how), want, hidden) {
			quiet++
		}
		must(t, os.RemoveAll(b.dir))
	}
	t.Logf("%d flips and %d truncations; %d of them were in bytes of unpacked files, which take a look at all of it", flips, cuts, quiet)
}

func newBedOf(b *bed, dir string) *bed {
	c := *b
	c.dir = dir
	return &c
}

// furnish fills a store, and returns the seals of its trees.
func (b *bed) furnish() map[string]seal {
	b.Helper()
	s, err := b.open(false)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range 3 {
		if _, err := s.Load(context.Background(), bytes.NewReader(b.pool[i].archive), LoadOptions{Name: fmt.Sprint("n", i), Unpack: true}); err != nil {
			b.Fatal(err)
		}
		if err := b.useImage(context.Background(), s, fmt.Sprint("n", i)); err != nil {
			b.Fatal(err)
		}
	}
	return b.seals(s)
}

// seals settles what is there and returns how.
func (b *bed) seals(s *Store) map[string]seal {
	trees, _ := filepath.Glob(filepath.Join(s.layerDir(), "*.json"))
	for i := range trees {
		trees[i] = strings.TrimSuffix(trees[i], ".json")
	}
	s.settle(trees)
	out := map[string]seal{}
	for _, tree := range trees {
		meta, err := readLayerMeta(tree)
		if err != nil || meta.Content == "" {
			b.Fatalf("%s is not sealed: %+v %v", tree, meta, err)
		}
		out[filepath.Base(tree)] = meta.seal
	}
	return out
}

// damage flips a bit of a file, or cuts it. Each kind of file is as likely. hidden: it is in what only Verify reads.
func (b *bed) damage(r *rand.Rand, cut bool) (how string, hidden bool) {
	kinds := map[int][]string{}
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" {
			return err
		}
		if fi, err := d.Info(); err != nil || fi.Size() == 0 {
			return err
		}
		rel, _ := filepath.Rel(b.dir, path)
		kind := 0 // catalog
		switch depth := strings.Count(rel, "/"); {
		case strings.HasPrefix(rel, "blobs/"):
			kind = 1
		case depth == 2: // layers/sha256/<diffid>.json
			kind = 2
		case depth > 2:
			kind = 3
		}
		kinds[kind] = append(kinds[kind], rel)
		return nil
	})
	must(b, err)
	kind := r.IntN(4)
	files := kinds[kind]
	rel := files[r.IntN(len(files))]
	path := filepath.Join(b.dir, rel)
	raw, err := os.ReadFile(path)
	must(b, err)
	fi, err := os.Stat(path)
	must(b, err)
	if cut {
		size := r.IntN(len(raw))
		must(b, os.Truncate(path, int64(size)))
		must(b, os.Chtimes(path, fi.ModTime(), fi.ModTime())) // a disk does not
		return fmt.Sprintf("%s cut from %d to %d bytes", rel, len(raw), size), false
	}
	at, bit := r.IntN(len(raw)), r.IntN(8)
	if kind == 2 && bit == 5 { // a key in capitals is the same key to Go
		bit = 4
	}
	raw[at] ^= 1 << bit
	must(b, os.WriteFile(path, raw, 0))
	must(b, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	return fmt.Sprintf("%s, bit %d of byte %d of %d", rel, bit, at, len(raw)), kind == 3
}

// survives checks everything that a damaged store may still do; true: only Verify saw the damage, which is right for unpacked layers.
func (b *bed) survives(what string, want map[string]seal, hidden bool) (quiet bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var said bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := b.open(false)
	if err != nil {
		b.Fatalf("%s: it does not open: %v", what, err)
	}
	defer s.Close()
	b.servesNothingWrong(what, s)
	for i := range 3 {
		name := fmt.Sprintf("docker.io/library/n%d:latest", i)
		img, err := s.Get(name)
		if errors.Is(err, ErrNotFound) { // as the runtime does: it asks peers
			img, err = s.Fetch(ctx, &source{pool: b.pool, name: i}, name)
		}
		if err == nil {
			err = s.Heal(ctx, img, b.healer(s))
		}
		if err == nil && !hidden {
			err = b.useImage(ctx, s, name)
		}
		if img.Manifest != b.pool[i].manifest || err != nil {
			b.Fatalf("%s: %s means %s, %v", what, name, img.Manifest, err)
		}
	}
	quiet = said.Len() == 0
	found, err := s.Verify(ctx, b.healer(s))
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
	for _, d := range found.Damaged {
		if !d.Repaired || d.Reason == "" {
			b.Fatalf("%s: not repaired: %+v", what, d)
		}
	}
	if quiet && len(found.Damaged) == 0 {
		b.Fatalf("%s: nobody saw it", what)
	}
	if quiet && found.Damaged[0].Part != "unpacked layer" { // its bytes, or the seal of them
		b.Fatalf("%s: only Verify saw it: %+v", what, found.Damaged)
	}
	for i := range 3 {
		if err := b.useImage(ctx, s, fmt.Sprint("n", i)); err != nil {
			b.Fatalf("%s: %v", what, err)
		}
	}
	if got := b.seals(s); !maps.Equal(got, want) {
		b.Fatalf("%s: trees are %v, were %v", what, got, want)
	}
	if found, err := s.Verify(ctx, nil); err != nil || len(found.Damaged) > 0 {
		b.Fatalf("%s: after the repair: %+v %v", what, found.Damaged, err)
	}
	return quiet
}

// servesNothingWrong asks the store as a peer does. It may have nothing; what it has is right.
func (b *bed) servesNothingWrong(what string, s *Store) {
	b.Helper()
	ask := func(path string) []byte {
		defer func() {
			if r := recover(); r != nil && r != http.ErrAbortHandler {
				panic(r)
			}
		}()
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK {
			return nil
		}
		return w.Body.Bytes()
	}
	for i, p := range b.pool[:3] {
		if got := ask(fmt.Sprintf("/v2/n%d/manifests/latest", i)); got != nil && !bytes.Equal(got, p.blobs[p.manifest]) {
			b.Fatalf("%s: a peer gets a wrong manifest for image %d", what, i)
		}
		for d, want := range p.blobs {
			if got := ask("/v2/any/blobs/" + string(d)); got != nil && !bytes.Equal(got, want) {
				b.Fatalf("%s: a peer gets %d wrong bytes as %s", what, len(got), d)
			}
		}
	}
	if list, err := s.List(); err != nil || slices.ContainsFunc(list, func(i Image) bool { return len(i.Names) > 1 }) {
		b.Fatalf("%s: %v, %v", what, list, err)
	}
}

// A shoal from before there were sums may have written the catalog since: it counts, and not the copy of ours, which it did not
// know. The same without what makes it one of then is damage.
func TestCatalogOfAnOlderVersionCounts(t *testing.T) {
	needRoot(t)
	b := newBed(t, filepath.Join(disk.InMemory(t), "store"))
	b.furnish()
	path, second := filepath.Join(b.dir, "index.json"), filepath.Join(b.dir, catalogCopy)
	sealed, err := os.ReadFile(path)
	must(t, err)
	images := func() int {
		s, err := b.open(false)
		must(t, err)
		defer s.Close()
		list, err := s.List()
		must(t, err)
		return len(list)
	}
	for _, c := range []struct {
		name, index string
		want        int
	}{
		{"an older version's", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`, 0},
		{"annotations under another name", `{"schemaVersion":2,"manifests":[],"annotatiofs":{"shoal.sum":"0"}}`, 3},
		{"a sum under another name", `{"schemaVersion":2,"manifests":[],"annotations":{"shoal.sul":"0"}}`, 3},
	} {
		must(t, os.WriteFile(path, []byte(c.index), 0o600))
		must(t, os.WriteFile(second, sealed, 0o600))
		if got := images(); got != c.want {
			t.Errorf("%s: %d images, want %d", c.name, got, c.want)
		}
		one, _ := os.ReadFile(path)
		two, _ := os.ReadFile(second)
		if !bytes.Equal(one, two) || !bytes.Contains(one, []byte(annotationSum)) {
			t.Errorf("%s: the catalog and its copy differ afterwards, or have no sum:\n%s\n%s", c.name, one, two)
		}
	}
}
