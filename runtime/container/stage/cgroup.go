package stage

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
)

const (
	// CgroupRoot is where the hierarchies are mounted.
	CgroupRoot = "/sys/fs/cgroup"
	// CgroupMonitors is beside the containers' cgroups; no container's id begins with an underscore.
	CgroupMonitors = "_monitors"
)

// Hierarchies are the mount points of cgroup hierarchies: one on v2, one a controller on v1, with the hybrid's own.
func Hierarchies() []string {
	if cgroups.IsCgroup2UnifiedMode() {
		return []string{CgroupRoot}
	}
	entries, _ := os.ReadDir(CgroupRoot)
	var out []string
	for _, e := range entries {
		if e.IsDir() { // "cpu" and "cpuacct" are links where "cpu,cpuacct" is mounted
			out = append(out, filepath.Join(CgroupRoot, e.Name()))
		}
	}
	return out
}

// leaveAgentsCgroup moves this process, a monitor soon, out of the agent's cgroup: a service manager that stops the agent
// kills everything in there. Best effort: without it only that protection is missing.
func leaveAgentsCgroup(parent string) {
	for _, h := range Hierarchies() {
		dir := filepath.Join(h, parent, CgroupMonitors)
		if os.MkdirAll(dir, 0o755) != nil {
			continue
		}
		if strings.HasSuffix(h, "/cpuset") {
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				inheritFile(filepath.Join(h, parent), filepath.Dir(filepath.Join(h, parent)), f)
				inheritFile(dir, filepath.Dir(dir), f)
			}
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
	}
}

// inheritFile copies a cpuset setting from the parent: v1 makes it empty, and nothing can run on no processor.
func inheritFile(dir, parent, name string) {
	own, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || strings.TrimSpace(string(own)) != "" {
		return
	}
	if b, err := os.ReadFile(filepath.Join(parent, name)); err == nil {
		_ = os.WriteFile(filepath.Join(dir, name), b, 0)
	}
}

// OOMCounter is the file of a cgroup in which the kernel counts its kills.
func OOMCounter(cgroup string) string {
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join(CgroupRoot, cgroup, "memory.events")
	}
	return filepath.Join(CgroupRoot, "memory", cgroup, "memory.oom_control")
}
