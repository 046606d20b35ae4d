//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// withoutWhiteoutsBehindLinks names an image for umoci to unpack: x, or x less the whiteouts below what their own layer has as
// a link. `umoci repack` writes these for what was in a directory that became a link, where the link alone says it, and `umoci
// unpack` then follows the link and deletes what has the same names where it leads: what it unpacks is not what it packed.
// Whiteouts mean lower layers' paths, in whatever order entries come (image specification, "Whiteouts"), and in lower layers
// there was a directory. Docker and containerd would follow a link that comes first as well, but write no such layers.
func withoutWhiteoutsBehindLinks(t *testing.T, layout string) string {
	var layers [][]byte
	changed := false
	for _, layer := range layersInLayout(t, layout) {
		less := lessWhiteoutsBehindLinks(t, layer)
		changed = changed || less != nil
		if less == nil {
			less = layer
		}
		layers = append(layers, less)
	}
	if !changed {
		return "x"
	}
	runTool(t, "umoci", "new", "--image", layout+":less")
	for _, layer := range layers {
		path := filepath.Join(filepath.Dir(layout), "less.tar")
		if err := os.WriteFile(path, layer, 0o600); err != nil {
			t.Fatal(err)
		}
		runTool(t, "umoci", "raw", "add-layer", "--image", layout+":less", path)
	}
	return "less"
}

// layersInLayout reads the layers of image x, each a tar.
func layersInLayout(t *testing.T, layout string) (layers [][]byte) {
	t.Helper()
	type descriptor struct {
		Digest      string
		Annotations map[string]string
	}
	var index struct{ Manifests []descriptor }
	var manifest struct{ Layers []descriptor }
	parse := func(name string, into any) {
		raw, err := os.ReadFile(filepath.Join(layout, name))
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	parse("index.json", &index)
	at := slices.IndexFunc(index.Manifests, func(d descriptor) bool { return d.Annotations["org.opencontainers.image.ref.name"] == "x" })
	parse(blob(index.Manifests[at]), &manifest)
	for _, l := range manifest.Layers {
		raw, err := os.ReadFile(filepath.Join(layout, blob(l)))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, raw)
	}
	return layers
}

// lessWhiteoutsBehindLinks is a layer without whiteouts below what it has as a link, nil if it has none.
func lessWhiteoutsBehindLinks(t *testing.T, layer []byte) []byte {
	t.Helper()
	var entries []tarEntry
	links := map[string]bool{}
	tr := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntry{*h, string(body)})
		links[filepath.Clean(h.Name)] = h.Typeflag == tar.TypeSymlink
	}
	kept := slices.DeleteFunc(slices.Clone(entries), func(e tarEntry) bool {
		dirName, base := splitName(filepath.Clean(e.Name))
		if !strings.HasPrefix(base, whiteoutPrefix) {
			return false
		}
		for ; dirName != ""; dirName, _ = splitName(dirName) {
			if links[dirName] {
				return true
			}
		}
		return false
	})
	if len(kept) == len(entries) {
		return nil
	}
	return writeTar(kept)
}
