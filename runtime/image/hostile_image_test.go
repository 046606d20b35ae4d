//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step/disk"
)

// archiveFiles are the files of an image archive by name.
func archiveFiles(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(b)
	}
}

// edited is a valid archive with one thing wrong.
type edited struct {
	t     *testing.T
	files map[string]string
}

// manifest is the only image manifest's name.
func (e *edited) manifest() string {
	var idx struct {
		Manifests []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal([]byte(e.files["index.json"]), &idx); err != nil {
		e.t.Fatal(err)
	}
	return archivePath(idx.Manifests[0].Digest)
}

// change replaces text in the manifest and makes the index name the result.
func (e *edited) change(f func(m map[string]any)) {
	name := e.manifest()
	var m map[string]any
	if err := json.Unmarshal([]byte(e.files[name]), &m); err != nil {
		e.t.Fatal(err)
	}
	f(m)
	raw, err := json.Marshal(m)
	if err != nil {
		e.t.Fatal(err)
	}
	e.setManifest(string(raw))
}

func (e *edited) setManifest(raw string) {
	old := strings.TrimPrefix(e.manifest(), "blobs/sha256/")
	d := digest.FromString(raw)
	delete(e.files, "blobs/sha256/"+old)
	delete(e.files, "manifest.json")
	e.files[archivePath(d)] = raw
	index := strings.ReplaceAll(e.files["index.json"], old, d.Encoded())
	var idx map[string]any
	if err := json.Unmarshal([]byte(index), &idx); err != nil {
		e.t.Fatal(err)
	}
	idx["manifests"].([]any)[0].(map[string]any)["size"] = len(raw)
	b, _ := json.Marshal(idx)
	e.files["index.json"] = string(b)
}

func (e *edited) tar(extra ...tarEntry) []byte {
	var entries []tarEntry
	for _, name := range slices.Sorted(maps.Keys(e.files)) {
		entries = append(entries, file(name, e.files[name]))
	}
	return hostileTar(append(entries, extra...))
}

func first(m map[string]any, key string) map[string]any { return m[key].([]any)[0].(map[string]any) }

// hostileArchives are image archives with lies in them; all must be refused, or be harmless.
func hostileArchives(t *testing.T, valid []byte, out string) map[string][]byte {
	all := map[string][]byte{}
	add := func(name string, f func(e *edited) []tarEntry) {
		e := &edited{t, archiveFiles(t, valid)}
		all[name] = e.tar(f(e)...)
	}
	digests := map[string]string{
		"climbing": "sha256:../../../../canary/file", "absolute": "sha256:" + out + "/file", "empty": "", "no algorithm": strings.Repeat("a", 64),
		"upper case": "sha256:" + strings.Repeat("A", 64), "too short": "sha256:abcd", "too long": "sha256:" + strings.Repeat("a", 65),
		"other algorithm": "sha512:" + strings.Repeat("a", 128), "unknown algorithm": "../x:" + strings.Repeat("a", 64), "zero byte": "sha256:\x00" + strings.Repeat("a", 63),
		"white space": " sha256:" + strings.Repeat("a", 64), "wrong": "sha256:" + strings.Repeat("a", 64),
	}
	for kind, d := range digests {
		add("layer digest "+kind, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { first(m, "layers")["digest"] = d })
			return nil
		})
		add("config digest "+kind, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { m["config"].(map[string]any)["digest"] = d })
			return nil
		})
		add("manifest digest "+kind, func(e *edited) []tarEntry {
			delete(e.files, "manifest.json")
			raw, _ := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"mediaType": imageTypes[0], "digest": d, "size": 10}}})
			e.files["index.json"] = string(raw)
			return nil
		})
		add("docker config "+kind, func(e *edited) []tarEntry {
			delete(e.files, "index.json")
			raw, _ := json.Marshal([]any{map[string]any{"Config": d, "Layers": []string{d}, "RepoTags": []string{"x:1"}}})
			e.files["manifest.json"] = string(raw)
			return nil
		})
	}
	for kind, size := range map[string]any{"short": 1, "long": 1 << 30, "negative": -1, "huge": int64(1) << 60, "text": "12", "fraction": 1.5} {
		add("layer size "+kind, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { first(m, "layers")["size"] = size })
			return nil
		})
		add("config size "+kind, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { m["config"].(map[string]any)["size"] = size })
			return nil
		})
	}
	for _, mt := range []string{"", "text/html", indexTypes[0], indexTypes[1], "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.docker.distribution.manifest.v1+json"} {
		add("manifest media type "+mt, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { m["mediaType"] = mt })
			return nil
		})
		add("layer media type "+mt, func(e *edited) []tarEntry {
			e.change(func(m map[string]any) { first(m, "layers")["mediaType"] = mt })
			return nil
		})
	}
	raws := map[string]string{
		"both kinds": `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, "schema 1": `{"schemaVersion":1,"fsLayers":[]}`, "null": `null`,
		"list": `[]`, "text": `x`, "nested": strings.Repeat("[", 100_000), "empty": ``, "no layers": `{"schemaVersion":2,"config":null,"layers":null}`,
		"twice": `{"schemaVersion":2,"layers":[],"layers":[{}],"config":{}}`, "many layers": `{"schemaVersion":2,"config":{},"layers":[` + strings.Repeat(`{},`, 5000) + `{}]}`,
	}
	for kind, raw := range raws {
		add("manifest of "+kind, func(e *edited) []tarEntry { e.setManifest(raw); return nil })
		add("index of "+kind, func(e *edited) []tarEntry { e.files["index.json"] = raw; return nil })
		add("docker manifest of "+kind, func(e *edited) []tarEntry { delete(e.files, "index.json"); e.files["manifest.json"] = raw; return nil })
	}
	for kind, name := range map[string]string{"climbing": "../../canary/file", "absolute": out + "/file", "url": "http://x/y", "dots": "..", "long": strings.Repeat("x", 3000), "empty tag": "x:", "spaces": "a b"} {
		add("image name "+kind, func(e *edited) []tarEntry {
			delete(e.files, "index.json")
			e.files["manifest.json"] = strings.Replace(e.files["manifest.json"], `"RepoTags":[`, fmt.Sprintf(`"RepoTags":[%q,`, name), 1)
			return nil
		})
	}
	links := map[string][]tarEntry{
		"blob is a link outside":    {symlink("blobs/sha256/"+strings.Repeat("a", 64), out+"/file")},
		"index is a link outside":   {symlink("index.json", out+"/file")},
		"manifest is a hard link":   {hardlink("manifest.json", out+"/file")},
		"links in a circle":         {symlink("a", "b"), symlink("b", "a")},
		"blobs is a link":           {symlink("blobs", out), file("blobs/sha256/x", "x")},
		"device":                    {node("index.json", tar.TypeBlock, 8, 0)},
		"files outside":             {file("../../canary/file", "x"), file(out+"/file", "x")},
		"file after the index":      {file("index.json", "{}")},
		"a layer that is no layer":  {file("x.tar", string(make([]byte, 4096)))},
		"a layer nobody asked for":  {file("y.tar", string(tarOf(t, symlink("l", out), file("l/escaped", "x"))))},
		"a bomb nobody asked for":   {file("z.tar", string(gzipped(tarOf(t, file("f", strings.Repeat("\x00", 32<<20)))).stored))},
		"a gzip that breaks":        {file("g.tar", "\x1f\x8b\x08\x00nonsense")},
		"a zstd that breaks":        {file("g.tar", "\x28\xb5\x2f\xfdnonsense")},
		"a zstd of a giant window":  {file("g.tar", "\x28\xb5\x2f\xfd\x00\xf8\x00\x00\x00")},
		"an archive in the archive": {file("in.tar", string(valid))},
	}
	for name, extra := range links {
		add(name, func(*edited) []tarEntry { return extra })
	}
	return all
}

// No archive of lies makes the store touch anything outside of its directory, or leaves half of an image in it.
func TestHostileArchivesTouchNothing(t *testing.T) {
	needRoot(t)
	base := disk.InMemory(t)
	c := newCanary(t, base)
	before := look(t, c.root)
	s, err := Open(Config{Dir: filepath.Join(base, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	valid := ociArchive(t, "good:1", gzipped(tarOf(t, dir("d", 0o755), file("d/f", "x"))), zstded(tarOf(t, file("g", "y"))))
	all := hostileArchives(t, valid, c.root)
	refused := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] == nil {
			continue
		}
		begun := time.Now()
		images, err := s.Load(t.Context(), bytes.NewReader(all[name]), LoadOptions{Unpack: true})
		if took := time.Since(begun); took > hostileTime {
			t.Errorf("%s: took %v", name, took)
		}
		if err != nil {
			refused++
		}
		for _, img := range images { // what was taken must be whole
			if _, err := s.Layers(t.Context(), img); err != nil {
				t.Errorf("%s: taken, but %v", name, err)
			}
			if err := s.Remove(string(img.ID)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if after := look(t, c.root); after != before {
			t.Fatalf("%s (%v) changed what is outside:\n%s\nbefore:\n%s", name, err, after, before)
		}
		leftovers(t, s)
		if left, _ := os.ReadDir(s.layerDir()); len(left) != 0 {
			t.Fatalf("%s (%v) left %v", name, err, left)
		}
	}
	t.Logf("%d hostile archives: %d refused", len(all), refused)
}
