package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"shoal/e2e/machines"
)

// container is a live container as the kernel shows it.
type container struct {
	Task    string
	Machine string
	PID     int    // its first process, in our namespace
	Start   string // when that began, in the kernel's ticks
	Job     string
	Service string
	Slot    string
}

func (c container) String() string {
	return fmt.Sprintf("%s/%s.%s (%s) on %s, process %d begun at %s", c.Job, c.Service, c.Slot, c.Task, c.Machine, c.PID, c.Start)
}

// census lists the live containers of all machines by the cgroups of the kernel; no agent is asked.
func census(all []*machines.Machine) []container {
	var out []container
	for _, m := range all {
		for _, pattern := range []string{"/sys/fs/cgroup/pids/", "/sys/fs/cgroup/"} {
			dirs, _ := filepath.Glob(pattern + m.Cgroup() + "/*/cgroup.procs") // the pattern is right
			for _, d := range dirs {
				if c, ok := live(d); ok {
					c.Machine = m.Name
					out = append(out, c)
				}
			}
			if len(dirs) > 0 {
				break
			}
		}
	}
	return out
}

// live finds the first process of the container with the cgroup.
func live(procs string) (container, bool) {
	b, err := os.ReadFile(procs)
	if err != nil {
		return container{}, false
	}
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil || !firstOfItsNamespace(pid) {
			continue
		}
		env := environ(pid)
		start := startOf(pid)
		if start == "" || env["SHOAL_TASK"] == "" {
			continue // it died meanwhile, or it is not executed yet
		}
		return container{Task: env["SHOAL_TASK"], PID: pid, Start: start, Job: env["SHOAL_JOB"], Service: env["SHOAL_SERVICE"], Slot: env["SHOAL_SLOT"]}, true
	}
	return container{}, false
}

func environ(pid int) map[string]string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, line := range strings.Split(string(b), "\x00") {
		if k, v, ok := strings.Cut(line, "="); ok {
			out[k] = v
		}
	}
	return out
}

func firstOfItsNamespace(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return len(f) > 2 && f[len(f)-1] == "1" // ours, the machine's, the container's
		}
	}
	return false
}

// startOf is when a process began; "" if it is gone or dead.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// proc(5): the second field is a name in parentheses, which may hold anything; the 22nd is the start time.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// touched compares two censuses: which containers are gone or have another first process although nothing that happened
// between may have ended them. may says what may have happened to a container.
func touched(before, after []container, inLog map[string]bool, may func(container) licence) []string {
	now := map[string]container{}
	for _, c := range after {
		now[c.Task] = c
	}
	var out []string
	for _, was := range before {
		is, lives := now[was.Task]
		switch l := may(was); {
		case l == mayEnd, lives && is.PID == was.PID && is.Start == was.Start:
		case lives:
			out = append(out, fmt.Sprintf("%v was started again: now process %d begun at %s", was, is.PID, is.Start))
		case l == mayMove && !inLog[was.Task]:
		case l == mayMove:
			out = append(out, fmt.Sprintf("%v is dead, and its task is still meant to run", was))
		default:
			out = append(out, fmt.Sprintf("%v ended", was))
		}
	}
	return out
}

// licence is what may have happened to a container.
type licence int

const (
	mayNothing licence = iota // it must be the same process
	mayMove                   // it may be gone if its task was given up for another one
	mayEnd                    // it may have ended and been started again
)
