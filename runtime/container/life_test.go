package container_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

func TestRestartKeepsFilesAndAddress(t *testing.T) {
	r := newRig(t)
	first := r.shell("again", "cat /mark; echo was here > /mark; ip -4 -o addr show eth0")
	r.stopped("again")
	second, err := r.rt.Start(t.Context(), "again")
	if err != nil {
		t.Fatal(err)
	}
	r.stopped("again")
	got := r.lines("again", runtime.LogQuery{Tail: 2})
	if len(got) != 2 || got[0] != "was here" {
		t.Fatalf("the second run says %q, want what the first wrote, and its address", got)
	}
	if !strings.Contains(got[1], " "+first.Address.String()+"/") {
		t.Errorf("told to be at %s, inside: %s", first.Address, got[1])
	}
	if !first.Address.IsValid() || first.Address != second.Address {
		t.Errorf("address %v became %v", first.Address, second.Address)
	}
}

func TestMonitorIsSmallAndInItsOwnSession(t *testing.T) {
	r := newRig(t)
	r.shell("small", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; sleep 600")
	r.eventually("logged", func() bool { return len(r.lines("small", runtime.LogQuery{Tail: 3000})) == 2000 })
	pid := r.monitorOf("small")
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of monitor %d (%v): want its own", sid, pid, err)
	}
	dirty := smaps(t, pid)["Private_Dirty"]
	t.Logf("monitor: %d KiB of its own", dirty)
	if dirty > 192 {
		t.Errorf("the monitor has %d KiB of its own, want at most 192", dirty)
	}
}

// smaps gives a process's memory by kind, in KiB.
func smaps(t testing.TB, pid int) map[string]int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(b)) {
		var n int
		if k, v, _ := strings.Cut(line, ":"); v != "" {
			fmt.Sscan(v, &n)
			out[k] = n
		}
	}
	return out
}

func TestMonitorSurvivesSignals(t *testing.T) {
	r := newRig(t)
	r.shell("sturdy", "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	r.eventually("ready", func() bool { return len(r.lines("sturdy", runtime.LogQuery{})) == 1 })
	pid := r.monitorOf("sturdy")
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGPIPE, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGALRM} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.rt.Stop(t.Context(), "sturdy", patience); err != nil {
		t.Fatal(err)
	}
	if in := r.inspect("sturdy"); in.ExitCode != 5 {
		t.Errorf("after signals to the monitor: %+v", in)
	}
}

// A monitor that is killed takes its container along, and the end is told, though not the code.
func TestKilledMonitorEndsContainer(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"plain", "sleep 600"},
		{"changed-user", "exec su web -c 'sleep 600'"}, // has lost its death signal
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			id := runtime.ID(c.name)
			events := r.rt.Events(t.Context())
			in := r.shell(id, c.script)
			unix.Kill(r.monitorOf(id), unix.SIGKILL)
			in2 := r.stopped(id)
			if in2.ExitCode != 137 || in2.Error == "" || in2.OOMKilled {
				t.Errorf("told as %+v", in2)
			}
			r.eventually("dead", func() bool { return !alive(in.PID) })
			for timeout := time.After(patience); ; {
				select {
				case e := <-events:
					if e.Kind == runtime.EventExited {
						return
					}
				case <-timeout:
					t.Fatal("no event")
				}
			}
		})
	}
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestKilledMonitorIsNoticedByNextRuntime(t *testing.T) {
	r := newRig(t)
	in := r.shell("orphan", "exec su web -c 'sleep 600'")
	r.close()
	unix.Kill(r.monitorOf("orphan"), unix.SIGKILL)
	r.open()
	if got := r.inspect("orphan"); got.State != runtime.Stopped || got.ExitCode != 137 || got.Error == "" {
		t.Errorf("adopted as %+v", got)
	}
	r.eventually("dead", func() bool { return !alive(in.PID) })
	if _, err := r.rt.Start(t.Context(), "orphan"); err != nil {
		t.Errorf("start again: %v", err)
	}
}

func TestFailedStartLeavesContainerStartable(t *testing.T) {
	r := newRig(t)
	s := runtime.Spec{ID: "busy", Command: []string{"sleep", "600"}, Ports: []runtime.Port{{HostPort: 8181, ContainerPort: 80, Protocol: "tcp"}}}
	r.run(s)
	s.ID = "late"
	r.create(s)
	if _, err := r.rt.Start(t.Context(), "late"); err == nil {
		t.Fatal("two containers have the same host port")
	}
	if in := r.inspect("late"); in.State != runtime.Created {
		t.Errorf("after a start that failed for want of a port: %+v", in)
	}
	if err := r.rt.Remove(t.Context(), "busy"); err != nil {
		t.Fatal(err)
	}
	in, err := r.rt.Start(t.Context(), "late")
	if err != nil || in.Starts != 1 || len(in.Ports) != 1 || in.Ports[0].HostPort != 8181 {
		t.Errorf("start once the port is free: %+v, %v", in, err)
	}
}

func TestExecFormatErrorFailsStart(t *testing.T) {
	r := newRig(t)
	for i, c := range []struct {
		prepare string
		code    int
	}{
		{"echo '#!/no/such/shell' > /prog; chmod 755 /prog", 127},
		{"printf '\\177ELF broken' > /prog; chmod 755 /prog", 126},
		{"echo text > /prog; chmod 644 /prog", 126},
	} {
		dir := t.TempDir()
		os.Chmod(dir, 0o755)
		mount := []runtime.Mount{{Type: runtime.MountBind, Source: dir, Target: "/p"}}
		if out, code := r.output(runtime.Spec{ID: runtime.ID(fmt.Sprint("prep", i)), Mounts: mount}, strings.ReplaceAll(c.prepare, "/prog", "/p/prog")); code != 0 {
			t.Fatal(out)
		}
		for _, init := range []bool{false, true} {
			id := runtime.ID(fmt.Sprintf("bad%d%v", i, init))
			r.create(runtime.Spec{ID: id, Command: []string{"/p/prog"}, Mounts: mount, Init: init})
			_, err := r.rt.Start(t.Context(), id)
			if err == nil {
				t.Errorf("%s, init %v: it started", c.prepare, init)
			}
			if in := r.inspect(id); in.State != runtime.Stopped || in.ExitCode != c.code || in.Error == "" {
				t.Errorf("%s, init %v: %+v, want code %d", c.prepare, init, in, c.code)
			}
		}
	}
}

// The binary on disk may be replaced while the agent runs: starts, execs and inits go on with what runs.
func TestBinaryMayBeReplaced(t *testing.T) {
	r := newRig(t)
	r.close()
	path := filepath.Join(t.TempDir(), "shoal")
	b, err := os.ReadFile(r.self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	r.self = path
	r.open()
	r.run(runtime.Spec{ID: "before", Init: true, Command: []string{"sleep", "600"}})
	if err := os.WriteFile(path+".new", []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	r.run(runtime.Spec{ID: "after", Init: true, Command: []string{"sleep", "600"}})
	for _, id := range []runtime.ID{"before", "after"} {
		if out, code := r.exec(id, "cat", "/proc/1/comm"); out != "shoal-init:run\n" || code != 0 {
			t.Errorf("exec in %s: %q, %d", id, out, code)
		}
		if out, _ := r.exec(id, "sh", "-c", "echo > /dev/shoal-init"); !strings.Contains(out, "Read-only") && !strings.Contains(out, "busy") {
			t.Errorf("writing to the init of %s: %q", id, out)
		}
	}
}

// A monitor that is stopped reports nothing; Stop and Remove must end all the same.
func TestStoppedMonitorDoesNotHoldRemove(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the patience with a monitor")
	}
	r := newRig(t)
	in := r.shell("held", "sleep 600")
	if err := unix.Kill(r.monitorOf("held"), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := r.rt.Remove(t.Context(), "held"); err != nil {
		t.Fatal(err)
	}
	r.eventually("dead", func() bool { return !alive(in.PID) })
}

func TestManyContainersNeedFewThreads(t *testing.T) {
	r := newRig(t)
	const n = 24
	r.shell("warm", "true")
	before := threads(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	begin := time.Now()
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			id := runtime.ID(fmt.Sprint("many", i))
			s := runtime.Spec{ID: id, Name: string(id), Image: testImage, Command: []string{"sh", "-c", "echo up; exec sleep 600"}}
			if _, err := r.rt.Create(t.Context(), s); err != nil {
				t.Error(err)
			} else if _, err := r.rt.Start(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d containers, four at a time: %v, %d threads more", n, time.Since(begin).Round(time.Millisecond), threads(t)-before)
	if more := threads(t) - before; more > n/2 {
		t.Errorf("%d containers took %d threads", n, more)
	}
	for i := range n {
		if err := r.rt.Stop(t.Context(), runtime.ID(fmt.Sprint("many", i)), 0); err != nil {
			t.Error(err)
		}
	}
}

// Without the small program, as in a binary that go build alone made, the whole one does all that it does.
func TestWholeBinaryDoesItAll(t *testing.T) {
	r := newRig(t)
	r.close()
	r.stage = ""
	r.open()
	if out, code := r.output(runtime.Spec{ID: "once"}, "echo out; echo err >&2; exit 3"); out != "out\nerr" && out != "err\nout" || code != 3 {
		t.Errorf("output %q, code %d", out, code)
	}
	r.run(runtime.Spec{ID: "stays", Init: true, Command: []string{"sleep", "600"}})
	if out, code := r.exec("stays", "cat", "/proc/1/comm"); out != "shoal-init:run\n" || code != 0 {
		t.Errorf("exec: %q, %d", out, code)
	}
}

// An upgrade changes the small program under containers that the earlier one started, and back: each is adopted with its
// monitor, can be entered, and tells its end.
func TestSmallProgramMayChange(t *testing.T) {
	r := newRig(t)
	earlier := r.stage
	r.run(runtime.Spec{ID: "earlier", Init: true, Command: []string{"sleep", "600"}})
	r.close()
	// Another version: the same program with something behind its end, so that it is another file in memory.
	r.stage = otherVersion(t, earlier)
	r.open()
	r.run(runtime.Spec{ID: "later", Command: []string{"sleep", "600"}})
	for _, id := range []runtime.ID{"earlier", "later"} {
		if _, code := r.exec(id, "true"); code != 0 {
			t.Errorf("exec in %s: %d", id, code)
		}
	}
	r.close()
	r.stage = "" // and a binary without any
	r.open()
	for _, id := range []runtime.ID{"earlier", "later"} {
		if in := r.inspect(id); in.State != runtime.Running {
			t.Errorf("%s is %v after the change", id, in.State)
		}
		if out, code := r.exec(id, "echo", "in"); out != "in\n" || code != 0 {
			t.Errorf("exec in %s: %q, %d", id, out, code)
		}
		if err := r.rt.Stop(t.Context(), id, 0); err != nil {
			t.Error(err)
		}
		if in := r.inspect(id); in.State != runtime.Stopped || in.ExitCode != 137 || in.Error != "" {
			t.Errorf("%s: %v, code %d, %q", id, in.State, in.ExitCode, in.Error)
		}
	}
}

// otherVersion appends a second member to the compressed program: a few bytes behind the end of the ELF file.
func otherVersion(t *testing.T, stage string) string {
	b, err := os.ReadFile(stage)
	if err != nil {
		t.Fatal(err)
	}
	var more bytes.Buffer
	w := gzip.NewWriter(&more)
	if _, err := w.Write([]byte("another version")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stage.gz")
	if err := os.WriteFile(path, append(b, more.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Killing an exec helper leaves its process alone: it belongs to the container.
func TestExecOutlivesItsHelper(t *testing.T) {
	r := newRig(t)
	r.run(runtime.Spec{ID: "host", Command: []string{"sleep", "600"}})
	failed := make(chan error, 1)
	go func() {
		_, err := r.rt.Exec(t.Context(), "host", runtime.Exec{Args: []string{"sh", "-c", ": > /begun; sleep 600"}})
		failed <- err
	}()
	r.eventually("begun", func() bool { _, code := r.exec("host", "test", "-e", "/begun"); return code == 0 })
	r.eventually("killed", func() bool {
		for _, pid := range children(t, "shoal-exec\x00") { // that of the last exec may be at its end still
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case err := <-failed:
			if err == nil {
				t.Error("an exec whose helper was killed gave no error")
			}
			return true
		default:
			return false
		}
	})
	if out, _ := r.exec("host", "sh", "-c", "ps -o args | grep -c '[s]leep 600'"); strings.TrimSpace(out) == "1" {
		t.Errorf("the exec'd process went with its helper: %q", out)
	}
}

// children are the processes of this one with such a command line.
func children(t *testing.T, prefix string) (pids []int) {
	found, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		list, _ := os.ReadFile(f)
		for field := range strings.FieldsSeq(string(list)) {
			if b, err := os.ReadFile("/proc/" + field + "/cmdline"); err == nil && strings.HasPrefix(string(b), prefix) {
				pid, _ := strconv.Atoi(field)
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Whoever has given up changes nothing any more, also where nobody else is at it.
func TestStopByWhoHasGivenUpSignalsNothing(t *testing.T) {
	r := newRig(t)
	r.shell("goes-on", "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	r.eventually("ready", func() bool { return len(r.lines("goes-on", runtime.LogQuery{})) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		if err := r.rt.Stop(ctx, "goes-on", patience); err == nil {
			t.Fatal("it is said to be stopped")
		}
	}
	time.Sleep(500 * time.Millisecond)
	if got := r.lines("goes-on", runtime.LogQuery{}); len(got) != 1 || r.inspect("goes-on").State != runtime.Running {
		t.Errorf("it was stopped: %q", got)
	}
}
