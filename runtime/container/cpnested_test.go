package container_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/runtime"
)

// Whether a container runs or not, a path leads to the same file, also where one mount is in another.
func TestCopyReachesTheSameFile(t *testing.T) {
	r := newRig(t)
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := []runtime.Mount{
		{Type: runtime.MountVolume, Source: "deepest", Target: "/srv/bind/volume/bind/volume"},
		{Type: runtime.MountVolume, Source: "inner", Target: "/srv/bind/volume"},
		{Type: runtime.MountBind, Source: filepath.Join(host, "deep"), Target: "/srv/bind/volume/bind", CreateHostPath: true},
		{Type: runtime.MountBind, Source: filepath.Join(host, "outer"), Target: "/srv/bind", CreateHostPath: true},
	}
	places := []string{"/srv/bind", "/srv/bind/volume", "/srv/bind/volume/bind", "/srv/bind/volume/bind/volume"}
	r.run(runtime.Spec{ID: "nested", Mounts: mounts, Command: []string{"sh", "-c", "for d in " + strings.Join(places, " ") + "; do echo $d > $d/file; done; sleep 600"}})
	last := places[len(places)-1] + "/file"
	r.eventually("written", func() bool { out, _ := r.exec("nested", "cat", last); return out != "" })
	read := func(when string) {
		for _, d := range places {
			var b bytes.Buffer
			if err := r.rt.CopyOut(t.Context(), "nested", runtime.CopyOut{Path: d + "/file"}, &b); err != nil {
				t.Errorf("%s, %s: %v", when, d, err)
				continue
			}
			tr := tar.NewReader(&b)
			if _, err := tr.Next(); err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			if _, err := text.ReadFrom(tr); err != nil || text.String() != d+"\n" {
				t.Errorf("%s, %s: %q, %v", when, d, text.String(), err)
			}
		}
	}
	read("running")
	if err := r.rt.Stop(t.Context(), "nested", 0); err != nil {
		t.Fatal(err)
	}
	read("stopped")
	for _, d := range places {
		if err := r.rt.CopyIn(t.Context(), "nested", runtime.CopyIn{Path: d}, tarOf(tar.Header{Name: "put"})); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	if _, err := r.rt.Start(t.Context(), "nested"); err != nil {
		t.Fatal(err)
	}
	for _, d := range places {
		if out, _ := r.exec("nested", "cat", d+"/put"); out != "hello" {
			t.Errorf("what was put into %s: %q", d, out)
		}
	}
}
