package container

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// maxCommandBytes bounds one process's arguments in an answer.
const maxCommandBytes = 4 << 10

// ticksPerSecond is USER_HZ, in which the kernel tells times to programs: 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// Processes lists what runs in a container.
func (r *Runtime) Processes(ctx context.Context, id runtime.ID) ([]runtime.Process, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	r.refresh(c)
	in := c.info()
	if in.State != runtime.Running {
		return nil, conflictf("processes of container %s: it is not running", id)
	}
	m, err := r.cgroupOf(id)
	if err != nil {
		return nil, err
	}
	pids, err := m.GetAllPids()
	if err != nil {
		if r.refresh(c); c.info().State != runtime.Running {
			return nil, conflictf("processes of container %s: it has ended", id)
		}
		return nil, fmt.Errorf("processes of container %s: %w", id, err)
	}
	slices.Sort(pids)
	pids = slices.Compact(pids)
	users, base := namesOfUsers(in.PID), int(c.rec.UserBase)
	booted := bootedAt()
	out := []runtime.Process{}
	for _, pid := range pids {
		if len(out) == runtime.MaxProcesses {
			break
		}
		if p, ok := readProcess(pid, booted); ok {
			if uid, err := strconv.Atoi(p.User); err == nil {
				p.User = strconv.Itoa(max(0, uid-base)) // as the container counts
			}
			if name := users[p.User]; name != "" {
				p.User = name
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// namesOfUsers reads the container's own /etc/passwd, and nothing that a link of its leads to outside.
func namesOfUsers(pid int) map[string]string {
	names := map[string]string{}
	root, err := openRoot(pid)
	if err != nil {
		return names
	}
	defer root.Close()
	at, err := root.open("/etc/passwd", unix.O_PATH) // opening a device does something
	if err != nil {
		return names
	}
	defer at.Close()
	if fi, err := at.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > 1<<20 {
		return names
	}
	f, err := reopen(at, unix.O_RDONLY)
	if err != nil {
		return names
	}
	defer f.Close()
	list, _ := user.ParsePasswd(f) // one that cannot be read has no names
	for _, u := range list {
		if n := strconv.Itoa(u.Uid); names[n] == "" {
			names[n] = u.Name
		}
	}
	return names
}

// bootedAt is the wall clock's time of the machine's start, as ps reckons.
func bootedAt() time.Time {
	b, _ := os.ReadFile("/proc/stat") // without it the times are since the epoch
	if _, after, ok := bytes.Cut(b, []byte("\nbtime ")); ok {
		line, _, _ := bytes.Cut(after, []byte("\n"))
		sec, _ := strconv.ParseInt(string(line), 10, 64)
		return time.Unix(sec, 0)
	}
	return time.Unix(0, 0)
}

// readProcess reads what proc(5) says of a process; false when it is gone.
func readProcess(pid int, booted time.Time) (runtime.Process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.Process{}, false
	}
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return runtime.Process{}, false
	}
	f := strings.Fields(string(stat[end+1:])) // from the third field on
	if len(f) < 22 {
		return runtime.Process{}, false
	}
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(f[field-3], 10, 64) // the kernel's own
		return n
	}
	ticks := func(n int64) time.Duration { return time.Duration(n) * time.Second / ticksPerSecond }
	p := runtime.Process{
		PID: pid, Parent: int(number(4)), State: f[0], CPU: ticks(number(14) + number(15)),
		Started: booted.Add(ticks(number(22))).UTC(), Memory: number(24) * int64(os.Getpagesize()),
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		if _, after, ok := strings.Cut(string(status), "\nUid:\t"); ok {
			if ids := strings.Fields(after); len(ids) > 1 {
				p.User = ids[1] // effective
			}
		}
	}
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty for a zombie
	p.Command = strings.ToValidUTF8(string(bytes.TrimSpace(bytes.ReplaceAll(args[:min(len(args), maxCommandBytes)], []byte{0}, []byte{' '}))), "?")
	if p.Command == "" {
		p.Command = "[" + string(stat[open+1:end]) + "]"
	}
	return p, true
}
