package e2e

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// attempt runs the CLI on a machine and gives whatever came of it.
func attempt(m *machines.Machine, stdin io.Reader, args ...string) machines.Result {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return m.ShoalContext(ctx, stdin, args...)
}

// refuses runs the CLI and fails the test unless it ends with the code and says all of the words.
func refuses(t *testing.T, m *machines.Machine, code int, words []string, stdin string, args ...string) {
	t.Helper()
	r := attempt(m, strings.NewReader(stdin), args...)
	if r.Code != code {
		t.Errorf("%s# shoal %s: exit %d, want %d:\n%v", m.Name, strings.Join(args, " "), r.Code, code, r)
	}
	contains(t, r.Stderr, words...)
}

func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

// list asks `shoal ps --json`.
func list(t *testing.T, m *machines.Machine, args ...string) api.TaskList {
	t.Helper()
	var l api.TaskList
	must(t, m.JSON(&l, append([]string{"ps"}, args...)...))
	return l
}

// slots gives the tasks of a job that are meant to run by name, such as "web.1".
func slots(t *testing.T, m *machines.Machine, name string) map[string]api.Task {
	t.Helper()
	out := map[string]api.Task{}
	for _, k := range list(t, m, name).Tasks {
		if k.Desired == job.DesiredRun {
			out[k.Name] = k
		}
	}
	return out
}

// newest gives the newest task of a slot, whatever became of it.
func newest(m *machines.Machine, name, slot string) (api.Task, error) {
	var l api.TaskList
	if err := m.JSON(&l, "ps", "--all", name); err != nil {
		return api.Task{}, err
	}
	var best api.Task
	for _, k := range l.Tasks {
		if k.Name == slot && k.Index >= best.Index {
			best = k
		}
	}
	if best.ID == "" {
		return best, fmt.Errorf("no task of %s in %s", slot, name)
	}
	return best, nil
}

// machineOf finds the machine that runs a task.
func machineOf(t *testing.T, n *machines.Net, k api.Task) *machines.Machine {
	t.Helper()
	for _, m := range n.Machines() {
		if m.Name == k.NodeName {
			return m
		}
	}
	t.Fatalf("%s runs on %q, which is no machine of this test", k.Name, k.NodeName)
	return nil
}

// pending waits until a service of a job is held back for reasons that have all of the words.
func pending(t *testing.T, m *machines.Machine, name string, words ...string) {
	t.Helper()
	eventually(t, name+" to be held back", func() error {
		var l api.TaskList
		if err := m.JSON(&l, "ps", name); err != nil {
			return err
		}
		if len(l.Blocked) == 0 {
			return fmt.Errorf("nothing is held back: %+v", l.Tasks)
		}
		for _, w := range words {
			if !strings.Contains(l.Blocked[0].Reason, w) {
				return fmt.Errorf("the reason is %q, and does not say %q", l.Blocked[0].Reason, w)
			}
		}
		return nil
	})
	r := attempt(m, nil, "ps", name)
	contains(t, r.Stdout, append([]string{"pending"}, words...)...)
}

// gone removes a job at the end of a test, so that others have the room.
func gone(t *testing.T, m *machines.Machine, name string) {
	t.Helper()
	t.Cleanup(func() {
		if r := attempt(m, nil, "rm", name); r.Code != 0 && r.Code != 3 {
			t.Errorf("shoal rm %s: %v", name, r)
		}
	})
}
