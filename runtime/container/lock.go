package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

// lockHolder tells which process has dir's lock, 0 if none: that is the launcher or monitor of the container.
func lockHolder(dir string) (int, error) {
	f, err := os.OpenFile(filepath.Join(dir, stage.FileLock), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l); err != nil {
		return 0, fmt.Errorf("ask for the lock %s: %w", f.Name(), err)
	}
	if l.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(l.Pid), nil
}

// openMonitor gives a pidfd of the process that has dir's lock, and its pid; -1 and 0 if there is none. The second look
// makes sure that the pid was not used anew in between.
func openMonitor(dir string) (pidfd, pid int, err error) {
	for {
		pid, err = lockHolder(dir)
		if err != nil || pid == 0 {
			return -1, 0, err
		}
		pidfd, err = unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return -1, 0, fmt.Errorf("open monitor %d: %w", pid, err)
		}
		again, err := lockHolder(dir)
		if err != nil {
			unix.Close(pidfd)
			return -1, 0, err
		}
		if again == pid {
			return pidfd, pid, nil
		}
		unix.Close(pidfd)
	}
}
