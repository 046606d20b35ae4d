package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stdio are the ends of the container's streams in the launcher.
type stdio struct {
	stdin           *os.File
	stdinW          *os.File // keeps it open, in the monitor
	stdout, stdoutW *os.File
	stderr, stderrW *os.File
	console         *os.File // receives the terminal
	consoleChild    *os.File
	terminal        *os.File
}

func (s *stdio) open(job Launch) (err error) {
	if job.Record.Spec.TTY {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.console, s.consoleChild = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-child")
		return nil
	}
	s.stdin, err = os.Open(os.DevNull)
	if job.Record.Spec.Stdin {
		// Its writing end stays open in the monitor, so the container reads an end of file only when that one is told to
		// let go.
		path := filepath.Join(job.Dir, FileStdin)
		if err := unix.Mkfifo(path, 0o600); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make stdin: %w", err)
		}
		if s.stdinW, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
			return err
		}
		// Not by os.OpenFile, which makes a FIFO non-blocking for whoever gets it.
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("open stdin", err)
		}
		s.stdin.Close()
		s.stdin = os.NewFile(uintptr(fd), path)
	}
	if err != nil {
		return err
	}
	if s.stdout, s.stdoutW, err = os.Pipe(); err != nil {
		return err
	}
	s.stderr, s.stderrW, err = os.Pipe()
	return err
}

// started closes what now belongs to the container and takes its terminal.
func (s *stdio) started() error {
	if s.console == nil {
		return errors.Join(s.stdoutW.Close(), s.stderrW.Close())
	}
	s.consoleChild.Close()
	defer s.console.Close()
	var err error
	s.terminal, err = ReceiveFile(s.console)
	return err
}

// ReceiveFile takes one descriptor that comes over a socket.
func ReceiveFile(sock *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(sock.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d control messages, want 1: %w", len(msgs), errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}

// handOver gives the descriptors that the monitor reads, and the one that it keeps open; -1 for none.
func (s *stdio) handOver() (out, errOut, in int) {
	if s.terminal != nil {
		return int(s.terminal.Fd()), -1, -1
	}
	in = -1
	if s.stdinW != nil {
		in = int(s.stdinW.Fd())
	}
	return int(s.stdout.Fd()), int(s.stderr.Fd()), in
}

// lastWords reads what is in stderr now, or in the terminal, as one line.
func (s *stdio) lastWords() string {
	f := s.stderr
	if s.terminal != nil {
		f = s.terminal
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return ""
	}
	buf := make([]byte, 4096)
	n, err := syscall.Read(fd, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return strings.Join(strings.Fields(string(buf[:n])), " ")
}
