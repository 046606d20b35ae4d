package container_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

const envVictim = "SHOAL_TEST_VICTIM" // directory over which a process shall start and remove containers until it is killed

// victim is an agent that is killed in the middle of its work.
func victim(t *testing.T, dir string) {
	r := &rig{TB: t, dir: dir, cgroup: os.Getenv("SHOAL_TEST_CGROUP"), self: os.Getenv("SHOAL_TEST_SELF"), stage: os.Getenv("SHOAL_TEST_STAGE")}
	r.open()
	fmt.Println("begin")
	for i := 0; ; i++ {
		s := runtime.Spec{ID: runtime.ID(fmt.Sprint("v", i%2)), Command: []string{"sleep", "600"}, Ports: []runtime.Port{{ContainerPort: 80, Protocol: "tcp"}}}
		r.run(s)
		if i%2 == 1 {
			if err := r.rt.Remove(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
			if err := r.rt.Remove(t.Context(), "v0"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Wherever an agent is killed, the next one finds containers that are whole, can do everything with them, and nothing else
// is left: no process, cgroup, mount or directory.
func TestAgentKilledAnywhere(t *testing.T) {
	if dir := os.Getenv(envVictim); dir != "" {
		victim(t, dir)
	}
	r := newRig(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	r.shell("warm", "true") // the image is unpacked: the rounds are about containers
	r.stopped("warm")
	if err := r.rt.Remove(t.Context(), "warm"); err != nil {
		t.Fatal(err)
	}
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		r.close()
		after := time.Duration(random.IntN(250)) * time.Millisecond
		r.killVictim(after)
		r.open()
		infos, err := r.rt.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range infos {
			what := fmt.Sprintf("round %d, killed after %v: %s is %s", round, after, in.ID, in.State)
			t.Log(what)
			switch in.State {
			case runtime.Running:
				if out, code := r.exec(in.ID, "echo", "alive"); out != "alive\n" || code != 0 {
					t.Errorf("%s, but exec gives %q, %d", what, out, code)
				}
			default:
				if in.Starts > 0 {
					t.Errorf("%s after %d starts (%s), and nobody stopped it", what, in.Starts, in.Error)
				}
				if _, err := r.rt.Start(t.Context(), in.ID); err != nil {
					t.Errorf("%s and does not start: %v", what, err)
				}
			}
			if err := r.rt.Remove(t.Context(), in.ID); err != nil {
				t.Errorf("%s and cannot be removed: %v", what, err)
			}
		}
		r.eventually("without processes", func() bool { return len(r.processes()) == 0 })
		r.checkNothingLeft()
	}
}

func (r *rig) killVictim(after time.Duration) {
	r.Helper()
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", "-test.run", "^TestAgentKilledAnywhere$")
	cmd.Env = append(os.Environ(), envVictim+"="+r.dir, "SHOAL_TEST_CGROUP="+r.cgroup, "SHOAL_TEST_SELF="+r.self, "SHOAL_TEST_STAGE="+r.stage)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	b := make([]byte, 6)
	if n, err := out.Read(b); string(b[:n]) != "begin\n" {
		r.Fatalf("the victim says %q, %v", b[:n], err)
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	rest, _ := io.ReadAll(out)
	_ = cmd.Wait()
	if len(rest) > 0 {
		r.Fatalf("the victim failed: %s", rest)
	}
}

// processes lists launchers, monitors and members of cgroups of this rig.
func (r *rig) processes() (out []string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + r.cgroup + "/*/cgroup.procs")
	for _, d := range dirs {
		b, _ := os.ReadFile(d)
		for pid := range strings.FieldsSeq(string(b)) {
			if stat, _ := os.ReadFile("/proc/" + pid + "/stat"); strings.Contains(string(stat), fmt.Sprintf("(%s) S %d ", stage.CommWaiting, os.Getpid())) {
				continue // for a container of ours
			}
			if c, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && len(c) > 0 {
				out = append(out, string(c))
			}
		}
	}
	return out
}
