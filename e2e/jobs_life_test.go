package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// TestJobs drives jobs through their lives on one cluster of three machines. The jobs of the subtests do not disturb
// each other, so that some run side by side.
func TestJobs(t *testing.T) {
	n := cluster(t, 3)
	loadBusybox(t, n.Machines()[0])
	for _, c := range []struct {
		name string
		test func(*testing.T, *machines.Net)
	}{
		{"Life", jobLife},
		{"UpdateReplacesOnlyWhatChangedOneAtATime", jobUpdate},
		{"Global", jobGlobal},
		{"ConstraintWaitsForALabel", jobConstraint},
		{"ReservationTooLarge", jobReservation},
		{"PortConflict", jobPortConflict},
		{"DependsOnHealthy", jobDepends},
		{"BadFilesSubmitNothing", jobBadFiles},
		{"UnknownImage", jobUnknownImage},
		{"UnknownCommand", jobUnknownCommand},
		{"NeverHealthy", jobNeverHealthy},
		{"HistoryAndRollback", jobHistory},
		{"FailedUpdateIsRolledBack", jobRollsBack},
		{"FilesBesideTheFile", jobFiles},
		{"ManyAtOnce", jobAtOnce},
		{"RemovedWhileStarting", jobInterrupted},
		{"Ports", jobPorts},
		{"PortsNeverHang", jobPortsNeverHang},
		{"ExecEndsWithItsClient", jobExecEnds},
		{"ExternalVolumeMissing", jobVolumesMissing},
		{"Crashing", jobCrashes},
		{"Logs", jobLogs},
		{"LogsFollow", jobLogsFollow},
		{"Exec", jobExec},
		{"ExecTerminal", jobExecTerminal},
		{"Events", jobEvents},
		{"WhyTellsWhatHappened", jobWhy},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, n)
		})
	}
}

// web is a Compose file of one service of busybox that does nothing, with more keys of the service given.
func web(more ...string) string {
	file := "services:\n  web:\n    image: " + busyboxImage + "\n    init: true\n    stop_grace_period: 1s\n"
	if !strings.Contains(strings.Join(more, "\n"), "command:") {
		file += "    command: [sleep, \"100000\"]\n"
	}
	for _, m := range more {
		file += "    " + m + "\n"
	}
	return file
}

func ids(tasks map[string]api.Task) map[string]job.TaskID {
	out := map[string]job.TaskID{}
	for name, k := range tasks {
		out[name] = k.ID
	}
	return out
}

func jobLife(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "life")
	file := web("deploy: { replicas: 3 }")
	contains(t, shoalIn(t, m[0], file, "run", "-f", "-", "--name", "life"), "job life: submitted")
	for _, m := range m { // any node answers, and all say the same
		l := list(t, m, "life")
		if l.Want != 3 || l.Ready != 3 || len(l.Tasks) != 3 {
			t.Errorf("%s says %d of %d ready, %d tasks", m.Name, l.Ready, l.Want, len(l.Tasks))
		}
		contains(t, shoal(t, m, "ps", "life"), "life/web.1", "life/web.2", "life/web.3", busyboxImage, "running")
	}
	three := ids(slots(t, m[1], "life"))

	contains(t, shoalIn(t, m[2], file, "run", "-f", "-", "--name", "life"), "nothing to change")
	if again := ids(slots(t, m[0], "life")); fmt.Sprint(again) != fmt.Sprint(three) {
		t.Errorf("submitted again unchanged, but %v became %v", three, again)
	}

	shoal(t, m[1], "scale", "life/web=5")
	five := ids(slots(t, m[0], "life"))
	if len(five) != 5 || five["web.1"] != three["web.1"] || five["web.3"] != three["web.3"] {
		t.Errorf("scaled to 5: %v became %v", three, five)
	}
	settled(t, n, m[0], "life", 5)
	shoal(t, m[2], "scale", "life=2") // the only service needs no name
	settled(t, n, m[0], "life", 2)
	if two := ids(slots(t, m[0], "life")); len(two) != 2 || two["web.1"] != three["web.1"] || two["web.2"] != three["web.2"] {
		t.Errorf("scaled to 2: %v became %v", five, two)
	}

	contains(t, shoal(t, m[0], "stop", "life"), "stopped")
	if left, err := running(n, "life"); err != nil || len(left) > 0 {
		t.Errorf("stopped, but %v run: %v", left, err)
	}
	contains(t, shoal(t, m[1], "jobs"), "life")
	shoalIn(t, m[1], file, "run", "-f", "-", "--name", "life")
	settled(t, n, m[2], "life", 3)

	contains(t, shoal(t, m[1], "rm", "life"), "removed")
	if left, err := running(n, "life"); err != nil || len(left) > 0 {
		t.Errorf("removed, but %v run: %v", left, err)
	}
	refuses(t, m[0], 3, []string{"life"}, "", "rm", "life")
	refuses(t, m[0], 3, []string{"life"}, "", "scale", "life/web=1")
}

func jobUpdate(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "update")
	file := func(env string) string {
		return web(`environment: { VERSION: "`+env+`" }`, "deploy: { replicas: 3 }",
			`healthcheck: { test: [CMD, "true"], interval: 200ms, start_interval: 100ms, start_period: 5s }`) +
			"  other:\n    image: " + busyboxImage + "\n    command: [sleep, \"100000\"]\n    init: true\n"
	}
	runCompose(t, m[0], "update", file("1"))
	before := ids(slots(t, m[0], "update"))

	stop, watched := make(chan struct{}), sync.WaitGroup{}
	least := 3
	watched.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			ready := 0
			if l, err := tasks(m[1], "update"); err == nil {
				for _, k := range l.Tasks {
					if k.Service == "web" && k.Ready {
						ready++
					}
				}
				least = min(least, ready)
			}
		}
	})
	contains(t, shoalIn(t, m[1], file("2"), "plan", "-f", "-", "--name", "update"), "web")
	if planned := ids(slots(t, m[2], "update")); fmt.Sprint(planned) != fmt.Sprint(before) {
		t.Errorf("a plan changed %v to %v", before, planned)
	}
	out := shoalIn(t, m[1], file("2"), "run", "-f", "-", "--name", "update")
	close(stop)
	watched.Wait()
	contains(t, out, "version 2")
	after := ids(slots(t, m[2], "update"))
	for _, slot := range []string{"web.1", "web.2", "web.3"} {
		if before[slot] == after[slot] {
			t.Errorf("%s was not replaced", slot)
		}
		if got := shoal(t, m[0], "exec", "update/"+slot, "sh", "-c", "echo $VERSION"); got != "2\n" {
			t.Errorf("%s has version %q", slot, got)
		}
	}
	if before["other.1"] != after["other.1"] {
		t.Errorf("other was replaced, but it had not changed")
	}
	if least != 3 {
		t.Errorf("of three replicas %d were ready at the least, want 3: the new task comes first", least)
	}
}

// jobRollsBack submits a version that cannot run: it is taken back by itself, and what ran runs on.
func jobRollsBack(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "sorry")
	runCompose(t, m[0], "sorry", web("environment: { VERSION: one }", "deploy: { replicas: 2 }"))
	before := ids(slots(t, m[1], "sorry"))
	broken := web("environment: { VERSION: two }", "deploy: { replicas: 2, restart_policy: { max_attempts: 1, delay: 100ms } }",
		`command: [sh, -c, "echo last words; exit 7"]`)
	r := attempt(m[1], strings.NewReader(broken), "run", "-f", "-", "--name", "sorry")
	if r.Code != 8 {
		t.Errorf("an update that fails: %v", r)
	}
	contains(t, r.Stderr, "version 2 failed, and web was rolled back", "exit code 7", "runs version 1 again, as version 3")
	after := ids(slots(t, m[2], "sorry"))
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%v became %v, although nothing was wrong with them", before, after)
	}
	for slot := range after {
		if got := shoal(t, m[0], "exec", "sorry/"+slot, "sh", "-c", "echo $VERSION"); got != "one\n" {
			t.Errorf("%s runs version %q after the rollback", slot, got)
		}
	}
	contains(t, shoal(t, m[2], "history", "sorry"), "version 3", "rolled back from version 2: web.1 failed: exit code 7")
	shoal(t, m[0], "restart", "sorry/web")
	for slot, id := range ids(slots(t, m[2], "sorry")) {
		if after[slot] == id {
			t.Errorf("%s was not restarted", slot)
		}
	}
	shoal(t, m[1], "stop", "sorry")
	shoal(t, m[2], "start", "sorry")
	settled(t, n, m[0], "sorry", 2)
}

func jobGlobal(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "global")
	runCompose(t, m[1], "global", web("deploy: { mode: global }"))
	on := map[string]bool{}
	for _, k := range slots(t, m[2], "global") {
		on[k.NodeName] = true
	}
	if len(on) != 3 {
		t.Errorf("a global service runs on %v", on)
	}
}

func jobConstraint(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "picky")
	r := attempt(m[0], strings.NewReader(web("deploy: { replicas: 2, placement: { constraints: [node.labels.disk == ssd] } }")),
		"run", "-f", "-", "--name", "picky", "--timeout", "5s")
	if r.Code != 8 {
		t.Errorf("a job that cannot be placed: %v", r)
	}
	contains(t, r.Stderr, "no node fits", "3", "node.labels.disk")
	pending(t, m[1], "picky", "no node fits", "3", "node.labels.disk")
	contains(t, shoal(t, m[2], "why", "picky/web"), "no node fits", "2 tasks")
	shoal(t, m[2], "node", "label", "m2", "disk=ssd")
	eventually(t, "both tasks on the labelled node", func() error {
		if err := exactly(m[0], "picky", 2); err != nil {
			return err
		}
		for _, k := range slots(t, m[0], "picky") {
			if k.NodeName != "m2" {
				return fmt.Errorf("%s is on %s", k.Name, k.NodeName)
			}
		}
		return nil
	})
}

func jobReservation(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "large")
	shoalIn(t, m[0], web("deploy: { resources: { reservations: { memory: 900G } } }"), "run", "-f", "-", "--name", "large", "--detach")
	pending(t, m[1], "large", "no node fits", "3 lack memory", "900 GiB")
}

func jobPortConflict(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "ports")
	gone(t, m[0], "latecomer")
	runCompose(t, m[0], "ports", web(`ports: ["9321:80"]`, "deploy: { replicas: 3 }"))
	shoalIn(t, m[0], web(`ports: ["9321:80"]`), "run", "-f", "-", "--name", "latecomer", "--detach")
	pending(t, m[1], "latecomer", "no node fits", "9321")
	shoal(t, m[0], "scale", "ports/web=2") // that makes room
	eventually(t, "the latecomer to get the port", func() error { return exactly(m[2], "latecomer", 1) })
}

func jobDepends(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "order")
	runCompose(t, m[0], "order", web(`command: [sh, -c, "sleep 1; touch /tmp/up; exec sleep 100000"]`,
		`healthcheck: { test: [CMD, test, -e, /tmp/up], interval: 200ms, start_interval: 100ms, start_period: 10s }`)+`
  setup:
    image: `+busyboxImage+`
    command: [sh, -c, "sleep 0.5; exit 0"]
  after:
    image: `+busyboxImage+`
    command: [sleep, "100000"]
    init: true
    depends_on:
      web: { condition: service_healthy }
      setup: { condition: service_completed_successfully }
`)
	after := slots(t, m[1], "order")["after.1"]
	for slot, reached := range map[string]job.State{"web.1": "healthy", "setup.1": job.Complete} {
		k, err := newest(m[1], "order", slot)
		must(t, err)
		if at, ok := k.Status.At[reached]; !ok || after.Placed.Before(at) {
			t.Errorf("after.1 was placed at %v, but %s was %s at %v", after.Placed, slot, reached, at)
		}
	}
}

func jobBadFiles(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "bad")
	for _, c := range []struct {
		file  string
		words []string
	}{
		{web("storage_opt: { size: 1G }"), []string{"storage_opt", "web"}},
		{web("isolation: hyperv"), []string{"isolation", "web"}},
		{web("imagee: x"), []string{"imagee"}},
		{web("deploy: { replicas: -1 }"), []string{"replicas"}},
		{"services:\n  web:\n    command: [x]\n", []string{"image", "web"}},
		{"services: [", []string{"yaml"}},
		{web("depends_on: [nobody]"), []string{"nobody"}},
	} {
		refuses(t, m, 5, c.words, c.file, "run", "-f", "-", "--name", "bad")
	}
	refuses(t, m, 5, []string{"MISSING", "web", "must be set"}, web("environment: { A: '${MISSING:?must be set}' }"), "run", "-f", "-", "--name", "bad")
	refuses(t, m, 3, []string{"no-such-file.yaml"}, "", "run", "-f", "no-such-file.yaml")
	refuses(t, m, 3, []string{"bad"}, "", "scale", "bad/web=1") // nothing of all that was submitted
	r := attempt(m, strings.NewReader(web("storage_opt: { size: 1G }")), "run", "-f", "-", "--name", "bad", "--lenient")
	if r.Code != 0 {
		t.Errorf("--lenient: %v", r)
	}
	contains(t, r.Stderr, "warning", "storage_opt")
}

func jobUnknownImage(t *testing.T, n *machines.Net) {
	m := n.Machines()[1]
	gone(t, m, "imageless")
	begun := time.Now()
	refuses(t, m, 8, []string{"127.0.0.1:1/none:1", "web.1"},
		strings.Replace(web(), busyboxImage, "127.0.0.1:1/none:1", 1), "run", "-f", "-", "--name", "imageless", "--timeout", "8s")
	if took := time.Since(begun); took > 45*time.Second {
		t.Errorf("it took %v to give up on an image that is nowhere", took)
	}
	contains(t, shoal(t, m, "ps", "imageless"), "pulling", "127.0.0.1:1")
	contains(t, shoal(t, m, "why", "imageless/web.1"), "pulling", "cannot be reached")
}

func jobUnknownCommand(t *testing.T, n *machines.Net) {
	m := n.Machines()[2]
	gone(t, m, "commandless")
	refuses(t, m, 8, []string{"127", "/no/such/program"}, "", "run", "--replicas", "1", "--name", "commandless", "--restart", "no", busyboxImage, "/no/such/program")
	contains(t, shoal(t, m, "why", "commandless/commandless.1"), "127", "failed")
}

func jobNeverHealthy(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "sick")
	refuses(t, m, 8, []string{"sick", "cannot-be-well", "shoal why"},
		web(`healthcheck: { test: [CMD-SHELL, "echo cannot-be-well; exit 1"], interval: 200ms, retries: 1 }`), "run", "-f", "-", "--name", "sick", "--timeout", "3s")
	if l := list(t, m, "sick"); l.Ready != 0 || l.Want != 1 {
		t.Errorf("%d of %d ready", l.Ready, l.Want)
	}
}

func jobWhy(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "because")
	runCompose(t, m[0], "because", web())
	for _, m := range m {
		var w api.Why
		must(t, m.JSON(&w, "why", "because/web.1"))
		var steps []string
		for _, s := range w.Steps {
			steps = append(steps, s.What)
			if s.Since < 0 {
				t.Errorf("step %s runs backwards: %v", s.What, s.Since)
			}
		}
		contains(t, strings.Join(steps, " "), "placed", "created", "running")
		contains(t, shoal(t, m, "why", string(w.Task.ID)), "because/web.1", "placed", "running", "ms")
	}
	refuses(t, m[1], 3, []string{"nothing"}, "", "why", "nothing/web.1")
}
