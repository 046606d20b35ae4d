package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestRemoveAndPruneSpareWhatIsUsed(t *testing.T) {
	s := open(t)
	img := load(t, s, ociArchive(t, "web:1", plain(tarOf(t, file("f", "1")))))
	if err := s.Tag("web:1", "web:2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold("web:1", "container-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(img.ID.String()); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "container-1") {
		t.Fatalf("remove of a held image: %v", err)
	}
	for _, n := range []string{"web:1", "web:2"} {
		if err := s.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
	none := PrunePolicy{Grace: -1}
	if freed, err := s.Prune(t.Context(), none); err != nil || len(freed.Images)+freed.Blobs != 0 {
		t.Fatalf("prune took a held image: %+v, %v", freed, err)
	}
	if os.Geteuid() == 0 {
		if _, err := s.Layers(t.Context(), img); err != nil {
			t.Fatal(err)
		}
	}
	s.Release("container-1")
	if freed, err := s.Prune(t.Context(), PrunePolicy{}); err != nil || len(freed.Images)+freed.Blobs != 0 {
		t.Fatalf("prune within the grace: %+v, %v", freed, err)
	}
	dry, err := s.Prune(t.Context(), PrunePolicy{Grace: -1, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(img.ID.String()); err != nil {
		t.Fatalf("a dry run deleted: %v", err)
	}
	freed, err := s.Prune(t.Context(), none)
	if err != nil || len(freed.Images) != 1 || freed.Blobs != 3 || freed.Bytes != dry.Bytes || freed.Blobs != dry.Blobs || freed.Layers != dry.Layers {
		t.Fatalf("freed %+v, the dry run said %+v, %v", freed, dry, err)
	}
	for _, d := range []string{s.blobDir(), s.layerDir(), s.tmpDir()} {
		if files, _ := os.ReadDir(d); len(files) > 0 {
			t.Errorf("%s still holds %v", d, files)
		}
	}
}

func TestRemoveLeavesSharedLayers(t *testing.T) {
	s := open(t)
	base := plain(tarOf(t, file("base", "1")))
	load(t, s, ociArchive(t, "a", base, plain(tarOf(t, file("a", "1")))))
	b := load(t, s, ociArchive(t, "b", base, plain(tarOf(t, file("b", "1")))))
	if err := s.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a: %v", err)
	}
	files, _ := os.ReadDir(s.blobDir())
	if len(files) != 4 {
		t.Errorf("%d blobs left, want the 4 of b", len(files))
	}
	if err := s.Save(t.Context(), io.Discard, "b"); err != nil {
		t.Errorf("b %s: %v", b.Manifest, err)
	}
}

func TestPruneBesideWorkLosesNothing(t *testing.T) {
	s := open(t)
	archive := ociArchive(t, "x:1", gzipped(tarOf(t, file("f", "1"))), plain(tarOf(t, file("g", "1"))))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				if _, err := s.Prune(context.Background(), PrunePolicy{Grace: -1}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 20 {
		img := load(t, s, archive)
		if os.Geteuid() == 0 {
			if _, err := s.Layers(t.Context(), img); err != nil {
				t.Error(err)
			}
		}
		if err := s.Save(t.Context(), io.Discard, "x:1"); err != nil {
			t.Error(err)
		}
		if err := s.Remove("x:1"); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestBombIsStopped(t *testing.T) {
	zeros := make([]byte, 64<<20)
	for format, bomb := range map[string][]byte{"gzip": gzipped(zeros).stored, "zstd": zstded(zeros).stored} {
		in, err := inflate(bytes.NewReader(bomb), MaxUnpackedLayerSize)
		if err != nil {
			t.Fatal(err)
		}
		in.floor = 1 << 20
		n, err := io.Copy(io.Discard, in)
		if !errors.Is(err, ErrInvalid) || n > 32<<20 {
			t.Errorf("%s: %d bytes inflated to %d: %v", format, len(bomb), n, err)
		}
		in.Close()
		if in, err = inflate(bytes.NewReader(bomb), 1<<19); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, in); !errors.Is(err, ErrInvalid) || n > 1<<19 {
			t.Errorf("%s: %d bytes over a limit of %d: %v", format, n, 1<<19, err)
		}
		in.Close()
	}
}

func TestDirectoryBecomesALayer(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	for name, mode := range map[string]os.FileMode{"bin/su": 0o755 | os.ModeSetuid, "etc/passwd": 0o644} {
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("su", filepath.Join(src, "bin/sudo")); err != nil {
		t.Fatal(err)
	}
	tree, err := DirTree(src)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t)
	dirs, err := s.Layers(t.Context(), load(t, s, archiveOf(t, "dir", RunConfig{}, tree)))
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dirs[0], "bin/sudo"))
	if err != nil || fi.Mode() != 0o755|os.ModeSetuid {
		t.Errorf("bin/sudo leads to %v, %v", fi, err)
	}
	if b, err := os.ReadFile(filepath.Join(dirs[0], "etc/passwd")); string(b) != "etc/passwd" {
		t.Errorf("etc/passwd is %q, %v", b, err)
	}
}

func TestStoreIsAnOCILayoutThatOthersRead(t *testing.T) {
	s := open(t)
	want := load(t, s, ociArchive(t, "web:1", gzipped(tarOf(t, file("f", "x")))))
	path, err := layout.FromPath(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(want.Manifest.String())
	if err != nil {
		t.Fatal(err)
	}
	img, err := idx.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}

func TestStoreIsClosedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	openAt(t, dir)
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second store on the directory: %v", err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}
