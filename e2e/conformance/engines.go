package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed engines.sh
var enginesScript string

const enginesLimit = 5 * time.Minute

// engines has docker and podman run containers over shoal oci.
func (b *bench) engines(ctx context.Context) error {
	var missing []string
	for _, p := range []string{"dockerd", "docker", "podman", "containerd"} {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		missing = append(missing, "busybox")
	}
	if len(missing) > 0 {
		return fmt.Errorf("engines: %s missing: packaging/deps.sh conformance installs them", strings.Join(missing, ", "))
	}
	ctx, cancel := context.WithTimeout(ctx, enginesLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "shoal-engines-")
	if err != nil {
		return err
	}
	before := cgroups()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child",
		"bash", "-c", enginesScript, "engines.sh", filepath.Join(b.bin, "shoal-oci"), dir, busybox)
	cmd.Cancel = func() error { return cmd.Process.Kill() } // the namespace's first process dies with it, and all others with that
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	fmt.Printf("\nengines over shoal oci:\n%s", out)
	err = errors.Join(err, clearCgroups(before))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the last container may still be dying
		rerr := os.RemoveAll(dir)
		if rerr == nil {
			break
		}
		if time.Now().After(end) {
			return errors.Join(err, rerr)
		}
	}
	if bad := strings.Count("\n"+string(out), "\nnot ok "); bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d of the engines' steps did not go as with runc", bad))
	}
	return err
}
