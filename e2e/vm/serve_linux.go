package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Setup is what a machine is told once, by its second serial line, after it came up or was copied.
type Setup struct {
	// Script makes it the machine that it is to be: name, address, disk, clock. It runs in the machine's namespaces.
	Script string `json:"script"`
	// Way is the address and prefix of the server, MAC that of its card, which is Card.
	Way  string `json:"way"`
	MAC  string `json:"mac"`
	Card string `json:"card"`
	// Seed is fresh entropy: copies of one machine must not draw the same numbers.
	Seed []byte `json:"seed"`
	// Now is the host's clock, in nanoseconds since 1970.
	Now int64 `json:"now"`
}

// ServeOn waits for a Setup on a serial line, obeys it, answers, and serves until the machine ends.
func ServeOn(line string) error {
	tty, err := os.OpenFile(line, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := makeRaw(int(tty.Fd())); err != nil {
		return fmt.Errorf("make %s raw: %w", line, err)
	}
	told := make(chan struct{})
	quiet := make(chan struct{})
	go func() { // again and again: a machine that was saved goes on in the middle of this
		defer close(quiet)
		for {
			if err := writeLine(tty, Up); err != nil {
				return
			}
			select {
			case <-told:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	in := bufio.NewReaderSize(tty, 64<<10)
	var s Setup
	if err := readLine(in, &s); err != nil {
		return fmt.Errorf("read the setup: %w", err)
	}
	close(told)
	<-quiet
	l, err := obey(s)
	if err != nil {
		return errors.Join(err, writeLine(tty, Answer{Error: err.Error()}))
	}
	if err := writeLine(tty, Answer{}); err != nil {
		return err
	}
	return serve(l)
}

// Up is what the server says on its line while it waits to be told.
const Up = "up"

func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func obey(s Setup) (net.Listener, error) {
	if err := addEntropy(s.Seed); err != nil {
		return nil, fmt.Errorf("add entropy: %w", err)
	}
	now := unix.NsecToTimeval(s.Now)
	if err := unix.Settimeofday(&now); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	if out, err := exec.Command("sh", "-ec", s.Script).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("set up: %w: %s", err, out)
	}
	return listenApart(s)
}

// addEntropy mixes a seed into the kernel's generator, and makes it draw anew at once.
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(seed); err != nil {
		return err
	}
	const rndReseedCRNG = 0x5207 // linux/random.h
	return unix.IoctlSetInt(int(f.Fd()), rndReseedCRNG, 0)
}

// listenApart listens in a network namespace in which there is only the card of the way in.
func listenApart(s Setup) (net.Listener, error) {
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		goruntime.LockOSThread() // for ever: the thread ends with the goroutine, and the socket keeps the namespace
		l, err := func() (net.Listener, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			// The card lies in the namespace of the first process.
			script := fmt.Sprintf("nsenter -t 1 -n ip link set %[1]s netns %[2]d; ip link set %[1]s address %[3]s; ip addr add %[4]s dev %[1]s; ip link set %[1]s up; ip link set lo up",
				s.Card, unix.Gettid(), s.MAC, s.Way)
			if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("move %s: %w: %s", s.Card, err, out)
			}
			host, _, _ := strings.Cut(s.Way, "/")
			return net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(Port)))
		}()
		done <- result{l, err}
	}()
	r := <-done
	return r.l, r.err
}

func serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, 64<<10)
			var q Request
			if err := readLine(r, &q); err != nil {
				_ = writeLine(c, Answer{Error: err.Error()})
				return
			}
			handle(c, r, q)
		}()
	}
}

func handle(c net.Conn, r *bufio.Reader, q Request) {
	switch q.Op {
	case opRun:
		runProgram(c, r, q.Args)
	case opDial:
		other, err := net.Dial(q.Network, q.Addr)
		if err != nil {
			answer(c, Answer{}, err)
			return
		}
		answer(c, Answer{}, nil)
		Join(c, other, other)
		return
	case opPut:
		put(c, r, q)
	case opKill:
		answer(c, Answer{}, unix.Kill(q.PID, syscall.Signal(q.Signal)))
	case opList:
		answer(c, Answer{Processes: Processes()}, nil)
	case opPace:
		began := time.Now()
		Work()
		answer(c, Answer{Took: time.Since(began).Nanoseconds()}, nil)
	default:
		answer(c, Answer{}, fmt.Errorf("unknown operation %q", q.Op))
	}
}

func answer(c net.Conn, a Answer, err error) {
	if err != nil {
		a.Error = err.Error()
	}
	_ = writeLine(c, a) // whoever asked may be gone
}

// runProgram gives a program its input and sends its outputs; it is killed when the caller is gone.
func runProgram(c net.Conn, r *bufio.Reader, args []string) {
	f := &frames{w: c}
	if len(args) == 0 {
		_ = f.write(frameFailed, []byte("no program"))
		return
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = sender{f, frameOut}, sender{f, frameErr}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		_ = f.write(frameFailed, []byte(err.Error()))
		return
	}
	_ = f.write(framePID, []byte(strconv.Itoa(cmd.Process.Pid)))
	go func() {
		for {
			kind, p, err := readFrame(r)
			switch {
			case err != nil:
				_ = cmd.Process.Kill() // it may be over
				_ = in.Close()
				return
			case kind == frameIn && len(p) == 0:
				_ = in.Close()
			case kind == frameIn:
				_, _ = in.Write(p) // it may have closed its input
			}
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		_ = f.write(frameErr, []byte(err.Error()))
	}
	code := cmd.ProcessState.ExitCode()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal())
	}
	_ = f.write(frameExit, []byte(strconv.Itoa(code)))
}

func put(c net.Conn, r *bufio.Reader, q Request) {
	if st, err := os.Stat(q.Path); err == nil && st.Size() == q.Size {
		answer(c, Answer{There: true}, nil)
		return
	}
	answer(c, Answer{}, nil)
	answer(c, Answer{}, writeFile(q, io.LimitReader(r, q.Size)))
}

func writeFile(q Request, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(q.Path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(q.Path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, os.FileMode(q.Mode))
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != q.Size {
		err = fmt.Errorf("%d of %d bytes came", n, q.Size)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(q.Path+".part", q.Path)
}
