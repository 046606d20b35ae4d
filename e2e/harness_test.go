package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// patience is how long a test waits for what must come in the end: many times what it takes on an idle machine.
var patience = 60 * time.Second

// network makes a switch without machines. At the end of the test everything is gone, and the test fails if not.
func network(t *testing.T) *machines.Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines out of namespaces take root")
	}
	n, err := machines.New(machines.Options{Binary: binary})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, n)
	return n
}

// cleanUp makes sure that nothing is left of a network, and tells what everybody knew if the test failed.
func cleanUp(t *testing.T, n *machines.Net) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, n)
		}
		if err := n.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if err := n.Gone(); err != nil {
			t.Error(err)
		}
	})
}

// cluster makes a cluster of count machines: n.Machines()[0] founded it.
func cluster(t *testing.T, count int) *machines.Net {
	t.Helper()
	n := network(t)
	must(t, n.Form(count, machines.MachineOptions{}))
	return n
}

// dump tells what everybody knew when a test failed.
func dump(t *testing.T, n *machines.Net) {
	t.Helper()
	asked := false
	for _, m := range n.Machines() {
		t.Logf("log of %s, on %v, agent runs %v:\n%s", m.Name, m.On(), m.Running(), tail(m.LogPath(), 40))
		if said := m.Autopsy(); said != "" {
			t.Logf("%s from outside:\n%s", m.Name, said)
		}
		if !m.Running() || asked {
			continue
		}
		asked = true // one view is enough to read
		for _, verb := range [][]string{{"ps", "-a"}, {"node", "ls"}, {"members"}, {"events"}} {
			ctx, cancel := brief()
			t.Logf("%s# shoal %s\n%s", m.Name, strings.Join(verb, " "), lastLines(m.ShoalContext(ctx, nil, verb...).String(), 60))
			cancel()
		}
	}
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(b), lines)
}

func lastLines(s string, count int) string {
	all := strings.SplitAfter(s, "\n")
	return strings.Join(all[max(0, len(all)-count-1):], "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until check is content, and fails with its last complaint.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("waited %v for %s: %v", patience, what, err)
}

// always polls for some time and fails when check complains once.
func always(t *testing.T, what string, span time.Duration, check func() error) {
	t.Helper()
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// shoal runs the CLI on a machine and fails the test unless it succeeds; it gives standard output.
func shoal(t *testing.T, m *machines.Machine, args ...string) string {
	t.Helper()
	return shoalIn(t, m, "", args...)
}

// shoalIn is shoal with standard input.
func shoalIn(t *testing.T, m *machines.Machine, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	r := m.ShoalContext(ctx, strings.NewReader(stdin), args...)
	if r.Code != 0 {
		t.Fatalf("%s# shoal %s: %v", m.Name, strings.Join(args, " "), r)
	}
	return r.Stdout
}

// busyboxImage is the name of the image that loadBusybox loads.
const busyboxImage = "e2e/busybox:1"

var busyboxArchive = sync.OnceValues(func() ([]byte, error) { return machines.Busybox(busyboxImage) })

// loadBusybox puts busyboxImage into the store of one machine, by the CLI and standard input.
func loadBusybox(t *testing.T, m *machines.Machine) {
	t.Helper()
	archive, err := busyboxArchive()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r := m.ShoalContext(ctx, bytes.NewReader(archive), "image", "load"); r.Code != 0 {
		t.Fatalf("%s# shoal image load: %v", m.Name, r)
	}
}

// runCompose submits a Compose file on a machine and waits until the job is healthy.
func runCompose(t *testing.T, m *machines.Machine, name, file string) {
	t.Helper()
	shoalIn(t, m, file, "run", "-f", "-", "--name", name, "--timeout", patience.String())
}

// sleepers runs a job of count tasks that do nothing, spread over the nodes.
func sleepers(t *testing.T, m *machines.Machine, name string, count int) {
	t.Helper()
	// Who counts tasks must not find one that is being moved to a machine that returned.
	runCompose(t, m, name, fmt.Sprintf(`
x-rebalance: false
services:
  web:
    image: %s
    command: [sleep, "100000"]
    init: true
    stop_grace_period: 1s
    deploy:
      replicas: %d
`, busyboxImage, count))
}

// brief is how long one question to an agent may take.
func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience/6)
}

// tasks asks a machine for the tasks of a job that are meant to run or still do.
func tasks(m *machines.Machine, name string) (api.TaskList, error) {
	ctx, cancel := brief()
	defer cancel()
	c := m.Client()
	defer c.Close()
	return c.Tasks(ctx, api.TaskQuery{Job: name})
}

// exactly complains unless count tasks of a job are meant to run, each runs on a node that is there, each slot is
// taken once, and nothing else of it runs any more.
func exactly(m *machines.Machine, name string, count int) error {
	list, err := tasks(m, name)
	if err != nil {
		return err
	}
	slots := map[int]job.TaskID{}
	for _, k := range list.Tasks {
		switch other, twice := slots[k.Slot]; {
		case k.Desired != job.DesiredRun:
			return fmt.Errorf("%s (%s) on %s is not meant to run any more but is %s", k.Name, k.ID, k.NodeName, k.State())
		case twice:
			return fmt.Errorf("slot %d is taken by %s and %s", k.Slot, other, k.ID)
		case !k.Ready:
			return fmt.Errorf("%s (%s) on %s is %s", k.Name, k.ID, k.NodeName, k.State())
		case k.NodeState == job.NodeDown:
			return fmt.Errorf("%s (%s) is on %s, which is down", k.Name, k.ID, k.NodeName)
		}
		slots[k.Slot] = k.ID
	}
	if len(slots) != count {
		return fmt.Errorf("%d tasks run, want %d", len(slots), count)
	}
	return nil
}

// running lists the containers that truly run on the machines, by the environment of their processes: task to
// machine. A task that runs on two machines is an error.
func running(n *machines.Net, name string) (map[job.TaskID]string, error) {
	found := map[job.TaskID]string{}
	for _, m := range n.Machines() {
		for id := range m.Tasks(name) {
			if other, ok := found[job.TaskID(id)]; ok && other != m.Name {
				return nil, fmt.Errorf("task %s runs on %s and on %s", id, other, m.Name)
			}
			found[job.TaskID(id)] = m.Name
		}
	}
	return found, nil
}

// settled waits until exactly count tasks of a job run, in the log's words and in truth.
func settled(t *testing.T, n *machines.Net, m *machines.Machine, name string, count int) {
	t.Helper()
	eventually(t, fmt.Sprintf("exactly %d tasks of %s", count, name), func() error { return settledNow(n, m, name, count) })
}

func settledNow(n *machines.Net, m *machines.Machine, name string, count int) error {
	if err := exactly(m, name, count); err != nil {
		return err
	}
	real, err := running(n, name)
	if err != nil {
		return err
	}
	list, err := tasks(m, name)
	if err != nil {
		return err
	}
	for _, k := range list.Tasks {
		if real[k.ID] != k.NodeName {
			return fmt.Errorf("%s (%s) is said to run on %s, but runs on %q", k.Name, k.ID, k.NodeName, real[k.ID])
		}
	}
	if len(real) != count {
		return fmt.Errorf("the log has %d tasks but %d run on the machines: %v", count, len(real), real)
	}
	return nil
}

// nodes asks a machine for the cluster's nodes, by the CLI.
func nodes(m *machines.Machine) (api.NodeList, error) {
	var list api.NodeList
	err := m.JSON(&list, "node", "ls")
	return list, err
}
