package machines

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// driver is one kind of machine. What it knows is how such a machine is switched on and off, and how one gets into it;
// names, options, the switch and the agent's life are the same for all and stay with Net and Machine.
//
// A Machine's lock is held by the caller of powerOn, powerOff, enter, and signal, and by nobody in the others.
type driver interface {
	// makeDisk makes what outlives switching off, removeDisk lets go of it, wipe empties the agent's part of it.
	makeDisk(m *Machine) error
	removeDisk(m *Machine) error
	wipe(m *Machine) error
	// powerOn switches the machine on and plugs its cable into the switch's port. It sets m.init, which dies with the
	// machine. After an error the caller switches off.
	powerOn(m *Machine) error
	// powerOff cuts the cable and kills all at once; it is also called for a machine that is off.
	powerOff(m *Machine) error
	// enter is a command on the host that runs the one that follows it inside, with its input, outputs and exit code.
	enter(m *Machine) []string
	// agentCommand is enter for the agent: it makes sure that the program, which is the first of args, is inside.
	agentCommand(m *Machine, args []string) (*exec.Cmd, error)
	// agentPID is the agent's process id as the machine's kernel tells it, given the command on the host that started
	// it; 0: not yet.
	agentPID(m *Machine, started int) int
	// signal sends the agent one.
	signal(m *Machine, pid int, s syscall.Signal) error
	// processes and tasks are for Machine.Processes and Tasks.
	processes(m *Machine) map[int]string
	tasks(m *Machine, job string) map[string][]int
	// copyIn is Machine.CopyIn.
	copyIn(ctx context.Context, m *Machine, from, to string) error
	// patience stretches a time by how much slower such machines are than namespaces.
	patience(d time.Duration) time.Duration
	// dial connects as a program inside would.
	dial(ctx context.Context, m *Machine, network, addr string) (net.Conn, error)
}

// namespaces are machines out of namespaces of this host's kernel: machine_linux.go.
type namespaces struct{}

var _ driver = namespaces{}

func (namespaces) makeDisk(m *Machine) error      { return m.makeDisk() }
func (namespaces) removeDisk(m *Machine) error    { return m.removeDisk() }
func (namespaces) wipe(m *Machine) error          { return m.emptyDisk() }
func (namespaces) powerOn(m *Machine) error       { return m.powerOnLocked() }
func (namespaces) powerOff(m *Machine) error      { return m.powerOffLocked() }
func (namespaces) agentPID(_ *Machine, p int) int { return childOf(p) }

func (namespaces) agentCommand(m *Machine, args []string) (*exec.Cmd, error) {
	return m.shell(args...), nil
}

func (namespaces) enter(m *Machine) []string {
	return []string{"nsenter", "-t", strconv.Itoa(m.pid), "-n", "-m", "-u", "-i", "-p", "--"}
}

func (namespaces) signal(m *Machine, pid int, s syscall.Signal) error {
	if err := unix.Kill(pid, s); err != nil {
		return err
	}
	// nsenter stops with the child that it waits for, and would not notice the child's end.
	if s == syscall.SIGCONT && m.agent != nil && m.agent.cmd != nil {
		return m.agent.cmd.Process.Signal(s)
	}
	return nil
}

func (namespaces) processes(m *Machine) map[int]string           { return m.kernelProcesses() }
func (namespaces) tasks(m *Machine, job string) map[string][]int { return m.kernelTasks(job) }

func (namespaces) copyIn(_ context.Context, _ *Machine, from, to string) error {
	if from == to {
		return nil
	}
	return run("install", "-D", "-m", "755", from, to)
}

func (namespaces) patience(d time.Duration) time.Duration { return d }

func (namespaces) dial(ctx context.Context, m *Machine, network, addr string) (net.Conn, error) {
	m.mu.Lock()
	pid := m.pid
	m.mu.Unlock()
	if pid == 0 {
		return nil, fmt.Errorf("dial %s: machine %s is off", addr, m.Name)
	}
	return dialFrom(ctx, fmt.Sprintf("/proc/%d/ns/net", pid), network, addr)
}

// shell is a command that the caller's user starts on the host and that runs inside.
func (m *Machine) shell(args ...string) *exec.Cmd {
	words := append(m.net.driver.enter(m), args...)
	return exec.Command(words[0], words[1:]...)
}
