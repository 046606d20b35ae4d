package image

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A tree that was written in a boot that ended without a sync is unpacked again; one of this boot is kept, and its sync is
// noted in the end.
func TestTreesOfAnotherBootAreUnpackedAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("unpacking needs root")
	}
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	img := load(t, s, busyboxArchive(t, "web:1"))
	trees, err := s.Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := readLayerMeta(trees[0])
	if err != nil || meta.Boot != bootID() {
		t.Fatalf("meta %+v, %v; want this boot", meta, err)
	}
	s.Close()

	s, err = Open(Config{Dir: dir}) // the agent crashed, the kernel did not
	if err != nil {
		t.Fatal(err)
	}
	if !isUnpacked(trees[0]) {
		t.Error("a restart of the agent cost an unpacked tree")
	}
	before := inode(t, trees[0])
	if _, err := s.Layers(t.Context(), img); err != nil || inode(t, trees[0]) != before {
		t.Errorf("a tree that is whole was not kept: %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if meta, err := readLayerMeta(trees[0]); err == nil && meta.Boot == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the sync of a tree was never noted")
		}
	}
	s.Close()

	raw := `{"boot":"` + strings.Repeat("0", 36) + `"}`
	if err := os.WriteFile(trees[0]+".json", []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trees[1]+".json", nil, 0o600); err != nil { // as a power cut leaves it
		t.Fatal(err)
	}
	s, err = Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tree := range trees {
		if isUnpacked(tree) || isDir(tree) {
			t.Errorf("%s of another boot is still there", filepath.Base(tree))
		}
	}
	if _, err := s.Layers(t.Context(), img); err != nil {
		t.Error(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// What a power cut may do to a tree whose boot goes on all the same (a file system shut down under its kernel, a machine
// restored from a snapshot) is found before anybody runs from it; and so is what a disk does later to a tree that was synced.
func TestDamagedTreesAreUnpackedAgain(t *testing.T) {
	needRoot(t)
	damages := map[string]func(t *testing.T, tree string){
		"a file is empty":    func(t *testing.T, tree string) { must(t, os.Truncate(filepath.Join(tree, "bin/busybox"), 0)) },
		"a file is missing":  func(t *testing.T, tree string) { must(t, os.Remove(filepath.Join(tree, "bin/busybox"))) },
		"a mode is another":  func(t *testing.T, tree string) { must(t, os.Chmod(filepath.Join(tree, "bin/busybox"), 0o600)) },
		"everything is gone": func(t *testing.T, tree string) { must(t, os.RemoveAll(filepath.Join(tree, "bin"))) },
	}
	for _, settled := range []bool{false, true} {
		dir := t.TempDir()
		s := openAt(t, dir)
		img := load(t, s, busyboxArchive(t, "web:1"))
		trees, err := s.Layers(t.Context(), img)
		must(t, err)
		if settled {
			s.settle(trees)
		}
		for what, damage := range damages {
			must(t, s.Close())
			damage(t, trees[0])
			s = openAt(t, dir)
			again, err := s.Layers(t.Context(), img)
			if err != nil {
				t.Fatalf("%s, settled %v: %v", what, settled, err)
			}
			if fi, err := os.Stat(filepath.Join(again[0], "bin/busybox")); err != nil || fi.Size() == 0 || fi.Mode() != 0o755 {
				t.Errorf("%s, settled %v: served as it was: %v %v", what, settled, fi, err)
			}
			leftovers(t, s)
			if settled {
				s.settle(trees)
			}
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
