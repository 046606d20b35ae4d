package container_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"shoal/runtime"
)

// A directory that somebody made beside the volumes, and a volume that cannot be read, keep no agent from starting and no
// container from being removed.
func TestBrokenVolumeHoldsNoContainer(t *testing.T) {
	r := newRig(t)
	mount := []runtime.Mount{{Type: runtime.MountVolume, Source: "good", Target: "/data"}}
	r.run(runtime.Spec{ID: "user", Command: []string{"sleep", "600"}, Mounts: mount})
	if out, code := r.output(runtime.Spec{ID: "of-bad", Mounts: []runtime.Mount{{Type: runtime.MountVolume, Source: "bad", Target: "/data"}}}, "true"); code != 0 {
		t.Fatal(out)
	}
	volumes := filepath.Join(r.dir, "volumes")
	if err := errors.Join(os.Mkdir(filepath.Join(volumes, "backup"), 0o755), os.WriteFile(filepath.Join(volumes, "bad", "volume.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.close()
	r.open()
	for _, id := range []runtime.ID{"user", "of-bad"} {
		if err := r.rt.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := r.vol.Remove("good"); err != nil {
		t.Errorf("remove the volume that nobody uses any more: %v", err)
	}
}
