package e2e

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"shoal/e2e/machines"
)

// vmNetwork is network where each machine has a kernel of its own, for tests that make no sense elsewhere.
func vmNetwork(t *testing.T) *machines.Net {
	t.Helper()
	if os.Getenv("SHOAL_MACHINES") != machines.VMs {
		t.Skip("make e2e-vm runs this")
	}
	n, err := machines.New(machines.Options{Binary: binary})
	must(t, err)
	cleanUp(t, n)
	return n
}

// TestVMContainers runs the tests of the container runtime on a machine where cgroup v2 has all controllers, which the
// host of the namespaces may not. SHOAL_VM_TESTS is a pattern of those to run.
func TestVMContainers(t *testing.T) {
	n := vmNetwork(t)
	m, err := n.Add(machines.MachineOptions{})
	must(t, err)
	must(t, m.PowerOn())
	dir := t.TempDir()
	static := []string{"-tags", "netgo osusergo seccomp", "-ldflags", "-s -w -extldflags -static", "-o"}
	goCommand(t, append([]string{"test", "-c"}, append(static, filepath.Join(dir, "container.test"), "shoal/runtime/container")...)...)
	goCommand(t, append([]string{"build"}, append(static, filepath.Join(dir, "self"), "shoal/runtime/container/testdata/self")...)...)
	goCommand(t, append([]string{"build"}, append(static, filepath.Join(dir, "stage"), "shoal/runtime/container/stage/shoal-stage")...)...)
	if out, err := exec.Command("gzip", "-1", filepath.Join(dir, "stage")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inside := filepath.Join(filepath.Dir(m.DataDir()), "test")
	for _, f := range []string{"container.test", "self", "stage.gz"} {
		must(t, m.CopyIn(filepath.Join(dir, f), filepath.Join(inside, f)))
	}
	pattern := os.Getenv("SHOAL_VM_TESTS")
	if pattern == "" {
		pattern = vmContainerTests
	}
	cmd := m.Command("sh", "-ec", "mkdir -p "+inside+"/tmp; cd "+inside+"; TMPDIR=$PWD/tmp SHOAL_TEST_PROGRAMS=$PWD exec ./container.test -test.v -test.timeout 20m -test.run '"+pattern+"'")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stdout), io.MultiWriter(&out, os.Stderr)
	err = cmd.Run()
	passed := strings.Count(out.String(), "--- PASS")
	for _, line := range regexp.MustCompile(`(?m)^\s*--- (FAIL|SKIP).*\n(\s+\S+_test.go.*\n)?`).FindAllString(out.String(), -1) {
		t.Log(strings.TrimSpace(line))
	}
	t.Logf("%d tests passed on %s", passed, strings.TrimSpace(insideOf(t, m, "uname -sr")))
	if err != nil || passed == 0 {
		t.Errorf("the container runtime's tests: %v", err)
	}
}

// vmContainerTests are all but those that compare with other programs.
const vmContainerTests = "."

func goCommand(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// insideOf runs a script on a machine and gives what it prints.
func insideOf(t *testing.T, m *machines.Machine, script string) string {
	t.Helper()
	out, err := m.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s# %s: %v\n%s", m.Name, script, err, out)
	}
	return string(out)
}
