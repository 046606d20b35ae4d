package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func record(second int, text string) api.LogRecord {
	return api.LogRecord{Time: time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC), Stream: "stdout", Text: text}
}

func logCluster() *cluster {
	cl := newCluster()
	cl.tasks = []api.Task{task("aaa1", "front", 1, "d", running()), task("aab2", "front", 2, "d", running()), task("bbb1", "db", 1, "d", running())}
	cl.logs["aaa1"] = []api.LogRecord{record(1, "one"), record(4, "four")}
	cl.logs["aab2"] = []api.LogRecord{record(2, "two"), {Time: record(3, "").Time, Text: "thr", Partial: true}, record(5, "ee")}
	return cl
}

func TestLogsOfSeveralTasksAreMergedByTime(t *testing.T) {
	code, out, _ := shoal(t, logCluster().serve(t), "logs web/front")
	want := "web/front.1 | one\nweb/front.2 | two\nweb/front.2 | three\nweb/front.1 | four\n"
	if code != 0 || out != want {
		t.Errorf("code %d, got:\n%swant:\n%s", code, out, want)
	}
}

func TestLogsOfOneTaskKeepItsStreamsApart(t *testing.T) {
	cl := logCluster()
	cl.logs["aaa1"][1].Stream = "stderr"
	code, out, errs := shoal(t, cl.serve(t), "logs aaa")
	if code != 0 || out != "one\n" || errs != "four\n" {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
}

// followLogs follows what of a job or a service is said from now on; at its return it gets what web/db says. end is Ctrl-C.
func followLogs(t *testing.T, cl *cluster, target string) (out, errs *output, end func() (code int)) {
	t.Helper()
	socket := cl.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	out, errs = &output{}, &output{}
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"shoal", "logs", target, "-f", "--tail", "0", "--host", socket}, strings.NewReader(""), out, errs)
	}()
	eventually(t, func() bool {
		cl.change(func() { cl.logs["bbb1"] = append(cl.logs["bbb1"], record(1, "from the first")) })
		return strings.Contains(out.String(), "from the first")
	})
	return out, errs, func() int { cancel(); return <-done }
}

func TestFollowingAJobGoesOnWithTheTaskThatReplaces(t *testing.T) {
	cl := logCluster()
	out, errs, end := followLogs(t, cl, "web/db")
	cl.change(func() {
		cl.tasks[2].Desired = job.DesiredLost
		next := task("ccc1", "db", 1, "d", running())
		next.Task.Index = 2
		cl.tasks = append(cl.tasks, next)
		cl.logs["ccc1"] = []api.LogRecord{record(9, "from the second")}
	})
	eventually(t, func() bool { return strings.Contains(out.String(), "from the second") })
	if code := end(); code != 0 {
		t.Errorf("Ctrl-C ends following with code %d, stderr %q", code, errs.String())
	}
	if strings.Count(out.String(), "from the second") != 1 {
		t.Errorf("a line was printed twice:\n%s", out.String())
	}
}

// Of a task that came meanwhile all is new, also if its log could not be had at once.
func TestFollowingATaskThatHasNoLogYetPrintsAllOfIt(t *testing.T) {
	cl := logCluster()
	out, errs, end := followLogs(t, cl, "web")
	cl.change(func() {
		cl.tasks = append(cl.tasks, task("ccc1", "late", 1, "d", running()))
		cl.logErrs["ccc1"] = job.Errorf(job.Unavailable, "it is not there yet")
	})
	eventually(t, func() bool { return strings.Contains(errs.String(), "it is not there yet") })
	cl.change(func() {
		delete(cl.logErrs, "ccc1")
		cl.logs["ccc1"] = []api.LogRecord{record(9, "its first words")}
	})
	for range 3 { // each news makes it look again
		time.Sleep(50 * time.Millisecond)
		cl.change(func() {})
	}
	cl.change(func() { cl.logs["ccc1"] = append(cl.logs["ccc1"], record(10, "its next words")) })
	eventually(t, func() bool { return strings.Contains(out.String(), "its next words") })
	if !strings.Contains(out.String(), "its first words") {
		t.Errorf("a new task's first words are lost:\n%s", out.String())
	}
	end()
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in 20 s")
		}
	}
}

func TestTargets(t *testing.T) {
	old := task("aac1", "front", 1, "d", &job.Status{State: job.Failed})
	old.Desired = job.DesiredStop
	tasks := append(logCluster().tasks, old)
	for text, want := range map[string]string{
		"web": "aaa1 aab2 bbb1", "web/front": "aaa1 aab2", "web/front.2": "aab2", "aab": "aab2", "aac1": "aac1", "web/": "aaa1 aab2 bbb1",
		"aa": "conflict", "zzz": "not-found", "web/front.3": "not-found", "web/fro": "not-found", "other/front": "not-found",
	} {
		picked, err := pick([]target{parseTarget(text)}, tasks)
		got := string(job.KindOf(err))
		if err == nil {
			var ids []string
			for _, p := range picked {
				ids = append(ids, string(p.ID))
			}
			slices.Sort(ids)
			got = strings.Join(ids, " ")
		}
		if got != want {
			t.Errorf("target %q picks %q, want %q", text, got, want)
		}
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"10m": now.Add(-10 * time.Minute), "2026-01-02T03:04:05Z": record(5, "").Time} {
		if at, err := parseSince(text, now); err != nil || !at.Equal(want) {
			t.Errorf("%s: %v, %v, want %v", text, at, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-5m", ""} {
		if at, err := parseSince(text, now); err == nil {
			t.Errorf("%q is taken as %v", text, at)
		}
	}
}
