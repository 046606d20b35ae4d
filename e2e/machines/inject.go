package machines

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Injection is a strace on a running process that spoils some of its system calls.
type Injection struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// patience is for strace to stop every thread of a process once, on a machine that has much else to do.
const patience = 30 * time.Second

// SpoilAgent makes calls of the running agent on one of its files fail or wait: how is strace's, such as "error=EIO" or
// "delay_enter=4s" or "error=ENOSPC:when=3". A path of "" is every file. It returns when the agent is under strace.
func (m *Machine) SpoilAgent(calls, how, path string) (*Injection, error) {
	pid := m.AgentPID()
	if pid == 0 {
		return nil, fmt.Errorf("spoil calls of the agent of %s: it does not run", m.Name)
	}
	if _, err := exec.LookPath("strace"); err != nil {
		return nil, errors.New("strace is missing: install it")
	}
	f, err := os.CreateTemp(m.dir, "strace-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	args := []string{"-f", "-q", "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + how}
	if path != "" {
		args = append(args, "-P", path)
	}
	cmd := exec.Command("strace", append(args, "-o", f.Name(), "-p", strconv.Itoa(pid))...)
	var said bytes.Buffer
	cmd.Stderr = &said
	// A strace that is killed lets its process go on unspoilt.
	if _, err := startApart(cmd, m.net.opts.Keep); err != nil {
		return nil, err
	}
	in := &Injection{cmd, f.Name(), make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it ends with the process, or by End
		close(in.done)
	}()
	// The first call that it spoils may end the agent, and strace with it.
	held := false
	err = await(patience, "strace to hold the agent of "+m.Name, func() bool {
		hits, _ := in.Hits() // none is none
		held = held || hits > 0 || tracer(pid) == cmd.Process.Pid
		return held || in.ended()
	})
	if hits, _ := in.Hits(); err != nil || !held && hits == 0 {
		return nil, errors.Join(fmt.Errorf("strace of the agent of %s: %s", m.Name, bytes.TrimSpace(said.Bytes())), err, in.End())
	}
	return in, nil
}

// tracer is who traces all threads of a process, 0 if not all are traced.
func tracer(pid int) int {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)) // the pattern is right
	by := 0
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // that thread is gone
		}
		_, after, _ := bytes.Cut(b, []byte("TracerPid:"))
		line, _, _ := bytes.Cut(after, []byte("\n"))
		if by, err = strconv.Atoi(string(bytes.TrimSpace(line))); err != nil || by == 0 {
			return 0
		}
	}
	return by
}

// Hits tells how many calls were spoilt.
func (in *Injection) Hits() (int, error) {
	b, err := os.ReadFile(in.log)
	if err != nil {
		return 0, err
	}
	// strace marks a failed call with INJECTED and a delayed one with DELAYED.
	return bytes.Count(b, []byte("INJECTED")) + bytes.Count(b, []byte("DELAYED")), nil
}

func (in *Injection) ended() bool {
	select {
	case <-in.done:
		return true
	default:
		return false
	}
}

// End lets the process go. A second time does nothing. What was counted is lost.
func (in *Injection) End() error {
	if !in.ended() {
		_ = in.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-in.done:
		case <-time.After(3 * time.Second): // it waits for a thread that does not stop
			_ = in.cmd.Process.Kill()
			<-in.done
		}
	}
	if err := os.Remove(in.log); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
