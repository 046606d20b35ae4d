package container_test

import (
	"testing"

	"shoal/runtime/container"
)

func TestProbeFindsWhatTheTestsUse(t *testing.T) {
	needRoot(t)
	for _, f := range container.Probe() {
		t.Logf("%-20s %v", f.Name, f.OK)
		if f.Name == "" || f.Lost == "" {
			t.Errorf("feature without a name or what is lost: %+v", f)
		}
		switch f.Name {
		case "root", "overlayfs", "pidfd", "openat2", "seccomp":
			if !f.OK {
				t.Errorf("%s is not found, yet the other tests pass with it", f.Name)
			}
		}
	}
}
