package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// Attach joins the caller to the container's streams.
func (r *Runtime) Attach(ctx context.Context, id runtime.ID, a runtime.Attach) (int, error) {
	c, err := r.find(id)
	if err != nil {
		return 0, err
	}
	for {
		r.refresh(c)
		c.mu.Lock()
		state, start, exit, changed, removed := c.state, c.start, c.exit, c.changed, c.removed
		c.mu.Unlock()
		switch {
		case removed:
			return 0, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
		case state == runtime.Created:
			select {
			case <-changed:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			continue
		case state == runtime.Stopped && start.PID == 0 && exit.Error != "":
			return exit.Code, stage.WithKind(runtime.ErrInvalid, fmt.Errorf("container %s: %s", id, exit.Error))
		}
		h, m, err := r.joinHub(c, state == runtime.Running)
		if err != nil {
			return 0, fmt.Errorf("attach to container %s: %w", id, err)
		}
		if m != nil {
			return r.attached(ctx, c, h, m, a)
		}
		// It ended just now, and its hub with it: look again.
		if state != runtime.Running {
			return 0, conflictf("attach to container %s: it is not running", id)
		}
	}
}

// joinHub makes the caller a member of the run's hub, which it makes if there is none. No member: there is nothing to be
// had.
func (r *Runtime) joinHub(c *container, running bool) (*hub, *member, error) {
	c.attach.Lock()
	defer c.attach.Unlock()
	if c.hub != nil {
		if m, ok := c.hub.join(); ok {
			return c.hub, m, nil
		}
		c.hub = nil
	}
	if !running {
		return nil, nil, nil
	}
	h, err := openHub(c, false)
	if err != nil {
		return nil, nil, err
	}
	m, _ := h.join() // it was just made
	c.hub = h
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	go h.run(ended)
	return h, m, nil
}

// keepOutput makes the hub of a run that begins, if the spec wants its output kept for the first caller.
func (r *Runtime) keepOutput(c *container) (*hub, error) {
	if !c.rec.Spec.Attach {
		return nil, nil
	}
	c.attach.Lock()
	defer c.attach.Unlock()
	h, err := openHub(c, true)
	if err != nil {
		return nil, err
	}
	c.hub = h
	return h, nil
}

func (r *Runtime) attached(ctx context.Context, c *container, h *hub, m *member, a runtime.Attach) (int, error) {
	defer h.leave(m)
	if in := c.info(); in.State == runtime.Running {
		stop, err := r.attachInput(c, a)
		if err != nil {
			return 0, fmt.Errorf("attach to container %s: %w", c.id, err)
		}
		defer stop()
	}
	if err := m.deliver(ctx.Done(), [2]io.Writer{a.Stdout, a.Stderr}); err != nil {
		return 0, fmt.Errorf("attach to container %s: pass its output on: %w", c.id, err)
	}
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exit.Code, nil
}

// attachInput passes on what the caller types, and the size of its terminal, until stop is called.
func (r *Runtime) attachInput(c *container, a runtime.Attach) (stop func(), err error) {
	spec := c.rec.Spec
	in := a.Stdin
	if !spec.Stdin {
		in = nil
	}
	if in == nil && (a.Resize == nil || !spec.TTY) {
		return func() {}, nil
	}
	c.mu.Lock()
	monitor := c.monitor
	c.mu.Unlock()
	if monitor == 0 {
		return func() {}, nil // it has just ended
	}
	awaitMonitor(monitor)
	if !spec.TTY {
		f, err := os.OpenFile(filepath.Join(c.dir, stage.FileStdin), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENXIO) {
			return func() {}, nil // it has ended, or closed its input
		}
		if err != nil {
			return nil, err
		}
		go c.copyStdin(f, in, a.EndStdin)
		return func() { f.Close() }, nil
	}
	terminal, err := c.terminal()
	if terminal == nil || err != nil {
		return func() {}, err
	}
	done := make(chan struct{})
	if in != nil {
		go func() {
			if _, err := io.Copy(terminal, in); err == nil && a.EndStdin {
				_, _ = terminal.Write([]byte{endOfTransmission}) // a container that is gone needs none
			}
		}()
	}
	if a.Resize != nil {
		go resizeTerminal(terminal, a.Resize, done)
	}
	return func() { close(done); terminal.Close() }, nil
}

// copyStdin ends when the caller's reader does, or at the first write after stop.
func (c *container) copyStdin(f *os.File, in io.Reader, endStdin bool) {
	_, err := io.Copy(f, in)
	if err != nil || !endStdin {
		return
	}
	f.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd >= 0 {
		_ = stage.SendEndOfStdin(c.pidfd) // it has ended if that fails
	}
}

// terminal gives a descriptor of the running container's terminal; nil when it has just ended.
func (c *container) terminal() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return nil, nil
	}
	f, err := stage.MonitorTerminal(c.pidfd, c.monitor)
	if err != nil && readable(c.pidfd) {
		return nil, nil
	}
	return f, err
}

// resizeTerminal follows the caller's terminal until done.
func resizeTerminal(terminal *os.File, sizes <-chan runtime.Size, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			rc, err := terminal.SyscallConn()
			if err != nil {
				return
			}
			rc.Control(func(fd uintptr) {
				unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
			})
		}
	}
}
