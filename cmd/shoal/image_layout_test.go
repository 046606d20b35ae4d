package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"shoal/runtime/image"
)

func TestALayoutInADirectoryLoads(t *testing.T) {
	var archive bytes.Buffer
	if err := image.WriteArchive(&archive, "web:1", image.RunConfig{Cmd: []string{"x"}}, image.Tree{{Path: "/f", Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for tr := tar.NewReader(&archive); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := layoutArchive(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := image.Open(image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	images, err := s.Load(t.Context(), r, image.LoadOptions{})
	if err != nil || len(images) != 1 || images[0].Names[0] != "docker.io/library/web:1" {
		t.Errorf("loaded %v, %v", images, err)
	}
	if _, err := layoutArchive(t.TempDir()); err == nil {
		t.Error("an empty directory was taken for a layout")
	}
}
