package machines

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stopped tells whether the kernel holds a process stopped.
func Stopped(pid int) bool { return state(pid) == "T" }

// Gone tells whether a process has ended, though its parent may not have heard of it.
func Gone(pid int) bool { s := state(pid); return s == "" || s == "Z" || s == "X" }

// state is the letter that the kernel gives a process, "" if there is none.
func state(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	s := string(b)
	if f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:]); len(f) > 0 {
		return f[0]
	}
	return ""
}

// Squeeze is a memory cgroup around a running agent, too small for it.
type Squeeze struct {
	dir, home string
	limit     string // the file that limits, of this version of cgroups
	events    string // the file that counts kills
	pid       int
}

// SqueezeAgent leaves the running agent so many bytes more than nothing: what it has stays its own, what it takes from now
// on counts. The kernel kills it when that is used up.
func (m *Machine) SqueezeAgent(bytes int64) (*Squeeze, error) {
	pid := m.AgentPID()
	if pid == 0 {
		return nil, fmt.Errorf("squeeze the agent of %s: it does not run", m.Name)
	}
	s := &Squeeze{dir: "/sys/fs/cgroup/memory/", limit: "memory.limit_in_bytes", events: "memory.oom_control", pid: pid}
	controller := "memory"
	if _, err := os.Stat(s.dir); err != nil {
		s.dir, s.limit, s.events, controller = "/sys/fs/cgroup/", "memory.max", "memory.events", ""
	}
	home, err := cgroupOf(pid, controller)
	if err != nil {
		return nil, err
	}
	s.home = filepath.Join(s.dir, home)
	s.dir = filepath.Join(s.dir, m.Cgroup()+"-agent")
	if err := os.Mkdir(s.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	for _, w := range []struct{ file, what string }{{s.limit, strconv.FormatInt(bytes, 10)}, {"cgroup.procs", strconv.Itoa(pid)}} {
		if err := os.WriteFile(filepath.Join(s.dir, w.file), []byte(w.what), 0o644); err != nil {
			return nil, errors.Join(err, s.End())
		}
	}
	return s, nil
}

// CgroupOf is the directory of a process's cgroup that a controller ("memory", "pids") counts in.
func CgroupOf(pid int, controller string) (string, error) {
	if _, err := os.Stat("/sys/fs/cgroup/" + controller); err == nil {
		path, err := cgroupOf(pid, controller)
		return filepath.Join("/sys/fs/cgroup", controller, path), err
	}
	path, err := cgroupOf(pid, "")
	return filepath.Join("/sys/fs/cgroup", path), err
}

// cgroupOf is the path of a process's cgroup in the hierarchy of a controller; "" is version 2.
func cgroupOf(pid int, controller string) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[1] == controller {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup for %q", pid, controller)
}

// Kills tells how many processes the kernel killed for want of memory.
func (s *Squeeze) Kills() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, s.events))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s does not count kills", s.events)
}

// End gives the agent its memory back, if it lives, and removes the cgroup. A second time does nothing.
func (s *Squeeze) End() error {
	b, err := os.ReadFile(filepath.Join(s.dir, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_ = os.WriteFile(filepath.Join(s.dir, s.limit), []byte(strconv.FormatInt(1<<40, 10)), 0o644) // so that moving it is no allocation too many
	for pid := range strings.FieldsSeq(string(b)) {
		if werr := os.WriteFile(filepath.Join(s.home, "cgroup.procs"), []byte(pid), 0o644); werr != nil && !errors.Is(werr, unix.ESRCH) {
			err = errors.Join(err, werr)
		}
	}
	return errors.Join(err, await(goneWait, "cgroup "+s.dir+" to be empty", func() bool {
		err := os.Remove(s.dir)
		return err == nil || errors.Is(err, os.ErrNotExist)
	}))
}
