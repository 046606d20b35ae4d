//go:build linux

// Package disk knows an ext4 file system of a test's own, in a file behind a loop device, that can lose its power. It knows
// nothing of what is on it, and is for tests alone.
package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How a file system goes down (EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h).
const (
	Flush   = 0 // with all that is dirty written: as if it had been synced
	Journal = 1 // with the journal written, and what of the data belongs to it
	Cable   = 2 // with nothing written: what a power cut does

	extShutdown = 0x8004587d
)

// envInside tells a test binary that it has a mount namespace of its own.
const envInside = "SHOAL_TEST_OWN_MOUNTS"

// Inside runs this test binary again, with the one test, in a mount namespace of its own, and returns how that ended; true: we
// are in it, go on. Without one, every namespace that somebody makes meanwhile holds a copy of our mounts, and a file system
// that is held is not mounted anew.
func Inside(test string, args ...string) (bool, error) {
	if os.Getenv(envInside) != "" {
		return true, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"-test.run=^" + test + "$", "-test.v", "-test.timeout=20m"}, args...)...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return false, cmd.Run()
}

// Disk is the file system.
type Disk struct {
	Dir  string // where it is mounted
	file string
}

// New makes one of so many bytes below dir, and mounts it.
func New(dir string, bytes int64) (*Disk, error) {
	d := &Disk{Dir: filepath.Join(dir, "disk"), file: filepath.Join(dir, "disk.img")}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(d.file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(bytes), f.Close()); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", d.file).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return d, d.mount()
}

// mount does without ext4's kindness to programs that rename a file over another one and forgot to sync it. When several
// mount at once, they may be after the same loop device.
func (d *Disk) mount() error {
	for try := 0; ; try++ {
		out, err := exec.Command("mount", "-o", "loop,noauto_da_alloc", d.file, d.Dir).CombinedOutput()
		if err == nil {
			return nil
		}
		if try == 50 {
			return fmt.Errorf("mount: %w: %s", err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Cut ends the file system below dir in one of the ways above. What has it open gets errors from then on.
func Cut(dir string, how uint32) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), extShutdown, uintptr(unsafe.Pointer(&how))); e != 0 {
		return fmt.Errorf("shut %s down: %w", dir, e)
	}
	return nil
}

// patience is for what still holds the file system: processes that are dying.
const patience = 30 * time.Second

// Again checks and mounts the file system after a Cut. The test fails here if it was not really let go.
func (d *Disk) Again() error {
	if err := d.Close(); err != nil {
		return err
	}
	out, err := exec.Command("fsck.ext4", "-p", d.file).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // e2fsck(8): 1 is corrected
		return fmt.Errorf("fsck.ext4: %w: %s", err, out)
	}
	return d.mount()
}

// Close unmounts it, and waits until its loop device is gone.
func (d *Disk) Close() error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(d.Dir, 0)
		if err == unix.EINVAL { // it is none any more
			left, _ := exec.Command("losetup", "-ln", "-O", "NAME", "-j", d.file).Output()
			if strings.TrimSpace(string(left)) == "" {
				return nil
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("unmount %s: %w", d.Dir, err)
		}
	}
}
