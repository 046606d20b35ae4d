package container_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

const envStep = "SHOAL_TEST_STEP" // step:whom, in a victim's environment

// lifeOfOne takes a container through all that there is. In a victim some of it fails, because something was killed.
func (r *rig) lifeOfOne() {
	ctx := r.Context()
	s := runtime.Spec{
		ID: "one", Image: testImage, Command: []string{"sleep", "600"}, Ports: []runtime.Port{{ContainerPort: 80, Protocol: "tcp"}},
		Mounts:    []runtime.Mount{{Type: runtime.MountVolume, Source: "vol", Target: "/srv/seed"}},
		Resources: runtime.Resources{NanoCPUs: 500_000_000},
	}
	if _, err := r.rt.Create(ctx, s); err != nil {
		return
	}
	if _, err := r.rt.Start(ctx, s.ID); err != nil {
		return
	}
	_, _ = r.rt.Exec(ctx, s.ID, runtime.Exec{Args: []string{"true"}})
	_ = r.rt.Stop(ctx, s.ID, 50*time.Millisecond)
	_ = r.rt.Remove(ctx, s.ID)
}

// Wherever between two steps the agent, a launcher (or the monitor that it became) or a container's first process is
// killed, the next runtime finds or removes everything: processes, mounts, cgroups, links, leases, directories, use of
// images and volumes; and what it finds can be used and removed.
func TestKilledAtEachStep(t *testing.T) {
	if at := os.Getenv(envStep); at != "" {
		r := &rig{TB: t, dir: os.Getenv(envVictim), cgroup: os.Getenv("SHOAL_TEST_CGROUP"), self: os.Getenv("SHOAL_TEST_SELF"), stage: os.Getenv("SHOAL_TEST_STAGE")}
		stage.CrashAt(at)
		r.open()
		if os.Getenv("SHOAL_TEST_WAIT") != "" {
			time.Sleep(300 * time.Millisecond) // launchers wait, and are to end with us
		}
		r.lifeOfOne()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing is put in order
	}
	steps := slices.Clone(stage.Steps)
	if called := reachedInSource(t); !slices.Equal(called, slices.Sorted(slices.Values(steps))) {
		t.Fatalf("stage.Steps has\n%q\nthe source passes\n%q", slices.Sorted(slices.Values(steps)), called)
	}
	r := newRig(t)
	r.shell("warm", "true")
	r.stopped("warm")
	if err := r.rt.Remove(t.Context(), "warm"); err != nil {
		t.Fatal(err)
	}
	for i, step := range steps {
		t.Setenv("SHOAL_TEST_WAIT", strings.Repeat("x", i%2))
		for _, whom := range doomedAt(step) {
			r.close()
			r.killAt(step, whom)
			r.open()
			r.adopted(fmt.Sprintf("%s killed at %q", whom, step))
		}
		if t.Failed() {
			return // what is left would be blamed on the next step too
		}
	}
	r.lifeOfOne()
	const waiting = 8 // sockets of launchers that wait, at most
	open := descriptors(t)
	for range 5 {
		r.lifeOfOne()
	}
	r.eventually("without descriptors of containers", func() bool { return descriptors(t) <= open+waiting })
}

// doomedAt says who there is to kill. Before and after a start it is the agent alone.
func doomedAt(s stage.Step) []string {
	switch {
	case s == "start launcher" || s == "start job sent" || s == "exec helper":
		return []string{"agent", "launcher"}
	case strings.HasPrefix(string(s), "launch "), s == "start attached", s == "start moved", s == "start running",
		strings.HasPrefix(string(s), "exec ") && s != "exec ended":
		if testing.Short() {
			return []string{"agent"}
		}
		return []string{"agent", "launcher", "init"}
	}
	return []string{"agent"}
}

// reachedInSource are the steps that the source of this package and of stage passes, sorted.
func reachedInSource(t *testing.T) (out []stage.Step) {
	call := regexp.MustCompile(`reach\("([a-z ]+)"`)
	for _, pattern := range []string{"*.go", "stage/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range call.FindAllSubmatch(text, -1) {
				out = append(out, stage.Step(m[1]))
			}
		}
	}
	slices.Sort(out)
	return out
}

func (r *rig) killAt(step stage.Step, whom string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run", "^TestKilledAtEachStep$")
	cmd.Env = append(os.Environ(), envStep+"="+string(step)+":"+whom, envVictim+"="+r.dir, "SHOAL_TEST_CGROUP="+r.cgroup, "SHOAL_TEST_SELF="+r.self, "SHOAL_TEST_STAGE="+r.stage)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A file: launchers and monitors have it open for longer than the victim lives.
	said, err := os.Create(filepath.Join(r.TempDir(), "said"))
	if err != nil {
		r.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		r.Fatalf("victim for %s at %q: %v", whom, step, err)
	}
	text, _ := os.ReadFile(said.Name())
	if !bytes.Contains(text, []byte("reached\n")) {
		r.Errorf("%q was never reached with %s to kill: %s", step, whom, text)
	}
	_, _ = io.Copy(io.Discard, said)
}

// adopted checks what the next runtime has made of it.
func (r *rig) adopted(what string) {
	r.Helper()
	infos, err := r.rt.List(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	for _, in := range infos {
		switch in.State {
		case runtime.Running:
			if out, code := r.exec(in.ID, "echo", "alive"); out != "alive\n" || code != 0 {
				// A first process that was killed ends its monitor at any moment.
				r.eventually(what+": stopped", func() bool { return r.inspect(in.ID).State == runtime.Stopped })
			}
		case runtime.Created:
			if _, err := r.rt.Start(r.Context(), in.ID); err != nil {
				r.Errorf("%s: it is %s and does not start: %v", what, in.State, err)
			} else if out, _ := r.exec(in.ID, "ls", "-A", "/srv/seed"); out != "one\n" {
				r.Errorf("%s: its volume holds %q", what, out)
			}
		}
		if err := r.rt.Remove(r.Context(), in.ID); err != nil {
			r.Errorf("%s: %s and cannot be removed: %v", what, in.State, err)
		}
	}
	r.checkNothingLeft()
	r.checkLedger(what)
}

// checkLedger looks for what else a machine without containers must not have.
func (r *rig) checkLedger(what string) {
	r.Helper()
	r.eventually(what+": without links", func() bool {
		links, err := netlink.LinkList()
		return err == nil && !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "veth" })
	})
	leases, err := os.ReadFile(filepath.Join(r.dir, "network", "leases.json"))
	if err == nil && bytes.Contains(leases, []byte(`"one"`)) {
		r.Errorf("%s: a lease is left: %s", what, leases)
	}
	if rules, err := exec.Command("nft", "list", "ruleset").Output(); err == nil && bytes.Contains(rules, []byte("dnat")) && bytes.Contains(rules, []byte("10.231.0.2")) {
		r.Errorf("%s: a rule for a published port is left", what)
	}
	if err := r.vol.Remove("vol"); err != nil && !strings.Contains(err.Error(), "not found") {
		r.Errorf("%s: the volume is still in use: %v", what, err)
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		mounts, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "mountinfo"))
		if bytes.Contains(mounts, []byte(r.dir+"/containers")) {
			comm, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
			r.Errorf("%s: process %s (%s) still has its mounts", what, p.Name(), bytes.TrimSpace(comm))
		}
	}
}

func descriptors(t *testing.T) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
