package gameday

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// carried is a fault that this process carries out.
type carried struct {
	rec     *Record
	files   files
	command []string // starts another process of ours
	load    *exec.Cmd
	begun   string // when the process of a task that is hit began
}

// prepare finds out whether the fault can be carried out, while the agent can still tell whoever asked.
func (c *carried) prepare() error {
	r := c.rec
	switch r.Fault {
	case KillTask, PauseTask, KillMonitor:
		if !processOf(r.Target.PID).alive() {
			return fmt.Errorf("the container of task %s does not run any more", r.Target.Task)
		}
		c.begun = begun(r.Target.PID)
		if r.Fault != PauseTask {
			return nil
		}
		file, err := freezerOf(r.Target.PID)
		r.Freezer = file
		return err
	case Partition, CutPair, OneWay, PacketLoss:
		if len(r.Target.Peers) == 0 {
			return errors.New("there is no other node to be cut off from")
		}
		return replaceTable(func(*table) {})
	case CutServices:
		if !r.Target.Subnet.IsValid() || !r.Target.Pool.IsValid() {
			return errors.New("this node has no subnet for containers")
		}
		return replaceTable(func(*table) {})
	case Memory:
		size, err := memoryToTake(r.SizeBytes)
		r.SizeBytes = size
		return err
	case BusyDisk:
		size, err := busyFile(c.files.dir, r.SizeBytes)
		r.SizeBytes = size
		return err
	}
	return nil
}

// act carries it out.
func (c *carried) act() error {
	r := c.rec
	switch r.Fault {
	case KillTask:
		return processOf(r.Target.PID).signal(unix.SIGKILL)
	case KillMonitor:
		return monitorOf(r.Target.PID, r.Agent.PID).signal(unix.SIGKILL)
	case PauseTask:
		return setFrozen(r.Freezer, true)
	case KillAgent:
		return r.Agent.signal(unix.SIGKILL)
	case FreezeAgent:
		return r.Agent.signal(unix.SIGSTOP)
	case Partition, CutPair:
		return replaceTable(func(b *table) { cutNodes(b, r.Target, false) })
	case OneWay:
		return replaceTable(func(b *table) { cutNodes(b, r.Target, true) })
	case PacketLoss:
		return replaceTable(func(b *table) { b.loss = min(max(r.Percent, 1), 99); cutNodes(b, r.Target, false) })
	case CutServices:
		return replaceTable(func(b *table) { cutContainers(b, r.Target) })
	case CPU, Memory, BusyDisk:
		var err error
		c.load, err = startLoad(c.command, r.Fault, c.files.path(ballastFile), r.SizeBytes)
		return err
	case DiskFull:
		return fillDisk(c.files.path(ballastFile), r.SizeBytes)
	case PowerOff:
		// Nothing is flushed first: that is the point. In a process namespace of its own this ends the namespace.
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return fmt.Errorf("fault %q: this version cannot carry it out", r.Fault)
}

// monitorOf finds the process of ours that watches over a container: the parent of its first process.
func monitorOf(pid, agent int) Process {
	parent := parentOf(pid)
	if parent <= 1 || parent == agent {
		return Process{}
	}
	return processOf(parent)
}

// proof tells what can be seen of the fault while it lasts.
func (c *carried) proof() string {
	r := c.rec
	switch r.Fault {
	case Partition, CutPair, OneWay, PacketLoss, CutServices:
		n, err := dropped()
		if err != nil {
			return ""
		}
		return fmt.Sprintf("%d packets dropped", n)
	case KillAgent:
		if !r.Agent.alive() {
			return fmt.Sprintf("agent %d is gone", r.Agent.PID)
		}
	case FreezeAgent:
		if f := stat(r.Agent.PID); len(f) > 0 {
			return fmt.Sprintf("agent %d is in state %s", r.Agent.PID, f[0])
		}
	case KillTask, KillMonitor:
		if begun(r.Target.PID) != c.begun {
			return fmt.Sprintf("process %d is gone", r.Target.PID)
		}
	case PauseTask:
		b, _ := os.ReadFile(r.Freezer) // "" says enough
		return "freezer: " + string(firstLine(b))
	case Memory, BusyDisk:
		return fmt.Sprintf("%d MiB", r.SizeBytes>>20)
	case DiskFull:
		if fi, err := os.Stat(c.files.path(ballastFile)); err == nil {
			return fmt.Sprintf("%d MiB filled", fi.Size()>>20)
		}
	case CPU:
		if c.load != nil {
			if f := stat(c.load.Process.Pid); len(f) > 12 {
				return fmt.Sprintf("%s ticks of processor time", f[11])
			}
		}
	}
	return ""
}

func firstLine(b []byte) []byte {
	for i, c := range b {
		if c == '\n' {
			return b[:i]
		}
	}
	return b
}

// undo takes back what a record says, whoever calls it, and as often as one likes. It kills no helper: see release.
func undo(f files, r *Record) error {
	switch r.Fault {
	case PauseTask:
		if r.Freezer != "" {
			return setFrozen(r.Freezer, false)
		}
	case FreezeAgent:
		return r.Agent.signal(unix.SIGCONT)
	case KillAgent:
		return ensureAgent(r)
	case Partition, CutPair, OneWay, PacketLoss, CutServices:
		return removeTable()
	case BusyDisk:
		return f.remove(ballastFile)
	case DiskFull:
		err := f.remove(ballastFile)
		return errors.Join(err, ensureAgent(r)) // it ends when it cannot write
	}
	return nil
}

// How long something else has to start the agent again before we do.
const (
	restartGrace    = 3 * time.Second
	supervisedGrace = 30 * time.Second
)

// ensureAgent starts the agent again if nobody does.
func ensureAgent(r *Record) error {
	if !r.Acted || len(r.Command) == 0 {
		return nil
	}
	grace := restartGrace
	if r.Supervised {
		grace = supervisedGrace
	}
	if r.Fault == KillAgent {
		if err := r.Agent.kill(); err != nil { // else its own lock would be taken for that of another
			return err
		}
	}
	seen := 0
	for end := time.Now().Add(grace); time.Now().Before(end) || seen > 0; time.Sleep(50 * time.Millisecond) {
		// Twice and more: an agent that was killed while it forked holds the lock for a moment longer.
		if !agentRuns(r.DataDir) {
			seen = 0
		} else if seen++; seen == 5 {
			return nil
		}
	}
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.WorkDir, os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent again: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it lives longer than we do
	return nil
}

// agentRuns tells whether an agent has the data directory: it holds a lock as long as it lives.
func agentRuns(dataDir string) bool {
	f, err := os.Open(filepath.Join(dataDir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK
}
