package stage

import (
	"fmt"
	"path/filepath"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// joinShm takes the /dev/shm of another container along with its IPC namespace. A mount can only be copied from within the
// namespace that it is in, so a thread of its own goes there and comes back with the copy.
func joinShm(job Launch, pid int) error {
	type result struct {
		fd  int
		err error
	}
	ch := make(chan result, 1)
	go func() {
		goruntime.LockOSThread() // for good: the thread ends with this goroutine
		fd, err := copyShm(pid)
		ch <- result{fd, err}
	}()
	r := <-ch
	if r.err != nil {
		return fmt.Errorf("ipc: take /dev/shm of the joined container: %w", r.err)
	}
	return attachTree(r.fd, filepath.Join(job.Dir, dirShm))
}

func copyShm(pid int) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, err
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	return unix.OpenTree(unix.AT_FDCWD, "/dev/shm", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}
