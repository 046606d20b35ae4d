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

// oomWatch tells when the kernel kills in a container for lack of memory.
type oomWatch struct {
	counter string // file with the number of kills
	fd      int    // v1: an eventfd; -1 on v2
	id      int32  // v2: of the counter in Runtime.modified
}

// watchOOM begins to watch the run with that start number. A container that cannot be watched only misses its events: the
// exit tells anyhow.
func (r *Runtime) watchOOM(c *container, start int) {
	w, err := r.openOOMWatch(c)
	if err != nil {
		r.log.Debug("no events of lack of memory", "container", c.id, "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oomSeen = w.kills()
	if c.pidfd < 0 || c.start.Start != start {
		r.closeOOMWatch(w) // it has ended already
		return
	}
	c.oomWatch = w
	if c.oomSeen > 0 { // since the run began: nobody has told of it. For an adopted one nobody listens yet.
		r.events.publish(runtime.Event{Kind: runtime.EventOOM, ID: c.id, At: time.Now().UTC()})
	}
}

func (r *Runtime) unwatchOOM(c *container) {
	c.mu.Lock()
	w := c.oomWatch
	c.oomWatch = nil
	c.mu.Unlock()
	if w != nil {
		r.closeOOMWatch(w)
	}
}

func (r *Runtime) closeOOMWatch(w *oomWatch) {
	if w.fd < 0 {
		r.modified.remove(w.id)
		return
	}
	r.watch.remove(w.fd)
	unix.Close(w.fd)
}

func (r *Runtime) noticeOOM(c *container) {
	c.mu.Lock()
	w, news := c.oomWatch, false
	if w != nil {
		if w.fd >= 0 {
			var buf [8]byte
			unix.Read(w.fd, buf[:]) // empties it, so that the next one wakes us again
		}
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

// openOOMWatch watches memory.events (cgroup v2, Documentation/admin-guide/cgroup-v2.rst) or asks v1 for an eventfd
// (cgroup-v1/memory.rst, section 9). The caller closes it.
func (r *Runtime) openOOMWatch(c *container) (*oomWatch, error) {
	notice := func() { r.noticeOOM(c) }
	counter := stage.OOMCounter(r.cgroupPath(c.id))
	if cgroups.IsCgroup2UnifiedMode() {
		id, err := r.modified.add(counter, notice)
		return &oomWatch{counter: counter, fd: -1, id: id}, err
	}
	fd, err := oomEventfd(counter)
	if err != nil {
		return nil, err
	}
	if err := r.watch.add(fd, notice); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &oomWatch{counter: counter, fd: fd}, nil
}

// oomEventfd becomes readable with each kill that the counter of a v1 cgroup counts.
func oomEventfd(counter string) (int, error) {
	control, err := os.Open(counter)
	if err != nil {
		return -1, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	request := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(filepath.Dir(control.Name()), "cgroup.event_control"), []byte(request), 0); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
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
