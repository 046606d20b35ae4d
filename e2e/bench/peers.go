package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

// peerNames are what Debian ships to start one container.
var peerNames = []string{"runc", "crun"}

var peersGroup = group{
	name: "peers",
	how: "`runc run` and `crun run` of the distribution, interleaved with shoal on one machine: the same program and root, their own `spec` with all " +
		"namespaces and a cgroup. Their containers have no seccomp profile, no overlay, no network and no log; ours have all four, and that favours them. crun refuses hybrid cgroup " +
		"hosts, so the second hierarchy is hidden from it.",
	enabled: func(b *bench) bool { return b.peers },
	run: func(b *bench) error {
		if err := installPeers(b); err != nil {
			return err
		}
		return b.withCluster(1, measurePeers)
	},
}

func installPeers(b *bench) error {
	var missing []string
	for _, p := range peerNames {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	b.progress("installing: %s", strings.Join(missing, " "))
	out, err := exec.CommandContext(b.ctx, "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("install %s: %w\n%s", strings.Join(missing, " "), err, out)
	}
	return nil
}

func measurePeers(c *cluster) error {
	if err := c.loadImage(); err != nil {
		return err
	}
	m := c.net.Machines()[0]
	ours := &series{name: "shoal create+start -> first instruction", unit: Millis}
	all := []*series{ours}
	first, returned := map[string]*series{}, map[string]*series{}
	for _, p := range peerNames {
		if err := makeBundle(p, c.bundle(p), m.Cgroup()); err != nil {
			return err
		}
		first[p] = &series{name: p + " run -> first instruction", unit: Millis}
		returned[p] = &series{name: p + " run -> returned", unit: Millis}
		all = append(all, first[p], returned[p])
	}
	for i := range c.samples + 1 {
		t, err := c.startOne(m, fmt.Sprintf("peer%d", i))
		if err != nil {
			return err
		}
		if i > 0 { // the first warms up
			ours.took(t.first.Sub(t.task.Status.At[job.Pulling]))
		}
		for _, p := range peerNames {
			clocks, err := c.runPeer(m, p)
			if err != nil {
				return err
			}
			if i > 0 {
				first[p].took(clocks[1].Sub(clocks[0]))
				returned[p].took(clocks[2].Sub(clocks[0]))
			}
		}
	}
	for _, p := range peerNames {
		ratio := &series{name: "shoal / " + p + ", first instruction", unit: Times}
		for i, v := range ours.samples {
			ratio.add(v / first[p].samples[i])
		}
		all = append(all, ratio)
	}
	return c.keep("peers", all...)
}

func (c *cluster) bundle(peer string) string { return filepath.Join(c.net.Dir(), "bundle-"+peer) }

// makeBundle makes what a peer runs: busybox adjtimex, with the peer's own default spec.
func makeBundle(peer, dir, cgroup string) error {
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("busybox is missing: install busybox-static: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/adjtimex"), program, 0o755); err != nil {
		return err
	}
	cmd := exec.Command(peer, "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s spec: %w: %s", peer, err, out)
	}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("%s spec: %w", peer, err)
	}
	process, ok1 := spec["process"].(map[string]any)
	linux, ok2 := spec["linux"].(map[string]any)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s spec: it has no process or no linux", peer)
	}
	process["args"], process["terminal"] = []string{"/bin/adjtimex"}, false
	linux["cgroupsPath"] = "/" + cgroup + "/" + peer
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// runPeer runs a container and gives three times: before, at its first instruction, and after.
func (c *cluster) runPeer(m *machines.Machine, peer string) ([]time.Time, error) {
	prepare := ":"
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil && peer == "crun" {
		prepare = "umount /sys/fs/cgroup/unified"
	}
	root := filepath.Join(c.net.Dir(), "state-"+peer)
	script := fmt.Sprintf("%s && busybox adjtimex && %s --root %s run --bundle %s %s-bench && busybox adjtimex", prepare, peer, root, c.bundle(peer), peer)
	cmd := m.Command("unshare", "--mount", "sh", "-c", script)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s run: %w: %s", peer, err, errs.String())
	}
	clocks := parseClocks(out.String())
	if len(clocks) != 3 {
		return nil, fmt.Errorf("%s run printed %d clocks of 3: %q", peer, len(clocks), out.String())
	}
	return clocks, nil
}
