package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/image"
)

// Names in a container's directory. DESIGN.md lists who writes each and when.
const (
	fileRecord   = "container.json" // its presence is what makes the directory a container
	fileStart    = "start.json"     // the last start: written by the launcher just before the command is executed
	fileExit     = "exit"           // the last exit: written by the monitor
	fileExitTemp = "exit.tmp"       // made in full before the start, so that a full disk cannot lose the exit
	fileLock     = "lock"           // locked as long as the launcher or monitor lives
	fileHosts    = "hosts"
	fileHostname = "hostname"
	fileResolv   = "resolv.conf"
	fileStdin    = "stdin"
	dirUpper     = "upper"
	dirWork      = "work"
	dirRootfs    = "rootfs"
	dirLog       = "log"
	dirVolumes   = "volumes"
	dirInit      = "init" // mount point for the init binary
)

// exitFileBytes is the fixed size of the exit file; monitor.c has the same number.
const exitFileBytes = 256

// record is what Create decided. It never changes.
type record struct {
	Spec      runtime.Spec    `json:"spec"`
	Config    image.RunConfig `json:"config"` // the image's, as it was at Create
	Image     string          `json:"image"`  // digest
	Address   netip.Addr      `json:"address,omitzero"`
	CreatedAt time.Time       `json:"createdAt"`
}

// startRecord tells of the last start that reached the command.
type startRecord struct {
	Start int       `json:"start"` // counts from 1
	PID   int       `json:"pid"`
	At    time.Time `json:"at"`
}

// exitRecord tells of the last exit. It belongs to the start with the same number.
type exitRecord struct {
	Start     int       `json:"start"`
	Code      int       `json:"code"`
	Signal    int       `json:"signal"` // 0: exited by itself
	OOMKills  int       `json:"oomKills"`
	At        time.Time `json:"at"`
	LostLines int64     `json:"lostLines"`
	OOM       bool      `json:"oom,omitempty"`   // decided by the runtime, not by the monitor
	Error     string    `json:"error,omitempty"` // written by the runtime for a start that failed or an exit nobody saw
}

// readJSON fills v from dir/name. fs.ErrNotExist if there is none.
func readJSON(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(bytes.TrimRight(b, " \n\x00"), v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// writeJSON replaces dir/name durably: temporary file, fsync, rename, fsync of the directory.
func writeJSON(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(dir, name, append(b, '\n'))
}

func writeFile(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockHolder tells which process has dir's lock, 0 if none: that is the launcher or monitor of the container.
func lockHolder(dir string) (int, error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|unix.O_NOFOLLOW, 0)
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
