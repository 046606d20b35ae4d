package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

const (
	minNanoCPUs  = 1_000_000 // the least quota is 1 ms (Documentation/scheduler/sched-bwc.rst), of 100 ms: 0.01 CPU
	killPatience = 10 * time.Second
)

func (r *Runtime) cgroupPath(id runtime.ID) string {
	return "/" + r.cgroupParent(id) + "/" + string(id)
}

// cgroupOf gives the manager of a container's cgroup, whether or not it exists.
func (r *Runtime) cgroupOf(id runtime.ID) (cgroups.Manager, error) {
	return manager.New(&cgroups.Cgroup{Path: r.cgroupPath(id), Resources: &cgroups.Resources{SkipDevices: true}})
}

// killCgroup kills every process in the container's cgroup and returns when none is left.
func (r *Runtime) killCgroup(id runtime.ID) error {
	m, err := r.cgroupOf(id)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(killPatience)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		pids, err := m.GetAllPids()
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("read the processes of cgroup %s: %w", r.cgroupPath(id), err)
		}
		// A zombie is gone but for its parent's wait, which may be long in coming; v1 lists it still.
		pids = slices.DeleteFunc(pids, isZombie)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s still has %d processes (first: %d) %v after they were killed", r.cgroupPath(id), len(pids), pids[0], killPatience)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, r.cgroupPath(id), err)
			}
		}
		_ = m.Freeze(cgroups.Thawed) // on v1 a frozen process does not die
		time.Sleep(wait)
	}
}

func isZombie(pid int) bool {
	_, state, err := stage.ProcessStat(pid)
	return isAbsent(err) || errors.Is(err, unix.ESRCH) || state == 'Z' || state == 'X'
}

// removeCgroup kills what is in the container's cgroup and removes it from every hierarchy.
func (r *Runtime) removeCgroup(id runtime.ID) error {
	if err := r.killCgroup(id); err != nil {
		return err
	}
	m, err := r.cgroupOf(id)
	if err != nil {
		return err
	}
	return m.Destroy()
}

// leaveAgentsCgroup moves a launcher, which becomes a monitor, out of the agent's cgroup: a service manager that stops the
// agent kills everything in there. Best effort: without it only that protection is missing.
//
// It is done while the launcher is at its preparations, because on v1 the first move waits for a grace period of the
// kernel's RCU, some 10 ms, and the moves that follow soon do not: so libcontainer's of the container need not wait.
func (r *Runtime) leaveAgentsCgroup(launcher int) {
	pid := []byte(strconv.Itoa(launcher))
	for _, h := range stage.Hierarchies() {
		dir := filepath.Join(h, r.cfg.CgroupParent, stage.CgroupMonitors)
		if os.MkdirAll(dir, 0o755) != nil {
			continue
		}
		if strings.HasSuffix(h, "/cpuset") {
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				inheritFile(filepath.Join(h, r.cfg.CgroupParent), filepath.Dir(filepath.Join(h, r.cfg.CgroupParent)), f)
				inheritFile(dir, filepath.Dir(dir), f)
			}
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0)
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

// dropMonitorsCgroup removes the monitors' cgroup and the parent if they are empty; the kernel refuses if not.
func (r *Runtime) dropMonitorsCgroup() {
	for _, h := range stage.Hierarchies() {
		_ = os.Remove(filepath.Join(h, r.cfg.CgroupParent, stage.CgroupMonitors))
		_ = os.Remove(filepath.Join(h, r.cfg.CgroupParent))
	}
}
