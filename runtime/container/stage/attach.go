package stage

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of the FIFOs through which the monitor passes output to whoever is attached; monitor.c has the same.
const (
	FileAttachOut = "attach.out"
	FileAttachErr = "attach.err"
)

const (
	signalStdin     = unix.Signal(41) // ends the container's standard input; monitor.c has the same number
	monitorOut      = 11              // the monitor's argument that is the number of its terminal's descriptor
	argMonitorCount = 15
)

// holdStdinSignal keeps a word to end standard input waiting until the monitor can take it. The calling thread must be the
// one that executes.
func holdStdinSignal() error {
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(signalStdin) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	return nil
}

// PlaceRoot mounts a container's root file system in the caller's own mount namespace, without its volumes, and gives where.
func PlaceRoot(job Launch) (string, error) { return placeRoot(job) }

// SendEndOfStdin has the monitor behind pidfd let go of the container's standard input.
func SendEndOfStdin(pidfd int) error { return unix.PidfdSendSignal(pidfd, signalStdin, nil, 0) }

// MonitorTerminal gives a descriptor of the terminal that the monitor behind pidfd holds. It shares the monitor's open
// file, which does not block. It must be a monitor, no launcher.
func MonitorTerminal(pidfd, pid int) (*os.File, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if len(args) != argMonitorCount {
		return nil, fmt.Errorf("monitor %d is of another version: it has %d arguments, not %d", pid, len(args), argMonitorCount)
	}
	theirs, err := strconv.Atoi(args[monitorOut])
	if err != nil {
		return nil, fmt.Errorf("monitor %d: its terminal is %q", pid, args[monitorOut])
	}
	fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
	if err != nil {
		return nil, fmt.Errorf("take the terminal from monitor %d: %w", pid, os.NewSyscallError("pidfd_getfd", err))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // a monitor that has just begun has not done it yet
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}
