package machines

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that we started, or that an earlier run of ours did. It is known by its pid and when it began, so that
// a reused pid is not taken for it.
type process struct {
	PID   int    `json:"pid"`
	Begun string `json:"begun"` // clock ticks since the machine came up, as /proc tells it

	cmd *exec.Cmd // nil: somebody else's child
}

// startApart starts a command in a session of its own: Ctrl-C and a closed terminal are for us, who clean up then.
// Unless it is to outlive us, the kernel kills it when we end in any way at all.
func startApart(cmd *exec.Cmd, outlive bool) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !outlive {
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
	done := make(chan error, 1)
	starter() <- func() { done <- cmd.Start() }
	if err := <-done; err != nil {
		return nil, err
	}
	return &process{PID: cmd.Process.Pid, Begun: begun(cmd.Process.Pid), cmd: cmd}, nil
}

// starter starts processes on a thread that lives for as long as we do: prctl(2) says that the signal of a parent's death
// is that of the thread which was the parent, and threads end with goroutines that leave them in another namespace.
var starter = sync.OnceValue(func() chan<- func() {
	start := make(chan func())
	go func() {
		goruntime.LockOSThread()
		for f := range start {
			f()
		}
	}()
	return start
})

// begun is when a process began, "" if there is none or if it is dead and only waits to be reaped.
func begun(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// proc(5): the second field is a name in parentheses, which may hold anything; the 22nd is the start time.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return ""
	}
	return string(f[19])
}

func (p *process) alive() bool { return p.Begun != "" && begun(p.PID) == p.Begun }

// kill ends it at once, and waits until it is gone.
func (p *process) kill() error {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may be gone
		_ = p.cmd.Wait()
		return nil
	}
	if p.alive() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	return await(5*time.Second, fmt.Sprintf("process %d to end", p.PID), func() bool { return !p.alive() })
}
