package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// modified tells of changes of many files with one inotify instance, of which a user has 128 (fs.inotify.max_user_instances)
// and other programs want some. It is made when the first file is watched, and lives as long as the watcher.
type modified struct {
	watch *watcher

	mu sync.Mutex
	fd int // of the instance; -1: not made yet
	do map[int32]func()
}

func newModified(w *watcher) *modified { return &modified{watch: w, fd: -1, do: map[int32]func(){}} }

// add calls do, on run's goroutine of the watcher, when a file was modified, until remove. Several changes in a row may be
// one call. A file is watched once.
func (m *modified) add(path string, do func()) (id int32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fd < 0 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return 0, os.NewSyscallError("inotify_init1", err)
		}
		if err := m.watch.add(fd, func() { m.read(fd) }); err != nil {
			unix.Close(fd)
			return 0, err
		}
		m.fd = fd
	}
	wd, err := unix.InotifyAddWatch(m.fd, path, unix.IN_MODIFY)
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", path, err)
	}
	m.do[int32(wd)] = do
	return int32(wd), nil
}

func (m *modified) remove(id int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.do[id] != nil {
		delete(m.do, id)
		_, _ = unix.InotifyRmWatch(m.fd, uint32(id)) // the file may be gone, and its watch with it
	}
}

// read takes all that there is in fd: the watcher does not tell of it again.
func (m *modified) read(fd int) {
	buf := make([]byte, 64*unix.SizeofInotifyEvent)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		for _, do := range m.named(buf[:n]) {
			do()
		}
	}
}

// named finds who is to be called for a run of struct inotify_event, without a name as files have none: watch, mask, cookie,
// length. When the kernel lost some of them, that is everybody.
func (m *modified) named(events []byte) map[int32]func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int32]func(){}
	for ; len(events) >= unix.SizeofInotifyEvent; events = events[unix.SizeofInotifyEvent:] {
		id, mask := int32(binary.NativeEndian.Uint32(events)), binary.NativeEndian.Uint32(events[4:])
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return maps.Clone(m.do)
		}
		if do := m.do[id]; do != nil && mask&unix.IN_MODIFY != 0 {
			out[id] = do
		}
	}
	return out
}
