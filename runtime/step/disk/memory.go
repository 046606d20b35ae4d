//go:build linux

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// room is what /dev/shm must have free for a test to use it: containers and CI machines often give it 64 MiB.
const room = 1 << 30

// TB is what InMemory needs of a testing.TB.
type TB interface {
	TempDir() string
	Cleanup(func())
}

// InMemory is a temporary directory of a test, in memory if the machine has room there: ext4 is slow to sync, and to take
// inodes again that were freed a moment ago.
func InMemory(t TB) string {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) != nil || st.Type != unix.TMPFS_MAGIC || st.Bavail*uint64(st.Bsize) < room {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "shoal-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
