package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serve runs a handler on loopback and counts GETs of blobs.
func serve(t *testing.T, h http.Handler) (host string, blobs *atomic.Int64) {
	t.Helper()
	blobs = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = discardLog()
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), blobs
}

func upstream() http.Handler {
	return registry.New(registry.Logger(discardLog()))
}

// randomImage is an image of random layers for one platform.
func randomImage(t *testing.T, arch string, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(4096, layers)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config.Cmd = "linux", arch, []string{"run"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func mustName(t *testing.T, s string) Name {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPullTakesThePlatformAndKeepsTheIndexDigest(t *testing.T) {
	host, _ := serve(t, upstream())
	other := "arm64"
	if goruntime.GOARCH == other {
		other = "amd64"
	}
	mine := randomImage(t, goruntime.GOARCH, 3)
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: randomImage(t, other, 1), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}}})
	ref, err := name.ParseReference(host+"/team/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	var last Progress
	img, err := s.Pull(t.Context(), mustName(t, host+"/team/app:1"), PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	want, _ := mine.Digest()
	index, _ := idx.Digest()
	if img.Manifest.String() != want.String() || img.Index.String() != index.String() || len(img.Layers) != 3 {
		t.Errorf("pulled %s of %s with %d layers", img.Manifest, img.Index, len(img.Layers))
	}
	if last.LayersDone != 3 || last.BytesDone != last.Bytes || last.Bytes != img.Size {
		t.Errorf("progress ended at %+v of %d bytes", last, img.Size)
	}
	if got, err := s.Get(host + "/team/app@" + index.String()); err != nil || got.Manifest != img.Manifest {
		t.Errorf("by index digest: %v, %v", got.Manifest, err)
	}
	if os.Geteuid() == 0 {
		if _, err := s.Layers(t.Context(), img); err != nil {
			t.Error(err)
		}
	}
	foreign, err := Open(Config{Dir: t.TempDir(), Platform: ocispec.Platform{OS: "linux", Architecture: "riscv64"}})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if _, err := foreign.Pull(t.Context(), mustName(t, host+"/team/app:1"), PullOptions{}); !errors.Is(err, ErrNotFound) || !strings.Contains(fmt.Sprint(err), "arm64") {
		t.Errorf("pull for riscv64: %v, want the platforms there are", err)
	}
}

func TestRegistryRefusalsSayWhatToDo(t *testing.T) {
	for status, want := range map[int]struct {
		kind error
		say  string
	}{
		http.StatusUnauthorized:    {ErrDenied, "docker login"},
		http.StatusForbidden:       {ErrDenied, "config.json"},
		http.StatusTooManyRequests: {ErrUnavailable, "limits"},
		http.StatusNotFound:        {ErrNotFound, "no such image"},
		http.StatusBadGateway:      {ErrUnavailable, "502"},
	} {
		host, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.WriteHeader(status)
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := open(t).Pull(ctx, mustName(t, host+"/x:1"), PullOptions{Transport: http.DefaultTransport})
		cancel()
		if !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.say) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	_, err := open(t).Pull(t.Context(), mustName(t, "127.0.0.1:1/x:1"), PullOptions{})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestBlobWithWrongBytesIsRefused(t *testing.T) {
	up := upstream()
	host, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		up.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			b[len(b)/2] ^= 1
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(b)
	}))
	push(t, host+"/x:1", randomImage(t, goruntime.GOARCH, 1))
	s := open(t)
	if _, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("pull: %v, want ErrInvalid", err)
	}
	if _, err := s.Fetch(t.Context(), NewPeer(http.DefaultClient, "http://"+host), "x:1"); err == nil {
		t.Error("fetch took wrong bytes")
	}
	if images, _ := s.List(); len(images) != 0 {
		t.Errorf("store holds %v", images)
	}
	leftovers(t, s)
}

func TestPeersCopyFromEachOther(t *testing.T) {
	a, b := open(t), open(t)
	img := load(t, a, busyboxArchive(t, "web:1"))
	host, blobs := serve(t, a.Handler())
	peer := NewPeer(http.DefaultClient, "http://"+host)
	got, err := b.Fetch(t.Context(), peer, "web:1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Manifest != img.Manifest || got.Names[0] != "docker.io/library/web:1" || got.Config.Entrypoint[0] != "/bin/busybox" {
		t.Errorf("fetched %+v", got)
	}
	if _, err := b.Fetch(t.Context(), peer, img.Manifest.String()); err != nil || blobs.Load() != 3 {
		t.Errorf("again: %v, %d blobs sent, want 3 (config and two layers)", err, blobs.Load())
	}
	if _, err := b.Fetch(t.Context(), peer, "nothing:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown name: %v", err)
	}
	byDigest, err := open(t).Fetch(t.Context(), peer, img.Manifest.String())
	if err != nil || len(byDigest.Names) != 0 {
		t.Errorf("by digest: %v, %v", byDigest.Names, err)
	}
	// Any other client of the protocol pulls, too.
	ref, err := name.ParseReference(host+"/web:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := pulled.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); err != nil {
		t.Error(err)
	}
	tags, err := remote.List(ref.Context())
	if err != nil || len(tags) != 1 || tags[0] != "1" {
		t.Errorf("tags: %v, %v", tags, err)
	}
}

func TestDamagedBlobIsNotServed(t *testing.T) {
	a := open(t)
	img := load(t, a, ociArchive(t, "x", plain(tarOf(t, file("f", strings.Repeat("x", 1<<20))))))
	host, _ := serve(t, a.Handler())
	layer := img.Layers[0].Digest
	path := a.blobPath(layer)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[1000] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + host + "/v2/x/blobs/" + layer.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil || len(got) == len(b) {
		t.Errorf("%d of %d damaged bytes arrived, %v", len(got), len(b), err)
	}
	if _, err := open(t).Fetch(t.Context(), NewPeer(http.DefaultClient, "http://"+host), "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("fetch afterwards: %v, want ErrNotFound", err)
	}
	// A fetch repairs what it finds damaged, the config here.
	b2 := load(t, open(t), ociArchive(t, "x", plain(tarOf(t, file("f", "x")))))
	good, bad := open(t), open(t)
	for _, s := range []*Store{good, bad} {
		load(t, s, ociArchive(t, "x", plain(tarOf(t, file("f", "x")))))
	}
	config := bad.blobPath(b2.ID)
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	raw[5] ^= 1
	if err := os.WriteFile(config, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	goodHost, _ := serve(t, good.Handler())
	if _, err := bad.Fetch(t.Context(), NewPeer(http.DefaultClient, "http://"+goodHost), "x"); err != nil {
		t.Errorf("fetch over a damaged config: %v", err)
	}
	if err := bad.Save(t.Context(), io.Discard, "x"); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	manifest := a.blobPath(img.Manifest)
	if err := os.WriteFile(manifest, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t).Fetch(t.Context(), NewPeer(http.DefaultClient, "http://"+host), "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("fetch with a damaged manifest: %v", err)
	}
}

func TestPushMakesAnImage(t *testing.T) {
	s := open(t)
	host, _ := serve(t, s.PushHandler())
	img := randomImage(t, goruntime.GOARCH, 2)
	push(t, host+"/app:1", img)
	got, err := s.Get("app:1")
	want, _ := img.Digest()
	if err != nil || got.Manifest.String() != want.String() || len(got.Layers) != 2 {
		t.Fatalf("pushed image is %+v, %v", got, err)
	}
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: goruntime.GOARCH}}})
	ref, err := name.ParseReference(host+"/multi:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("multi:1"); err != nil || got.Manifest.String() != want.String() {
		t.Errorf("pushed index: %v, %v", got.Manifest, err)
	}
	leftovers(t, s)
	// A manifest whose blobs are not here is refused, as is a push to the read-only handler.
	raw, err := randomImage(t, goruntime.GOARCH, 1).RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		h      http.Handler
		status int
	}{{s.PushHandler(), http.StatusNotFound}, {s.Handler(), http.StatusMethodNotAllowed}} {
		rec := httptest.NewRecorder()
		c.h.ServeHTTP(rec, httptest.NewRequest(http.MethodPut, "/v2/x/manifests/1", bytes.NewReader(raw)))
		if rec.Code != c.status {
			t.Errorf("put: %d %s, want %d", rec.Code, rec.Body, c.status)
		}
	}
	if _, err := s.Get("x:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("x:1: %v", err)
	}
}

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

func TestConcurrentPullsDownloadOnce(t *testing.T) {
	host, blobs := serve(t, upstream())
	push(t, host+"/x:1", randomImage(t, goruntime.GOARCH, 4))
	blobs.Store(0)
	s := open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			img, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			if os.Geteuid() == 0 {
				if _, err := s.Layers(t.Context(), img); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := blobs.Load(); n != 5 {
		t.Errorf("%d blobs asked for, want 5", n)
	}
	leftovers(t, s)
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

func TestFlightOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[int]
		calls := 0
		work := func(ctx context.Context) (int, error) {
			calls++
			select {
			case <-time.After(time.Second):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.do(first, "k", work); !errors.Is(err, context.Canceled) {
				t.Errorf("first: %v", err)
			}
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			if n, err := g.do(t.Context(), "k", work); n != 7 || err != nil {
				t.Errorf("second: %d, %v", n, err)
			}
		})
		time.Sleep(2 * time.Millisecond)
		cancel()
		wg.Wait()
		if calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
		// All gone: the work ends, and the next caller gets a new one.
		only, cancelOnly := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancelOnly()
		if _, err := g.do(only, "k", work); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("only: %v", err)
		}
		if n, err := g.do(t.Context(), "k", work); n != 7 || err != nil {
			t.Errorf("next: %d, %v", n, err)
		}
	})
}

func TestJoinedFlightThatFailsIsTriedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flights[string]{ownErrors: true}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := g.do(t.Context(), "k", func(context.Context) (string, error) {
				time.Sleep(time.Second)
				return "", errors.New("my peer is dead")
			}); err == nil {
				t.Error("the first one's failure is lost")
			}
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			got, err := g.do(t.Context(), "k", func(context.Context) (string, error) { return "mine", nil })
			if got != "mine" || err != nil {
				t.Errorf("second: %q, %v", got, err)
			}
		})
		wg.Wait()
	})
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
