package stage

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A lease is a timer of the kernel that kills the monitor (DESIGN.md, "Leases"): a launcher arms one of its own before it
// lets the command run, and the monitor one that renewals move.
const (
	signalLease = unix.Signal(40) // carries a renewal to the monitor; monitor.c has the same number
	envLease    = "SHOAL_LEASE="  // until when, for the monitor; monitor.c reads it
)

// BootTime is the time since the machine was booted, suspended or not.
func BootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("stage: no boot time clock: " + err.Error()) // Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// SendLease tells the monitor behind pidfd until when it may live.
func SendLease(pidfd int, until time.Duration) error {
	// siginfo_t of a queued signal: number, errno, code, padding, pid, uid, value.
	var info [128]byte
	code := int32(-1) // SI_QUEUE
	binary.NativeEndian.PutUint32(info[0:], uint32(signalLease))
	binary.NativeEndian.PutUint32(info[8:], uint32(code))
	binary.NativeEndian.PutUint32(info[16:], uint32(os.Getpid()))
	binary.NativeEndian.PutUint64(info[24:], uint64(until))
	return unix.PidfdSendSignal(pidfd, signalLease, (*unix.Siginfo)(unsafe.Pointer(&info)), 0)
}

// armLease has the kernel kill this process at a moment, until it executes another program; and keeps renewals that come
// while it does so waiting. The calling thread must be the one that executes.
func armLease(until time.Duration) error {
	if until <= BootTime() {
		return fmt.Errorf("its lease ended while it was started")
	}
	var event struct { // struct sigevent
		value  uint64
		signo  int32
		notify int32 // 0: SIGEV_SIGNAL
		_      [48]byte
	}
	event.signo = int32(unix.SIGKILL)
	var timer int32
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&timer))); errno != 0 {
		return os.NewSyscallError("timer_create", errno)
	}
	at := struct{ interval, value unix.Timespec }{value: unix.NsecToTimespec(int64(until))}
	const absolute = 1 // TIMER_ABSTIME
	if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), absolute, uintptr(unsafe.Pointer(&at)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("timer_settime", errno)
	}
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(signalLease) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	return nil
}

// leaseEnv is the monitor's environment.
func leaseEnv(until time.Duration) []string {
	if until <= 0 {
		return nil
	}
	return []string{envLease + strconv.FormatInt(int64(until), 10)}
}
