package e2e

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/e2e/machines"
)

// TestDiskFull: a full disk is told as such, breaks nothing that runs, and is over when there is space again.
func TestDiskFull(t *testing.T) {
	n := network(t)
	m, err := n.Add(machines.MachineOptions{DiskBytes: 200 << 20})
	must(t, err)
	must(t, m.PowerOn())
	must(t, m.Start())
	must(t, m.AwaitReady(patience))
	loadBusybox(t, m)
	sleepers(t, m, "web", 1)
	settled(t, n, m, "web", 1)
	before := m.Tasks("web")

	fill(t, m)
	other, err := machines.Busybox("e2e/other:1")
	must(t, err)
	r := m.ShoalContext(t.Context(), bytes.NewReader(append(other, make([]byte, 1<<20)...)), "image", "load")
	if r.Code == 0 {
		t.Log("image load needed no space") // all of its layers are there already
	} else if !saysFull(r) {
		t.Errorf("image load on a full disk: %v", r)
	}
	// The log has some space of its own; when that is used up too, changes are refused.
	for range 5 {
		if r = m.Shoal("token", "create"); r.Code != 0 {
			break
		}
		time.Sleep(time.Second)
		fill(t, m)
	}
	if r.Code == 0 {
		t.Error("changes still work with a disk that was filled five times")
	} else if !saysFull(r) && !strings.Contains(r.Stderr, "leader") {
		t.Errorf("a change on a full disk: %v", r)
	}
	t.Log(r)
	if !m.Running() {
		t.Fatal("the agent ended")
	}

	must(t, os.Remove(filler(m)))
	must(t, m.AwaitReady(patience))
	eventually(t, "submits to work again", func() error {
		if r := m.Shoal("run", "--timeout", "20s", "--name", "after", busyboxImage, "sleep", "1000"); r.Code != 0 {
			return r
		}
		return nil
	})
	must(t, m.LoadImage(other))

	// Nothing was corrupted: what is on the disk is enough to go on.
	must(t, m.Signal(syscall.SIGKILL))
	_, err = m.AwaitEnd(patience)
	must(t, err)
	must(t, m.Start())
	must(t, m.AwaitReady(patience))
	settled(t, n, m, "web", 1)
	settled(t, n, m, "after", 1)
	after := m.Tasks("web")
	for id, pids := range before {
		if len(after[id]) == 0 || after[id][0] != pids[0] {
			t.Errorf("the container of %s was process %v and is %v", id, pids, after[id])
		}
	}
}

func saysFull(r machines.Result) bool {
	return strings.Contains(r.Stderr, "no space left") || strings.Contains(r.Stderr, "disk full") || strings.Contains(r.Stderr, "disk is full")
}

// filler is a file that is not the agent's.
func filler(m *machines.Machine) string { return filepath.Join(filepath.Dir(m.DataDir()), "filler") }

// fill takes all the space that is left on the machine's disk.
func fill(t *testing.T, m *machines.Machine) {
	t.Helper()
	f, err := os.OpenFile(filler(m), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
