package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"shoal/e2e/machines"
	"shoal/node/api"
)

func jobHistory(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "past")
	runCompose(t, m[0], "past", web("environment: { VERSION: one }"))
	runCompose(t, m[1], "past", web("environment: { VERSION: two }"))
	version := func() string { return shoal(t, m[0], "exec", "past/web.1", "sh", "-c", "echo $VERSION") }
	if got := version(); got != "two\n" {
		t.Errorf("the second version says %q", got)
	}
	contains(t, shoal(t, m[2], "history", "past"), "1", "2")
	shoal(t, m[2], "rollback", "past")
	if got := version(); got != "one\n" {
		t.Errorf("rolled back, it says %q", got)
	}
}

func jobFiles(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	dir := filepath.Join(t.TempDir(), "fromdir")
	for name, text := range map[string]string{
		".env":         "WHO=world\nTAG=1\n",
		"app.env":      "A=from file\nB=overridden\n",
		"more.yaml":    "services:\n  web:\n    environment: { C: from the second file }\n",
		"compose.yaml": "services:\n  web:\n    image: e2e/busybox:${TAG}\n    init: true\n    command: [sleep, \"100000\"]\n    env_file: app.env\n    environment: { B: \"hello ${WHO}\", D: \"${NOT_SET:-default}\" }\n    tty: true\n",
	} {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	gone(t, m, "fromdir")
	shoal(t, m, "run", "-f", filepath.Join(dir, "compose.yaml"), "-f", filepath.Join(dir, "more.yaml"))
	if got := shoal(t, m, "exec", "fromdir/web.1", "sh", "-c", "echo $A, $B, $C, $D"); got != "from file, hello world, from the second file, default\n" {
		t.Errorf("the environment of three files: %q", got)
	}
	if got := shoal(t, m, "exec", "fromdir/web.1", "sh", "-c", "test -t 0 < /proc/1/fd/0 && echo terminal"); got != "terminal\n" {
		t.Errorf("tty: true gives %q", got)
	}
	must(t, os.Remove(filepath.Join(dir, "app.env")))
	refuses(t, m, 5, []string{"app.env"}, "", "run", "-f", filepath.Join(dir, "compose.yaml"))
}

// jobAtOnce submits from all nodes at the same time: each is told what came of it, and the sum is as if in turn.
func jobAtOnce(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "rush")
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			r := attempt(m[i%3], strings.NewReader(web("deploy: { replicas: 3 }")), "run", "-f", "-", "--name", "rush")
			if r.Code != 0 {
				t.Errorf("one of many: %v", r)
			}
		})
	}
	wg.Wait()
	settled(t, n, m[0], "rush", 3)
	var l api.TaskList
	must(t, m[1].JSON(&l, "ps", "--all", "rush"))
	if len(l.Tasks) != 3 {
		t.Errorf("nine equal submits made %d tasks, want 3", len(l.Tasks))
	}
	for i := range 6 {
		wg.Go(func() {
			if r := attempt(m[i%3], nil, "scale", "--detach", fmt.Sprintf("rush/web=%d", i%4)); r.Code != 0 {
				t.Errorf("one of many: %v", r)
			}
		})
	}
	wg.Wait()
	shoal(t, m[0], "scale", "rush/web=2")
	settled(t, n, m[1], "rush", 2)
}

// jobInterrupted takes jobs away in all states of their beginning; nothing of them stays.
func jobInterrupted(t *testing.T, n *machines.Net) {
	m := n.Machines()
	for i := range 6 {
		name := fmt.Sprintf("brief%d", i%2)
		shoalIn(t, m[i%3], web(`ports: ["9555:80"]`, "deploy: { replicas: 3 }"), "run", "-f", "-", "--name", name, "--detach")
		if i%3 == 1 {
			shoal(t, m[0], "stop", "--detach", name)
		}
		shoal(t, m[(i+1)%3], "rm", name)
	}
	eventually(t, "nothing to run any more", func() error {
		for _, name := range []string{"brief0", "brief1"} {
			if left, err := running(n, name); err != nil || len(left) > 0 {
				return fmt.Errorf("%v still run: %w", left, err)
			}
		}
		return nil
	})
	gone(t, m[0], "brief") // the ports are free again
	runCompose(t, m[0], "brief", web(`ports: ["9555:80"]`, "deploy: { replicas: 3 }"))
}
