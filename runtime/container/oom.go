package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// oomWatch is a descriptor that becomes readable when the kernel kills in a container for lack of memory.
type oomWatch struct {
	fd      int
	counter string // file with the number of kills
}

// watchOOM begins to watch the run with that start number. A container that cannot be watched only misses its events: the
// exit tells anyhow.
func (r *Runtime) watchOOM(c *container, start int) {
	w, err := openOOMWatch(filepath.Join(r.cfg.CgroupParent, string(c.id)))
	if err != nil {
		r.log.Debug("no events of lack of memory", "container", c.id, "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oomSeen = w.kills()
	if c.pidfd < 0 || c.start.Start != start || r.watch.add(w.fd, func() { r.noticeOOM(c) }) != nil {
		unix.Close(w.fd) // it has ended already
		return
	}
	c.oomWatch = w
}

func (r *Runtime) unwatchOOM(c *container) {
	c.mu.Lock()
	w := c.oomWatch
	c.oomWatch = nil
	c.mu.Unlock()
	if w != nil {
		r.watch.remove(w.fd)
		unix.Close(w.fd)
	}
}

func (r *Runtime) noticeOOM(c *container) {
	c.mu.Lock()
	w, news := c.oomWatch, false
	if w != nil {
		var buf [4096]byte
		unix.Read(w.fd, buf[:]) // empties it, so that the next one wakes us again
		n := w.kills()
		// v1 wakes us only for this, but before it counts; v2 wakes us for every counter in the file.
		news, c.oomSeen = n > c.oomSeen || !cgroups.IsCgroup2UnifiedMode(), n
	}
	c.mu.Unlock()
	if news {
		r.log.Warn("the kernel killed in a container for lack of memory", "container", c.id)
		r.events.publish(runtime.Event{Kind: runtime.EventOOM, ID: c.id, At: time.Now().UTC()})
	}
}

// openOOMWatch watches memory.events with inotify (cgroup v2, Documentation/admin-guide/cgroup-v2.rst) or asks v1 for an
// eventfd (cgroup-v1/memory.rst, section 9).
func openOOMWatch(cgroup string) (*oomWatch, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		counter := stage.OOMCounter(cgroup)
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init1", err)
		}
		if _, err := unix.InotifyAddWatch(fd, counter, unix.IN_MODIFY); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("watch %s: %w", counter, err)
		}
		return &oomWatch{fd: fd, counter: counter}, nil
	}
	control, err := os.Open(stage.OOMCounter(cgroup))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	request := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(filepath.Dir(control.Name()), "cgroup.event_control"), []byte(request), 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &oomWatch{fd: fd, counter: control.Name()}, nil
}

// kills reads how many processes the kernel killed so far.
func (w *oomWatch) kills() int {
	b, err := os.ReadFile(w.counter)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			v, _ := strconv.Atoi(strings.TrimSpace(n))
			return v
		}
	}
	return 0
}
