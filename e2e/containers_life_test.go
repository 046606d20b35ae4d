package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// ended waits until the newest task of a slot has ended in one of the states.
func ended(t *testing.T, m *machines.Machine, name, slot string, state job.State) api.Task {
	t.Helper()
	var k api.Task
	eventually(t, slot+" to be "+string(state), func() (err error) {
		if k, err = newest(m, name, slot); err == nil && k.State() != state {
			err = fmt.Errorf("it is %s: %+v", k.State(), k.Status)
		}
		return err
	})
	return k
}

func exitCode(k api.Task) int {
	if k.Status == nil || k.Status.ExitCode == nil {
		return -1
	}
	return *k.Status.ExitCode
}

func containerOOM(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "greedy")
	shoal(t, m[0], "run", "--detach", "--name", "greedy", "--restart", "no", "--memory", "16m", busyboxImage,
		"dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
	k := ended(t, m[1], "greedy", "greedy.1", job.Failed)
	if !k.Status.OOM || exitCode(k) != 137 {
		t.Errorf("killed for lack of memory: %+v with exit code %d", k.Status, exitCode(k))
	}
	contains(t, shoal(t, m[1], "ps", "--all", "greedy"), "out of memory")
	contains(t, shoal(t, m[1], "why", string(k.ID)), "out of memory")
}

func containerStopSignal(t *testing.T, n *machines.Net) {
	m := n.Machines()
	dir := t.TempDir() // it goes after the job does, which may write into it
	gone(t, m[0], "polite")
	runCompose(t, m[0], "polite", web(`command: [sh, -c, "trap 'echo asked > /out/asked; exit 7' USR1; touch /out/up; while :; do sleep 0.05; done"]`,
		"stop_signal: SIGUSR1", "volumes: ['"+dir+":/out']"))
	eventually(t, "the trap", func() error { _, err := os.Stat(filepath.Join(dir, "up")); return err })
	shoal(t, m[1], "stop", "polite")
	if b, err := os.ReadFile(filepath.Join(dir, "asked")); err != nil || string(b) != "asked\n" {
		t.Errorf("stopped, it wrote %q: %v", b, err)
	}
	if k := ended(t, m[0], "polite", "web.1", job.Complete); exitCode(k) != 7 {
		t.Errorf("its exit code was %d, want 7", exitCode(k))
	}
}

func containerGrace(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "stubborn")
	file := strings.Replace(web(`command: [sh, -c, "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]`), "grace_period: 1s", "grace_period: 2s", 1)
	runCompose(t, m[0], "stubborn", file)
	eventually(t, "the trap", func() error {
		if got := shoal(t, m[0], "logs", "stubborn"); got != "deaf\n" {
			return fmt.Errorf("the log is %q", got)
		}
		return nil
	})
	begun := time.Now()
	shoal(t, m[1], "stop", "stubborn")
	if took := time.Since(begun); took < 1900*time.Millisecond || took > 20*time.Second {
		t.Errorf("a grace of 2 s took %v", took)
	}
	if k := ended(t, m[0], "stubborn", "web.1", job.Complete); exitCode(k) != 137 {
		t.Errorf("its exit code was %d, want 137", exitCode(k))
	}
}

func containerExitCodes(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "codes")
	shoalIn(t, m[0], `
services:
  good:   { image: e2e/busybox:1, command: ["true"], restart: "no" }
  bad:    { image: e2e/busybox:1, command: [sh, -c, "echo last words; exit 42"], restart: "no" }
  killed: { image: e2e/busybox:1, command: [sh, -c, "exec sleep 100000"], restart: "no" }
  # The first run fails, the second does not.
  second: { image: e2e/busybox:1, command: [sh, -c, "[ -e /tmp/again ] && exit 0; touch /tmp/again; exit 3"], restart: on-failure }
`, "run", "-f", "-", "--name", "codes", "--detach")
	eventually(t, "the one to kill", func() error {
		k, err := newest(m[0], "codes", "killed.1")
		if err == nil && k.State() != job.Running {
			err = fmt.Errorf("it is %s", k.State())
		}
		return err
	})
	k, err := newest(m[0], "codes", "killed.1")
	must(t, err)
	kill(t, machineOf(t, n, k), k, 9)
	for _, c := range []struct {
		slot  string
		state job.State
		code  int
	}{{"good.1", job.Complete, 0}, {"bad.1", job.Failed, 42}, {"killed.1", job.Failed, 137}, {"second.1", job.Complete, 0}} {
		k := ended(t, m[1], "codes", c.slot, c.state)
		if exitCode(k) != c.code {
			t.Errorf("%s ended with %d, want %d", c.slot, exitCode(k), c.code)
		}
		if want := map[bool]int{true: 1}[c.slot == "second.1"]; k.Status.Restarts != want {
			t.Errorf("%s was restarted %d times, want %d", c.slot, k.Status.Restarts, want)
		}
	}
	contains(t, shoal(t, m[0], "ps", "--all", "codes"), "42", "137")
	if got := shoal(t, m[1], "logs", "codes/bad"); got != "last words\n" {
		t.Errorf("the log of a task that failed: %q", got)
	}
}

func containerGivesUp(t *testing.T, n *machines.Net) {
	m := n.Machines()
	dir := t.TempDir() // it goes after the job does, which writes into it
	gone(t, m[0], "hopeless")
	shoalIn(t, m[0], web(`command: [sh, -c, "cut -d ' ' -f 1 /proc/uptime >> /out/$$SHOAL_TASK; exit 9"]`, "volumes: ['"+dir+":/out']",
		"deploy: { restart_policy: { condition: any, delay: 100ms, max_attempts: 2 } }"), "run", "-f", "-", "--name", "hopeless", "--detach")
	eventually(t, "a second node to try", func() error {
		var l api.TaskList
		if err := m[1].JSON(&l, "ps", "--all", "hopeless"); err != nil {
			return err
		}
		on := map[string]bool{}
		for _, k := range l.Tasks {
			on[k.NodeName] = on[k.NodeName] || k.State() == job.Failed
			if k.State() == job.Failed && (k.Status.Restarts != 2 || exitCode(k) != 9) {
				t.Errorf("%s gave up after %d restarts with exit code %d, want 2 and 9", k.ID, k.Status.Restarts, exitCode(k))
			}
			if k.Attempt > 0 && k.Replaces == "" {
				t.Errorf("%s does not say what it replaces", k.ID)
			}
		}
		if len(on) < 2 {
			return fmt.Errorf("it failed on %v", on)
		}
		return nil
	})
	k, err := newest(m[0], "hopeless", "web.1")
	must(t, err)
	contains(t, shoal(t, m[0], "why", string(k.ID)), "placed", "predecessor failed")
	b, err := os.ReadFile(filepath.Join(dir, string(k.Replaces)))
	must(t, err)
	var times []float64 // seconds since boot
	for _, f := range strings.Fields(string(b)) {
		at, err := strconv.ParseFloat(f, 64)
		must(t, err)
		times = append(times, at)
	}
	if len(times) != 3 || times[1]-times[0] < 0.09 || times[2]-times[1] < 0.19 {
		t.Errorf("tries at %v, want three with pauses of at least 100 and 200 ms", times)
	}
}

func containerLogBytes(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "bytes")
	const long = 1 << 20
	shoalIn(t, m[0], fmt.Sprintf(`
services:
  binary: { image: e2e/busybox:1, restart: "no", command: [sh, -c, "printf '\\000\\377\\376bin\\r\\n\\033[31mred\\n\\303\\244\\n'; printf 'no newline'"] }
  long:   { image: e2e/busybox:1, restart: "no", command: [sh, -c, "head -c %d /dev/zero | tr '\\0' x; echo; echo after"] }
`, long), "run", "-f", "-", "--name", "bytes", "--detach")
	ended(t, m[1], "bytes", "binary.1", job.Complete)
	ended(t, m[1], "bytes", "long.1", job.Complete)
	for _, m := range m {
		want := "\x00\xff\xfebin\r\n\x1b[31mred\nä\nno newline"
		if got := shoal(t, m, "logs", "bytes/binary"); strings.TrimSuffix(got, "\n") != want {
			t.Errorf("%s shows %q, want %q", m.Name, got, want)
		}
		got := shoal(t, m, "logs", "bytes/long")
		if got != strings.Repeat("x", long)+"\nafter\n" {
			t.Errorf("%s: a line of 1 MiB came as %d bytes in %d lines", m.Name, len(got), strings.Count(got, "\n"))
		}
	}
	var raw []byte
	for line := range strings.Lines(shoal(t, m[0], "logs", "--json", "bytes/binary")) {
		var r api.LogRecord
		must(t, json.Unmarshal([]byte(line), &r))
		raw = append(raw, r.Raw...)
	}
	if !bytes.Contains(raw, []byte{0, 0xff, 0xfe}) {
		t.Errorf("--json carries %q", raw)
	}
}

func containerLogRotation(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "chatty")
	shoalIn(t, m[0], `
services:
  web:
    image: e2e/busybox:1
    restart: "no"
    command: [sh, -c, "i=0; while [ $$i -lt 40000 ]; do echo line number $$i; i=$$((i+1)); done"]
    logging: { driver: json-file, options: { max-size: 100k, max-file: "2" } }
`, "run", "-f", "-", "--name", "chatty", "--detach")
	k := ended(t, m[1], "chatty", "web.1", job.Complete)
	lines := strings.Split(strings.TrimSpace(shoal(t, m[1], "logs", "chatty")), "\n")
	for i, l := range lines { // a suffix without a hole
		if want := fmt.Sprintf("line number %d", 40000-len(lines)+i); l != want {
			t.Fatalf("line %d of %d is %q, want %q", i, len(lines), l, want)
		}
	}
	if len(lines) < 1000 || len(lines) > 20000 {
		t.Errorf("%d lines were kept in two files of 100 KiB", len(lines))
	}
	size := int64(0)
	logs, err := filepath.Glob(filepath.Join(machineOf(t, n, k).DataDir(), "*", string(k.ID), "*log*"))
	must(t, err)
	for _, l := range logs {
		if fi, err := os.Stat(l); err == nil {
			size += fi.Size()
		}
	}
	if size == 0 || size > 300<<10 {
		t.Errorf("the log takes %d bytes on disk in %v", size, logs)
	}
}

func containerMounts(t *testing.T, n *machines.Net) {
	m := n.Machines()
	dir := t.TempDir() // it goes after the job does, which may write into it
	gone(t, m[0], "mounts")
	must(t, os.WriteFile(filepath.Join(dir, "seen"), []byte("by bind\n"), 0o644))
	runCompose(t, m[0], "mounts", web("volumes: ['"+dir+":/in:ro', '"+dir+"/made:/made', 'data:/data', '/anon']")+"volumes: { data: {} }\n")
	k := slots(t, m[0], "mounts")["web.1"]
	script := "cat /in/seen; echo x > /in/no; echo up > /made/f; echo kept > /data/f; echo anon > /anon/f; cat /anon/f"
	r := attempt(m[1], nil, "exec", "mounts/web.1", "sh", "-c", script)
	if r.Stdout != "by bind\nanon\n" || r.Stderr != "sh: can't create /in/no: Read-only file system\n" {
		t.Errorf("inside: %v", r)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "made", "f")); err != nil || string(b) != "up\n" {
		t.Errorf("a directory made for a bind mount has %q: %v", b, err)
	}
	shoal(t, m[0], "stop", "mounts")
	runCompose(t, m[0], "mounts", web("volumes: ['data:/data']")+"volumes: { data: {} }\n")
	if again := slots(t, m[0], "mounts")["web.1"]; again.NodeName != k.NodeName {
		t.Errorf("its volume is on %s, but it now runs on %s", k.NodeName, again.NodeName)
	}
	if got := shoal(t, m[1], "exec", "mounts/web.1", "cat", "/data/f"); got != "kept\n" {
		t.Errorf("the volume has %q", got)
	}
	// A bind mount of what is not there, and not to be made, says so.
	gone(t, m[0], "bindless")
	refuses(t, m[0], 8, []string{"/no/such/dir"}, web("volumes: [{ type: bind, source: /no/such/dir, target: /in, bind: { create_host_path: false } }]", "restart: 'no'"),
		"run", "-f", "-", "--name", "bindless")
}
