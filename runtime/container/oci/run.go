package oci

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// starter starts a process in a container.
type starter func(*libcontainer.Container, *libcontainer.Process) error

func ioFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "console-socket", Usage: "`SOCKET` that receives the terminal's master"},
		&cli.StringFlag{Name: "pidfd-socket", Usage: "`SOCKET` that receives a pidfd of the process"},
		&cli.StringFlag{Name: "pid-file", Usage: "`FILE` for the process's number"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "hand over this `NUMBER` of descriptors behind the first three"},
	}
}

// options are what create, run and exec have in common.
type options struct {
	detach, subreaper                   bool
	consoleSocket, pidfdSocket, pidFile string
	preserve                            int
	subCgroups                          map[string]string
}

func optionsOf(c *cli.Context, detach bool) (*options, error) {
	o := &options{
		detach: detach, consoleSocket: c.String("console-socket"), pidfdSocket: c.String("pidfd-socket"), pidFile: c.String("pid-file"),
		preserve: c.Int("preserve-fds"),
	}
	for _, p := range []*string{&o.pidFile, &o.consoleSocket, &o.pidfdSocket} { // the working directory changes
		if *p == "" {
			continue
		}
		var err error
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// run starts a process and, unless it is detached, stays its terminal and signals until it ends; the int is its exit code.
func (o *options) run(cont *libcontainer.Container, spec *specs.Process, first bool, start starter) (int, error) {
	switch {
	case o.detach && spec.Terminal && o.consoleSocket == "":
		return 0, errors.New("a detached process with a terminal needs --console-socket")
	case o.consoleSocket != "" && (!o.detach || !spec.Terminal):
		return 0, errors.New("--console-socket is for a detached process with a terminal")
	}
	p, err := toProcess(spec)
	if err != nil {
		return 0, err
	}
	p.Init, p.SubCgroupPaths, p.LogLevel = first, o.subCgroups, strconv.Itoa(int(logrus.GetLevel()))
	if err := o.handOver(p); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 2048)
	if !o.detach {
		if o.subreaper {
			if err := system.SetSubreaper(1); err != nil {
				logrus.Warn(err)
			}
		}
		signal.Notify(signals)
	}
	streams, err := o.connect(cont, p, spec.Terminal)
	if err != nil {
		return 0, err
	}
	defer streams.close()
	if err := start(cont, p); err != nil {
		return 0, err
	}
	if err := errors.Join(streams.started(), o.notePID(p)); err != nil {
		_ = p.Signal(unix.SIGKILL)
		_, _ = p.Wait()
		return 0, err
	}
	if o.detach {
		return 0, nil
	}
	return forward(p, streams, signals)
}

func (o *options) notePID(p *libcontainer.Process) error {
	if o.pidFile == "" {
		return nil
	}
	return writePID(o.pidFile, p)
}

// handOver gives the process the descriptors of socket activation and of --preserve-fds.
func (o *options) handOver(p *libcontainer.Process) error {
	from := 3
	if n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")); n > 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
		o.preserve += n
	}
	for fd := from; fd < from+o.preserve; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("descriptor %d is to be handed over: %w", fd, err)
		}
		p.ExtraFiles = append(p.ExtraFiles, os.NewFile(uintptr(fd), "fd"+strconv.Itoa(fd)))
	}
	return nil
}

// forward passes signals on until the process ends, and reaps what became ours.
func forward(p *libcontainer.Process, streams *streams, signals <-chan os.Signal) (int, error) {
	pid, err := p.Pid()
	if err != nil {
		return 0, err
	}
	streams.resize()
	for s := range signals {
		switch s {
		case unix.SIGWINCH:
			streams.resize()
		case unix.SIGURG: // Go's own
		case unix.SIGCHLD:
			if code, ended := reap(pid); ended {
				_, _ = p.Wait() // its pipes are empty then; the status is known
				return code, nil
			}
		default:
			if err := p.Signal(s); err != nil {
				logrus.Error(err)
			}
		}
	}
	return 0, errors.New("no more signals come")
}

// reap collects all children that ended and tells whether pid was one of them.
func reap(pid int) (code int, ended bool) {
	for {
		var status unix.WaitStatus
		child, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || child <= 0 {
			return code, ended
		}
		if child == pid {
			code, ended = utils.ExitStatus(status), true
		}
	}
}
