package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

// TestChange changes jobs while they serve, on one cluster of three machines.
func TestChange(t *testing.T) {
	n := cluster(t, 3)
	loadBusybox(t, n.Machines()[0])
	for _, c := range []struct {
		name string
		test func(*testing.T, *machines.Net)
	}{
		{"NoConnectionIsRefused", noneRefused},
		{"LimitsChangeLive", limitsLive},
		{"CanariesWait", canariesWait},
		{"StopFirstPullsBeforeItStops", stopFirst},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, n)
		})
	}
}

// noneRefused has clients on all machines ask for a name all the time, while what is behind it is updated, restarted and
// scaled down: no request may fail.
func noneRefused(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "busy")
	file := func(version string) string {
		return `services:
  web:
    image: ` + busyboxImage + `
    init: true
    environment: { VERSION: "` + version + `" }
    command: [sh, -c, "mkdir /w; hostname > /w/index.html; exec httpd -f -p 80 -h /w"]
    healthcheck: { test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1/"], interval: 200ms, start_interval: 100ms, start_period: 10s }
    deploy: { replicas: 3, update_config: { monitor: 1s } }
  client:
    image: ` + busyboxImage + `
    init: true
    depends_on: { web: { condition: service_healthy } }
    command:
      - sh
      - -c
      - |
        while :; do
          ip=$$(busybox nslookup -type=a web 2>/dev/null | busybox awk '/^Address/ && !/:53$$/ { print $$2; exit }')
          if busybox timeout 5 busybox wget -q -O /dev/null "http://$$ip/"; then echo ok >> /ok; else echo "bad: $$ip"; echo bad >> /bad; fi
          sleep 0.02
        done
    deploy: { mode: global }
`
	}
	runCompose(t, m[0], "busy", file("1"))
	count := func(what string) (all int) {
		for _, at := range m {
			out := shoal(t, m[0], "exec", "busy/client."+at.Name, "sh", "-c", "cat "+what+" 2>/dev/null | wc -l")
			k, err := strconv.Atoi(strings.TrimSpace(out))
			must(t, err)
			all += k
		}
		return all
	}
	good := func(after string, before int) int {
		t.Helper()
		if bad := count("/bad"); bad > 0 {
			t.Fatalf("%s: %d requests failed, %d did not", after, bad, count("/ok"))
		}
		now := count("/ok")
		if now-before < 20 {
			t.Errorf("%s: only %d requests were made", after, now-before)
		}
		return now
	}
	eventually(t, "the clients ask", func() error {
		if k := count("/ok"); k < 10 {
			return fmt.Errorf("%d requests, %d failed: %s", k, count("/bad"), shoal(t, m[0], "logs", "--tail", "3", "busy/client"))
		}
		return nil
	})
	at := good("at first", -20)
	shoalIn(t, m[1], file("2"), "run", "-f", "-", "--name", "busy")
	at = good("after an update", at)
	shoal(t, m[2], "restart", "busy/web.2")
	at = good("after the restart of one task", at)
	shoal(t, m[1], "scale", "busy/web=1")
	eventually(t, "one task of web", func() error {
		l, err := tasks(m[0], "busy")
		if err != nil || len(l.Tasks) != 1+len(m) {
			return fmt.Errorf("%d tasks of the job: %w", len(l.Tasks), err)
		}
		return nil
	})
	time.Sleep(2 * time.Second)
	good("after scaling down", at)
}

// limitOf reads a task's memory limit from its cgroup, of either version.
func limitOf(t *testing.T, task string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "cat $(find /sys/fs/cgroup -path '*/"+task+"/memory.limit_in_bytes' -o -path '*/"+task+"/memory.max' | head -1)").Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

func limitsLive(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "live")
	file := func(memory, label string) string {
		return web("labels: { team: "+label+" }", "deploy: { replicas: 2, resources: { limits: { memory: "+memory+" } }, update_config: { monitor: 1s } }")
	}
	runCompose(t, m[0], "live", file("64M", "a"))
	before := ids(slots(t, m[0], "live"))
	out := shoalIn(t, m[1], file("96M", "b"), "run", "-f", "-", "--name", "live")
	contains(t, out, "changed in place, running tasks stay", "limits.memoryBytes: 64 MiB -> 96 MiB", "labels.team: a -> b")
	after := ids(slots(t, m[2], "live"))
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, after)
	}
	for slot, id := range after {
		if got := limitOf(t, string(id)); got != fmt.Sprint(96<<20) {
			t.Errorf("%s has a memory limit of %s", slot, got)
		}
		contains(t, shoal(t, m[0], "why", string(id)), "in place: ", "limits.memoryBytes 64 MiB -> 96 MiB")
	}
	contains(t, shoal(t, m[1], "diff", "live"), "version 1 -> version 2", "limits.memoryBytes: 64 MiB -> 96 MiB")

	// What does not fit under the new limit is replaced, and says why.
	eater := func(memory string) string {
		return web(`command: [sh, -c, "dd if=/dev/zero of=/fill/x bs=1M count=40; exec sleep 100000"]`, "tmpfs: /fill",
			`healthcheck: { test: [CMD-SHELL, "test $(stat -c %s /fill/x) = 41943040"], interval: 200ms, start_interval: 100ms, start_period: 10s }`,
			"deploy: { resources: { limits: { memory: "+memory+" } }, update_config: { monitor: 1s } }")
	}
	gone(t, m[0], "eater")
	runCompose(t, m[0], "eater", eater("100M"))
	was := slots(t, m[0], "eater")["web.1"].ID
	r := attempt(m[0], strings.NewReader(eater("24M")), "run", "-f", "-", "--name", "eater")
	if r.Code != 8 { // the new one cannot live in it either: it is taken back
		t.Errorf("a limit that nothing fits under: %v", r)
	}
	if now := slots(t, m[0], "eater")["web.1"].ID; now != was {
		t.Errorf("task %s was replaced by %s for a limit that could not hold", was, now)
	}
	contains(t, shoal(t, m[0], "events", "--job", "eater"), "which could not be done in place", "does not fit under a limit of 24MiB")
}

func canariesWait(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "mine")
	file := func(v string) string {
		return web("x-canary: 1", `environment: { V: "`+v+`" }`, "deploy: { replicas: 3, update_config: { monitor: 1s } }")
	}
	versions := func() string {
		out := ""
		for _, slot := range []string{"web.1", "web.2", "web.3"} {
			out += strings.TrimSpace(shoal(t, m[0], "exec", "mine/"+slot, "sh", "-c", "echo $V"))
		}
		return out
	}
	runCompose(t, m[0], "mine", file("1"))
	out := shoalIn(t, m[1], file("2"), "run", "-f", "-", "--name", "mine")
	contains(t, out, "1 canary of web with version 2 well", "shoal promote mine/web")
	if got := versions(); got != "211" {
		t.Errorf("with a canary the versions are %s", got)
	}
	contains(t, shoal(t, m[2], "ps", "mine"), "canary of version 2", "shoal fail mine/web")
	out = shoal(t, m[2], "fail", "mine/web", "--reason", "too slow")
	contains(t, out, "healthy")
	if got := versions(); got != "111" {
		t.Errorf("given up, the versions are %s", got)
	}
	contains(t, shoal(t, m[1], "history", "mine"), "rolled back from version 2: too slow")
	shoalIn(t, m[1], file("3"), "run", "-f", "-", "--name", "mine")
	contains(t, shoal(t, m[0], "promote", "mine"), "promoted", "healthy, 3 of 3")
	if got := versions(); got != "333" {
		t.Errorf("promoted, the versions are %s", got)
	}
	refuses(t, m[0], 4, []string{"promote", "mine"}, "", "promote", "mine")
}

// stopFirst updates a service that can be there only once: the new task is made before the old one is stopped.
func stopFirst(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "once")
	file := func(v string) string {
		return web(`environment: { V: "`+v+`" }`, `volumes: ["data:/data"]`, "deploy: { update_config: { monitor: 1s } }") + "volumes: { data: {} }\n"
	}
	runCompose(t, m[0], "once", file("1"))
	was := slots(t, m[0], "once")["web.1"]
	shoalIn(t, m[1], file("2"), "run", "-f", "-", "--name", "once")
	now := slots(t, m[0], "once")["web.1"]
	if now.ID == was.ID || now.NodeName != was.NodeName {
		t.Errorf("%s on %s became %s on %s", was.ID, was.NodeName, now.ID, now.NodeName)
	}
	var made, stopped uint64
	d := json.NewDecoder(strings.NewReader(shoal(t, m[0], "events", "--json", "--job", "once")))
	for {
		var e job.Event
		if err := d.Decode(&e); err != nil {
			break // the end
		}
		switch {
		case e.Task == now.ID && e.Message == "created":
			made = e.Index
		case e.Task == was.ID && e.Kind == "task-stop":
			stopped = e.Index
		}
	}
	if made == 0 || stopped <= made {
		t.Errorf("the new task was made at index %d, the old one was asked to stop at %d", made, stopped)
	}
}
