package machines

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of a file system that break it on purpose.
const (
	extShutdown = 0x8004587d // EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h
	// shutdownNoFlush drops the journal's transaction as well as all dirty pages: what a power cut leaves.
	shutdownNoFlush = 2
	fiFreeze        = 0xc0045877 // FIFREEZE and FITHAW of linux/fs.h
	fiThaw          = 0xc0045878
)

func (m *Machine) disk() string  { return filepath.Join(m.dir, "disk") }
func (m *Machine) image() string { return filepath.Join(m.dir, "disk.img") }

// makeExt4 makes the machine's disk a file system of its own in a sparse file.
func (m *Machine) makeExt4(bytes int64) error {
	f, err := os.OpenFile(m.image(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(bytes), f.Close())
	if err == nil {
		err = run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", m.image())
	}
	if err != nil {
		return err
	}
	return m.mountExt4()
}

// mountExt4 mounts without ext4's kindness to programs that rename a file over another one and forgot to sync it.
func (m *Machine) mountExt4() error {
	return run("mount", "-o", "loop,noauto_da_alloc,noatime", m.image(), m.disk())
}

// unmountExt4 takes the file system from everybody. Who makes a mount namespace gets a copy of all mounts, other
// machines and strangers' tests too, and a file system that one of them still holds would not really be mounted anew.
func (m *Machine) unmountExt4() error {
	loop, err := exec.Command("losetup", "-ln", "-O", "NAME", "-j", m.image()).Output()
	if err != nil {
		return err
	}
	device := strings.TrimSpace(string(loop))
	if device == "" {
		return nil
	}
	return await(20*time.Second, m.image()+" to be let go by all", func() bool {
		_ = unix.Unmount(m.disk(), 0) // it may be gone already
		m.unmountCopies(device)
		left, err := exec.Command("losetup", "-ln", "-O", "NAME", "-j", m.image()).Output()
		return err == nil && len(left) == 0
	})
}

// unmountCopies unmounts our disk in every mount namespace that holds a copy of it.
func (m *Machine) unmountCopies(device string) {
	seen := map[string]bool{namespace("self", "mnt"): true}
	for _, pid := range pids() {
		space := namespace(pid, "mnt")
		if space == "" || seen[space] {
			continue
		}
		seen[space] = true
		info, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		if err != nil || !strings.Contains(string(info), device) {
			continue
		}
		for line := range strings.Lines(string(info)) {
			f := strings.Fields(line) // proc_pid_mountinfo(5): the fifth is the mount point
			if len(f) > 5 && strings.Contains(line, " "+device+" ") {
				_ = unmountIn("/proc/"+pid+"/ns/mnt", f[4]) // tried again until the device is free
			}
		}
	}
}

// unmountIn unmounts in another mount namespace. No program does it for us: umount wants a /proc that knows it.
func unmountIn(space, path string) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// All the world takes the first thread's namespaces for the process's. While we hold it, another goroutine is
			// on another one.
			done <- unmountIn(space, path)
			goruntime.UnlockOSThread()
			return
		}
		done <- func() error {
			fd, err := unix.Open(space, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
				return err
			}
			return unix.Unmount(path, unix.MNT_DETACH)
		}()
	}()
	return <-done
}

// Cut is what is known of a power cut.
type Cut struct {
	// Recovered tells that the file system needed its journal afterwards: it was in use when it was shut down.
	Recovered bool
	// Check is what fsck said.
	Check string
}

// PowerCut switches a machine with an ext4 disk off as if its cable had been pulled: what was not synced is lost. The
// file system is checked and mounted again; a damaged one is an error. The machine stays off.
func (m *Machine) PowerCut() (Cut, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Options.DiskExt4 == 0 {
		return Cut{}, fmt.Errorf("cut the power of %s: its disk is no ext4 of its own, it cannot forget", m.Name)
	}
	if m.init != nil {
		_ = m.net.inSwitch("ip link set " + m.port + " down") // first: nobody hears of what comes
	}
	if err := m.ioctlDisk("shut down", extShutdown, shutdownNoFlush); err != nil {
		return Cut{}, err
	}
	if err := m.powerOffLocked(); err != nil {
		return Cut{}, err
	}
	if err := m.unmountExt4(); err != nil {
		return Cut{}, err
	}
	cut, err := m.checkExt4()
	return cut, errors.Join(err, m.mountExt4())
}

func (m *Machine) checkExt4() (Cut, error) {
	super, err := exec.Command("dumpe2fs", "-h", m.image()).Output()
	if err != nil {
		return Cut{}, fmt.Errorf("look at %s: %w", m.image(), err)
	}
	cut := Cut{Recovered: strings.Contains(string(super), "needs_recovery")}
	out, err := exec.Command("fsck.ext4", "-f", "-p", m.image()).CombinedOutput()
	cut.Check = strings.TrimSpace(string(out))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 { // e2fsck(8): errors were corrected, such as files without a name
		err = nil
	}
	if err != nil {
		return cut, fmt.Errorf("fsck of %s: %w: %s", m.image(), err, cut.Check)
	}
	return cut, nil
}

// FreezeDisk makes every write to the machine's ext4 disk wait until ThawDisk. A process that waits so cannot be killed.
func (m *Machine) FreezeDisk() error { return m.ioctlDisk("freeze", fiFreeze, 0) }

// ThawDisk ends FreezeDisk; on a disk that is not frozen it does nothing.
func (m *Machine) ThawDisk() error {
	if m.Options.DiskExt4 == 0 {
		return nil
	}
	if err := m.ioctlDisk("thaw", fiThaw, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// Frozen is nil if the disk takes no writes: the kernel refuses to freeze it a second time.
func (m *Machine) Frozen() error {
	switch err := m.ioctlDisk("freeze", fiFreeze, 0); {
	case errors.Is(err, unix.EBUSY):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(fmt.Errorf("the disk of %s was not frozen", m.Name), m.ThawDisk())
}

func (m *Machine) ioctlDisk(what string, request uintptr, arg uint32) error {
	if m.Options.DiskExt4 == 0 {
		return fmt.Errorf("%s the disk of %s: it is no ext4 of its own", what, m.Name)
	}
	d, err := unix.Open(m.disk(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s the disk of %s: %w", what, m.Name, err)
	}
	defer unix.Close(d)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d), request, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return fmt.Errorf("%s the disk of %s: %w", what, m.Name, e)
	}
	return nil
}

// DiskFree is what is left on the machine's disk, in bytes.
func (m *Machine) DiskFree() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(m.disk(), &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// FillDisk takes all the space but so many bytes, with a file of its own. EmptyDisk gives it back.
func (m *Machine) FillDisk(leave int64) error {
	f, err := os.OpenFile(m.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	free, err := m.DiskFree()
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	// Others write at the same time, and the file system needs some for itself.
	for chunk := max(free-leave, 0); chunk >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, chunk); {
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		case err != nil:
			return fmt.Errorf("fill the disk of %s: %w", m.Name, err)
		default:
			size += chunk
			if free, err = m.DiskFree(); err != nil {
				return err
			}
			chunk = max(free-leave, 0)
		}
	}
	return nil
}

// EmptyDisk ends FillDisk; without one it does nothing.
func (m *Machine) EmptyDisk() error {
	if err := os.Remove(m.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (m *Machine) filler() string { return filepath.Join(m.disk(), "filler") }

// CopyDisk keeps a copy of the agent's data directory beside the disk, or puts one on another machine's: a clone, or a
// backup that is put back. The agent must not run.
func (m *Machine) CopyDisk(to string) error {
	if m.Running() {
		return fmt.Errorf("copy the disk of %s: its agent runs", m.Name)
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return run("cp", "-a", m.DataDir(), to)
}

// CloneDisk is CopyDisk of a disk in use: it is frozen meanwhile, so the copy is what a power cut would leave. So virtual
// machines are cloned.
func (m *Machine) CloneDisk(to string) error {
	if err := m.FreezeDisk(); err != nil {
		return err
	}
	err := run("cp", "-a", m.DataDir(), to)
	return errors.Join(err, m.ThawDisk())
}

// RestoreDisk makes a copy the agent's data directory again.
func (m *Machine) RestoreDisk(from string) error {
	if m.Running() {
		return fmt.Errorf("restore the disk of %s: its agent runs", m.Name)
	}
	if err := m.Wipe(); err != nil {
		return err
	}
	return run("cp", "-a", from, m.DataDir())
}
