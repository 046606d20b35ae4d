package oci

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"shoal/runtime/container/stage"
)

// streams connect a process with this one's standard streams.
type streams struct {
	afterStart []io.Closer // the process's ends
	ours       []io.Closer
	copies     sync.WaitGroup // from the process
	console    *os.File       // receives the terminal's master
	master     *os.File
	restore    func() // the state of our own terminal
}

// connect prepares the process's streams. Detached ones are ours, or the terminal goes to the console socket; otherwise
// we stay between.
func (o *options) connect(cont *libcontainer.Container, p *libcontainer.Process, terminal bool) (*streams, error) {
	s := &streams{}
	if o.pidfdSocket != "" {
		f, err := dial(o.pidfdSocket)
		if err != nil {
			return nil, err
		}
		p.PidfdSocket = f
		s.afterStart = append(s.afterStart, f)
	}
	switch {
	case terminal && o.detach:
		f, err := dial(o.consoleSocket)
		if err != nil {
			return nil, err
		}
		p.ConsoleSocket = f
		s.afterStart = append(s.afterStart, f)
	case terminal:
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		s.console, p.ConsoleSocket = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-child")
		s.afterStart = append(s.afterStart, p.ConsoleSocket)
	case o.detach:
		p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
	default:
		return s, s.pipes(cont, p)
	}
	return s, nil
}

func dial(socket string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.File()
}

// pipes puts pipes between the process and us, which belong to the container's root.
func (s *streams) pipes(cont *libcontainer.Container, p *libcontainer.Process) error {
	config := cont.Config()
	uid, err := config.HostRootUID()
	if err != nil {
		return err
	}
	gid, err := config.HostRootGID()
	if err != nil {
		return err
	}
	in, err := p.InitializeIO(uid, gid)
	if err != nil {
		return err
	}
	for _, end := range []any{p.Stdin, p.Stdout, p.Stderr} {
		if c, ok := end.(io.Closer); ok {
			s.afterStart = append(s.afterStart, c)
		}
	}
	s.ours = []io.Closer{in.Stdin, in.Stdout, in.Stderr}
	go func() {
		_, _ = io.Copy(in.Stdin, os.Stdin)
		in.Stdin.Close()
	}()
	s.copies.Go(func() { _, _ = io.Copy(os.Stdout, in.Stdout) })
	s.copies.Go(func() { _, _ = io.Copy(os.Stderr, in.Stderr) })
	return nil
}

// started closes what is the process's now, and takes its terminal.
func (s *streams) started() error {
	for _, c := range s.afterStart {
		c.Close()
	}
	s.afterStart = nil
	if s.console == nil {
		return nil
	}
	var err error
	if s.master, err = stage.ReceiveFile(s.console); err != nil {
		return err
	}
	s.ours = append(s.ours, s.master)
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		was, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		s.restore = func() { _ = term.Restore(fd, was) }
	}
	go func() { _, _ = io.Copy(s.master, os.Stdin) }()
	s.copies.Go(func() { _, _ = io.Copy(os.Stdout, s.master) })
	return nil
}

// resize gives the process's terminal the size of ours; without one nothing happens.
func (s *streams) resize() {
	if s.master == nil {
		return
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, size)
			return
		}
	}
}

// close waits for the rest of the output. The master reads an error when the last process has closed its terminal.
func (s *streams) close() error {
	for _, c := range s.afterStart {
		c.Close()
	}
	s.copies.Wait()
	var errs []error
	for _, c := range s.ours {
		errs = append(errs, c.Close())
	}
	if s.console != nil {
		errs = append(errs, s.console.Close())
	}
	if s.restore != nil {
		s.restore()
	}
	return errors.Join(errs...)
}
