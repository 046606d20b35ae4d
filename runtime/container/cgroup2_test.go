package container_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"shoal/runtime"
)

// onCgroup2 are the tests that need no controller: on a hybrid machine those are with v1, and v2 has none.
const onCgroup2 = "^(TestSettingsOfOneContainer|TestPrivilegedContainerHasTheMachine|TestNamespacesOfTheMachine|TestJoinedNamespaces|" +
	"TestUsersOfItsOwn|TestRestartKeepsFilesAndAddress|TestLimitsWithoutControllers)$"

// TestOnCgroup2 runs some tests once more where only cgroup v2 is to be seen.
func TestOnCgroup2(t *testing.T) {
	needRoot(t)
	switch {
	case os.Getenv(envCgroup2) != "":
		t.Skip("these are them")
	case testing.Short():
		t.Skip("short")
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		t.Skip("this machine has nothing else")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+onCgroup2, "-test.v")
	cmd.Env = append(os.Environ(), envCgroup2+"=1", envInside+"=")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") < 7 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLimitsWithoutControllers(t *testing.T) {
	if os.Getenv(envCgroup2) == "" {
		t.Skip("the controllers are here: see TestOnCgroup2")
	}
	r := newRig(t)
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err != nil || strings.Contains(string(b), "memory") {
		t.Skipf("v2 has controllers: %s", b)
	}
	for key, s := range map[string]runtime.Spec{
		"mem_limit":  {Resources: runtime.Resources{MemoryBytes: 64 << 20}},
		"cpus":       {Resources: runtime.Resources{NanoCPUs: 1e9}},
		"pids_limit": {Resources: runtime.Resources{PIDs: 10}},
		"cpuset":     {Tuning: &runtime.Tuning{CPUSet: "0"}},
		"blkio":      {Tuning: &runtime.Tuning{BlockIO: &runtime.BlockIO{ReadBps: []runtime.DeviceRate{{Path: "/dev/loop0", Rate: 1}}}}},
	} {
		s.ID, s.Image = "x", testImage
		if _, err := r.rt.Create(t.Context(), s); !errors.Is(err, runtime.ErrDenied) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "controller") {
			t.Errorf("%s: %v", key, err)
		}
	}
	swappiness := int64(3)
	in := r.create(runtime.Spec{ID: "warned", Tuning: &runtime.Tuning{Swappiness: &swappiness}})
	if len(in.Warnings) != 1 || !strings.Contains(in.Warnings[0], "cgroup v2 has none") {
		t.Errorf("warnings %q", in.Warnings)
	}
}
