package image

import (
	"os"
	"path/filepath"
	"strings"
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
