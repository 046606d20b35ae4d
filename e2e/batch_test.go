package e2e

import (
	"fmt"
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// TestBatches proves what only real containers can: exit codes, environment, logs that outlive their programs, and that a
// busy program makes its service grow.
func TestBatches(t *testing.T) {
	n := cluster(t, 3)
	loadBusybox(t, n.Machines()[0])
	t.Run("completions", func(t *testing.T) { batchCompletes(t, n) })
	t.Run("exit codes", func(t *testing.T) { batchExitCodes(t, n) })
	t.Run("cron", func(t *testing.T) { cronRunsNow(t, n) })
	t.Run("migration", func(t *testing.T) { migrationComesFirst(t, n) })
	t.Run("autoscale", func(t *testing.T) { scalesByItself(t, n) })
	t.Run("autoscale by a metric", func(t *testing.T) { scalesByMetric(t, n) })
}

// batchCompletes runs six completions, two at a time, of which one fails the first time.
func batchCompletes(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "six")
	file := fmt.Sprintf(`
services:
  work:
    image: %s
    command: [sh, -c, 'echo index $$SHOAL_TASK_INDEX of $$SHOAL_COMPLETIONS, attempt $$SHOAL_ATTEMPT; sleep 0.3; test $$SHOAL_TASK_INDEX != 3 || test $$SHOAL_ATTEMPT != 0 || exit 75']
    x-batch: { completions: 6, parallelism: 2, retries: 1, backoff: 100ms, exit_codes: { retry: [75] } }
`, busyboxImage)
	out := shoalIn(t, m[0], file, "run", "-f", "-", "--name", "six")
	contains(t, out, "complete, 6 of 6 completions done")
	r := lastRun(t, m[1], "six", "work")
	if r.Status != job.RunComplete || r.Completed != 6 || r.Failed != 1 || r.Seq != 1 {
		t.Errorf("run %+v", r)
	}
	logs := shoal(t, m[2], "logs", "six")
	for i := range 6 {
		contains(t, logs, fmt.Sprintf("index %d of 6, attempt %d", i, map[bool]int{true: 1}[i == 3]))
	}
	contains(t, shoal(t, m[1], "jobs"), "six", "complete", "6/6")
	// The same again does nothing; --rerun does it all again.
	contains(t, shoalIn(t, m[1], file, "run", "-f", "-", "--name", "six"), "nothing to change", "complete")
	if r := lastRun(t, m[1], "six", "work"); r.Seq != 1 {
		t.Errorf("it ran again: %+v", r)
	}
	shoalIn(t, m[1], file, "run", "-f", "-", "--name", "six", "--rerun")
	if r := lastRun(t, m[1], "six", "work"); r.Seq != 2 || r.Completed != 6 {
		t.Errorf("rerun: %+v", r)
	}
}

func lastRun(t *testing.T, m *machines.Machine, name, service string) job.Run {
	t.Helper()
	l := list(t, m, name)
	r := l.LastRun(name, service)
	if r == nil {
		t.Fatalf("%s/%s has no run", name, service)
	}
	return *r
}

func batchExitCodes(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "once")
	refuses(t, m[0], 42, []string{"job once failed", "exit code 42", "last words"}, "", "run", "--mode", "batch", "--name", "once", busyboxImage, "sh", "-c", "echo last words; exit 42")
	contains(t, shoal(t, m[1], "jobs"), "once", "failed")
	refuses(t, m[0], 124, []string{"its deadline of 1s"}, "", "run", "--mode", "batch", "--init", "--deadline", "1s", "--name", "once", busyboxImage, "sleep", "100")
	shoal(t, m[0], "run", "--mode", "global-batch", "--name", "once", busyboxImage, "true")
	if r := lastRun(t, m[0], "once", "once"); r.Completed != 3 {
		t.Errorf("on each of three nodes: %+v", r)
	}
}

func cronRunsNow(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "night")
	runCompose(t, m[0], "night", fmt.Sprintf(`
services:
  backup:
    image: %s
    command: [sh, -c, "echo backed up; exit 0"]
    x-schedule: { cron: "30 2 1 1 *", time_zone: Europe/Berlin }
`, busyboxImage))
	contains(t, shoal(t, m[1], "cron", "ls"), "night/backup", "30 2 1 1 *", "Europe/Berlin", "02:30 CET")
	contains(t, shoal(t, m[2], "cron", "run", "night/backup"), "run 1 is complete")
	contains(t, shoal(t, m[2], "cron", "history", "night"), "started by hand", "complete")
	contains(t, shoal(t, m[1], "logs", "night/backup"), "backed up")
	shoal(t, m[1], "cron", "pause", "night")
	contains(t, shoal(t, m[1], "cron", "ls"), "paused")
	shoal(t, m[1], "cron", "resume", "night/backup")
}

// migrationComesFirst has a service wait for a batch of its job to complete, on start and on update.
func migrationComesFirst(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "app")
	file := func(version, exit int) string {
		return fmt.Sprintf(`
services:
  migrate:
    image: %[1]s
    command: [sh, -c, "sleep 0.5; exit %[3]d"]
    environment: { VERSION: "%[2]d" }
    x-batch: { retries: 0 }
  web:
    image: %[1]s
    command: [sleep, "100000"]
    init: true
    environment: { VERSION: "%[2]d" }
    depends_on: { migrate: { condition: service_completed_successfully } }
    deploy: { update_config: { monitor: 200ms } }
`, busyboxImage, version, exit)
	}
	runCompose(t, m[0], "app", file(1, 0))
	web := slots(t, m[0], "app")["web.1"]
	refuses(t, m[0], 3, []string{"migrate"}, file(2, 3), "run", "-f", "-", "--name", "app")
	if now := slots(t, m[0], "app")["web.1"]; now.ID != web.ID || !now.Ready {
		t.Errorf("after a migration that failed web.1 is %+v, want task %s", now, web.ID)
	}
	runCompose(t, m[0], "app", file(3, 0))
	if got := shoal(t, m[0], "exec", "app/web.1", "sh", "-c", "echo $VERSION"); got != "3\n" {
		t.Errorf("web has version %q", got)
	}
}

// scalesByItself lets a program be busy until its service has grown, and then idle until it has shrunk.
func scalesByItself(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "grow")
	runCompose(t, m[0], "grow", fmt.Sprintf(`
services:
  web:
    image: %s
    command: [sh, -c, 'while :; do if [ -e /tmp/busy ]; then i=0; while [ $$i -lt 2000 ]; do i=$$((i+1)); done; else sleep 1; fi; done']
    init: true
    stop_grace_period: 1s
    tmpfs: [/tmp]
    deploy: { resources: { limits: { cpus: "0.1" } } }
    x-autoscale: { min: 1, max: 2, cpu: 40%%, window: 5s, up: { cooldown: 1s }, down: { cooldown: 1s } }
`, busyboxImage))
	count := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d tasks", want), func() error { return exactly(m[0], "grow", want) })
	}
	count(1)
	shoal(t, m[0], "exec", "grow/web.1", "touch", "/tmp/busy")
	count(2)
	var l api.TaskList
	must(t, m[1].JSON(&l, "ps", "grow"))
	if cause := l.Tasks[1].Cause; !strings.HasPrefix(cause, "autoscale: cpu ") {
		t.Errorf("the second task was placed because %q", cause)
	}
	contains(t, shoal(t, m[1], "events", "--job", "grow"), "web from 1 to 2: autoscale: cpu ")
	refuses(t, m[0], 5, []string{"scales by itself between 1 and 2"}, "", "scale", "grow/web=3")
	shoal(t, m[0], "exec", "grow/web.1", "rm", "/tmp/busy")
	count(1)
}

// scalesByMetric has a node ask a container for its metrics over the network.
func scalesByMetric(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "queue")
	runCompose(t, m[0], "queue", fmt.Sprintf(`
services:
  web:
    image: %s
    command: [sh, -c, 'mkdir -p /tmp/w && echo "queue_length{queue=\"mail\"} 250" > /tmp/w/metrics && exec httpd -f -p 9090 -h /tmp/w']
    init: true
    stop_grace_period: 1s
    tmpfs: [/tmp]
    x-autoscale: { min: 1, max: 3, metrics: [{ port: 9090, name: queue_length, labels: { queue: mail }, target: 100 }], up: { cooldown: 1s } }
`, busyboxImage))
	eventually(t, "3 tasks", func() error { return exactly(m[0], "queue", 3) })
	contains(t, shoal(t, m[1], "events", "--job", "queue"), "web from 1 to 3: autoscale: queue_length 250 of 100")
}
