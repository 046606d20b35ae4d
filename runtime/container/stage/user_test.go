package stage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// Opening a device does something, and an image can ship one under any name: what is no file is not opened.
func TestWhatIsNoFileOfAccountsIsNotOpened(t *testing.T) {
	for _, name := range []string{"etc/passwd", "etc/group"} {
		root := t.TempDir()
		path := filepath.Join(root, name)
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), unix.Mkfifo(path, 0o644)); err != nil {
			t.Fatal(err)
		}
		watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(watch)
		if _, err := unix.InotifyAddWatch(watch, path, unix.IN_OPEN); err != nil {
			t.Fatal(err)
		}
		if _, err := lookUser(root, "web", nil); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%s is a FIFO: %v", name, err)
		}
		if n, err := unix.Read(watch, make([]byte, 1024)); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s was opened: %d bytes of events, %v", name, n, err)
		}
	}
}
