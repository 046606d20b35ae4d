package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What the benchmarks start of docker must be gone after Close, whatever it was doing.
func TestDockerLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range []string{"dockerd", "docker", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is missing: packaging/deps.sh bench", p)
		}
	}
	dir := filepath.Join(t.TempDir(), "docker")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := startDocker(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	if out, err := exec.Command("sh", "-c", "mkdir "+tree+"/bin && cp /bin/busybox "+tree+"/bin/ && ln -s busybox "+tree+"/bin/sleep && tar -C "+tree+" -cf "+tree+".tar .").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := d.do(t.Context(), nil, "import", tree+".tar", "bb"); err != nil {
		t.Error(err)
	}
	if err := d.do(t.Context(), nil, "run", "-d", "bb", "sleep", "3600"); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("its directory is still there")
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.cgroup); len(left) > 0 {
		t.Errorf("cgroups left: %q", left)
	}
}
