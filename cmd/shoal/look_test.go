package main

import (
	"bytes"
	"flag"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference")

// golden compares what verbs draw with testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

func sampleTasks() api.TaskList {
	three := 3
	well := task("k3v9aaaaaaaaa", "front", 1, "d1", &job.Status{
		State: job.Running, Health: job.Healthy, At: map[job.State]time.Time{job.Running: ago(3 * time.Minute)},
		Ports: []job.Port{{HostIP: netip.MustParseAddr("0.0.0.0"), Published: 8080, Target: 80, Protocol: "tcp"}, {HostIP: netip.MustParseAddr("::1"), Published: 53, Target: 53, Protocol: "udp"}},
	})
	failed := task("m5x2aaaaaaaaa", "front", 2, "d1", &job.Status{
		State: job.Failed, ExitCode: &three, Restarts: 5, Message: "exit code 3;\n\x1b[31mgave up\x1b[0m after 5 restarts", At: map[job.State]time.Time{job.Failed: ago(40 * time.Second)},
	})
	away := task("p7q4aaaaaaaaa", "worker", 0, "d2", &job.Status{State: job.Running, Image: "sha256:0123456789abcdef", At: map[job.State]time.Time{job.Running: ago(50 * time.Hour)}})
	away.NodeState, away.Ready, away.NodeName, away.Name = job.NodeDown, false, "b", "worker.b"
	leaving := task("r8s6aaaaaaaaa", "worker", 0, "d2", &job.Status{State: job.Running, Health: job.HealthStarting, At: map[job.State]time.Time{job.Running: ago(time.Second)}})
	leaving.Desired, leaving.StopCause, leaving.Ready = job.DesiredStop, "updated to version 2", false
	fresh := task("t9u8aaaaaaaaa", "worker", 3, "d1", nil)
	fresh.Placed = ago(0)
	return api.TaskList{
		Tasks:   []api.Task{well, failed, away, leaving, fresh},
		Blocked: []job.Blocked{{Job: "web", Service: "db", Slots: 2, Reason: "no node fits: 2 lack memory (want 512 MiB)", Since: ago(90 * time.Second)}},
	}
}

func TestTaskTable(t *testing.T) {
	list := sampleTasks()
	images := newImages(nil)
	images.byDigest["d1"], images.byService["web/db"] = "example:1", "postgres:17"
	var b bytes.Buffer
	(&screen{out: &b}).table(taskTable(&list, images, noon))
	golden(t, "ps", b.String())
}

func TestTablesOnATerminalAreColouredAndCutButNeverInAPipe(t *testing.T) {
	list := sampleTasks()
	images := newImages(nil)
	var b bytes.Buffer
	(&screen{out: &b, terminal: true, colour: true, width: 160}).table(taskTable(&list, images, noon))
	if !strings.Contains(b.String(), "\x1b[32mrunning (healthy) 3m\x1b[0m") || !strings.Contains(b.String(), "…") {
		t.Errorf("on a terminal:\n%q", b.String())
	}
	if strings.Contains(b.String(), "\x1b[31mgave up") {
		t.Error("a task's message reached the terminal with its escape codes")
	}
}

func TestWhyShowsOffsetsThatNeverRunBackwards(t *testing.T) {
	list := sampleTasks()
	w := api.Why{Task: list.Tasks[0], Steps: []api.Step{
		{At: noon, What: "suspect", Node: "b", Text: "no answer to a probe"},
		{At: noon.Add(400 * time.Millisecond), Since: 400 * time.Millisecond, What: "dead", Node: "b"},
		{At: noon.Add(410 * time.Millisecond), Since: 10 * time.Millisecond, What: "node down", Index: 41, Node: "b", Text: "2 voters cannot reach it"},
		{At: noon.Add(390 * time.Millisecond), What: "placed", Index: 42, Node: "a", Text: "node b is down"}, // a clock that is behind
		{At: noon.Add(12 * time.Second), Since: 11610 * time.Millisecond, What: "running", Node: "a"},
	}}
	for i := range w.Steps {
		w.Steps[i].At = w.Steps[i].At.In(time.Local)
	}
	var b bytes.Buffer
	printWhy(&screen{out: &b}, &w, noon)
	text := b.String()
	for i := range w.Steps { // the zone of the machine that tests does not matter
		text = strings.Replace(text, clock(w.Steps[i].At), w.Steps[i].At.UTC().Format("15:04:05.000"), 1)
	}
	golden(t, "why", text)
}

func TestNodeTable(t *testing.T) {
	list := api.NodeList{Nodes: []api.NodeView{
		{Node: job.Node{Name: "a", State: job.NodeReady, Since: ago(time.Hour), Capacity: job.Resources{NanoCPUs: 2e9, MemoryBytes: 4 << 30}, Addr: netip.MustParseAddrPort("192.0.2.1:6174")}, Leader: true, Role: "voter", Gossip: "alive", Tasks: 3, Used: job.Resources{NanoCPUs: 5e8, MemoryBytes: 512 << 20}},
		{Node: job.Node{Name: "b", State: job.NodeReady, Drained: true, Since: ago(time.Hour), Labels: map[string]string{"zone": "x", "disk": "ssd"}}, Role: "standby", Gossip: "suspect"},
		{Node: job.Node{Name: "c", State: job.NodeDown, Since: ago(5 * time.Second), Reason: "2 voters cannot reach it"}, Role: "worker", Gossip: "dead"},
	}}
	var b bytes.Buffer
	(&screen{out: &b}).table(nodeTable(&list, noon))
	golden(t, "node-ls", b.String())
}

func TestOutlook(t *testing.T) {
	spec := &job.Spec{Name: "web", Services: []job.Service{{Name: "front", Replicas: 2, Image: "x"}, {Name: "once", Replicas: 1, Image: "x", Restart: job.Restart{Policy: job.RestartNever}}}}
	front, once := spec.Services[0].Digest(), spec.Services[1].Digest()
	held := func(d time.Duration) func(*api.Task) time.Duration {
		return func(*api.Task) time.Duration { return d }
	}
	pulling := &job.Status{State: job.Pulling, Message: "no registry answers"}
	for name, c := range map[string]struct {
		tasks    []api.Task
		held     time.Duration
		want     string // of front
		troubles int
	}{
		"nothing placed":      {nil, 0, "0/2 ready, 2 pending", 0},
		"old ones remain":     {[]api.Task{task("a", "front", 1, "old", running())}, 0, "0/2 ready, 1 pending, 1 of the former version", 0},
		"one ready":           {[]api.Task{task("a", "front", 1, front, running()), task("b", "front", 2, front, &job.Status{State: job.Running, Health: job.HealthStarting})}, 0, "1/2 ready, 1 starting", 0},
		"held up a moment":    {[]api.Task{task("a", "front", 1, front, pulling)}, time.Second, "0/2 ready, 1 pending, 1 pulling: front.1: no registry answers", 0},
		"held up for long":    {[]api.Task{task("a", "front", 1, front, pulling)}, time.Minute, "0/2 ready, 1 pending, 1 pulling: front.1: no registry answers", 1},
		"restarted for long":  {[]api.Task{task("a", "front", 1, front, &job.Status{State: job.Running, Health: job.Unhealthy, Restarts: 4})}, time.Minute, "0/2 ready, 1 pending, 1 unhealthy", 1},
		"one failure":         {[]api.Task{task("a", "front", 1, front, &job.Status{State: job.Failed})}, 0, "0/2 ready, 1 pending, 1 failed", 0},
		"completed as meant":  {[]api.Task{task("a", "once", 1, once, &job.Status{State: job.Complete})}, 0, "0/2 ready, 2 pending", 0},
		"failed for all time": {[]api.Task{task("a", "once", 1, once, &job.Status{State: job.Failed})}, 0, "0/2 ready, 2 pending", 1},
	} {
		list := &api.TaskList{Tasks: c.tasks, Want: 3}
		o := judge(spec, list, held(c.held))
		if got := o.services[0].String(); got != c.want || len(o.troubles) != c.troubles {
			t.Errorf("%s: %q with %d troubles, want %q with %d", name, got, len(o.troubles), c.want, c.troubles)
		}
	}
}

func TestScaleOrders(t *testing.T) {
	orders, err := parseScales([]string{"web/front=3", "db=1", "web/worker=0"})
	if err != nil || len(orders) != 2 || orders[0].job != "web" || orders[0].replicas["front"] != 3 || orders[0].replicas["worker"] != 0 || orders[1].replicas[""] != 1 {
		t.Errorf("%v, %v", orders, err)
	}
	for _, bad := range []string{"web", "web=", "web=-1", "web=x", "web=1000000"} {
		if _, err := parseScales([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := parseScales([]string{"web/a=1", "web/a=2"}); err == nil {
		t.Error("a service that is named twice is taken")
	}
}

func TestAges(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 3 * time.Minute: "3m", 119 * time.Minute: "119m", 5 * time.Hour: "5h", 50 * time.Hour: "2d"} {
		if got := age(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestUsageIsOfOneCPUAndUnknownAfterARestart(t *testing.T) {
	one, two := task("a", "front", 1, "d", running()), task("b", "front", 2, "d", running())
	before := sample{stats: map[job.TaskID]reading{"a": {noon, api.TaskStats{CPU: time.Second}}, "b": {noon, api.TaskStats{CPU: time.Minute}}}}
	now := sample{tasks: []api.Task{one, two}, stats: map[job.TaskID]reading{"a": {noon.Add(2 * time.Second), api.TaskStats{CPU: 2 * time.Second}}, "b": {noon.Add(2 * time.Second), api.TaskStats{CPU: time.Second}}}}
	got := compare(&before, &now)
	if len(got) != 2 || got[0].CPUPercent != 50 || got[1].CPUPercent != -1 {
		t.Errorf("%+v", got)
	}
}

func TestDemoServesItsNameAndItsHealth(t *testing.T) {
	t.Setenv("SHOAL_NODE", "b")
	srv := httptest.NewServer(demoHandler())
	defer srv.Close()
	for range 2 {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		_, _ = b.ReadFrom(resp.Body)
		resp.Body.Close()
		if !strings.Contains(b.String(), "on node b") {
			t.Errorf("answer %q", b.String())
		}
	}
	if err := checkDemo(t.Context(), srv.URL+"/healthz"); err != nil {
		t.Error(err)
	}
	if err := checkDemo(t.Context(), srv.URL+"/healthz\x00"); err == nil {
		t.Error("a check of nothing succeeds")
	}
}
