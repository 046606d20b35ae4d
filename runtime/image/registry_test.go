package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
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
	pinned, err := open(t).Fetch(t.Context(), peer, "web:1@"+img.Manifest.String()) // as a submitted job names it
	if err != nil || pinned.Manifest != img.Manifest {
		t.Errorf("by name and digest: %v, %v", pinned.Manifest, err)
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
