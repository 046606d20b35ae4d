package container

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
	"shoal/runtime/image"
)

const roleUnpacker = "shoal-unpack" // argv[1]

// selfExe is this process's binary, also after its file was replaced or deleted.
const selfExe = "/proc/self/exe"

// ReexecMain must be called first in main. If this process was started for a container or as the image unpacker, it does
// that work and never returns; otherwise it returns at once.
func ReexecMain() {
	stage.Main()
	if len(os.Args) > 1 && os.Args[1] == roleUnpacker {
		os.Exit(image.UnpackMain())
	}
}

// UnpackCommand is the argv with which this binary becomes the image store's unpacking helper. The path stays right when
// the binary's file is replaced.
func UnpackCommand() []string { return []string{selfExe, roleUnpacker} }

// program is what is started for a container: launcher, exec helper, and by their hand libcontainer's init and the monitor.
type program struct {
	path string   // leads to the binary as it was when we were started
	file *os.File // keeps path alive; nil when it is our own binary
	self stage.Binary
}

func openProgram(cfg Config) (*program, error) {
	self, selfFile := selfExe, (*os.File)(nil)
	if cfg.Self != "" {
		f, err := os.OpenFile(cfg.Self, unix.O_PATH, 0)
		if err != nil {
			return nil, fmt.Errorf("open the launcher's binary: %w", err)
		}
		self, selfFile = descriptorPath(f), f
	}
	p := &program{path: self, file: selfFile}
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		return nil, fmt.Errorf("look at own binary: %w", err)
	}
	path, err := os.Readlink(self)
	if err != nil {
		return nil, err
	}
	p.self = stage.Binary{Path: path, Dev: st.Dev, Ino: st.Ino}
	if cfg.Stage == nil {
		return p, nil
	}
	f, err := unpackStage(cfg.Stage)
	if err != nil {
		cfg.Logger.Warn("containers start slower: the small program for that cannot be used", "err", err)
		return p, nil
	}
	if selfFile != nil {
		selfFile.Close()
	}
	p.path, p.file = descriptorPath(f), f
	return p, nil
}

// descriptorPath names an open file for a child. Through our own pid, not "self": the child resolves it between fork and
// exec, when its own low descriptors are being rearranged (golang.org/issue/61751).
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// seals make a memory file what libcontainer takes for safe from containers: then it executes it without a mount or a copy.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// unpackStage puts the program into memory: no file that could be replaced, nothing to clear up. It lives as long as this
// process or a monitor that runs it. A monitor of an earlier agent may run the same one: then that is taken.
func unpackStage(compressed []byte) (*os.File, error) {
	zip, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("unpack it: %w", err)
	}
	fd, err := unix.MemfdCreate("shoal-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there was no word for what always was
		fd, err = unix.MemfdCreate("shoal-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "shoal-stage")
	if _, err = io.Copy(f, zip); err == nil {
		err = f.Chmod(0o511)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("unpack it: %w", err)
	}
	return f, nil
}

// helper is the agent's end of a launcher or exec helper.
type helper struct {
	pid  int
	sock *os.File
	enc  *json.Encoder
	dec  *json.Decoder
}

// helperEnv makes a launcher or exec helper, which live for some tens of milliseconds, and libcontainer's init after them,
// which gets the same GOMAXPROCS, start few threads and collect no garbage: 5 to 20 ms less, measured on two busy cores.
var helperEnv = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=64MiB"}

// startLauncher starts a launcher in a session and a mount namespace of its own. It is not waited for here: when its time
// comes it is a monitor, and the watcher reaps it.
func (p *program) startLauncher() (*helper, error) {
	return p.start(&exec.Cmd{Args: []string{stage.RoleLauncher}, SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}})
}

// startExec starts an exec helper, which has the streams that its process is to have.
func (p *program) startExec(s *streams) (*helper, error) {
	cmd := &exec.Cmd{Args: []string{stage.RoleExec}, SysProcAttr: &syscall.SysProcAttr{}}
	if s.stdio[0] != nil {
		cmd.Stdin = s.stdio[0]
	}
	if s.stdio[1] != nil {
		cmd.Stdout = s.stdio[1]
	}
	if s.stdio[2] != nil {
		cmd.Stderr = s.stdio[2]
	}
	if s.consoles != nil {
		cmd.ExtraFiles = []*os.File{s.consoles}
	}
	h, err := p.start(cmd)
	s.given()
	return h, err
}

func (p *program) start(cmd *exec.Cmd) (*helper, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.Path, cmd.Dir, cmd.Env, cmd.SysProcAttr.Setsid = p.path, "/", helperEnv, true
	cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...) // stage.AgentFD, stage.ConsoleFD
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", cmd.Args[0], err)
	}
	h := &helper{pid: cmd.Process.Pid, sock: ours, enc: json.NewEncoder(ours), dec: json.NewDecoder(ours)}
	return h, cmd.Process.Release()
}

// socketPair gives two connected ends; the first can be waited for with deadlines.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "helper"), os.NewFile(uintptr(fds[1]), "agent"), nil
}

func (h *helper) send(v any) error {
	if err := h.enc.Encode(v); err != nil {
		return fmt.Errorf("talk to the helper process: %w", err)
	}
	return nil
}

func (h *helper) receive() (stage.Reply, error) {
	var reply stage.Reply
	if err := h.dec.Decode(&reply); err != nil {
		return reply, fmt.Errorf("the helper process ended without an answer: %w", err)
	}
	if reply.Refusal != nil {
		return reply, reply.Refusal
	}
	return reply, nil
}

// helperPatience is what an abandoned helper gets for clearing up before it is killed; what it then leaves, clearRun
// takes away.
const helperPatience = 5 * time.Second

// abandon ends a launcher whose container is not to run, and reaps it.
func (h *helper) abandon() {
	h.sock.Close()
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err == nil {
		waitReadable(pidfd, helperPatience)
		unix.Close(pidfd)
	}
	_ = unix.Kill(h.pid, unix.SIGKILL) // our child and not yet waited for: the pid is still its own
	unix.Wait4(h.pid, nil, 0, nil)
}

// reap waits for a helper that said its last word.
func (h *helper) reap() {
	h.sock.Close()
	go func() {
		for {
			if _, err := unix.Wait4(h.pid, nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}()
}
