package container_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container"
	"shoal/runtime/image"
	"shoal/runtime/volume"
)

const seedImage = "docker.io/library/seed:1"

func (r *rig) loadSeed() {
	r.Helper()
	r.load(seedImage, image.RunConfig{Env: []string{"PATH=/bin"}}, busyboxTree(r), image.Tree{
		{Path: "/seed/a", Data: []byte("a\n")}, {Path: "/seed/b", Data: []byte("b\n")},
	})
}

func seedMount(name string) []runtime.Mount {
	return []runtime.Mount{{Type: runtime.MountVolume, Source: name, Target: "/seed"}}
}

// A volume that an earlier version left half filled loses nothing of what was written to it since, and gets the rest.
func TestHalfFilledVolumeKeepsWhatWasWritten(t *testing.T) {
	r := newRig(t)
	r.loadSeed()
	v, err := r.vol.Create("half", "", volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Path, ".shoal-filling"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := r.output(runtime.Spec{ID: "without", Mounts: seedMount("half")}, "echo mine > /seed/customers.db; echo mine > /seed/a"); code != 0 {
		t.Fatal(out)
	}
	out, _ := r.output(runtime.Spec{ID: "filler", Image: seedImage, Mounts: seedMount("half")}, "cd /seed; ls -A; cat *")
	if want := "a\nb\ncustomers.db\nmine\nb\nmine"; out != want {
		t.Errorf("the volume holds %q, want %q", out, want)
	}
}

// However long the filling of a volume takes, a start goes on as long as that does.
func TestLongFillIsNoHang(t *testing.T) {
	r := newRig(t)
	r.loadSeed()
	v, err := r.vol.Create("long", "", volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(v.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil { // as another launcher that fills it
		t.Fatal(err)
	}
	const limit = 4 * time.Second
	defer container.SetStartLimit(limit)()
	time.AfterFunc(limit+limit/2, func() { dir.Close() }) // and lets go of the lock
	in := r.run(runtime.Spec{ID: "patient", Image: seedImage, Mounts: seedMount("long"), Command: []string{"sleep", "600"}})
	if out, _ := r.exec("patient", "ls", "-A", "/seed"); len(strings.Fields(out)) != 2 || in.State != runtime.Running {
		t.Errorf("%v, the volume holds %q", in.State, out)
	}
}

func TestStartThatHangsEnds(t *testing.T) {
	r := newRig(t)
	r.create(runtime.Spec{ID: "hangs", Command: []string{"sleep", "600"}})
	for _, limit := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} { // before and while a launcher is at it
		restore := container.SetStartLimit(limit)
		_, err := r.rt.Start(t.Context(), "hangs")
		restore()
		if !errors.Is(err, runtime.ErrBusy) || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "more than") {
			t.Errorf("a start with %v: %v", limit, err)
		}
	}
}
