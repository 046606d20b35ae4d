package gameday

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one that we know: by its id and when it began, so that a reused id is not taken for it.
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Begun string `json:"begun,omitempty"` // in the kernel's ticks
}

func processOf(pid int) Process { return Process{PID: pid, Begun: begun(pid)} }

// begun is when a process began, "" if there is none or if it is dead and only waits to be reaped.
func begun(pid int) string {
	f := stat(pid)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// stat are the fields of proc(5)'s stat from the third on: the second is a name, which may hold anything.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

func parentOf(pid int) int {
	f := stat(pid)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1]) // 0: none
	return n
}

func (p Process) alive() bool { return p.PID > 0 && p.Begun != "" && begun(p.PID) == p.Begun }

func (p Process) signal(sig unix.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := unix.Kill(p.PID, sig); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// killWait bounds how long a killed process is waited for.
const killWait = 5 * time.Second

// kill ends a process at once and waits until it is gone.
func (p Process) kill() error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	for end := time.Now().Add(killWait); p.alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d does not die", p.PID)
		}
	}
	return nil
}

// bootClock goes on while the machine sleeps, and nobody sets it.
func bootClock() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // "": then only the helper's life tells
	return strings.TrimSpace(string(b))
}

// lock keeps the others of our processes out while one of them changes what is under way. Nothing is left of it when its
// holder dies.
func (f files) lock() (unlock func(), err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	d, err := os.Open(f.dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("lock %s: %w", f.dir, err)
	}
	return func() { _ = d.Close() }, nil
}

// tryLock is lock that does not wait.
func (f files) tryLock() (unlock func(), err error) {
	d, err := os.Open(f.dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		return nil, err
	}
	return func() { _ = d.Close() }, nil
}

// ignoreSignals keeps what ends a session's programs from ending one that must undo something.
func ignoreSignals() { signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) }
