package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
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
	for i := 0; err == nil && i < 40; i++ {
		fill(t, m)
		err = submitBig(m, fmt.Sprintf("big%d", i))
	}
	if err == nil {
		t.Error("8 MiB more were written to a full disk")
	} else if !strings.Contains(err.Error(), "disk full") {
		t.Errorf("a submit on a full disk: %v", err)
	}
	if !m.Running() {
		t.Fatal("the agent ended")
	}

	must(t, os.Remove(filler(m)))
	must(t, m.AwaitReady(patience))
	eventually(t, "submits to work again", func() error {
		if r := m.Shoal("run", "--replicas", "1", "--timeout", "20s", "--name", "after", busyboxImage, "sleep", "1000"); r.Code != 0 {
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

// submitBig submits a job of 200 KiB that runs nothing. It asks as a program would: the CLI would try for a while.
func submitBig(m *machines.Machine, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := m.Client()
	defer c.Close()
	idle := job.Service{Name: "idle", Mode: job.Replicated, Image: busyboxImage, Command: []string{"true"}}
	_, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: job.Spec{Name: name, Services: []job.Service{idle}, Source: strings.Repeat("#", 200<<10)}})
	return err
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
