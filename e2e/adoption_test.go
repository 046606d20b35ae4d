package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

// load is a job whose container counts, 500 lines a second, and one whose containers wait for a file and end.
const load = `
services:
  counter:
    image: ` + busyboxImage + `
    command: [sh, -c, 'i=0; while :; do for k in 1 2 3 4 5 6 7 8 9 10; do i=$$((i+1)); echo line $$i; done; usleep 20000; done']
    init: true
    stop_grace_period: 1s
    deploy: {mode: global}
  mortal:
    image: ` + busyboxImage + `
    command: [sh, -c, 'until [ -e /end ]; do usleep 50000; done; exit 7']
    restart: "no"
    stop_grace_period: 1s
    deploy: {mode: global}
`

// TestAgentReturns: whatever becomes of the agent, its containers run on under it and are its own again afterwards.
func TestAgentReturns(t *testing.T) {
	n := cluster(t, 3)
	m := n.Machines()[1]
	away := func(s syscall.Signal) func(*testing.T) {
		return func(t *testing.T) {
			must(t, m.Signal(s))
			_, err := m.AwaitEnd(patience)
			must(t, err)
		}
	}
	loadBusybox(t, n.Machines()[0])
	dir := t.TempDir()
	tests := []struct {
		name string
		away func(*testing.T)
	}{
		{"after SIGKILL", away(syscall.SIGKILL)},
		{"after SIGTERM", away(syscall.SIGTERM)},
		{"as a newer version", func(t *testing.T) {
			next := filepath.Join(dir, "shoal")
			must(t, build(next, "v-next"))
			away(syscall.SIGTERM)(t)
			m.Options.Binary = next
		}},
	}
	for i, test := range tests {
		if testing.Short() && i > 0 {
			break
		}
		t.Run(test.name, func(t *testing.T) {
			name := fmt.Sprintf("load%d", i)
			runCompose(t, m, name, load)
			eventually(t, "the load to run on all", func() error { return exactlyGlobal(m, name, 6) })
			counter, mortal := taskOn(t, m, name, "counter"), taskOn(t, m, name, "mortal")
			eventually(t, "a thousand lines", func() error { return linesBeyond(m, counter, 1000) })
			before := m.Tasks(name)

			test.away(t)
			endMortal(t, before[mortal])
			seen := time.Now()
			time.Sleep(time.Second) // the containers work on their own
			must(t, m.Start())
			must(t, m.AwaitReady(patience))
			t.Logf("away for %v", time.Since(seen).Round(time.Millisecond))

			eventually(t, "the exit code of the container that ended meanwhile", func() error { return endedWith(m, mortal, 7) })
			after := m.Tasks(name)
			if len(after[counter]) == 0 || before[counter][0] != after[counter][0] {
				t.Errorf("the processes of %s were %v and are %v: the first is another", counter, before[counter], after[counter])
			}
			k, err := m.Client().Task(t.Context(), counter)
			must(t, err)
			if k.Status == nil || k.Status.State != job.Running || k.Status.Restarts != 0 {
				t.Errorf("the task that ran on is shown as %+v", k.Status)
			}
			if got := shoal(t, m, "exec", counter, "echo", "here"); strings.TrimSpace(got) != "here" {
				t.Errorf("exec says %q", got)
			}
			now, err := logLines(m, counter)
			must(t, err)
			eventually(t, "more lines", func() error { return linesBeyond(m, counter, len(now)+500) })
			shoal(t, m, "rm", name)
			eventually(t, "all of it to be gone", func() error {
				if left := m.Tasks(name); len(left) > 0 {
					return fmt.Errorf("still there: %v", left)
				}
				return nil
			})
		})
	}
	if list, err := nodes(m); err != nil || !testing.Short() && list.Nodes[1].Version != "v-next" {
		t.Errorf("the nodes are %+v (%v), want the new version of %s", list.Nodes, err, m.Name)
	}
}

// exactlyGlobal complains unless count tasks of a job with global services are ready.
func exactlyGlobal(m *machines.Machine, name string, count int) error {
	list, err := tasks(m, name)
	if err != nil {
		return err
	}
	if list.Ready != count || len(list.Tasks) != count {
		return fmt.Errorf("%d of %d tasks are ready, want %d", list.Ready, len(list.Tasks), count)
	}
	return nil
}

// taskOn finds the id of a service's task on a machine.
func taskOn(t *testing.T, m *machines.Machine, name, service string) string {
	t.Helper()
	list, err := tasks(m, name)
	must(t, err)
	for _, k := range list.Tasks {
		if k.Service == service && k.NodeName == m.Name {
			return string(k.ID)
		}
	}
	t.Fatalf("no task of %s/%s is on %s", name, service, m.Name)
	return ""
}

// endMortal lets a container of the service mortal end, past the agent.
func endMortal(t *testing.T, pids []int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("the container that is to end does not run")
	}
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/root/end", pids[0]), nil, 0o644))
}

// endedWith complains unless a task ended with an exit code.
func endedWith(m *machines.Machine, id string, code int) error {
	c := m.Client()
	defer c.Close()
	ctx, cancel := brief()
	defer cancel()
	k, err := c.Task(ctx, id)
	switch {
	case err != nil:
		return err
	case k.Status == nil || k.Status.State != job.Failed || k.Status.ExitCode == nil:
		return fmt.Errorf("%s is %s, its status is %+v", id, k.State(), k.Status)
	case *k.Status.ExitCode != code:
		return fmt.Errorf("%s ended with %d, want %d", id, *k.Status.ExitCode, code)
	}
	return nil
}

// logLines reads a counting task's log and complains about the first line that is missing, doubled or torn.
func logLines(m *machines.Machine, id string) ([]string, error) {
	r := m.Shoal("logs", id)
	if r.Code != 0 {
		return nil, r
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	for i, l := range lines {
		if !strings.HasSuffix(l, "line "+strconv.Itoa(i+1)) {
			return nil, fmt.Errorf("line %d of the log of %s is %q", i+1, id, l)
		}
	}
	return lines, nil
}

func linesBeyond(m *machines.Machine, id string, count int) error {
	lines, err := logLines(m, id)
	if err == nil && len(lines) < count {
		err = fmt.Errorf("%d lines, want %d", len(lines), count)
	}
	return err
}
