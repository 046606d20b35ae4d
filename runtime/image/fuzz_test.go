//go:build linux

package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/e2e/frugal"
	"shoal/runtime/step/disk"
)

// FuzzLayer unpacks whatever comes: nothing outside may change, and nothing may panic or hang.
func FuzzLayer(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("unpacking needs root")
	}
	n := 0
	for _, entries := range hostileLayers("/canary") {
		if raw := hostileTar(entries); raw != nil && len(raw) < 16<<10 {
			if n++; n%10 == 0 { // some of each kind
				f.Add(raw)
				f.Add(gzipped(raw).stored)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer frugal.Watch(t)()
		base := disk.InMemory(t)
		c := newCanary(t, base)
		before := look(t, c.root)
		root := filepath.Join(base, "root")
		if err := makeRoot(root); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
		defer cancel()
		begun := time.Now()
		_, err := extractLayer(ctx, bytes.NewReader(raw), root, false)
		if time.Since(begun) > hostileTime {
			t.Errorf("took %v", time.Since(begun))
		}
		if after := look(t, c.root); after != before {
			t.Fatalf("(%v) changed what is outside:\n%s\nbefore:\n%s", err, after, before)
		}
	})
}

// FuzzMirror: what is taken as a mirror makes a repository's name, and never one with credentials or a query in it.
func FuzzMirror(f *testing.F) {
	for _, s := range []string{"https://mirror.example", "quay.io=http://m:5000/q/", "docker.io=", "=", "https://u:p@x", "http://mirror", "https://mirror/hub", "a=b=c", "https://x?y#z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		r := &Registries{}
		if r.AddMirror(s) != nil {
			return
		}
		for host := range r.Hosts {
			for _, m := range r.mirrors(host) {
				if m == "" || strings.ContainsAny(m, "@?# ") || strings.Contains(m, "://") {
					t.Errorf("mirror %q became %q", s, m)
				}
				src, err := newRegistrySource(r, m+"/library/x", PullOptions{})
				if err != nil {
					if len(m) < 200 { // a name has 255 bytes
						t.Errorf("mirror %q is taken, and asked for an image says %v", s, err)
					}
					continue
				}
				if at, _, _ := strings.Cut(m, "/"); src.repo.RegistryStr() != at && at != dockerHub {
					t.Errorf("mirror %q is asked at %q", s, src.repo.RegistryStr())
				}
			}
		}
	})
}

// FuzzManifest: of manifest, index and config only what is whole is taken, and always as the same thing.
func FuzzManifest(f *testing.F) {
	config := []byte(`{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":["` + string(digest.FromString("x")) + `"]}}`)
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+string(digest.FromBytes(config))+`","size":9},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"`+
		string(digest.FromString("x"))+`","size":5}]}`), config, ocispec.MediaTypeImageManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+string(digest.FromString("x"))+`","platform":{"os":"linux","architecture":"amd64"}}]}`), config, "")
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`), []byte(`{}`), "application/json")
	f.Fuzz(func(t *testing.T, manifest, config []byte, mediaType string) {
		defer frugal.Watch(t)()
		kind, as, err := classify(manifest, mediaType)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("refused with %v, which is not ErrInvalid", err)
			}
		} else if again, same, err := classify(manifest, as); err != nil || again != kind || same != as {
			t.Errorf("kept as %q it is %v %q, %v; it came as %v", as, again, same, err, kind)
		}
		_, _ = choosePlatform(manifest, mediaType, ocispec.Platform{OS: "linux", Architecture: "amd64"})
		img, err := parseImage(manifest, mediaType, config)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("refused with %v, which is not ErrInvalid", err)
			}
			return
		}
		for _, l := range img.Layers {
			if checkDigest(l.Digest) != nil || checkDigest(l.DiffID) != nil || l.Size < 0 {
				t.Errorf("took a layer %+v", l)
			}
		}
	})
}

// FuzzName: what is taken as an image's name reads the same from its full and from its short form.
func FuzzName(f *testing.F) {
	for _, s := range []string{"nginx", "a.example:5000/b/c:d", "x@" + string(digest.FromString("x")), "x:y@" + string(digest.FromString("x")), "UPPER", "a//b", "docker.io/library/docker.io/x", "localhost/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		n, err := ParseName(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("refused with %v, which is not ErrInvalid", err)
			}
			return
		}
		for _, form := range []string{n.String(), n.Familiar()} {
			if again, err := ParseName(form); err != nil || again != n {
				t.Errorf("%q is %v, whose form %q is %v, %v", s, n, form, again, err)
			}
		}
		_ = n.Short()
	})
}

// answers is a registry that says what it was told, and is asked for little.
type answers struct {
	status  int
	headers http.Header
	body    []byte
	asked   int
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.asked++; a.asked > 20 {
		return nil, errors.New("asked for ever")
	}
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: a.headers.Clone(), Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}, nil
}

// FuzzRegistry: no answer of a registry, its challenge among them, makes a pull panic, ask without end, or give bytes that
// were not asked for.
func FuzzRegistry(f *testing.F) {
	f.Add(401, `Bearer realm="https://auth.example/token",service="x",scope="repository:a:pull"`, "application/json", "bytes 0-1/2", "", []byte(`{"token":"t"}`))
	f.Add(401, `Basic realm="x"`, "", "", "", []byte{})
	f.Add(401, `Bearer realm=",=",error=`, "", "", "", []byte(`{"errors":[{"code":"DENIED"}]}`))
	f.Add(200, "", ocispec.MediaTypeImageManifest, "", "", []byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	f.Add(206, "", "", "bytes 3-9/10", "", []byte("defghij"))
	f.Add(302, "", "", "", "https://elsewhere.example/blob", []byte{})
	f.Add(429, "", "", "", "", []byte{})
	f.Fuzz(func(t *testing.T, status int, challenge, contentType, contentRange, location string, body []byte) {
		defer frugal.Watch(t)()
		if status < 200 || status > 499 || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests {
			return // net/http hears no others; these and those above are tried again after a wait
		}
		a := &answers{status: status, body: body, headers: http.Header{
			"Www-Authenticate": {challenge}, "Content-Type": {contentType}, "Content-Range": {contentRange}, "Location": {location},
		}}
		src, err := newRegistrySource(nil, "registry.example/a", PullOptions{Transport: a, Keychain: authn.NewMultiKeychain()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _ = src.manifest(ctx, "registry.example/a:x")
		a.asked = 0
		if r, err := src.blob(ctx, string(digest.FromString("x")), 3); err == nil {
			if got, err := io.ReadAll(r); err == nil && !bytes.HasSuffix(body, got) {
				t.Errorf("%q of %q", got, body)
			}
			r.Close()
		}
	})
}

// FuzzServe: no path, range or method of a client of this node's own images makes the endpoint panic or fail inside, and
// what it sends of a blob is of that blob.
func FuzzServe(f *testing.F) {
	s, err := Open(Config{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	images, err := s.Load(f.Context(), bytes.NewReader(ociArchive(f, "x", plain(tarOf(f, file("f", "x"))))), LoadOptions{})
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{"/v2/", "/v2/library/x/manifests/latest", "/v2/library/x/tags/list", "/v2/a/blobs/" + string(images[0].ID), "/v2/../blobs/x", "/v2//blobs/uploads/x"} {
		f.Add("GET", path, "bytes=3-")
		f.Add("PUT", path, "bytes=-1-")
	}
	h := s.Handler()
	f.Fuzz(func(t *testing.T, method, path, span string) {
		defer frugal.Watch(t)()
		r, err := http.NewRequest(method, "http://node/", nil)
		if err != nil {
			return
		}
		r.URL.Path = path
		r.Header.Set("Range", span)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, path, w.Code, w.Body)
		}
	})
}

// FuzzRegistries: no file of settings for registries makes its reader panic, and what it took can be used.
func FuzzRegistries(f *testing.F) {
	f.Add([]byte(`{"registries":{"docker.io":{"mirrors":["https://m.example"],"insecure":true,"ca":"/x"}}}`))
	f.Add([]byte(`{"registries":{"":null}}`))
	path := filepath.Join(f.TempDir(), "registries.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadRegistries(path)
		if err != nil {
			return
		}
		for host := range r.Hosts {
			_, _ = r.mirrors(host), r.insecure(host)
		}
	})
}

// FuzzDockerConfig: no config.json of docker's makes the reading of credentials panic. Programs that it names are not run.
func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"registry.example":{"auth":"dTpw"},"https://index.docker.io/v1/":{"identitytoken":"t"}}}`))
	f.Add([]byte(`{"auths":{"registry.example":{"auth":"/"}}}`))
	dir := f.TempDir()
	f.Setenv("DOCKER_CONFIG", dir)
	repo, err := name.NewRepository("registry.example/a")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if lower := strings.ToLower(string(b)); strings.Contains(lower, "cred") || strings.Contains(lower, `\u`) {
			return
		}
		defer frugal.Watch(t)()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if auth, err := authn.Resolve(t.Context(), authn.DefaultKeychain, repo); err == nil {
			_, _ = authn.Authorization(t.Context(), auth)
		}
	})
}
