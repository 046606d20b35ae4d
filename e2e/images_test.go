package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/bcrypt"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
	"shoal/runtime/image"
)

// TestImages brings images in by every way that there is, on one cluster of two machines.
func TestImages(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // of the agents, which find no credentials but those that the test puts there
	n := cluster(t, 2)
	for _, c := range []struct {
		name string
		test func(*testing.T, *machines.Net)
	}{
		{"Archives", imageArchives},
		{"DamagedArchiveStoresNothing", imageDamaged},
		{"PeersFetchAndRemove", imagePeers},
		{"ItsSettingsHold", imageSettings},
		{"Registry", imageRegistry},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, n) })
	}
}

// tarFile is one entry of an archive.
type tarFile struct {
	name string
	data []byte
}

func untar(t *testing.T, archive []byte) []tarFile {
	t.Helper()
	var out []tarFile
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		if h.Typeflag == tar.TypeReg {
			out = append(out, tarFile{h.Name, b})
		}
	}
}

func retar(t *testing.T, files []tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		must(t, w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.data))}))
		_, err := w.Write(f.data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// small makes an archive of an image of busybox that says a word; each word makes an image of its own.
func small(t *testing.T, ref, word string) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, image.WriteArchive(&b, ref, image.RunConfig{Entrypoint: []string{"/bin/busybox"}, Cmd: []string{"cat", "/word"}},
		image.Program("/bin/busybox", "/bin/busybox"), image.Tree{{Path: "/word", Data: []byte(word + "\n")}}))
	return b.Bytes()
}

func imageNames(t *testing.T, m *machines.Machine) []string {
	t.Helper()
	var list []api.Image
	must(t, m.JSON(&list, "image", "ls"))
	var out []string
	for _, i := range list {
		out = append(out, i.Names...)
	}
	slices.Sort(out)
	return out
}

// says runs an image once and compares what it wrote.
func says(t *testing.T, m *machines.Machine, ref, word string) {
	t.Helper()
	gone(t, m, "once")
	shoal(t, m, "run", "--detach", "--name", "once", "--restart", "no", ref)
	ended(t, m, "once", "once.1", job.Complete)
	if got := shoal(t, m, "logs", "once"); got != word+"\n" {
		t.Errorf("%s says %q, want %q", ref, got, word)
	}
	shoal(t, m, "rm", "once")
}

func imageArchives(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	load := func(archive []byte, args ...string) {
		t.Helper()
		r := attempt(m, bytes.NewReader(archive), append([]string{"image", "load"}, args...)...)
		if r.Code != 0 || !strings.Contains(r.Stdout, "loaded") {
			t.Fatalf("shoal image load %s: %v", strings.Join(args, " "), r)
		}
	}
	// What WriteArchive makes is both at once: an OCI layout, and docker's manifest.json. Each half must do alone.
	var docker, oci []tarFile
	for _, f := range untar(t, small(t, "e2e/docker:1", "docker")) {
		if f.name != "index.json" && f.name != "oci-layout" {
			docker = append(docker, f)
		}
	}
	for _, f := range untar(t, small(t, "e2e/oci:1", "oci")) {
		if f.name != "manifest.json" {
			oci = append(oci, f)
		}
	}
	load(retar(t, docker))
	says(t, m, "e2e/docker:1", "docker")

	path := filepath.Join(t.TempDir(), "oci.tar")
	must(t, os.WriteFile(path, retar(t, oci), 0o644))
	load(nil, path)
	says(t, m, "e2e/oci:1", "oci")

	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(small(t, "e2e/zipped:1", "zipped"))
	must(t, err)
	must(t, z.Close())
	load(b.Bytes(), "-")
	says(t, m, "e2e/zipped:1", "zipped")
	contains(t, shoal(t, m, "image", "ls"), "e2e/docker:1", "e2e/oci:1", "e2e/zipped:1")

	load(foreign(t, "e2e/foreign:1", "foreign"))
	says(t, m, "e2e/foreign:1", "foreign")

	load(small(t, "e2e/zipped:1", "the new one")) // a name moves to what was loaded last
	says(t, m, "e2e/zipped:1", "the new one")
}

// foreign makes an archive with another program's code: as docker save does, layers compressed.
func foreign(t *testing.T, ref, word string) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	must(t, err)
	busybox, err := os.ReadFile("/bin/busybox")
	must(t, err)
	files := retar(t, []tarFile{{"word", []byte(word + "\n")}, {"busybox", busybox}})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	must(t, err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	cfg.Config.Entrypoint = []string{"/busybox", "cat", "/word"}
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	var b bytes.Buffer
	must(t, tarball.Write(tag, img, &b))
	return b.Bytes()
}

func imageDamaged(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	before, size := imageNames(t, m), diskUse(t, m)
	good := small(t, "e2e/damaged:1", strings.Repeat("a word that is not there yet ", 100))
	flipped := untar(t, good)
	for i := range flipped {
		if strings.Contains(flipped[i].name, "blobs/") { // one bit in the middle of each blob
			flipped[i].data[len(flipped[i].data)/2] ^= 1
		}
	}
	missing := slices.DeleteFunc(untar(t, good), func(f tarFile) bool { return strings.Contains(f.name, "blobs/") && len(f.data) > 10000 })
	escape := append(untar(t, good), tarFile{"../../escaped", []byte("x")})
	for what, archive := range map[string][]byte{
		"a flipped bit": retar(t, flipped), "half of it": good[:len(good)/2], "a missing layer": retar(t, missing),
		"nothing": {}, "no archive": []byte(strings.Repeat("hello ", 1000)),
	} {
		if r := attempt(m, bytes.NewReader(archive), "image", "load"); r.Code != 5 || !strings.Contains(r.Stderr, "load image") {
			t.Errorf("%s: %v", what, r)
		}
	}
	attempt(m, bytes.NewReader(retar(t, escape)), "image", "load") // refused or not, nothing gets out
	if _, err := os.Stat(filepath.Join(m.DataDir(), "../escaped")); err == nil {
		t.Error("an archive wrote outside of the store")
	}
	_ = attempt(m, nil, "image", "rm", "e2e/damaged:1") // there if the last one was taken
	if after := imageNames(t, m); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("images were %v and are %v", before, after)
	}
	if now := diskUse(t, m); now > size+1<<20 {
		t.Errorf("refused archives left %d bytes on the disk", now-size)
	}
}

// diskUse sums the files of a machine's image store.
func diskUse(t *testing.T, m *machines.Machine) int64 {
	t.Helper()
	var sum int64
	must(t, filepath.WalkDir(filepath.Join(m.DataDir(), "images"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				sum += fi.Size()
			}
		}
		return nil
	}))
	return sum
}

func imagePeers(t *testing.T, n *machines.Net) {
	a, b := n.Machines()[0], n.Machines()[1]
	if r := attempt(a, bytes.NewReader(small(t, "e2e/peer:1", "from a peer")), "image", "load"); r.Code != 0 {
		t.Fatal(r)
	}
	// Both are to keep it: b has fetched it before the load ended.
	if !slices.Contains(imageNames(t, b), "docker.io/e2e/peer:1") {
		t.Errorf("a peer has only %v", imageNames(t, b))
	}
	shoal(t, a, "image", "rm", "e2e/peer:1")
	for _, m := range []*machines.Machine{a, b} {
		if slices.Contains(imageNames(t, m), "docker.io/e2e/peer:1") {
			t.Errorf("it is still on %s after rm", m.Name)
		}
	}
	refuses(t, b, 3, []string{"e2e/peer:1"}, "", "image", "rm", "e2e/peer:1")
	if r := attempt(b, bytes.NewReader(small(t, "e2e/peer:1", "from a peer")), "image", "load"); r.Code != 0 {
		t.Fatal(r)
	}
	says(t, a, "e2e/peer:1", "from a peer")
	gone(t, a, "user")
	shoal(t, a, "run", "--replicas", "1", "--name", "user", "--stop-timeout", "100ms", "e2e/peer:1", "sleep", "100000")
	k := slots(t, a, "user")["user.1"]
	if r := attempt(machineOf(t, n, k), nil, "image", "rm", "e2e/peer:1"); r.Code == 0 {
		if got := shoal(t, a, "exec", "user/user.1", "/bin/busybox", "cat", "/word"); got != "from a peer\n" {
			t.Errorf("an image that was removed under a running container: %q", got)
		}
	}
}

// imageSettings runs an image that says much, by a command line that says nothing.
func imageSettings(t *testing.T, n *machines.Net) {
	m := n.Machines()
	var b bytes.Buffer
	busybox := func(applet string) image.File { return image.File{Path: "/bin/" + applet, Link: "busybox"} }
	must(t, image.WriteArchive(&b, "e2e/settings:1", image.RunConfig{
		Entrypoint: []string{"/bin/sh", "-c", "trap 'echo quit > /keep/end; exit 0' QUIT; touch /keep/up; while :; do sleep 0.05; done"},
		Env:        []string{"PATH=/bin", "COLOUR=blue", "SIZE=small"}, WorkingDir: "/made/by/image", User: "web", StopSignal: "SIGQUIT",
		Volumes:      map[string]struct{}{"/keep": {}},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		Healthcheck:  &image.Healthcheck{Test: []string{"CMD-SHELL", "test -e /keep/up"}, Interval: 300 * time.Millisecond, Retries: 3},
	},
		image.Program("/bin/busybox", "/bin/busybox"),
		image.Tree{busybox("sh"), busybox("sleep"), busybox("touch"), busybox("test"), busybox("id"), busybox("cat"), busybox("pwd"),
			{Path: "/etc/passwd", Data: []byte("web:x:1000:1001::/home/web:/bin/sh\n")}, {Path: "/etc/group", Data: []byte("web:x:1001:\n")},
			{Path: "/keep", Mode: os.ModeDir | 0o755, UID: 1000, GID: 1001}, {Path: "/keep/seed", Data: []byte("seed\n")}}))
	if r := attempt(m[1], &b, "image", "load"); r.Code != 0 {
		t.Fatal(r)
	}
	gone(t, m[0], "settings")
	shoal(t, m[0], "run", "--replicas", "1", "-e", "SIZE=large", "--name", "settings", "e2e/settings:1")
	if k := slots(t, m[1], "settings")["settings.1"]; k.Status == nil || k.Status.Health != job.Healthy {
		t.Errorf("the image's health check: %+v", k.Status)
	}
	want := "blue large /made/by/image /home/web 1000 1001 seed\n"
	if got := shoal(t, m[0], "exec", "settings/settings.1", "sh", "-c", "echo $COLOUR $SIZE $PWD $HOME $(id -u) $(id -g) $(cat /keep/seed)"); got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	shoal(t, m[1], "stop", "settings")
	if k := ended(t, m[0], "settings", "settings.1", job.Complete); exitCode(k) != 0 {
		t.Errorf("its stop signal is SIGQUIT, but it ended with %d", exitCode(k))
	}
}

// imageRegistry pulls from Debian's docker-registry, which runs on one machine's loopback and wants a password.
func imageRegistry(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	tree, err := machines.DebianTree("docker-registry")
	must(t, err)
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "htpasswd"), []byte("ali:"+string(hash)+"\n"), 0o600))
	config := fmt.Sprintf(`version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: %s } }
http: { addr: "127.0.0.1:5000" }
auth: { htpasswd: { realm: cave, path: %s } }
`, filepath.Join(dir, "blobs"), filepath.Join(dir, "htpasswd"))
	must(t, os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600))
	var log bytes.Buffer
	cmd := m.Command(filepath.Join(tree, "usr/bin/docker-registry"), "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		for pid, line := range m.Processes() {
			if strings.Contains(line, dir) {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill()
				}
			}
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the registry said:\n%s", log.String())
		}
	})
	client := &http.Client{Transport: &http.Transport{DialContext: m.DialContext, DisableKeepAlives: true}}
	eventually(t, "the registry", func() error {
		r, err := client.Get("http://127.0.0.1:5000/v2/")
		if err != nil {
			return err
		}
		return r.Body.Close()
	})
	const ref = "127.0.0.1:5000/e2e/pulled:1"
	push(t, client.Transport, "ali", "open sesame", ref, small(t, "e2e/any:1", "from a registry"))
	home := os.Getenv("HOME")
	configure := func(password string) {
		auth := base64.StdEncoding.EncodeToString([]byte("ali:" + password))
		must(t, os.MkdirAll(filepath.Join(home, ".docker"), 0o700))
		must(t, os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(`{"auths":{"127.0.0.1:5000":{"auth":"`+auth+`"}}}`), 0o600))
	}
	r := attempt(m, nil, "image", "pull", ref)
	if r.Code != 6 {
		t.Errorf("without credentials: %v", r)
	}
	configure("wrong")
	if r := attempt(m, nil, "image", "pull", ref); r.Code != 6 {
		t.Errorf("with a wrong password: %v", r)
	}
	configure("open sesame")
	contains(t, shoal(t, m, "image", "pull", ref), "pulled "+ref)
	refuses(t, m, 3, []string{"e2e/none"}, "", "image", "pull", "127.0.0.1:5000/e2e/none:1")
	says(t, m, ref, "from a registry")
}

// push uploads the one image of an archive with another program's code, which so reads what shoal writes.
func push(t *testing.T, transport http.RoundTripper, user, password, ref string, archive []byte) {
	t.Helper()
	tag, err := name.NewTag(ref)
	must(t, err)
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, nil)
	must(t, err)
	must(t, remote.Write(tag, img, remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: user, Password: password})))
}
