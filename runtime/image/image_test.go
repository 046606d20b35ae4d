package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const busybox = "/bin/busybox"

// open makes a store in a fresh directory.
func open(t *testing.T) *Store {
	t.Helper()
	return openAt(t, t.TempDir())
}

func openAt(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking makes devices and foreign owners: needs root")
	}
}

// program returns the host path of a static busybox.
func program(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("no " + busybox + ": install busybox-static")
	}
	return busybox
}

// archiveOf builds an image archive.
func archiveOf(t *testing.T, name string, cfg RunConfig, layers ...Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteArchive(&b, name, cfg, layers...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func busyboxArchive(t *testing.T, name string) []byte {
	return archiveOf(t, name, RunConfig{Entrypoint: []string{"/bin/busybox"}, Cmd: []string{"sh"}, Env: []string{"A=1"}, StopSignal: "SIGTERM"},
		Program("/bin/busybox", program(t)), Tree{{Path: "/etc/motd", Data: []byte("hello\n")}})
}

func load(t *testing.T, s *Store, archive []byte) Image {
	t.Helper()
	images, err := s.Load(t.Context(), bytes.NewReader(archive), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 {
		t.Fatalf("loaded %d images, want 1", len(images))
	}
	return images[0]
}

// tarOf makes a tar as it stands: no parents, no cleaning. Bodies go by name of the header.
func tarOf(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_000_000_000, 0)
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type tarEntry struct {
	tar.Header
	body string
}

func file(name, body string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeReg}, body}
}

func dir(name string, mode int64) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}, ""}
}

func symlink(name, target string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}

func hardlink(name, target string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}

// layerBlob is a layer for imageOf: its tar, and how it is stored.
type layerBlob struct {
	tar    []byte
	stored []byte
}

func plain(tar []byte) layerBlob { return layerBlob{tar, tar} }

func gzipped(tar []byte) layerBlob {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(tar)
	w.Close()
	return layerBlob{tar, b.Bytes()}
}

func zstded(tar []byte) layerBlob {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return layerBlob{tar, w.EncodeAll(tar, nil)}
}

// ociArchive makes an OCI layout archive of raw layers.
func ociArchive(t testing.TB, name string, layers ...layerBlob) []byte {
	t.Helper()
	c := configFile{Platform: ocispec.Platform{OS: "linux", Architecture: goruntime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	var descs []ocispec.Descriptor
	var blobs []blobSource
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l.tar))
		descs = append(descs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(l.stored), Size: int64(len(l.stored))})
		blobs = append(blobs, bytesBlob(l.stored))
	}
	return layoutOf(t, name, c, descs, blobs)
}

func layoutOf(t testing.TB, name string, c configFile, descs []ocispec.Descriptor, blobs []blobSource) []byte {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := manifestOf(config, descs)
	if err != nil {
		t.Fatal(err)
	}
	img := archived{config: digest.FromBytes(config),
		manifest: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}}
	if name != "" {
		n, err := ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		img.names = []string{n.String()}
	}
	for _, d := range descs {
		img.layers = append(img.layers, d.Digest)
	}
	var b bytes.Buffer
	if err := writeLayout(&b, []archived{img}, append(blobs, bytesBlob(config), bytesBlob(manifest))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// leftovers fails the test if temporary files are left.
func leftovers(t *testing.T, s *Store) {
	t.Helper()
	files, err := os.ReadDir(s.tmpDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Errorf("left in tmp: %s", f.Name())
	}
}

func TestLoadedImageRunsFromItsLayers(t *testing.T) {
	needRoot(t)
	s := open(t)
	img := load(t, s, busyboxArchive(t, "web"))
	if img.Names[0] != "docker.io/library/web:latest" || img.Config.Cmd[0] != "sh" || img.Config.Env[0] != "A=1" {
		t.Fatalf("image is %+v", img)
	}
	dirs, err := s.Layers(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) != 2 || !filepath.IsAbs(dirs[0]) {
		t.Fatalf("layers are %v", dirs)
	}
	fi, err := os.Stat(filepath.Join(dirs[0], "bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Stat(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o755 || fi.Size() != host.Size() {
		t.Errorf("busybox unpacked as %v, %d bytes", fi.Mode(), fi.Size())
	}
	if b, err := os.ReadFile(filepath.Join(dirs[1], "etc/motd")); err != nil || string(b) != "hello\n" {
		t.Errorf("motd is %q, %v", b, err)
	}
	leftovers(t, s)
}

func TestStoreSurvivesReopenAndClearsHalfDone(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir)
	want := load(t, s, busyboxArchive(t, "web:1"))
	if err := s.Tag("web:1", "example.org/other:2"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.tmpDir(), "blob-half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	leftovers(t, s)
	for _, ref := range []string{"web:1", "docker.io/library/web:1", "example.org/other:2", want.ID.String(), want.ID.Encoded(), want.ID.Encoded()[:12], want.Manifest.String(), "web:1@" + want.Manifest.String(), want.Manifest.Encoded()[:6]} {
		img, err := s.Get(ref)
		if err != nil || img.ID != want.ID || len(img.Names) != 2 {
			t.Errorf("Get(%q) = %v %v, %v", ref, img.ID, img.Names, err)
		}
	}
	for ref, kind := range map[string]error{"nothing": ErrNotFound, "BAD NAME": ErrInvalid, "aaaaaa": ErrNotFound, "": ErrInvalid} {
		if _, err := s.Get(ref); !errors.Is(err, kind) {
			t.Errorf("Get(%q): %v, want %v", ref, err, kind)
		}
	}
}

func TestNames(t *testing.T) {
	d := digest.FromString("x").String()
	for in, want := range map[string][2]string{
		"nginx":                       {"docker.io/library/nginx:latest", "nginx:latest"},
		"a/b:1":                       {"docker.io/a/b:1", "a/b:1"},
		"localhost:5000/x":            {"localhost:5000/x:latest", "localhost:5000/x:latest"},
		"nginx@" + d:                  {"docker.io/library/nginx@" + d, "nginx@" + d},
		"ghcr.io/a/b:1@" + d:          {"ghcr.io/a/b:1@" + d, "ghcr.io/a/b:1@" + d},
		"docker.io/library/nginx:1.2": {"docker.io/library/nginx:1.2", "nginx:1.2"},
	} {
		n, err := ParseName(in)
		if err != nil || n.String() != want[0] || n.Familiar() != want[1] {
			t.Errorf("ParseName(%q) = %q, %q, %v", in, n, n.Familiar(), err)
		}
	}
	for _, bad := range []string{"", "x/UPPER", "a b", "x@sha512:" + digest.SHA512.FromString("x").Encoded(), "x@sha256:12", "../x", d} {
		if n, err := ParseName(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseName(%q) = %q, %v, want ErrInvalid", bad, n, err)
		}
	}
}

func TestArchiveIsReproducibleAndSavesBack(t *testing.T) {
	a, b := busyboxArchive(t, "web"), busyboxArchive(t, "web")
	if !bytes.Equal(a, b) {
		t.Fatal("two builds of the same image differ")
	}
	s := open(t)
	img := load(t, s, a)
	var saved bytes.Buffer
	if err := s.Save(t.Context(), &saved, "web"); err != nil {
		t.Fatal(err)
	}
	again := load(t, open(t), saved.Bytes())
	if again.Manifest != img.Manifest || again.Names[0] != img.Names[0] {
		t.Errorf("saved %v, loaded %v", img, again)
	}
}

func mustNotExist(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s exists (%v)", path, err)
	}
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
