package stage

import (
	"os"
	"path/filepath"

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

// OOMCounter is the file of a cgroup in which the kernel counts its kills.
func OOMCounter(cgroup string) string {
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join(CgroupRoot, cgroup, "memory.events")
	}
	return filepath.Join(CgroupRoot, "memory", cgroup, "memory.oom_control")
}
