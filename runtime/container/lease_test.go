package container_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// Whatever became of the agent and of the monitor, and whatever the programs inside do with their users and sessions: when
// the lease ends, the kernel ends them all.
func TestLeaseEndsTheContainerWithoutAnybodysHelp(t *testing.T) {
	const forever = "while :; do sleep 0.05; done"
	for _, stopMonitor := range []bool{false, true} {
		t.Run("monitor-stopped-"+strconv.FormatBool(stopMonitor), func(t *testing.T) {
			r := newRig(t)
			specs := []runtime.Spec{
				{ID: "plain", Command: []string{"sh", "-c", forever}},
				{ID: "changes-user", Command: []string{"su", "web", "-c", forever}},
				{ID: "runs-as-user", User: "web", Command: []string{"sh", "-c", forever}},
				{ID: "daemons", Command: []string{"sh", "-c", "setsid sh -c '" + forever + "' & (" + forever + ") & trap '' TERM HUP; " + forever}},
				{ID: "pty", TTY: true, Command: []string{"sh", "-c", forever}},
			}
			var pids []int
			var until time.Duration
			for _, s := range specs {
				s.Lease = 5 * time.Second
				r.create(s)
			}
			for i, s := range specs {
				if err := r.rt.Renew(t.Context(), s.ID, r.rt.Boot()+4*time.Second); err != nil {
					t.Fatal(err)
				}
				if _, err := r.rt.Start(t.Context(), s.ID); err != nil {
					t.Fatal(err)
				}
				r.monitorOf(s.ID)
				until = r.rt.Boot() + 5*time.Second
				for _, runs := range specs[:i+1] {
					if err := r.rt.Renew(t.Context(), runs.ID, until); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, s := range specs {
				in := r.inspect(s.ID)
				if in.State != runtime.Running {
					t.Fatalf("%s: %+v", s.ID, in)
				}
				pids = append(pids, r.members(s.ID)...)
				if stopMonitor {
					time.Sleep(20 * time.Millisecond) // the renewal is read first
					unix.Kill(r.monitorOf(s.ID), unix.SIGSTOP)
				}
			}
			if len(pids) < 2*len(specs) {
				t.Fatalf("only processes %v", pids)
			}
			rt := r.rt
			r.close() // nobody watches any more
			for _, pid := range pids {
				r.eventually("dead", func() bool { return !alive(pid) })
			}
			over := rt.Boot() - until
			t.Logf("all of %d processes were dead %v after the last lease", len(pids), over)
			r.open()
			for _, s := range specs {
				if in := r.inspect(s.ID); in.State != runtime.Stopped || in.ExitCode != 137 {
					t.Errorf("%s was adopted as %+v", s.ID, in)
				}
			}
		})
	}
}

// An agent that comes back goes on renewing, and knows nothing of what was granted before.
func TestAdoptedContainerIsRenewed(t *testing.T) {
	r := newRig(t)
	s := runtime.Spec{ID: "db", Command: []string{"sleep", "600"}, Lease: 5 * time.Second}
	r.create(s)
	if err := r.rt.Renew(t.Context(), s.ID, r.rt.Boot()+5*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := r.rt.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	first := r.rt.Boot() + 5*time.Second
	r.monitorOf(s.ID)
	r.close()
	r.open()
	end := r.rt.Boot() + 20*time.Second
	if err := r.rt.Renew(t.Context(), s.ID, end); err != nil {
		t.Fatal(err)
	}
	time.Sleep(first - r.rt.Boot() + time.Second)
	if in := r.inspect(s.ID); in.State != runtime.Running && r.rt.Boot() < end {
		t.Errorf("it ended although its lease was renewed: %+v", in)
	}
}

// members lists the processes of a container.
func (r *rig) members(id runtime.ID) (pids []int) {
	r.Helper()
	seen := map[int]bool{}
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + r.cgroup + "/" + string(id) + "/cgroup.procs")
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + r.cgroup + "/" + string(id) + "/cgroup.procs")
	for _, f := range append(v1, v2...) {
		b, _ := os.ReadFile(f)
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
