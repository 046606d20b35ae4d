package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// drainTime is how long output is still read after a process ended, when something else holds its pipe open: what it
// wrote is in the pipe already.
const drainTime = 200 * time.Millisecond

// Exec runs a further process. It is the child of a helper process; it dies with its container, not with us.
func (r *Runtime) Exec(ctx context.Context, id runtime.ID, e runtime.Exec) (int, error) {
	c, err := r.find(id)
	if err != nil {
		return 0, err
	}
	if len(e.Args) == 0 || e.Args[0] == "" {
		return 0, stage.Invalidf("exec in container %s: no command given", id)
	}
	r.refresh(c)
	c.mu.Lock()
	running, pid, paused := c.state == runtime.Running, c.start.PID, c.paused
	c.mu.Unlock()
	if !running {
		return 0, conflictf("exec in container %s: it is not running", id)
	}
	if paused {
		return 0, conflictf("exec in container %s: it is paused", id)
	}
	code, err := r.exec(ctx, c, pid, e)
	if err != nil {
		if in := c.info(); in.State != runtime.Running {
			err = stage.WithKind(runtime.ErrConflict, err)
		}
		return code, kindOf(fmt.Errorf("exec %s in container %s: %w", e.Args[0], id, err))
	}
	return code, nil
}

// errLeft is how an Exec ends whose caller left it to itself.
var errLeft = errors.New("it was left to itself and goes on")

func (r *Runtime) exec(ctx context.Context, c *container, initPID int, e runtime.Exec) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	streams, err := openStreams(e)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	h, err := r.program.startExec(streams)
	if err != nil {
		return 0, err
	}
	defer h.reap()
	h.reach("exec helper", 0)
	err = h.send(stage.Exec{
		ID: c.id, StateDir: r.cfg.StateDir, InitPID: initPID, Record: c.rec,
		Args: e.Args, Env: e.Env, User: e.User, WorkingDir: e.WorkingDir, TTY: e.TTY, Privileged: e.Privileged,
	})
	if err != nil {
		return 0, err
	}
	h.reach("exec job sent", initPID)
	if _, err := h.receive(); err != nil {
		return codeOf(err), err
	}
	h.reach("exec started", initPID)
	stop := context.AfterFunc(ctx, func() { _ = h.send(stage.Word{}) })
	defer stop()
	if err := streams.begin(); err != nil {
		_ = h.send(stage.Word{})
		return 0, err
	}
	if e.Started != nil {
		e.Started()
	}
	h.reach("exec running", initPID)
	defer h.waitUntil(e.Leave)()
	end, err := h.receive()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		streams.finish(ctx)
		return 0, errLeft
	}
	streams.finish(ctx)
	h.reach("exec ended", initPID)
	if ctx.Err() != nil {
		return 128 + int(unix.SIGKILL), context.Cause(ctx)
	}
	if err != nil {
		return 0, err
	}
	return *end.Exit, nil
}

// streams join a process's input and output to the caller's readers and writers.
type streams struct {
	e        runtime.Exec
	in       *os.File   // we write
	outs     []*os.File // we read
	writers  []io.Writer
	stdio    [3]*os.File // the process's; nil: /dev/null
	theirs   []*os.File
	console  *os.File
	consoles *os.File // the other end of console
	terminal *os.File
	copies   sync.WaitGroup
	done     chan struct{} // ends resizing
}

func openStreams(e runtime.Exec) (_ *streams, err error) {
	s := &streams{e: e, done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if e.TTY {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socketpair", err)
		}
		s.console, s.consoles = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-child")
		s.theirs = append(s.theirs, s.consoles)
		return s, nil
	}
	if e.Stdin != nil {
		child, ours, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.stdio[0], s.in = child, ours
		s.theirs = append(s.theirs, child)
	}
	for i, to := range []io.Writer{e.Stdout, e.Stderr} {
		if to == nil {
			continue // /dev/null
		}
		ours, child, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.stdio[1+i] = child
		s.theirs = append(s.theirs, child)
		s.outs, s.writers = append(s.outs, ours), append(s.writers, to)
	}
	return s, nil
}

// given closes our copies of what the helper got.
func (s *streams) given() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// begin is called once the process runs.
func (s *streams) begin() error {
	if s.console != nil {
		master, err := stage.ReceiveFile(s.console)
		if err != nil {
			return err
		}
		defer master.Close()
		// A descriptor of our own that does not block, so that reading can be ended.
		fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return err
		}
		s.terminal = os.NewFile(uintptr(fd), "terminal")
		out := s.e.Stdout
		if out == nil {
			out = io.Discard
		}
		s.outs, s.writers = []*os.File{s.terminal}, []io.Writer{out}
		if s.e.Stdin != nil {
			s.in = s.terminal
		}
		go resizeTerminal(s.terminal, s.e.Resize, s.done)
	}
	for i := range s.outs {
		s.copies.Go(func() { copyOutput(s.writers[i], s.outs[i]) })
	}
	if s.in != nil {
		// It ends when the caller's reader does, or at the first write after the process ended; like os/exec, nobody can
		// make a foreign Read return.
		go s.copyInput()
	}
	return nil
}

// endOfTransmission is what a terminal takes for the end of input at the beginning of a line.
const endOfTransmission = 4

func (s *streams) copyInput() {
	_, err := io.Copy(s.in, s.e.Stdin)
	if s.terminal == nil {
		s.in.Close()
		return
	}
	if err == nil {
		s.in.Write([]byte{endOfTransmission})
	}
}

// copyOutput copies until the end; a read deadline means: only what is there now. A writer that fails does not make the
// process wait for ever: the rest is read and dropped.
func copyOutput(to io.Writer, from *os.File) {
	buf := make([]byte, 32<<10)
	var failed bool
	put := func(b []byte) {
		if !failed {
			_, err := to.Write(b)
			failed = err != nil
		}
	}
	for {
		n, err := from.Read(buf)
		if n > 0 {
			put(buf[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return // EOF, or EIO from a terminal that nobody has open
		}
	}
	rc, err := from.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		for range 64 { // a pipe holds 64 KiB, at most 1 MiB: what comes later is not the process's
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			put(buf[:n])
		}
	})
}

// finish is called after the process ended: it returns when its output was copied.
func (s *streams) finish(ctx context.Context) {
	close(s.done)
	deadline := time.Now().Add(drainTime)
	if ctx.Err() != nil {
		deadline = time.Now()
	}
	for _, f := range s.outs {
		f.SetReadDeadline(deadline)
	}
	s.copies.Wait()
}

func (s *streams) close() {
	for _, f := range append(s.theirs, s.outs...) {
		f.Close()
	}
	if s.console != nil {
		s.console.Close()
	}
	if s.terminal == nil && s.in != nil {
		s.in.Close()
	}
}
