package container_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container"
	"shoal/runtime/container/stage"
	"shoal/runtime/image"
	"shoal/runtime/network"
	"shoal/runtime/volume"
)

const (
	busyboxPath = "/bin/busybox"
	testImage   = "docker.io/library/busybox:test"
	patience    = 60 * time.Second // of a test: no promise is about being faster
)

// TestMain lets the test binary be its own launcher, and runs the tests in network and mount namespaces of their own.
func TestMain(m *testing.M) {
	container.ReexecMain()
	os.Exit(runTests(m))
}

const (
	envInside  = "SHOAL_TEST_NETNS"
	envCgroup2 = "SHOAL_TEST_CGROUP2" // see TestOnCgroup2
)

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(envInside) != "" {
		if os.Getenv(envInside) != "" {
			// Mounts that tests make are theirs alone.
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		if os.Getenv(envCgroup2) != "" {
			if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
				fmt.Fprintln(os.Stderr, "hide cgroup v1:", err)
				return 1
			}
		}
		code := m.Run()
		if err := goleak.Find(); code == 0 && err != nil {
			fmt.Fprintln(os.Stderr, "a goroutine outlives the tests:", err)
			code = 1
		}
		if selfDir != "" {
			os.RemoveAll(selfDir)
		}
		return code
	}
	dropDead()
	defer dropDead()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

// cgroupPrefix and a process id name the cgroup of one run's containers.
const cgroupPrefix = "shoal-test-"

// dropDead removes the cgroups of runs that were killed before they could do so themselves.
func dropDead() {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		tops, _ := filepath.Glob(pattern + cgroupPrefix + "[0-9]*") // the pattern is right
		for _, top := range tops {
			pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(top), cgroupPrefix))
			if err != nil || unix.Kill(pid, 0) != unix.ESRCH {
				continue
			}
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) { // children before parents
				_ = os.Remove(dir) // one with a process in it stays
			}
		}
	}
}

// needRoot skips without what the tests need.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(busyboxPath); err != nil {
		t.Skipf("needs a static busybox (Debian: busybox-static): %v", err)
	}
}

// built holds the programs that tests start for containers: static, as they are shipped, where the test binary is not.
type built struct{ self, stage string }

// programs builds the whole binary's stand-in and the small program, compressed.
var programs = sync.OnceValues(func() (built, error) {
	if dir := os.Getenv("SHOAL_TEST_PROGRAMS"); dir != "" { // on a machine without a compiler
		return built{self: filepath.Join(dir, "self"), stage: filepath.Join(dir, "stage.gz")}, nil
	}
	dir, err := os.MkdirTemp("", "shoal-self-")
	if err != nil {
		return built{}, err
	}
	selfDir = dir
	b := built{self: filepath.Join(dir, "shoal"), stage: filepath.Join(dir, "stage.gz")}
	if err := buildStatic(b.self, "./testdata/self"); err != nil {
		return built{}, err
	}
	plain := filepath.Join(dir, "stage")
	if err := buildStatic(plain, "./stage/shoal-stage"); err != nil {
		return built{}, err
	}
	program, err := os.ReadFile(plain)
	if err != nil {
		return built{}, err
	}
	var zip bytes.Buffer
	w := gzip.NewWriter(&zip)
	_, err = w.Write(program)
	return b, errors.Join(err, w.Close(), os.WriteFile(b.stage, zip.Bytes(), 0o600))
})

func buildStatic(to, pkg string) error {
	out, err := exec.Command("go", "build", "-tags", "netgo osusergo seccomp", "-ldflags", "-s -w -extldflags -static", "-o", to, pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}

var selfDir string // removed in the end

// rig is a runtime with all its parts over one directory. It can be closed and opened again.
type rig struct {
	testing.TB
	dir    string
	cgroup string
	self   string
	stage  string // file of the small program; "": self does its work
	subnet string // "": 10.231.0.0/24
	img    *image.Store
	net    *network.Network
	vol    *volume.Store
	rt     *container.Runtime
	stop   context.CancelFunc
	done   chan error
}

func newRig(t testing.TB) *rig {
	t.Helper()
	needRoot(t)
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{TB: t, self: b.self, stage: b.stage, dir: t.TempDir(), cgroup: fmt.Sprintf(cgroupPrefix+"%d", os.Getpid())}
	r.open()
	r.load(testImage, image.RunConfig{
		Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "FROM_IMAGE=yes"},
	}, busyboxTree(t))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		infos, _ := r.rt.List(ctx)
		for _, in := range infos {
			if err := r.rt.Remove(ctx, in.ID); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
		r.close()
		r.checkNothingLeft()
	})
	return r
}

func (r *rig) open() {
	r.Helper()
	var err error
	if r.img, err = image.Open(image.Config{Dir: filepath.Join(r.dir, "images")}); err != nil {
		r.Fatal(err)
	}
	if r.vol, err = volume.Open(filepath.Join(r.dir, "volumes")); err != nil {
		r.Fatal(err)
	}
	r.net, err = network.New(network.Config{
		Dir: filepath.Join(r.dir, "network"), Subnet: netip.MustParsePrefix(cmp.Or(r.subnet, "10.231.0.0/24")),
	})
	if err != nil {
		r.Fatal(err)
	}
	if err := r.net.Setup(r.Context()); err != nil {
		r.Fatal(err)
	}
	var log *slog.Logger
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(r.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var small []byte
	if r.stage != "" {
		if small, err = os.ReadFile(r.stage); err != nil {
			r.Fatal(err)
		}
	}
	r.rt, err = container.New(container.Config{
		Logger: log,
		Dir:    filepath.Join(r.dir, "containers"), Images: r.img, Network: r.net, Volumes: r.vol, CgroupParent: r.cgroup, Self: r.self, Stage: small,
	})
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan error, 1)
	go func(rt *container.Runtime, done chan error) { done <- rt.Run(ctx) }(r.rt, r.done)
}

// close ends the runtime as the end of the agent would, but for the zombies.
func (r *rig) close() {
	r.Helper()
	if r.done == nil {
		return // closed already
	}
	r.stop()
	if err := <-r.done; err != nil {
		r.Errorf("run: %v", err)
	}
	r.done = nil
	r.net.Close()
	r.img.Close()
}

func (r *rig) load(name string, cfg image.RunConfig, layers ...image.Tree) {
	r.Helper()
	var b bytes.Buffer
	if err := image.WriteArchive(&b, name, cfg, layers...); err != nil {
		r.Fatal(err)
	}
	if _, err := r.img.Load(r.Context(), &b, image.LoadOptions{}); err != nil {
		r.Fatal(err)
	}
}

func busyboxTree(t testing.TB) image.Tree {
	tree := image.Program("/bin/busybox", busyboxPath)
	out, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		if name != "busybox" {
			tree = append(tree, image.File{Path: "/bin/" + name, Link: "/bin/busybox", Mode: fs.ModeSymlink | 0o777})
		}
	}
	return append(tree,
		image.File{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n")},
		image.File{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nweb:x:1001:\nextra:x:1005:web\n")},
		image.File{Path: "/srv/seed/one", Mode: 0o644, Data: []byte("seed\n")},
		image.File{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	)
}

// checkNothingLeft looks for what a runtime without containers must not leave.
func (r *rig) checkNothingLeft() {
	r.Helper()
	r.eventually("without cgroups and processes", func() bool {
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + r.cgroup + "/*")
		v2, _ := filepath.Glob("/sys/fs/cgroup/" + r.cgroup + "/*")
		for _, p := range append(left, v2...) {
			// Launchers that wait for a container are a runtime's that is still open.
			if st, err := os.Stat(p); err == nil && st.IsDir() && filepath.Base(p) != stage.CgroupMonitors {
				return false
			}
		}
		return len(r.processes()) == 0
	})
	r.dropCgroups()
	for _, d := range []string{"containers", "run"} {
		entries, _ := os.ReadDir(filepath.Join(r.dir, d))
		for _, e := range entries {
			r.Errorf("%s/%s is left", d, e.Name())
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(r.dir)) {
		r.Error("a mount is left on the host")
	}
}

// dropCgroups removes what the pool of a runtime that a test left open has kept.
func (r *rig) dropCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, _ := filepath.Glob(pattern + r.cgroup)
		for _, top := range tops {
			_ = os.Remove(filepath.Join(top, stage.CgroupMonitors))
			_ = os.Remove(top)
		}
	}
}

func (r *rig) create(s runtime.Spec) runtime.Info {
	r.Helper()
	if s.Image == "" {
		s.Image = testImage
	}
	if s.Name == "" {
		s.Name = string(s.ID)
	}
	in, err := r.rt.Create(r.Context(), s)
	if err != nil {
		r.Fatal(err)
	}
	return in
}

func (r *rig) run(s runtime.Spec) runtime.Info {
	r.Helper()
	r.create(s)
	in, err := r.rt.Start(r.Context(), s.ID)
	if err != nil {
		r.Fatal(err)
	}
	return in
}

func (r *rig) shell(id runtime.ID, script string) runtime.Info {
	r.Helper()
	return r.run(runtime.Spec{ID: id, Command: []string{"sh", "-c", script}})
}

func (r *rig) inspect(id runtime.ID) runtime.Info {
	r.Helper()
	in, err := r.rt.Inspect(r.Context(), id)
	if err != nil {
		r.Fatal(err)
	}
	return in
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("still not %s after %v", what, patience)
		}
	}
}

func (r *rig) stopped(id runtime.ID) runtime.Info {
	r.Helper()
	var in runtime.Info
	r.eventually("stopped", func() bool { in = r.inspect(id); return in.State == runtime.Stopped })
	return in
}

// lines are what the log holds now.
func (r *rig) lines(id runtime.ID, q runtime.LogQuery) []string {
	r.Helper()
	var out []string
	err := r.rt.Logs(r.Context(), id, q, func(l runtime.LogLine) error {
		out = append(out, string(l.Text))
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// output runs a script to its end and gives its output and exit code.
func (r *rig) output(s runtime.Spec, script string) (string, int) {
	r.Helper()
	s.Command = []string{"sh", "-c", script}
	r.run(s)
	in := r.stopped(s.ID)
	return strings.Join(r.lines(s.ID, runtime.LogQuery{}), "\n"), in.ExitCode
}

// exec runs a command in a container and gives its output and exit code.
func (r *rig) exec(id runtime.ID, args ...string) (string, int) {
	r.Helper()
	var out bytes.Buffer
	code, err := r.rt.Exec(r.Context(), id, runtime.Exec{Args: args, Stdout: &out, Stderr: &out})
	if err != nil {
		r.Fatal(err)
	}
	return out.String(), code
}

// monitorOf finds a running container's monitor among the processes; its launcher may still be about to become that.
func (r *rig) monitorOf(id runtime.ID) (pid int) {
	r.Helper()
	r.eventually("monitored", func() bool {
		pid = processWith("shoal-monitor\x00" + string(id) + "\x00")
		return pid != 0
	})
	return pid
}

// processWith finds a process by the beginning of its command line; 0 if there is none.
func processWith(prefix string) int {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range found {
		b, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(b), prefix) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}

// cgroupFile reads a file of a container's cgroup, by its v1 and v2 names.
func (r *rig) cgroupFile(id runtime.ID, controller, v1, v2 string) string {
	r.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, r.cgroup, string(id), v1))
	if err != nil {
		b, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", r.cgroup, string(id), v2))
	}
	if err != nil {
		r.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
