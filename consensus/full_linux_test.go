package consensus

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const fullDirEnv = "SHOAL_TEST_FULL_DIR"

// TestRealDiskFull fills a small tmpfs under a real log. The mount lives in a mount namespace of its own, with the
// process that uses it.
func TestRealDiskFull(t *testing.T) {
	if dir := os.Getenv(fullDirEnv); dir != "" {
		fullDisk(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRealDiskFull$", "-test.v")
	cmd.Env = append(os.Environ(), fullDirEnv+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRealDiskFull") {
		t.Errorf("%v\n%s", err, out)
	}
}

func fullDisk(t *testing.T, root string) {
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	dir, junk := filepath.Join(root, "raft"), filepath.Join(root, "junk")
	l, stop := founder(t, dir)
	proposeN(t, l, 5, "before")
	waitFile(t, l.reserve.path)

	fill(t, junk)
	onReserve := 0
	var last error
	for range 5000 {
		if _, last = l.Propose(t.Context(), event(strings.Repeat("x", 32<<10))); last != nil {
			break
		}
		if _, err := os.Stat(l.reserve.path); err != nil {
			onReserve++
		}
	}
	if !errors.Is(last, ErrUnknownOutcome) || !errors.Is(last, syscall.ENOSPC) {
		t.Fatalf("the disk was never full: %v", last)
	}
	if onReserve < 10 {
		t.Errorf("the reserve took %d commands", onReserve)
	}
	if _, err := l.Propose(t.Context(), event("refused")); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("propose on a full disk: %v", err)
	}
	// A restart on a full disk is not a corruption either. It may even work: bolt has free pages of its own.
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	l, _, err := openDir(t, dir)
	if err == nil {
		err = l.Close()
	} else if !strings.Contains(err.Error(), "disk full") {
		t.Errorf("opening on a full disk: %v", err)
		err = nil
	}
	if err != nil {
		t.Error(err)
	}

	if err := os.Remove(junk); err != nil {
		t.Fatal(err)
	}
	l, store, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	stop = run(l)
	waitLeader(t, l)
	want := proposeN(t, l, 5, "after")
	fill(t, junk)
	for l.usable() == nil {
		_, _ = l.Propose(t.Context(), event(strings.Repeat("x", 256<<10)))
	}
	if err := os.Remove(junk); err != nil { // this time it waits for the space
		t.Fatal(err)
	}
	waitLeader(t, l)
	if got := proposeN(t, l, 1, "again"); got <= want {
		t.Errorf("index %d after %d", got, want)
	}
	hash := store.View().Hash()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if l, store, err = openDir(t, dir); err != nil {
		t.Fatal(err)
	}
	defer run(l)()
	waitLeader(t, l)
	if err := l.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.View().Hash() != hash {
		t.Error("the state is another after the disk was full")
	}
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	for range 1000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %s in 10 s", path)
}

// fill writes until there is no space.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
