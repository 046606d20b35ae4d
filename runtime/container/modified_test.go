package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// instances counts this process's inotify instances.
func instances(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.Contains(to, "inotify") {
			n++
		}
	}
	return n
}

// More files than a user has inotify instances are watched, each for itself.
func TestManyFilesTakeOneInotifyInstance(t *testing.T) {
	w, err := newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.close()
	}()
	const files = 300
	before := instances(t)
	m := newModified(w)
	dir := t.TempDir()
	var told [files]atomic.Int64
	var ids [files]int32
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	change := func(i int) {
		if err := os.WriteFile(path(i), []byte("more"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still not %s", what)
			}
		}
	}
	for i := range files {
		change(i)
		if ids[i], err = m.add(path(i), func() { told[i].Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	if n := instances(t) - before; n != 1 {
		t.Errorf("%d files took %d instances", files, n)
	}
	for i := 0; i < files; i += 2 {
		change(i)
	}
	for i := 0; i < files; i += 2 {
		await(fmt.Sprintf("told of %d", i), func() bool { return told[i].Load() > 0 })
	}
	for i := range files / 2 {
		m.remove(ids[i])
		m.remove(ids[i])
	}
	quiet := told[0].Load()
	change(0)
	if err := os.Remove(path(files - 1)); err != nil { // as a cgroup that goes before its watch
		t.Fatal(err)
	}
	m.remove(ids[files-1])
	last := files - 2
	seen := told[last].Load()
	change(last)
	await("told again", func() bool { return told[last].Load() > seen })
	if n := told[0].Load(); n != quiet {
		t.Errorf("told of a file that is not watched any more")
	}
	for i := 1; i < files; i += 2 {
		if told[i].Load() != 0 {
			t.Errorf("told of file %d, which nobody changed", i)
		}
	}
}

// A file of a cgroup tells too when the kernel changes it, and may go before its watch.
func TestCgroupFileIsWatched(t *testing.T) {
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir := filepath.Join(root, fmt.Sprintf("shoal-test-%d-events", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup v2 to write to: %v", err)
	}
	defer os.Remove(dir)
	if _, err := os.Stat(dir + "/cgroup.events"); err != nil {
		t.Skipf("no cgroup v2: %v", err)
	}
	w, err := newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	defer func() {
		cancel()
		<-done
		w.close()
	}()
	m := newModified(w)
	told := make(chan bool, 16)
	id, err := m.add(dir+"/cgroup.events", func() { told <- true })
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"populated", "empty"} {
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Errorf("nobody tells that the cgroup is %s", what)
		}
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait()
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
	m.remove(id)
}
