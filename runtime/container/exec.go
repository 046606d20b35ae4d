package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	goruntime "runtime"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// drainTime is how long output is still read after a process ended, when something else holds its pipe open: what it
// wrote is in the pipe already.
const drainTime = 200 * time.Millisecond

// Exec runs a further process. It is a child of this process; it dies with its container, not with us.
func (r *Runtime) Exec(ctx context.Context, id runtime.ID, e runtime.Exec) (int, error) {
	c, err := r.find(id)
	if err != nil {
		return 0, err
	}
	if len(e.Args) == 0 || e.Args[0] == "" {
		return 0, invalidf("exec in container %s: no command given", id)
	}
	r.refresh(c)
	c.mu.Lock()
	running, pid := c.state == runtime.Running, c.start.PID
	c.mu.Unlock()
	if !running {
		return 0, conflictf("exec in container %s: it is not running", id)
	}
	code, err := r.exec(ctx, c, pid, e)
	if err != nil {
		if in := c.info(); in.State != runtime.Running {
			err = &kindError{kind: runtime.ErrConflict, err: err}
		}
		return code, kindOf(fmt.Errorf("exec %s in container %s: %w", e.Args[0], id, err))
	}
	return code, nil
}

func (r *Runtime) exec(ctx context.Context, c *container, initPID int, e runtime.Exec) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	proc, err := execProcess(c.rec, initPID, e)
	if err != nil {
		return 0, err
	}
	cont, err := libcontainer.Load(r.cfg.StateDir, string(c.id))
	if err != nil {
		return 0, err
	}
	streams, err := openStreams(proc, e)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	if err := startExec(cont, proc); err != nil {
		err = startFailure(e.Args[0], err)
		return codeOf(err), err
	}
	if err := streams.begin(); err != nil {
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = proc.Signal(unix.SIGKILL) })
	state, err := proc.Wait()
	stop()
	streams.finish(ctx)
	if ctx.Err() != nil {
		return 128 + int(unix.SIGKILL), context.Cause(ctx)
	}
	if state == nil {
		return 0, fmt.Errorf("wait for it: %w", err)
	}
	ws := state.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// startExec starts the process from a thread of our own goroutine: libcontainer forks, and its child waits for messages
// that this goroutine sends.
func startExec(cont *libcontainer.Container, proc *libcontainer.Process) error {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	return cont.Start(proc)
}

// execProcess says who runs what and where; the container's root is seen through its first process.
func execProcess(rec record, initPID int, e runtime.Exec) (*libcontainer.Process, error) {
	name := e.User
	if name == "" {
		name = rec.Spec.User
	}
	if name == "" {
		name = rec.Config.User
	}
	who, err := lookUser(fmt.Sprintf("/proc/%d/root", initPID), name)
	if err != nil {
		return nil, err
	}
	cwd := e.WorkingDir
	if cwd == "" {
		cwd = rec.Spec.WorkingDir
	}
	if cwd == "" {
		cwd = rec.Config.WorkingDir
	}
	base := []string{defaultPath, "HOSTNAME=" + hostname(rec.Spec)}
	if e.TTY {
		base = append(base, "TERM=xterm")
	}
	caps, err := capabilities(rec.Spec.CapAdd, rec.Spec.CapDrop)
	if err != nil {
		return nil, err
	}
	return &libcontainer.Process{
		Args: e.Args, Env: withHome(environ(base, rec.Config.Env, rec.Spec.Env, e.Env), who), Cwd: path.Clean("/" + cwd),
		UID: who.UID, GID: who.GID, AdditionalGroups: who.Groups, Capabilities: processCapabilities(caps, who.UID),
	}, nil
}

// streams join a process's input and output to the caller's readers and writers.
type streams struct {
	e        runtime.Exec
	in       *os.File   // we write
	outs     []*os.File // we read
	writers  []io.Writer
	theirs   []*os.File
	console  *os.File
	terminal *os.File
	copies   sync.WaitGroup
	done     chan struct{} // ends resizing
}

func openStreams(p *libcontainer.Process, e runtime.Exec) (_ *streams, err error) {
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
		s.console, p.ConsoleSocket = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-child")
		s.theirs = append(s.theirs, p.ConsoleSocket)
		return s, nil
	}
	if e.Stdin != nil {
		child, ours, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.Stdin, s.in = child, ours
		s.theirs = append(s.theirs, child)
	}
	for _, o := range []struct {
		to  io.Writer
		set *io.Writer
	}{{e.Stdout, &p.Stdout}, {e.Stderr, &p.Stderr}} {
		if o.to == nil {
			continue // /dev/null
		}
		ours, child, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*o.set = child
		s.theirs = append(s.theirs, child)
		s.outs, s.writers = append(s.outs, ours), append(s.writers, o.to)
	}
	return s, nil
}

// begin is called once the process has its ends.
func (s *streams) begin() error {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
	if s.console != nil {
		master, err := receiveFile(s.console)
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
		go s.resize()
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

func (s *streams) resize() {
	for {
		select {
		case <-s.done:
			return
		case size, ok := <-s.e.Resize:
			if !ok {
				return
			}
			rc, err := s.terminal.SyscallConn()
			if err != nil {
				return
			}
			rc.Control(func(fd uintptr) {
				unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
			})
		}
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
