package consensus

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	reserveFile  = "reserve"
	reserveBytes = 8 << 20
	reserveEvery = 10 * time.Second // how often to look whether the reserve can be made again
	// reserveRoom is the free space that must be there to set a reserve aside: whoever filled the disk needs it more.
	reserveRoom = 4 * reserveBytes
)

// reserve is space set aside in the raft directory. When the disk is full it is given up, so that the log takes a few
// hundred commands more: on a cluster whose only voter is full, removing a job is a command too.
type reserve struct {
	path string

	mu   sync.Mutex
	held bool
}

func newReserve(dir string) *reserve { return &reserve{path: filepath.Join(dir, reserveFile)} }

// release gives the space up, and tells whether there was any.
func (r *reserve) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = false
	return os.Remove(r.path) == nil
}

// hold sets the space aside where there is plenty. An error is of no consequence but that there is no reserve.
func (r *reserve) hold() (changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return false, nil
	}
	switch info, err := os.Stat(r.path); {
	case err == nil && info.Size() == reserveBytes:
		r.held = true
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	var free syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(r.path), &free); err != nil {
		return false, err
	}
	if uint64(free.Bavail)*uint64(free.Bsize) < reserveRoom {
		return false, nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return false, err
	}
	err = allocate(f, reserveBytes)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(r.path)
		return false, err
	}
	r.held = true
	return true, nil
}

// keep holds the reserve, and makes it again when there is room again. It is a goroutine of its own because a disk that
// hangs must not hold up the watchdog.
func (r *reserve) keep(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(reserveEvery)
	defer tick.Stop()
	for {
		if changed, err := r.hold(); err != nil {
			log.Debug("no reserve for a full disk", "path", r.path, "err", err)
		} else if changed {
			log.Debug("reserve for a full disk set aside", "path", r.path, "bytes", reserveBytes)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// writeZeros allocates where the system has no call for it.
func writeZeros(f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for ; size > 0; size -= int64(len(block)) {
		if _, err := f.Write(block[:min(size, int64(len(block)))]); err != nil {
			return err
		}
	}
	return nil
}
