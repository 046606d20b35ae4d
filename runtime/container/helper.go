package container

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

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

// startLauncher starts a launcher in a session of its own. It is not waited for here: when its time comes it is a monitor,
// and the watcher reaps it.
// args is nothing, or stage.WaitsAhead.
func (p *program) startLauncher(args ...string) (*helper, error) {
	return p.start(&exec.Cmd{Args: append([]string{stage.RoleLauncher}, args...), SysProcAttr: &syscall.SysProcAttr{}})
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
	cmd.Path, cmd.Dir, cmd.Env, cmd.SysProcAttr.Setsid = p.path, "/", append(stage.CrashEnv(), helperEnv...), true
	cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...) // stage.AgentFD, stage.ConsoleFD
	if stage.CrashEnv() != nil && cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
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
	if reply.Waiting { // a launcher's first word, when nobody waited for that
		return h.receive()
	}
	return reply, nil
}

// waitUntil has receive fail with os.ErrDeadlineExceeded once ch is closed, until stop.
func (h *helper) waitUntil(ch <-chan struct{}) (stop func()) {
	over := make(chan struct{})
	go func() {
		select {
		case <-ch:
			_ = h.sock.SetReadDeadline(time.Unix(1, 0)) // it is closed by reap alone
		case <-over:
		}
	}()
	return func() { close(over) }
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

// reach passes a step that is the agent's alone (stage.Steps).
func reach(s stage.Step) { stage.Reach(s, stage.Doomed{Agent: os.Getpid()}) }

// reach passes a step at which the helper may be another one's victim.
func (h *helper) reach(s stage.Step, first int) {
	stage.Reach(s, stage.Doomed{Agent: os.Getpid(), Launcher: h.pid, Init: first})
}
