package image

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// breaking sends at most so many bytes of a blob a connection, and knows Range if told to.
type breaking struct {
	http.Handler
	piece  int
	ranges bool
	broken atomic.Int64
	sent   atomic.Int64
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		b.Handler.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	plain := r.Clone(r.Context())
	plain.Header.Del("Range")
	b.Handler.ServeHTTP(rec, plain)
	body, from := rec.Body.Bytes(), 0
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && b.ranges {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		w.WriteHeader(http.StatusPartialContent)
		body = body[from:]
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	n := min(b.piece, len(body))
	b.sent.Add(int64(n))
	w.Write(body[:n])
	if n < len(body) {
		b.broken.Add(1)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func bigImage(t *testing.T, size int64) v1.Image {
	t.Helper()
	layer, err := random.Layer(size, "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cf, _ := img.ConfigFile()
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", goruntime.GOARCH
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// A layer whose connection breaks again and again comes all the same, and with Range no byte comes twice.
func TestPullResumesABrokenLayer(t *testing.T) {
	up := upstream()
	plain, _ := serve(t, up)
	img := bigImage(t, 900_000)
	push(t, plain+"/big:1", img)
	layers, _ := img.Layers()
	size, _ := layers[0].Size()
	b := &breaking{Handler: up, piece: 300_000, ranges: true}
	host, _ := serve(t, b)
	s := open(t)
	var last Progress
	got, err := s.Pull(t.Context(), mustName(t, host+"/big:1"), PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if b.broken.Load() < 3 {
		t.Errorf("the connection broke %d times: the test tests nothing", b.broken.Load())
	}
	config, _ := img.RawConfigFile()
	if want := size + int64(len(config)); b.sent.Load() > want+int64(b.piece) {
		t.Errorf("%d bytes were sent for %d", b.sent.Load(), want)
	}
	if len(last.Each) != 1 || last.Each[0].Done != size || last.Each[0].Size != size || last.BytesDone != got.Size {
		t.Errorf("progress ended at %+v", last)
	}
	leftovers(t, s)
}

// A registry that sends all again when asked for the rest is no obstacle as long as it once sends all.
func TestResumeWithoutRangeFails(t *testing.T) {
	up := upstream()
	plain, _ := serve(t, up)
	push(t, plain+"/big:1", bigImage(t, 900_000))
	host, _ := serve(t, &breaking{Handler: up, piece: 300_000})
	s := open(t)
	if _, err := s.Pull(t.Context(), mustName(t, host+"/big:1"), PullOptions{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("pull: %v, want ErrUnavailable after a few tries", err)
	}
	leftovers(t, s)
}

func TestPeersResume(t *testing.T) {
	up := upstream()
	plain, _ := serve(t, up)
	push(t, plain+"/big:1", bigImage(t, 900_000))
	a, b := open(t), open(t)
	if _, err := a.Pull(t.Context(), mustName(t, plain+"/big:1"), PullOptions{}); err != nil {
		t.Fatal(err)
	}
	br := &passing{inner: a.Handler(), piece: 400_000}
	host, _ := serve(t, br)
	if _, err := b.Fetch(t.Context(), NewPeer(http.DefaultClient, "http://"+host), plain+"/big:1"); err != nil {
		t.Fatal(err)
	}
	if br.broken.Load() == 0 {
		t.Error("the connection never broke")
	}
}

// passing cuts the answers of a handler that knows Range itself.
type passing struct {
	inner  http.Handler
	piece  int
	broken atomic.Int64
}

func (p *passing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/blobs/") {
		p.inner.ServeHTTP(w, r)
		return
	}
	p.inner.ServeHTTP(&cutWriter{w, p, p.piece}, r)
}

type cutWriter struct {
	http.ResponseWriter
	p    *passing
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.p.broken.Add(1)
		c.ResponseWriter.Write(b[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		return 0, io.ErrClosedPipe
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestMirrorsAreAskedInOrder(t *testing.T) {
	up := upstream()
	host, direct := serve(t, up)
	push(t, host+"/x:1", randomImage(t, goruntime.GOARCH, 2))
	var asked []string
	note := func(name string, h http.Handler) string {
		host, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				asked = append(asked, name)
			}
			h.ServeHTTP(w, r)
		}))
		return host
	}
	broken := note("broken", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	empty := note("empty", upstream())
	// A mirror under a path, with the same repositories.
	mirror := note("mirror", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "/v2/hub/", "/v2/", 1)
		up.ServeHTTP(w, r)
	}))
	regs := &Registries{}
	for _, m := range []string{broken, empty, mirror + "/hub"} {
		if err := regs.AddMirror(host + "=http://" + m); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Config{Dir: t.TempDir(), Registries: regs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	img, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Names[0] != host+"/x:1" {
		t.Errorf("it is named %v: a mirror must not show", img.Names)
	}
	if direct.Load() != 0 {
		t.Errorf("%d blobs came from the registry itself", direct.Load())
	}
	if got := strings.Join(asked, " "); got != "empty mirror" { // the broken one refuses at the door
		t.Errorf("asked %q", got)
	}
	if _, err := s.Pull(t.Context(), mustName(t, host+"/nothing:1"), PullOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an image that nobody has: %v", err)
	}
}

func TestMirrorWithWrongBytesIsPassedOver(t *testing.T) {
	up := upstream()
	host, _ := serve(t, up)
	push(t, host+"/x:1", randomImage(t, goruntime.GOARCH, 1))
	liar, lies := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		up.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if strings.Contains(r.URL.Path, "/blobs/") {
			b[len(b)/2] ^= 1
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(b)
	}))
	regs := &Registries{}
	if err := regs.AddMirror(host + "=http://" + liar); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: t.TempDir(), Registries: regs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{}); err != nil || lies.Load() == 0 {
		t.Errorf("pull: %v after %d lies", err, lies.Load())
	}
}

func TestPullOfAnotherPlatform(t *testing.T) {
	host, _ := serve(t, upstream())
	push(t, host+"/x:1", randomImage(t, "riscv64", 1))
	s := open(t)
	if _, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a platform: %v", err)
	}
	img, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{Platform: ocispec.Platform{OS: "linux", Architecture: "riscv64"}})
	if err != nil || img.Platform.Architecture != "riscv64" {
		t.Errorf("with it: %v, %v", img.Platform, err)
	}
}

func TestRateLimitIsWaitedForOrTold(t *testing.T) {
	up := upstream()
	var refuse atomic.Int64
	wait := "0"
	host, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet && refuse.Add(-1) >= 0 {
			w.Header().Set("Retry-After", wait)
			w.Header().Set("RateLimit-Limit", "100;w=21600")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		up.ServeHTTP(w, r)
	}))
	push(t, host+"/x:1", randomImage(t, goruntime.GOARCH, 1))
	s := open(t)
	refuse.Store(2)
	wait = "1"
	begun := time.Now()
	if _, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{}); err != nil || time.Since(begun) < 2*time.Second {
		t.Errorf("two short waits: %v after %v", err, time.Since(begun))
	}
	refuse.Store(100)
	wait = "3600"
	_, err := s.Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{})
	for _, want := range []string{"limits how often", "100 pulls in 6h0m0s", "wait 1h0m0s", "docker login", "mirror"} {
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("a long wait: %v, want it to say %q", err, want)
		}
	}
}

// Credentials come from docker's config.json: written there, by credsStore, by credHelpers.
func TestCredentialsOfDockersConfig(t *testing.T) {
	up := upstream()
	open_, _ := serve(t, up)
	push(t, open_+"/x:1", randomImage(t, goruntime.GOARCH, 1))
	host, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user != "ann" || pass != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		up.ServeHTTP(w, r)
	}))
	bin := t.TempDir()
	helper := "#!/bin/sh\nread host\necho '{\"Username\":\"ann\",\"Secret\":\"'$PASSWORD'\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, c := range []struct{ name, config, password, say string }{
		{"none", `{}`, "", "docker login " + host},
		{"auths", `{"auths":{"` + host + `":{"auth":"YW5uOnNlY3JldA=="}}}`, "", ""},
		{"credsStore", `{"credsStore":"test"}`, "secret", ""},
		{"credHelpers", `{"credHelpers":{"` + host + `":"test"}}`, "secret", ""},
		{"wrong", `{"credHelpers":{"` + host + `":"test"}}`, "other", "credentials of ann"},
		{"missing helper", `{"credHelpers":{"` + host + `":"nowhere"}}`, "", "docker-credential-nowhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("DOCKER_CONFIG", dir)
			t.Setenv("PASSWORD", c.password)
			_, err := open(t).Pull(t.Context(), mustName(t, host+"/x:1"), PullOptions{})
			if c.say == "" && err != nil || c.say != "" && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), c.say)) {
				t.Errorf("pull: %v, want %q", err, c.say)
			}
		})
	}
}

func TestPlainHTTPIsRefusedUnlessAllowed(t *testing.T) {
	refuse := roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			return nil, errors.New("http: server gave HTTP response to HTTPS client")
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})
	_, err := open(t).Pull(t.Context(), mustName(t, "10.0.0.5:5000/x:1"), PullOptions{Transport: refuse})
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "--insecure-registry 10.0.0.5:5000") {
		t.Errorf("pull: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A mirror is the host that it says, whatever that looks like: one word is not the beginning of a name on Docker Hub.
func TestMirrorsAreWhereTheySay(t *testing.T) {
	for mirror, want := range map[string]string{
		"http://mirror": "http://mirror/library/nginx", "https://mirror": "https://mirror/library/nginx",
		"http://mirror/hub": "http://mirror/hub/library/nginx", "mirror:5000": "https://mirror:5000/library/nginx",
		"https://m.example/hub": "https://m.example/hub/library/nginx", "http://localhost": "http://localhost/library/nginx",
	} {
		regs := &Registries{}
		if err := regs.AddMirror(mirror); err != nil {
			t.Errorf("mirror %s: %v", mirror, err)
			continue
		}
		s := &Store{registries: regs}
		m, err := s.registry(mustName(t, "nginx"), PullOptions{Keychain: authn.NewMultiKeychain()})
		if err != nil || len(m.sources) != 2 {
			t.Errorf("mirror %s: %v", mirror, err)
			continue
		}
		for i, want := range []string{want, "https://index.docker.io/library/nginx"} {
			src := m.sources[i]
			got := src.repo.Scheme() + "://" + src.repo.RegistryStr() + "/" + src.repo.RepositoryStr()
			if got != want || src.insecure != strings.HasPrefix(want, "http:") {
				t.Errorf("mirror %s: source %d is %s, insecure %v; want %s", mirror, i, got, src.insecure, want)
			}
		}
	}
}

func TestRegistriesAreChecked(t *testing.T) {
	for _, m := range []string{"", "=x", "docker.io=", "docker.io=ftp://x", "docker.io=https://u:p@x", "https://x?y", "https://m.example/Hub", "https://m.example:port"} {
		if err := (&Registries{}).AddMirror(m); err == nil {
			t.Errorf("mirror %q was taken", m)
		}
	}
	r := &Registries{}
	if err := errors.Join(r.AddMirror("https://m.example/"), r.AddMirror("quay.io=m2.example:5000/q"), r.AddInsecure("reg.example:5000")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.mirrors("docker.io"), r.mirrors("quay.io"), r.insecure("reg.example:5000"), r.insecure("reg.example")); got != "[m.example] [m2.example:5000/q] true false" {
		t.Error(got)
	}
	file := filepath.Join(t.TempDir(), "r.json")
	for content, ok := range map[string]bool{
		`{"registries":{"docker.io":{"mirrors":["https://m.example"]}}}`: true,
		`{"registries":{"docker.io":{"mirrors":["x y"]}}}`:               false,
		`{"registry":{}}`: false, `{`: false,
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRegistries(file); (err == nil) != ok {
			t.Errorf("%s: %v", content, err)
		}
	}
}
