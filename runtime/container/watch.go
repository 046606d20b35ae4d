package container

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher waits for many descriptors (pidfds of monitors, counters of out-of-memory kills) with one thread.
type watcher struct {
	epoll int
	wake  int // eventfd: run shall look at its context

	mu   sync.Mutex
	fds  map[int32]watched
	next uint32
}

// watched is what to do when a descriptor becomes readable. The number tells a descriptor from an earlier one with the
// same value.
type watched struct {
	number uint32
	do     func()
}

func newWatcher() (*watcher, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	w := &watcher{epoll: ep, wake: ev, fds: map[int32]watched{}}
	if err := w.add(ev, func() {}); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) close() {
	unix.Close(w.epoll)
	unix.Close(w.wake)
}

// add calls do, on run's goroutine, whenever fd becomes readable, until remove.
func (w *watcher) add(fd int, do func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	w.fds[int32(fd)] = watched{number: w.next, do: do}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd), Pad: int32(w.next)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		delete(w.fds, int32(fd))
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// remove must be called before fd is closed.
func (w *watcher) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.fds[int32(fd)]; ok {
		delete(w.fds, int32(fd))
		unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// run delivers until ctx ends.
func (w *watcher) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		unix.Write(w.wake, binary.NativeEndian.AppendUint64(nil, 1))
	})
	defer stop()
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:n] {
			w.mu.Lock()
			h, ok := w.fds[e.Fd]
			w.mu.Unlock()
			if ok && int32(h.number) == e.Pad {
				h.do()
			}
		}
	}
	return nil
}

// Run watches the monitors and delivers events; it blocks until ctx ends, returns nil then, and touches no container.
// Without it exits are noticed only when somebody asks.
func (r *Runtime) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // before the wait
	parts.Go(func() { r.pool.run(ctx) })
	return r.watch.run(ctx)
}
