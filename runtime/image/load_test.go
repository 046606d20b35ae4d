package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/e2e/frugal"
)

func TestDockerSaveArchivesLoad(t *testing.T) {
	img := randomImage(t, goruntime.GOARCH, 2)
	tag, err := name.NewTag("example.org/saved:1")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil { // docker's format, compressed layers
		t.Fatal(err)
	}
	for format, archive := range map[string][]byte{"plain": b.Bytes(), "gzip": gzipped(b.Bytes()).stored, "zstd": zstded(b.Bytes()).stored} {
		s := open(t)
		got := load(t, s, archive)
		id, _ := img.ConfigName()
		if got.ID.String() != id.String() || got.Names[0] != "example.org/saved:1" {
			t.Errorf("%s: loaded %v", format, got)
		}
	}
}

// legacyArchive is docker save's old layout: a directory a layer, the second layer a link to the first.
func legacyArchive(t testing.TB, spoil func(entries map[string]*tarEntry)) []byte {
	layer := tarOf(t, file("f", "x"))
	d := digest.FromBytes(layer)
	config := []byte(`{"architecture":"` + goruntime.GOARCH + `","os":"linux","config":{"Cmd":["x"],"Healthcheck":{"Test":["CMD","true"],"Interval":1000000000}},"rootfs":{"type":"layers","diff_ids":["` + d.String() + `","` + d.String() + `"]}}`)
	cname := digest.FromBytes(config).Encoded() + ".json"
	entries := map[string]*tarEntry{}
	var order []string
	add := func(e tarEntry) { entries[e.Name] = &e; order = append(order, e.Name) }
	add(file("aaa/VERSION", "1.0"))
	add(file("aaa/layer.tar", string(layer)))
	add(symlink("bbb/layer.tar", "../aaa/layer.tar"))
	add(file(cname, string(config)))
	add(file("manifest.json", `[{"Config":"`+cname+`","RepoTags":["old:1","old:2"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]`))
	add(file("repositories", "{}"))
	if spoil != nil {
		spoil(entries)
	}
	var list []tarEntry
	for _, n := range order {
		if e := entries[n]; e != nil {
			list = append(list, *e)
		}
	}
	return tarOf(t, list...)
}

func TestLegacyDockerArchiveKeepsItsLayers(t *testing.T) {
	s := open(t)
	img := load(t, s, legacyArchive(t, nil))
	if len(img.Names) != 2 || len(img.Layers) != 2 || img.Layers[0].Digest != img.Layers[0].DiffID || img.Layers[1].DiffID != img.Layers[0].DiffID {
		t.Errorf("loaded %+v", img)
	}
	if h := img.Config.Healthcheck; h == nil || h.Interval != time.Second || h.Test[1] != "true" {
		t.Errorf("health check is %+v", h)
	}
	if again := load(t, open(t), legacyArchive(t, nil)); again.Manifest != img.Manifest {
		t.Error("two nodes compute two manifests for one archive")
	}
}

func TestBrokenArchivesLoadNothing(t *testing.T) {
	good := ociArchive(t, "good", gzipped(tarOf(t, file("f", strings.Repeat("x", 1000)))))
	lying := func() []byte { // the config's diffID is another tar's
		tar, other := tarOf(t, file("f", "x")), tarOf(t, file("g", "x"))
		return ociArchive(t, "lying", layerBlob{other, gzipped(tar).stored})
	}
	foreign := layoutOf(t, "foreign", configFile{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("x")}}},
		[]ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x"), Size: 1, URLs: []string{"http://127.0.0.1/x"}}}, []blobSource{bytesBlob([]byte("x"))})
	for name, archive := range map[string][]byte{
		"empty":              nil,
		"text":               []byte("this is no archive, whatever its name says"),
		"empty tar":          tarOf(t),
		"tar without images": tarOf(t, file("readme", "x")),
		"cut short":          good[:len(good)/2],
		"cut gzip":           gzipped(good).stored[:len(gzipped(good).stored)-20],
		"wrong diffid":       lying(),
		"foreign layer":      foreign,
		"xz":                 []byte("\xfd7zXZ\x00whatever"),
		"config missing": legacyArchive(t, func(e map[string]*tarEntry) {
			for n := range e {
				if strings.HasSuffix(n, ".json") && n != "manifest.json" {
					delete(e, n)
				}
			}
		}),
		"config changed": legacyArchive(t, func(e map[string]*tarEntry) {
			for n := range e {
				if strings.HasSuffix(n, ".json") && n != "manifest.json" {
					e[n].body = strings.Replace(e[n].body, `"x"`, `"y"`, 1)
				}
			}
		}),
		"layer changed": legacyArchive(t, func(e map[string]*tarEntry) { e["aaa/layer.tar"].body = string(tarOf(t, file("f", "y"))) }),
		"layer missing": legacyArchive(t, func(e map[string]*tarEntry) { delete(e, "aaa/layer.tar") }),
		"link loop":     legacyArchive(t, func(e map[string]*tarEntry) { *e["aaa/layer.tar"] = symlink("aaa/layer.tar", "../bbb/layer.tar") }),
		"link outside":  legacyArchive(t, func(e map[string]*tarEntry) { *e["aaa/layer.tar"] = symlink("aaa/layer.tar", "/etc/passwd") }),
		"config path":   tarOf(t, file("manifest.json", `[{"Config":"../../../../etc/passwd","RepoTags":["x:1"],"Layers":[]}]`)),
		"hostile name":  tarOf(t, file("manifest.json", `[{"Config":"x","RepoTags":["../../x"],"Layers":[]}]`)),
		"index digest":  tarOf(t, file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:../../../../etc/passwd","size":1}]}`)),
	} {
		s := open(t)
		if _, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if images, _ := s.List(); len(images) > 0 {
			t.Errorf("%s: store holds %v", name, images)
		}
		leftovers(t, s)
	}
}

func TestLoadOfManyIsAllOrNothing(t *testing.T) {
	bad := legacyArchive(t, func(e map[string]*tarEntry) {
		m := e["manifest.json"]
		var list []dockerManifest
		if err := json.Unmarshal([]byte(m.body), &list); err != nil {
			t.Fatal(err)
		}
		second := list[0]
		second.RepoTags, second.Layers = []string{"second:1"}, []string{"aaa/layer.tar", "missing"}
		raw, _ := json.Marshal(append(list, second))
		m.body = string(raw)
	})
	s := open(t)
	if _, err := s.Load(t.Context(), bytes.NewReader(bad), LoadOptions{}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("load: %v", err)
	}
	if images, _ := s.List(); len(images) != 0 {
		t.Errorf("half of the archive is visible: %v", images)
	}
}

func TestAnArchiveOfTooManyNamesIsRefused(t *testing.T) {
	named := func(n int) []byte {
		return legacyArchive(t, func(e map[string]*tarEntry) {
			m := e["manifest.json"]
			var list []dockerManifest
			if err := json.Unmarshal([]byte(m.body), &list); err != nil {
				t.Fatal(err)
			}
			list[0].RepoTags = nil
			for i := range n {
				list[0].RepoTags = append(list[0].RepoTags, fmt.Sprintf("x:%d", i))
			}
			raw, _ := json.Marshal(list)
			m.body = string(raw)
		})
	}
	s := open(t)
	if _, err := s.Load(t.Context(), bytes.NewReader(named(MaxArchiveNames+1)), LoadOptions{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "2001 names of images, at most 2000") {
		t.Errorf("one too many: %v", err)
	}
	if images, _ := s.List(); len(images) != 0 {
		t.Errorf("the store holds %d images", len(images))
	}
	if images, err := s.Load(t.Context(), bytes.NewReader(named(MaxArchiveNames)), LoadOptions{}); err != nil || len(images) != 1 || len(images[0].Names) != MaxArchiveNames {
		t.Errorf("as many as may be: %v", err)
	}
}

func TestManifestOfTwoKindsIsRefused(t *testing.T) {
	for _, raw := range []string{
		`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{},"layers":[]}`,
		`{"schemaVersion":1,"fsLayers":[]}`,
		`{"schemaVersion":2}`,
		`[]`,
		strings.Repeat(" ", MaxManifestSize) + `{}`,
	} {
		if _, _, err := classify([]byte(raw), ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.80s: %v", raw, err)
		}
	}
	if _, _, err := classify([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`), ocispec.MediaTypeImageIndex); !errors.Is(err, ErrInvalid) {
		t.Errorf("a manifest sent as an index: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(ociArchive(f, "x", plain(tarOf(f, file("f", "x")))))
	f.Add(legacyArchive(f, nil))
	f.Add(gzipped(legacyArchive(f, nil)).stored)
	f.Add(tarOf(f, file("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:00"}]}`)))
	f.Add(tarOf(f, file("manifest.json", `[{"Config":"c","RepoTags":["x"],"Layers":["l"]}]`), file("c", `{"rootfs":{"type":"layers","diff_ids":["x"]}}`), file("l", "")))
	s, err := Open(Config{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		defer frugal.Watch(t)()
		images, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("refused with %v, which is not ErrInvalid", err)
			}
			return
		}
		for _, img := range images { // what was taken is whole
			if err := s.Save(t.Context(), io.Discard, img.Manifest.String()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A node tells the cluster under which names it loaded an image; it must not tell those that somebody has taken back since.
func TestLoadGivesTheNamesOfThisArchive(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	layer := plain(tarOf(t, file("f", "x")))
	for _, name := range []string{"first:1", "second:1"} {
		images, err := s.Load(t.Context(), bytes.NewReader(ociArchive(t, name, layer)), LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(images) != 1 || !slices.Equal(images[0].Names, []string{"docker.io/library/" + name}) {
			t.Errorf("loaded as %s: %+v", name, images)
		}
	}
	if img, err := s.Get("first:1"); err != nil || len(img.Names) != 2 {
		t.Errorf("it has %v, %v", img.Names, err)
	}
}
